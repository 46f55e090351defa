//! Connections beyond the limits, each for one request of operators.
//!
//! Only its request tells a health probe from other clients. So the node accepts a connection beyond a share,
//! or beyond its limit, and reads one request. It answers `GET /health/…` and `/metrics`, refuses everything
//! else with 503, and closes the connection. A connection holds a seat for at most `SEAT_TIMEOUT`. If all
//! seats are taken, the node evicts a connection of the source that has the most: the oldest that is not
//! being answered. A probe sends its request as soon as it is connected, and is answered before others can
//! evict it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, Response},
};
use schema::Network;
use tokio::{net::TcpStream, sync::watch, task::AbortHandle, time::timeout};
use tower::ServiceExt as _;

use super::{
    refused::{send, to_unread},
    socket::linger,
};
use crate::{
    app::App,
    http::{Policies, extract::client::Peer, respond::problem::Problem},
};

/// The limit of the time for which a connection holds a seat.
const SEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// The longest answer, in bytes. Metrics are the longest.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The seats of a listener for connections beyond its limits.
pub struct Reserve {
    app: Arc<App>,
    router: Router,
    policies: Arc<Policies>,
    /// Whether the router serves the routes of operators.
    for_operators: bool,
    seats_max: usize,
    taken: Mutex<TakenSeats>,
}

#[derive(Default)]
struct TakenSeats {
    next: u64,
    /// The oldest first.
    seats: Vec<Seat>,
}

struct Seat {
    id: u64,
    source: Network,
    /// Whether its request is being answered.
    is_busy: Arc<AtomicBool>,
    task: AbortHandle,
}

impl TakenSeats {
    /// Frees a seat of the source that has the most, and returns its task, to be aborted.
    fn evict(&mut self) -> Option<AbortHandle> {
        let count_of = |source| self.seats.iter().filter(|seat| seat.source == source).count();
        // `max_by_key` returns the last maximum: in reverse order, the oldest seat.
        let (index, _) = self
            .seats
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, seat)| (count_of(seat.source), !seat.is_busy.load(Ordering::Acquire)))?;
        Some(self.seats.remove(index).task)
    }
}

impl Reserve {
    /// Seats for at most `seats_max` connections, whose requests `router` answers.
    #[must_use]
    pub fn new(
        app: Arc<App>,
        router: Router,
        policies: Arc<Policies>,
        for_operators: bool,
        seats_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self { app, router, policies, for_operators, seats_max, taken: Mutex::default() })
    }

    /// Whether the request is one of operators.
    fn admits(&self, request: &Request<Body>) -> bool {
        let policy = self.policies.of(request.uri().path());
        self.for_operators && request.method() == Method::GET && policy.is_in_reserve()
    }

    /// Gives a connection a seat. Keeps `stop` until the seat is free, so that shutdown waits for it.
    pub fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, stop: watch::Receiver<bool>) {
        let source = Network::from(peer.ip());
        let is_busy = Arc::new(AtomicBool::new(false));
        let mut taken = self.taken();
        let evicted = (taken.seats.len() >= self.seats_max).then(|| taken.evict());
        let id = taken.next;
        taken.next += 1;
        let guard = SeatGuard { reserve: self.clone(), id };
        let busy = is_busy.clone();
        let task = tokio::spawn(async move {
            let _ = timeout(SEAT_TIMEOUT, guard.reserve.answer(&stream, peer, &busy)).await;
            drop((guard, stop));
        });
        taken.seats.push(Seat { id, source, is_busy, task: task.abort_handle() });
        drop(taken);
        if let Some(Some(task)) = evicted {
            task.abort();
        }
    }

    fn taken(&self) -> MutexGuard<'_, TakenSeats> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, stream: &TcpStream, peer: SocketAddr, is_busy: &AtomicBool) {
        let _ = stream.set_nodelay(true);
        let Ok(Some(request)) = read(stream).await else { return };
        is_busy.store(true, Ordering::Release);
        let answer = match request.filter(|request| self.admits(request)) {
            Some(mut request) => {
                request.extensions_mut().insert(Peer(peer));
                let Ok(answer) = self.router.clone().oneshot(request).await;
                let (head, body) = answer.into_parts();
                let Ok(body) = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await else { return };
                Response::from_parts(head, body)
            }
            None => to_unread(&self.app, no_room()),
        };
        let sent = send(&self.app, stream, answer).await;
        is_busy.store(false, Ordering::Release);
        if sent {
            linger(stream).await;
        }
    }
}

fn no_room() -> Problem {
    Problem::unavailable("too_many_connections", "There are too many connections; close some, or try again")
}

/// Reads one request. `None` if the client closes first, `Some(None)` if the bytes are not a readable request.
#[allow(clippy::option_option, reason = "no bytes, and bytes that are no request")]
async fn read(stream: &TcpStream) -> io::Result<Option<Option<Request<Body>>>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(&mut head) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => return Ok(Some(to_request(&request))),
            Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => {}
            _ => return Ok(Some(None)),
        }
    }
}

/// The request that was parsed; `None` if http does not accept it.
fn to_request(parsed: &httparse::Request<'_, '_>) -> Option<Request<Body>> {
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for header in parsed.headers.iter() {
        request = request.header(
            HeaderName::from_bytes(header.name.as_bytes()).ok()?,
            HeaderValue::from_bytes(header.value).ok()?,
        );
    }
    request.body(Body::empty()).ok()
}

/// Frees a seat on drop.
struct SeatGuard {
    reserve: Arc<Reserve>,
    id: u64,
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        self.reserve.taken().seats.retain(|seat| seat.id != self.id);
    }
}
