//! The fast path on a connection: the part of HTTP/1.1 (RFC 9112) that its routes need.
//!
//! Reads a connection from its first byte. While all requests are eligible they are answered here, in order, in
//! one write for all that were read together. At the first ineligible request the connection goes to hyper with
//! the bytes of that request, and does not come back. This module never interprets a body, a length or a folded
//! header, so two parsers cannot disagree about where a request ends.
//!
//! Bounds: a head must fit into `BUFFER_BYTES` and `HEADERS_MAX` and arrive in time, and the client must take
//! an answer in time ([`Timeouts`]). A connection that waits for its client holds no buffer.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, Interest, ReadBuf},
    net::TcpStream,
    sync::watch,
    task::unconstrained,
    time::{Sleep, sleep, timeout},
};

use super::{FastPath, INELIGIBLE_HEADERS, poll_once, response::CommonHeaders, route::FastRoute};
use crate::{
    http::{
        connection::{Timeouts, head::is_plain_host, refused},
        extract::{
            credential::{Credential, Token},
            source::LazySource,
        },
        gateway,
        middleware::request::{RequestId, monotonic_now},
    },
    traces::{self, TRACEPARENT},
};

/// The most bytes that are read at once; the longest head.
const BUFFER_BYTES: usize = 16 * 1024;
/// The most headers of an eligible request.
const HEADERS_MAX: usize = 32;
/// Collected answers are written at this size, in bytes, even if more requests have been read.
const WRITE_THRESHOLD_BYTES: usize = 32 * 1024;
/// The most buffers that a thread keeps for reuse.
const SPARE_BUFFERS_MAX: usize = 64;

/// How the fast path left a connection.
#[derive(Debug)]
pub enum End {
    /// The connection is closed.
    Closed,
    /// The next request is ineligible: hyper takes over.
    HandedOver {
        /// The connection.
        stream: TcpStream,
        /// The bytes that were read and not answered.
        begun: Vec<u8>,
        /// Whether a request was answered here, so the client speaks HTTP/1.1.
        spoken: bool,
    },
}

/// Serves a connection with this peer until it ends, sends an ineligible request, exceeds a timeout, or `stop`
/// becomes true. Calls `on_first_request` before the first answer.
///
/// # Errors
/// The connection broke.
pub async fn serve(
    fast_path: &FastPath,
    mut stream: TcpStream,
    peer: SocketAddr,
    stop: watch::Receiver<bool>,
    on_first_request: impl FnOnce(),
) -> io::Result<End> {
    let timeouts = &fast_path.timeouts;
    let mut wait = RequestWait::new(timeouts.idle, stop);
    let write_timeout = timeouts.write;
    let mut on_first_request = Some(on_first_request);
    // The beginning of a request that has not arrived completely.
    let mut partial = Vec::new();
    loop {
        let mut buffers = match wait.read(&mut stream, &partial, timeouts).await? {
            Read::Bytes(buffers) => buffers,
            Read::TimedOut if !partial.is_empty() => {
                // Boxed: it is rare, and its future is large.
                Box::pin(refused::refuse(&fast_path.app, &stream, StatusCode::REQUEST_TIMEOUT)).await;
                return Ok(End::Closed);
            }
            Read::TimedOut | Read::Ended => return Ok(End::Closed),
        };
        let Buffers { input, filled, output } = &mut buffers;
        let read = &input[..*filled];
        let mut now = ReadTime { instant: monotonic_now(), second: fast_path.app.clock.now().as_secs() };
        let mut offset = 0;
        let stays = loop {
            match Head::read(peer, &read[offset..]) {
                Head::Eligible(length, request) if fast_path.can_decide() => {
                    offset += length;
                    // A draining node closes after the last of the requests that were read together.
                    let is_last =
                        fast_path.app.is_draining() && !Head::read(peer, &read[offset..]).is_eligible();
                    if let Some(on_first_request) = on_first_request.take() {
                        on_first_request();
                    }
                    now = request.answer(fast_path, &mut stream, now, write_timeout, is_last, output).await?;
                    if is_last {
                        output.write(fast_path, now, &mut stream, write_timeout).await?;
                        stream.shutdown().await?;
                        return Ok(End::Closed);
                    }
                    if output.bytes.len() >= WRITE_THRESHOLD_BYTES {
                        now = output.write(fast_path, now, &mut stream, write_timeout).await?;
                    }
                }
                Head::Partial if offset > 0 || read.len() < BUFFER_BYTES => break true,
                _ => break false,
            }
        };
        now = output.write(fast_path, now, &mut stream, write_timeout).await?;
        if !stays {
            return Ok(End::HandedOver {
                stream,
                begun: read[offset..].to_vec(),
                spoken: on_first_request.is_none(),
            });
        }
        // The timeout of a head starts at its first byte.
        if offset > 0 || partial.is_empty() {
            wait.since = now.instant;
        }
        partial = read[offset..].to_vec();
        buffers.give_back();
    }
}

