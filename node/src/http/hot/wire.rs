//! The hot lane on a connection: HTTP/1.1 (RFC 9112), as far as its questions need it.
//!
//! Reads a connection from its first byte. As long as it carries nothing but usual requests of the hot lane,
//! they are answered here, in their order, in one write for all that were read at once. With the first
//! request that is anything else the connection goes to hyper, and the bytes of that request with it; it does
//! not come back. What one byte more or less would make mean something else (a body, a length, a folded
//! header) is never interpreted here, so there is nothing that two parsers could understand differently.
//!
//! Bounds: a head has to fit into `BUFFER` and `MAX_HEADERS`, and to be there in time; an answer has to be
//! taken in time ([`Timeouts`]). A connection that waits for its client holds no buffer.

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
use schema::{Refusal, authorization::bearer};
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, Interest, ReadBuf},
    net::TcpStream,
    sync::watch,
    task::unconstrained,
    time::{Sleep, sleep, timeout},
};

use super::{Lane, UNUSUAL, answer::Common, poll_once, question::Question};
use crate::http::{
    asker::Asker,
    authority::Token,
    connection::{Timeouts, refused},
    gateway,
    request::{RequestId, began},
};

/// How much is read at once, in bytes.
const BUFFER: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;
/// Answers are written when they are so many bytes, though more requests are there.
const WRITE_AT: usize = 32 * 1024;
/// How many buffers a thread keeps for connections that have something to say.
const SPARE: usize = 64;

/// How it ended with a connection.
#[derive(Debug)]
pub enum End {
    /// It is over.
    Closed,
    /// It has asked for something else.
    HandedOver {
        /// The connection.
        stream: TcpStream,
        /// What it asks for begins with these bytes.
        begun: Vec<u8>,
        /// Whether something was answered before, so that it speaks HTTP/1.1.
        spoken: bool,
    },
}

/// Serves a connection with this peer until it ends, asks for something else, does not get on in time, or
/// `stop` says so.
/// `asked` is called when its first request is there.
///
/// # Errors
/// When the connection breaks.
pub async fn serve(
    lane: &Lane,
    mut stream: TcpStream,
    peer: SocketAddr,
    stop: watch::Receiver<bool>,
    asked: impl FnOnce(),
) -> io::Result<End> {
    let timeouts = &lane.timeouts;
    let mut idle = Idle::new(timeouts.idle, stop);
    let patience = timeouts.write;
    let mut asked = Some(asked);
    // The beginning of a request whose end is not there yet.
    let mut begun = Vec::new();
    loop {
        let mut buffers = match idle.read(&mut stream, &begun, timeouts).await? {
            Read::Bytes(buffers) => buffers,
            Read::Late if !begun.is_empty() => {
                // Rare, and large.
                Box::pin(refused::refuse(&lane.app, &stream, StatusCode::REQUEST_TIMEOUT)).await;
                return Ok(End::Closed);
            }
            Read::Late | Read::End => return Ok(End::Closed),
        };
        let Buffers { input, filled, output } = &mut buffers;
        let read = &input[..*filled];
        let mut now = Now { began: began(), second: lane.app.clock.now().as_secs() };
        let mut at = 0;
        let stays = loop {
            match Head::read(peer, &read[at..]) {
                Head::Usual(length, request) if lane.decides() => {
                    at += length;
                    // On a node that drains, the last of those that came together says that it is the last.
                    let closing = lane.app.is_draining() && !Head::read(peer, &read[at..]).is_usual();
                    if let Some(asked) = asked.take() {
                        asked();
                    }
                    now = request.answer(lane, &mut stream, now, patience, closing, output).await?;
                    if closing {
                        output.write(lane, now, &mut stream, patience).await?;
                        stream.shutdown().await?;
                        return Ok(End::Closed);
                    }
                    if output.bytes.len() >= WRITE_AT {
                        now = output.write(lane, now, &mut stream, patience).await?;
                    }
                }
                Head::Begun if at > 0 || read.len() < BUFFER => break true,
                _ => break false,
            }
        };
        now = output.write(lane, now, &mut stream, patience).await?;
        if !stays {
            return Ok(End::HandedOver { stream, begun: read[at..].to_vec(), spoken: asked.is_none() });
        }
        // The time for a head begins with its first byte.
        if at > 0 || begun.is_empty() {
            idle.since = now.began;
        }
        begun = read[at..].to_vec();
        buffers.give_back();
    }
}

