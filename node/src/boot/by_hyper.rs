//! A connection that hyper serves: HTTP/2, and HTTP/1.1 that is not for the fast path.
//!
//! The deadlines and the client's progress are the connection's own ([`Socket`]); a request that hyper cannot read
//! gets a refusal in our form.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, Version, header},
};
use http_body_util::{Either, Full};
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::connections::{FirstRequestGuard, Service};
use crate::http::{
    connection::{
        activity::CloseReason,
        body::{self, TrackedBody, UnreadBody},
        head::refused_coding,
        refused,
        socket::{HyperIo, OpenRequest, Socket, linger},
    },
    extract::client::Peer,
};

/// The head of a request: the longest permission query fits in with room to spare.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// hyper's own limit of a request head in HTTP/2, in bytes. A head between [`MAX_HEAD_BYTES`] and this limit is read
/// and refused with a problem document.
const MAX_H2_HEAD_BYTES: u32 = 128 * 1024;
const MAX_HEADERS: usize = 64;
const MAX_H2_STREAMS: u32 = 256;
/// How often the node pings an HTTP/2 client.
const H2_PING: Duration = Duration::from_secs(30);
/// How long an HTTP/2 client has to close an idle connection after the node sent GOAWAY.
const H2_GOODBYE: Duration = Duration::from_secs(1);
/// Bytes that an HTTP/2 client may send ahead of the handler, on one stream and on all streams of a connection.
/// hyper's default of 1 MiB would be held outside `BODY_BUDGET`.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 256 * 1024;
/// Limits of the streams that a client may reset before they were served ("rapid reset", CVE-2023-44487), and of
/// those that it may make the node reset by errors; beyond them the node closes the connection. h2 itself limits
/// `CONTINUATION` frames and empty frames by the length of a head.
const H2_RESETS: usize = 20;
const H2_ERRORS: usize = 256;

/// The HTTP/2 connection preface (RFC 9113, section 3.4).
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether these first bytes may begin an HTTP/2 preface.
pub(super) fn may_be_http2(begun: &[u8]) -> bool {
    begun.iter().zip(HTTP2_PREFACE).all(|(is, should)| is == should)
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection by hyper. `begun` are the bytes that were read from it already.
pub(super) async fn serve(
    server: &auto::Builder<TokioExecutor>,
    service: Service,
    mut stop: watch::Receiver<bool>,
    socket: &Arc<Socket>,
    begun: Vec<u8>,
    peer: SocketAddr,
    first: FirstRequestGuard,
) -> Result<(), Broken> {
    let app = service.app.clone();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        first.mark();
        let work = socket.request(request.version() == Version::HTTP_2);
        // On the heap, so that an idle connection does not hold its memory.
        Box::pin(answer(service.clone(), request, peer, Arc::new(work)))
    });
    let connection = server.serve_connection(TokioIo::new(HyperIo::new(socket.clone(), begun)), service);
    let mut connection = Box::pin(connection);
    let served = async {
        tokio::select! {
            served = connection.as_mut() => return served,
            _ = stop.wait_for(|stop| *stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.as_mut().await
    };
    let watched = socket.watch(pin!(served)).await;
    let mut failed = None;
    let unreadable = match watched {
        Err(CloseReason::Idle) => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(H2_GOODBYE, connection.as_mut()).await;
            None
        }
        Err(CloseReason::Stalled) => {
            socket.abort();
            None
        }
        Err(CloseReason::HeadTimeout) => Some(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(error)) if error.downcast_ref::<hyper::Error>().is_none_or(|error| !error.is_parse()) => {
            failed = Some(error);
            None
        }
        Ok(Err(_)) => Some(StatusCode::BAD_REQUEST),
        Ok(Ok(())) => None,
    };
    drop(connection);
    let (refused, at_rest, unread) = {
        let activity = socket.activity();
        let at_rest = activity.is_at_rest() && !activity.is_http2();
        (activity.refused().or(unreadable), at_rest, activity.is_unread())
    };
    match refused {
        // Never in the middle of another response. Both futures are rare and large.
        Some(status) if at_rest => Box::pin(refused::refuse(&app, socket.stream(), status)).await,
        _ if unread => Box::pin(linger(socket.stream())).await,
        _ => {}
    }
    failed.map_or(Ok(()), Err)
}

/// Answers a request that hyper has read.
async fn answer(
    service: Service,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    work: Arc<OpenRequest>,
) -> Result<hyper::Response<TrackedBody<Either<Full<Bytes>, Body>>>, Infallible> {
    let Service { app, fast_path, router } = service;
    let refused = if is_too_large(&request) {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        refused_coding(request.headers())
    };
    if let Some(status) = refused {
        let mut answer = refused::to_unread(&app, refused::problem(status));
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        work.socket().activity().leave_unread();
        return Ok(answer.map(|body| TrackedBody::new(Either::Left(Full::new(body)), work)));
    }
    if let Some(fast_path) = fast_path
        && let Some(response) = fast_path.take(&request, peer).await
    {
        return Ok(response.map(|body| TrackedBody::new(Either::Left(body), work)));
    }
    let (mut request, unread) = lend(request);
    request.extensions_mut().insert(Peer(peer));
    let mut response = router.oneshot(request).await?;
    if response.status() == StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6: the router gives it one.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Some(unread) = unread
        && !unread.discard().await
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        work.socket().activity().leave_unread();
    }
    Ok(response.map(|body| TrackedBody::new(Either::Right(body), work)))
}

/// The request for the router, and what is left of its body afterwards. HTTP/2 has no use for that: a stream
/// ends by itself.
fn lend(request: hyper::Request<Incoming>) -> (Request, Option<UnreadBody>) {
    if request.version() == Version::HTTP_2 || request.body().is_end_stream() {
        return (request.map(Body::new), None);
    }
    let on_demand = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let (lent, unread) = body::lend(body, on_demand);
    (Request::from_parts(head, Body::new(lent)), Some(unread))
}

/// Whether its head is longer than it may be: hyper's bound is one of its buffer in HTTP/1.1, and of another
/// sum in HTTP/2.
fn is_too_large(request: &hyper::Request<Incoming>) -> bool {
    let fields = request.headers().iter();
    let bytes: usize = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    bytes + target > MAX_HEAD_BYTES
}

/// How hyper is set up: its bounds, and its timeouts where they are not the connection's.
pub(super) fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        // A client that shuts down its sending side still reads responses, as on the fast path.
        .half_close(true)
        // The socket has it, and says so to the client.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(H2_RESETS)
        .max_local_error_reset_streams(H2_ERRORS)
        .max_header_list_size(MAX_H2_HEAD_BYTES);
    server
}