/// The next bytes of a connection, classified.
enum Head<'a> {
    /// An eligible request, and the length of its head in bytes.
    Eligible(usize, ParsedRequest<'a>),
    /// The beginning of a request.
    Partial,
    /// Anything else: hyper reads it.
    Ineligible,
}

/// An eligible request.
struct ParsedRequest<'a> {
    route: FastRoute<'a>,
    token: Token<'a>,
    source: LazySource<'a>,
    id: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    fn read(peer: SocketAddr, bytes: &'a [u8]) -> Self {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) => {
                let source = LazySource::with_head(peer, &bytes[..length]);
                ParsedRequest::of(&request, source)
                    .map_or(Self::Ineligible, |request| Self::Eligible(length, request))
            }
            Ok(httparse::Status::Partial) => Self::Partial,
            Err(_) => Self::Ineligible,
        }
    }

    const fn is_eligible(&self) -> bool {
        matches!(self, Self::Eligible(..))
    }
}

impl<'a> ParsedRequest<'a> {
    /// `None` if the request is ineligible.
    fn of(request: &httparse::Request<'_, 'a>, source: LazySource<'a>) -> Option<Self> {
        if request.method != Some("GET") || request.version != Some(1) {
            return None;
        }
        let route = FastRoute::of_target(request.path?)?;
        let mut credential = Credential::default();
        let mut id = None;
        let mut hosts = 0;
        for header in request.headers.iter() {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("authorization") {
                credential.authorization(header.value);
            } else if is("x-request-id") {
                id = id.or(Some(header.value));
            } else if is("host") {
                // Rare forms go to hyper and the router, which know the whole grammar.
                if !is_plain_host(header.value) {
                    return None;
                }
                hosts += 1;
            } else if is("connection") {
                if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            } else if is(TRACEPARENT) {
                // The router makes the spans.
                if traces::is_sampled(header.value) {
                    return None;
                }
            } else if INELIGIBLE_HEADERS.iter().any(|name| is(name))
                || (route.is_admit() && gateway::is_unknown_header(header.name.as_bytes()))
            {
                return None;
            }
        }
        (hosts == 1).then_some(Self { route, token: credential.token(), source, id })
    }

    /// Appends the answer to `out`, and returns the time from which the next requests count.
    ///
    /// # Errors
    /// The connection broke, or the client closed it while its answer was being made.
    async fn answer(
        &self,
        fast_path: &FastPath,
        stream: &mut TcpStream,
        mut now: ReadTime,
        write_timeout: Duration,
        is_last: bool,
        out: &mut Output,
    ) -> io::Result<ReadTime> {
        let id = RequestId::of(self.id, &*fast_path.app.entropy);
        let mut pending = pin!(fast_path.answer(self.route, self.token, self.source, &id));
        let (answer, stale) = match poll_once(pending.as_mut()).await {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                // The answers before this one are ready.
                now = out.write(fast_path, now, stream, write_timeout).await?;
                tokio::select! {
                    answer = pending => answer,
                    error = closed(stream) => return Err(error),
                }
            }
        };
        fast_path.log(self.route, &answer, &id, now.instant);
        out.tally.add(self.route.index(), answer.status().as_u16());
        let common = CommonHeaders {
            id: &id,
            cors_headers: &fast_path.cors_headers,
            stale,
            is_last,
            now_s: now.second,
        };
        answer.write(&common, &mut out.bytes);
        // Lets other tasks run.
        tokio::task::consume_budget().await;
        Ok(now)
    }
}

/// Waits until the client has closed the connection. Bytes of its next requests may keep the socket readable,
/// so this polls.
async fn closed(stream: &TcpStream) -> io::Error {
    const POLL_INTERVAL: Duration = Duration::from_millis(100);
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => sleep(POLL_INTERVAL).await,
            Err(error) => return error,
        }
    }
}

/// The time at which requests were read, by both clocks.
#[derive(Debug, Clone, Copy)]
struct ReadTime {
    instant: Instant,
    /// Seconds since the epoch.
    second: u64,
}

/// Answers that are written and counted together. The duration of a request runs from its read to the write of
/// its answer, and includes the requests before it.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    tally: Tally,
}

impl Output {
    /// Counts and writes the collected answers, and returns the time from which the next requests count.
    ///
    /// # Errors
    /// The connection broke, or the client did not take the answers in time.
    async fn write(
        &mut self,
        fast_path: &FastPath,
        now: ReadTime,
        stream: &mut TcpStream,
        write_timeout: Duration,
    ) -> io::Result<ReadTime> {
        if self.bytes.is_empty() {
            return Ok(now);
        }
        let mut after = monotonic_now();
        self.tally.count(fast_path, after.saturating_duration_since(now.instant));
        // Most writes complete at once, and need no timer.
        let written = match stream.try_write(&self.bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < self.bytes.len() {
            let taken = timeout(write_timeout, stream.write_all(&self.bytes[written..])).await;
            // On a timeout, the system discards what the client has not taken.
            taken.inspect_err(|_| stream.set_zero_linger().unwrap_or_default())??;
            after = monotonic_now();
        }
        self.bytes.clear();
        Ok(ReadTime { instant: after, ..now })
    }
}

/// Counts of answers by route and status; mostly there is one.
#[derive(Default)]
struct Tally(Vec<TallyEntry>);

struct TallyEntry {
    /// Index in [`FastRoute::ROUTES`].
    route: usize,
    status: u16,
    count: u64,
}

impl Tally {
    fn add(&mut self, route: usize, status: u16) {
        match self.0.last_mut() {
            Some(last) if last.route == route && last.status == status => last.count += 1,
            _ => self.0.push(TallyEntry { route, status, count: 1 }),
        }
    }