/// What the next bytes of a connection are.
enum Head<'a> {
    /// A request of the hot lane, and its length.
    Usual(usize, Asked<'a>),
    /// The beginning of a request.
    Begun,
    /// Something else.
    Other,
}

/// A request of the hot lane.
struct Asked<'a> {
    question: Question<'a>,
    token: Token<'a>,
    asker: Asker<'a>,
    id: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    fn read(peer: SocketAddr, bytes: &'a [u8]) -> Self {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) => {
                let asker = Asker::with_head(peer, &bytes[..length]);
                Asked::of(&request, asker).map_or(Self::Other, |asked| Self::Usual(length, asked))
            }
            Ok(httparse::Status::Partial) => Self::Begun,
            Err(_) => Self::Other,
        }
    }

    const fn is_usual(&self) -> bool {
        matches!(self, Self::Usual(..))
    }
}

impl<'a> Asked<'a> {
    /// `None` when anything about it is unusual.
    fn of(request: &httparse::Request<'_, 'a>, asker: Asker<'a>) -> Option<Self> {
        if request.method != Some("GET") || request.version != Some(1) {
            return None;
        }
        let question = Question::of_target(request.path?)?;
        let (mut token, mut id, mut hosts) = (None, None, 0);
        for header in request.headers.iter() {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("authorization") {
                token = Some(match token {
                    None => bearer(Some(header.value)),
                    Some(_) => Err(Refusal::RepeatedHeader),
                });
            } else if is("x-request-id") {
                id = id.or(Some(header.value));
            } else if is("host") {
                hosts += 1;
            } else if is("connection") {
                if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            } else if UNUSUAL.iter().any(|name| is(name))
                || (question.is_admit() && gateway::is_unknown_header(header.name.as_bytes()))
            {
                return None;
            }
        }
        let token = token.unwrap_or_else(|| bearer(None));
        (hosts == 1).then_some(Self { question, token, asker, id })
    }

    /// Gives the time after it.
    async fn answer(
        &self,
        lane: &Lane,
        stream: &mut TcpStream,
        mut now: Now,
        patience: Duration,
        closing: bool,
        out: &mut Output,
    ) -> io::Result<Now> {
        let id = RequestId::of(self.id, &*lane.app.entropy);
        let mut answering = pin!(lane.answer(self.question, self.token, self.asker, &id));
        let (answered, stale) = match poll_once(answering.as_mut()).await {
            Poll::Ready(answered) => answered,
            Poll::Pending => {
                // Those before it are ready.
                now = out.write(lane, now, stream, patience).await?;
                tokio::select! {
                    answered = answering => answered,
                    gone = is_gone(stream) => return Err(gone),
                }
            }
        };
        lane.log(self.question, &answered, &id, now.began);
        out.tally.add(self.question.route(), answered.status().as_u16());
        let common = Common { id: &id, extra: &lane.extra, stale, closing, now_s: now.second };
        answered.write(&common, &mut out.bytes);
        // Others have their turn, too.
        tokio::task::consume_budget().await;
        Ok(now)
    }
}

/// Until the client has gone. Bytes of its next requests may wait to be read, so it is looked for now and then.
async fn is_gone(stream: &TcpStream) -> io::Error {
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => sleep(LOOK).await,
            Err(error) => return error,
        }
    }
}

/// When requests were read, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    began: Instant,
    /// Since the epoch.
    second: u64,
}

/// Answers that are written together, and counted together: a request takes from its being read to its
/// answer's being written, with those before it.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    tally: Tally,
}

impl Output {
    /// Gives the time after it.
    async fn write(
        &mut self,
        lane: &Lane,
        now: Now,
        stream: &mut TcpStream,
        patience: Duration,
    ) -> io::Result<Now> {
        if self.bytes.is_empty() {
            return Ok(now);
        }
        let mut after = began();
        self.tally.count(lane, after.saturating_duration_since(now.began));
        // A timer is set only when the system does not take all of it at once.
        let written = match stream.try_write(&self.bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < self.bytes.len() {
            let taken = timeout(patience, stream.write_all(&self.bytes[written..])).await;
            // What the client did not take is not kept for it by the system either.
            taken.inspect_err(|_| stream.set_zero_linger().unwrap_or_default())??;
            after = began();
        }
        self.bytes.clear();
        Ok(Now { began: after, ..now })
    }
}

/// How many answers there are of each question and status; mostly of one.
#[derive(Default)]
struct Tally(Vec<(usize, u16, u64)>);

impl Tally {
    fn add(&mut self, route: usize, status: u16) {
        match self.0.last_mut() {
            Some((last_route, last_status, count)) if (*last_route, *last_status) == (route, status) => {
                *count += 1;
            }
            _ => self.0.push((route, status, 1)),
        }
    }

