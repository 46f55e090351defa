//! Connections beyond those that there are: enough for one question of operators.
//!
//! What tells a health probe from anything else is its request, so a connection beyond a share, or beyond all
//! that the node has, is accepted and may send one. `GET /health/…` and `/metrics` are answered, everything
//! else gets 503 and the connection is closed. A seat is held for `PATIENCE` at most; when all are taken, one
//! of the address that has the most is given up, the oldest that is not being answered: a probe sends its
//! request as soon as it is connected, and is answered before others can push it out.

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
use tokio::{net::TcpStream, sync::watch, task::AbortHandle, time::timeout};
use tower::ServiceExt as _;

use super::{
    admission::Source,
    line::linger,
    refused::{send, to_unread},
};
use crate::{
    app::App,
    http::{client::Peer, problem::Problem},
};

/// How long a seat is held.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// The longest answer, in bytes: metrics.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The seats of a listener.
pub struct Reserve {
    app: Arc<App>,
    router: Router,
    /// Whether the router has what operators ask for.
    for_operators: bool,
    seats: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// The oldest first.
    seats: Vec<Seat>,
}

struct Seat {
    id: u64,
    source: Source,
    /// Whether its request is being answered.
    is_busy: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Taken {
    /// Takes a seat away, of the address that has the most.
    fn give_up(&mut self) -> Option<AbortHandle> {
        let of = |source| self.seats.iter().filter(|seat| seat.source == source).count();
        // The last of those that are alike, so the oldest.
        let (place, _) = self
            .seats
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, seat)| (of(seat.source), !seat.is_busy.load(Ordering::Acquire)))?;
        Some(self.seats.remove(place).task)
    }
}

impl Reserve {
    /// With so many seats.
    #[must_use]
    pub fn new(app: Arc<App>, router: Router, for_operators: bool, seats: usize) -> Arc<Self> {
        Arc::new(Self { app, router, for_operators, seats, taken: Mutex::default() })
    }

    /// Gives a connection a seat; `stop` is kept until it is free again.
    pub fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, stop: watch::Receiver<bool>) {
        let source = Source::of(peer.ip());
        let is_busy = Arc::new(AtomicBool::new(false));
        let mut taken = self.taken();
        let given_up = (taken.seats.len() >= self.seats).then(|| taken.give_up());
        let id = taken.next;
        taken.next += 1;
        let (held, busy) = (Held { reserve: self.clone(), id }, is_busy.clone());
        let task = tokio::spawn(async move {
            let _ = timeout(PATIENCE, held.reserve.answer(&stream, peer, &busy)).await;
            drop((held, stop));
        });
        taken.seats.push(Seat { id, source, is_busy, task: task.abort_handle() });
        drop(taken);
        if let Some(Some(task)) = given_up {
            task.abort();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, stream: &TcpStream, peer: SocketAddr, is_busy: &AtomicBool) {
        let _ = stream.set_nodelay(true);
        let Ok(Some(asked)) = read(stream).await else { return };
        is_busy.store(true, Ordering::Release);
        let answer = match asked.filter(|asked| self.for_operators && is_operators(asked)) {
            Some(mut asked) => {
                asked.extensions_mut().insert(Peer(peer));
                let Ok(answer) = self.router.clone().oneshot(asked).await;
                let (head, body) = answer.into_parts();
                let Ok(body) = axum::body::to_bytes(body, MAX_ANSWER_BYTES).await else { return };
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

fn is_operators(asked: &Request<Body>) -> bool {
    let path = asked.uri().path();
    asked.method() == Method::GET && (path.starts_with("/health/") || path == "/metrics")
}

/// Reads one request; `None` when it ends before, `Some(None)` when it is no request without a body.
#[allow(clippy::option_option, reason = "no request, and one that is not for operators")]
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
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => return Ok(Some(of(&request))),
            Ok(httparse::Status::Partial) if head.len() < MAX_HEAD_BYTES => {}
            _ => return Ok(Some(None)),
        }
    }
}

fn of(request: &httparse::Request<'_, '_>) -> Option<Request<Body>> {
    let mut asked = Request::builder().method(request.method?).uri(request.path?);
    for header in request.headers.iter() {
        asked = asked.header(
            HeaderName::from_bytes(header.name.as_bytes()).ok()?,
            HeaderValue::from_bytes(header.value).ok()?,
        );
    }
    asked.body(Body::empty()).ok()
}

/// Frees a seat.
struct Held {
    reserve: Arc<Reserve>,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.reserve.taken().seats.retain(|seat| seat.id != self.id);
    }
}
