//! Answers that are sent without hyper: to requests that cannot be read or do not arrive, and to connections
//! beyond the limit. They have the form of all errors, say `Connection: close`, and are the last on their
//! connection.

use std::{
    io,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    body::Bytes,
    http::{HeaderValue, Response, StatusCode, header},
};
use tokio::{net::TcpStream, time::timeout};

use super::socket::linger;
use crate::{
    app::App,
    http::{
        RoutePolicy,
        middleware::{
            request::{self, REQUEST_ID, RequestId},
            security,
        },
        respond::problem::Problem,
    },
};

/// The limit for a client to take an answer that fits into one packet.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers a request that cannot be read with this status, closes the connection for writing, and lingers.
pub async fn refuse(app: &App, stream: &TcpStream, status: StatusCode) {
    if send(app, stream, to_unread(app, problem(status))).await {
        linger(stream).await;
    }
}

/// The error for a request that cannot be read, by its status.
pub fn problem(status: StatusCode) -> Problem {
    match status {
        StatusCode::REQUEST_TIMEOUT => {
            Problem::new(status, "request_timeout", "The request did not arrive in time")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Problem::new(
            status,
            "headers_too_large",
            "The request's head is too large or has too many headers",
        ),
        StatusCode::NOT_IMPLEMENTED => {
            Problem::new(status, "transfer_coding", "The request has a transfer coding other than chunked")
        }
        StatusCode::URI_TOO_LONG => Problem::new(status, "uri_too_long", "The request's target is too long"),
        _ => Problem::new(status, "bad_request", "The request cannot be understood"),
    }
}

/// The answer to a request that was not read, counted and logged.
pub fn to_unread(app: &App, problem: Problem) -> Response<Bytes> {
    let id = RequestId::of(None, &*app.entropy);
    let status = problem.status().as_u16();
    let none = "-";
    app.metrics.answered(app.metrics.route(none, none), status, 1, Duration::ZERO);
    // Connections beyond the limit are logged elsewhere, once a minute: there may be a flood of them.
    if problem.status() != StatusCode::SERVICE_UNAVAILABLE {
        request::log(id.as_str(), none, none, RoutePolicy::Api, status, || Duration::ZERO);
    }
    let mut answer = problem.into_answer(id.as_str());
    let headers = answer.headers_mut();
    security::guard(headers);
    headers
        .insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap_or(HeaderValue::from_static("-")));
    answer
}

/// Sends the last answer of a connection, and closes it for writing. True if it was sent: then the caller
/// should [`linger`], since the client may still be sending.
pub async fn send(app: &App, stream: &TcpStream, answer: Response<Bytes>) -> bool {
    let bytes = encode_last(answer, app.clock.now().as_secs());
    let sent = matches!(timeout(SEND_TIMEOUT, write(stream, &bytes)).await, Ok(Ok(())));
    if sent {
        let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
    } else {
        let _ = stream.set_zero_linger();
    }
    sent
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Encodes the last answer of a connection as HTTP/1.1 (RFC 9112).
fn encode_last(mut answer: Response<Bytes>, now_s: u64) -> Vec<u8> {
    let length = answer.body().len();
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now_s));
    let headers = answer.headers_mut();
    headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.entry(header::DATE).or_insert(date.parse().unwrap_or(HeaderValue::from_static("-")));
    let status = answer.status();
    let mut bytes = b"HTTP/1.1 ".to_vec();
    bytes.extend_from_slice(status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
    for (name, value) in answer.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(answer.body());
    bytes
}