    fn count(&mut self, lane: &Lane, took: Duration) {
        for (route, status, count) in self.0.drain(..) {
            lane.count(route, status, count, took);
        }
    }
}

/// What a connection needs while it has something to say.
struct Buffers {
    input: Vec<u8>,
    /// How much of the input has been read.
    filled: usize,
    output: Output,
}

thread_local! {
    static BUFFERS: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

impl Buffers {
    fn take() -> Self {
        let spare = BUFFERS.with_borrow_mut(Vec::pop);
        spare.unwrap_or_else(|| Self { input: vec![0; BUFFER], filled: 0, output: Output::default() })
    }

    fn give_back(mut self) {
        self.filled = 0;
        self.output.bytes.clear();
        self.output.tally.0.clear();
        BUFFERS.with_borrow_mut(|spare| {
            if spare.len() < SPARE && self.output.bytes.capacity() <= 2 * WRITE_AT {
                spare.push(self);
            }
        });
    }
}

/// What a client sends.
enum Read {
    Bytes(Buffers),
    /// Nothing, in the time that it has.
    Late,
    /// Nothing more, or nothing more is wanted.
    End,
}

/// Waiting for a client: for its bytes, for so long, until it is told to stop.
///
/// The timer and the stop are asked only when nothing came: on a busy connection they cost nothing.
struct Idle {
    /// How long it is waited from `since`.
    patience: Duration,
    /// Since when it is waited for a request, or for the end of one.
    since: Instant,
    sleep: Pin<Box<Sleep>>,
    stop: watch::Receiver<bool>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Who is woken by the two of them.
    waker: Option<Waker>,
}

impl Idle {
    fn new(patience: Duration, stop: watch::Receiver<bool>) -> Self {
        let mut waiting = stop.clone();
        let stopped = Box::pin(async move {
            let _ = waiting.wait_for(|stop| *stop).await;
        });
        let sleep = Box::pin(sleep(patience));
        Self { patience, since: began(), sleep, stop, stopped, waker: None }
    }

    /// What comes next, after what has `begun`.
    async fn read(&mut self, stream: &mut TcpStream, begun: &[u8], timeouts: &Timeouts) -> io::Result<Read> {
        let mut polled = false;
        self.patience = if begun.is_empty() { timeouts.idle } else { timeouts.head };
        if !begun.is_empty() && self.sleep.deadline() > (self.since + self.patience).into() {
            self.sleep.as_mut().reset((self.since + self.patience).into());
            self.waker = None;
        }
        poll_fn(|cx| {
            let mut buffers = Buffers::take();
            buffers.input[..begun.len()].copy_from_slice(begun);
            let mut free = ReadBuf::new(&mut buffers.input[begun.len()..]);
            match Pin::new(&mut *stream).poll_read(cx, &mut free) {
                Poll::Ready(Ok(())) => {
                    let read = free.filled().len();
                    buffers.filled = begun.len() + read;
                    return Poll::Ready(Ok(if read > 0 { Read::Bytes(buffers) } else { Read::End }));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => buffers.give_back(),
            }
            let first = !std::mem::replace(&mut polled, true);
            self.is_over(cx, first).map(Ok)
        })
        .await
    }

    /// Whether there is no more waiting. In the first turn of a wait nothing has happened mostly, so it is
    /// not asked in the dear way.
    fn is_over(&mut self, cx: &mut Context<'_>, first: bool) -> Poll<Read> {
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        let happened = self.sleep.is_elapsed() || self.stop.has_changed().unwrap_or(true);
        if first && known && !happened {
            return Poll::Pending;
        }
        if !known {
            self.waker = Some(cx.waker().clone());
        }
        // With a task's budget spent, the two would say that nothing happened, and wake nobody.
        let ask = poll_fn(|cx| Poll::Ready(self.ask(cx)));
        match pin!(unconstrained(ask)).poll(cx) {
            Poll::Ready(asked) => asked,
            Poll::Pending => Poll::Pending,
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Read::End);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let until = self.since + self.patience;
            if until <= began() {
                return Poll::Ready(Read::Late);
            }
            self.sleep.as_mut().reset(until.into());
        }
        Poll::Pending
    }
}