    fn count(&mut self, fast_path: &FastPath, took: Duration) {
        for TallyEntry { route, status, count } in self.0.drain(..) {
            fast_path.count(route, status, count, took);
        }
    }
}

/// The buffers that a connection needs while it is busy.
struct Buffers {
    input: Vec<u8>,
    /// The number of bytes in `input` that have been read.
    filled: usize,
    output: Output,
}

thread_local! {
    static BUFFERS: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

impl Buffers {
    fn take() -> Self {
        let spare = BUFFERS.with_borrow_mut(Vec::pop);
        spare.unwrap_or_else(|| Self { input: vec![0; BUFFER_BYTES], filled: 0, output: Output::default() })
    }

    fn give_back(mut self) {
        self.filled = 0;
        self.output.bytes.clear();
        self.output.tally.0.clear();
        BUFFERS.with_borrow_mut(|spare| {
            if spare.len() < SPARE_BUFFERS_MAX && self.output.bytes.capacity() <= 2 * WRITE_THRESHOLD_BYTES {
                spare.push(self);
            }
        });
    }
}

/// The outcome of a read.
enum Read {
    Bytes(Buffers),
    /// The client sent nothing in time.
    TimedOut,
    /// The client closed its side, or the node stops.
    Ended,
}

/// The wait for bytes of a client, limited by a timeout and by the stop signal.
///
/// The timer and the signal are polled only if no bytes are there: on a busy connection they cost nothing.
struct RequestWait {
    /// The limit of the wait, from `since`.
    timeout: Duration,
    /// The start of the wait for a request, or for the rest of one.
    since: Instant,
    sleep: Pin<Box<Sleep>>,
    stop: watch::Receiver<bool>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The waker that the timer and the signal hold.
    waker: Option<Waker>,
}

impl RequestWait {
    fn new(timeout: Duration, stop: watch::Receiver<bool>) -> Self {
        let mut receiver = stop.clone();
        let stopped = Box::pin(async move {
            let _ = receiver.wait_for(|stop| *stop).await;
        });
        let sleep = Box::pin(sleep(timeout));
        Self { timeout, since: monotonic_now(), sleep, stop, stopped, waker: None }
    }

    /// Reads what follows the bytes of `partial`, into buffers that begin with them.
    ///
    /// # Errors
    /// The connection broke.
    async fn read(
        &mut self,
        stream: &mut TcpStream,
        partial: &[u8],
        timeouts: &Timeouts,
    ) -> io::Result<Read> {
        let mut polled = false;
        self.timeout = if partial.is_empty() { timeouts.idle } else { timeouts.head };
        if !partial.is_empty() && self.sleep.deadline() > (self.since + self.timeout).into() {
            self.sleep.as_mut().reset((self.since + self.timeout).into());
            self.waker = None;
        }
        poll_fn(|cx| {
            let mut buffers = Buffers::take();
            buffers.input[..partial.len()].copy_from_slice(partial);
            let mut free = ReadBuf::new(&mut buffers.input[partial.len()..]);
            match Pin::new(&mut *stream).poll_read(cx, &mut free) {
                Poll::Ready(Ok(())) => {
                    let read = free.filled().len();
                    buffers.filled = partial.len() + read;
                    return Poll::Ready(Ok(if read > 0 { Read::Bytes(buffers) } else { Read::Ended }));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => buffers.give_back(),
            }
            let is_first_poll = !std::mem::replace(&mut polled, true);
            self.poll_limits(cx, is_first_poll).map(Ok)
        })
        .await
    }

    /// Ready when the timer or the stop signal has ended the wait. On the first poll of a wait neither has
    /// usually fired, so the expensive check is skipped.
    fn poll_limits(&mut self, cx: &mut Context<'_>, is_first_poll: bool) -> Poll<Read> {
        let is_registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        let has_fired = self.sleep.is_elapsed() || self.stop.has_changed().unwrap_or(true);
        if is_first_poll && is_registered && !has_fired {
            return Poll::Pending;
        }
        if !is_registered {
            self.waker = Some(cx.waker().clone());
        }
        // If the task has used up its budget, both would return `Pending` without registering the waker.
        let check = poll_fn(|cx| Poll::Ready(self.poll_timer_and_stop(cx)));
        match pin!(unconstrained(check)).poll(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_timer_and_stop(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Read::Ended);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let until = self.since + self.timeout;
            if until <= monotonic_now() {
                return Poll::Ready(Read::TimedOut);
            }
            self.sleep.as_mut().reset(until.into());
        }
        Poll::Pending
    }
}
