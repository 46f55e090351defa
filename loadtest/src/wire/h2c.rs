//! HTTP/2 without TLS ("prior knowledge", RFC 9113 section 3.3) by hyper, with many streams on a connection.
//!
//! Promises: pacing, judging and counting are as over HTTP/1.1. A scenario writes HTTP/1.1, which is translated
//! here. A request costs the tool some ten times more than over HTTP/1.1, so its ceiling is lower. Timers are
//! exact (timerfd); those of tokio count milliseconds.

use std::{cell::RefCell, future::Future, io, os::fd::AsFd as _, rc::Rc, sync::mpsc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::TokioIo;
use rustix::{
    event::Timespec,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};
use tokio::{
    net::{TcpStream, unix::pipe},
    task::{JoinSet, LocalSet},
};

use super::{RECONNECT_PAUSE, Settings};
use crate::{
    answer::Answer,
    clock::{Nanos, SECOND},
    record::ErrorKind,
    scenario::{InFlight, Route},
    worker::{NextRequest, Phase, Worker},
};

/// How often ended seconds are reported.
const TICK_INTERVAL: Duration = Duration::from_millis(50);
/// The pause when the scenario has no request.
const IDLE_PAUSE: Duration = Duration::from_millis(1);
/// The largest body of an answer, bytes.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Held by the one task that waits for the next request of a route, so that not all of its tasks wait.
type Turn = Rc<tokio::sync::Mutex<()>>;
type Sender = http2::SendRequest<Full<Bytes>>;

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Carries the requests of all phases. Returns the worker.
pub fn drive(settings: Settings, worker: Worker, phases: &mpsc::Receiver<Phase>) -> io::Result<Worker> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = Rc::new(settings);
    let worker = Rc::new(RefCell::new(worker));
    while let Ok(phase) = phases.recv() {
        worker.borrow_mut().begin(phase);
        let local = LocalSet::new();
        local.block_on(&runtime, run(Rc::clone(&settings), Rc::clone(&worker)))?;
        let mut worker = worker.borrow_mut();
        let now = worker.clock.now();
        worker.finish(now);
    }
    match Rc::try_unwrap(worker) {
        Ok(worker) => Ok(worker.into_inner()),
        Err(_) => Err(io::Error::other("a task is left")),
    }
}

async fn run(settings: Rc<Settings>, worker: Rc<RefCell<Worker>>) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    let mut turns: Vec<(Route, Turn)> = Vec::new();
    for route in settings.connections.clone() {
        let known = turns.iter().find(|(other, _)| *other == route).map(|(_, turn)| Rc::clone(turn));
        let turn = known.unwrap_or_else(|| {
            turns.push((route, Turn::default()));
            Rc::clone(&turns[turns.len() - 1].1)
        });
        let settings = Rc::clone(&settings);
        let worker = Rc::clone(&worker);
        tasks.spawn_local(async move { connection(&settings, &worker, route, &turn).await });
    }
    let ticker = {
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(TICK_INTERVAL).await;
                let mut worker = worker.borrow_mut();
                let now = worker.clock.now();
                worker.tick(now);
            }
        })
    };
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    ticker.abort();
    let _ = ticker.await;
    Ok(())
}

/// Keeps one connection open, which carries up to `depth` streams.
async fn connection(
    settings: &Rc<Settings>,
    worker: &Rc<RefCell<Worker>>,
    route: Route,
    turn: &Turn,
) -> io::Result<()> {
    let timer = Timer::new()?;
    let mut scratch = Vec::new();
    loop {
        if is_over(worker) {
            return Ok(());
        }
        let Some(sender) = connect(settings, route).await else {
            let now = worker.borrow().clock.now();
            worker.borrow_mut().refuse(route, now, &mut scratch);
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        };
        if !send_requests(settings, worker, route, (turn, &timer), sender).await? && !is_over(worker) {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

fn is_over(worker: &Rc<RefCell<Worker>>) -> bool {
    let worker = worker.borrow();
    worker.is_done_sending(worker.clock.now())
}

async fn connect(settings: &Settings, route: Route) -> Option<Sender> {
    let address = settings.targets[route.target].address;
    let connecting = async {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(async move {
            // The requests report how it ended.
            let _ = connection.await;
        });
        Some(sender)
    };
    tokio::time::timeout(settings.timeout, connecting).await.ok()?
}

/// Sends requests on this connection until it or the phase ends. Returns whether any was sent.
async fn send_requests(
    settings: &Rc<Settings>,
    worker: &Rc<RefCell<Worker>>,
    route: Route,
    (turn, timer): (&Turn, &Timer),
    sender: Sender,
) -> io::Result<bool> {
    let mut in_flight = JoinSet::new();
    let mut has_sent = false;
    let mut free_since = worker.borrow().clock.now();
    loop {
        if in_flight.len() >= settings.depth {
            in_flight.join_next().await;
            free_since = worker.borrow().clock.now();
            continue;
        }
        while in_flight.try_join_next().is_some() {}
        match await_request(worker, route, (turn, timer), &sender, free_since).await? {
            Some((request, bytes)) => {
                has_sent = true;
                in_flight.spawn_local(exchange(
                    Rc::clone(settings),
                    Rc::clone(worker),
                    request,
                    bytes,
                    sender.clone(),
                ));
            }
            None => {
                while in_flight.join_next().await.is_some() {}
                return Ok(has_sent);
            }
        }
    }
}

/// Waits for the next request; `None` if the phase or the connection has ended.
async fn await_request(
    worker: &Rc<RefCell<Worker>>,
    route: Route,
    (turn, timer): (&Turn, &Timer),
    sender: &Sender,
    free_since: Nanos,
) -> io::Result<Option<(InFlight, Vec<u8>)>> {
    let _mine = turn.lock().await;
    let mut out = Vec::new();
    loop {
        if is_over(worker) || sender.is_closed() {
            return Ok(None);
        }
        let now = worker.borrow().clock.now();
        let next_request = worker.borrow_mut().next_request(route, free_since, now, &mut out);
        match next_request {
            NextRequest::Send(request) => return Ok(Some((request, out))),
            NextRequest::DueAt(due) => timer.sleep(due.saturating_sub(now).min(SECOND / 20)).await?,
            // An answer may enable the scenario to write a request.
            NextRequest::None => tokio::time::sleep(IDLE_PAUSE).await,
        }
    }
}

async fn exchange(
    settings: Rc<Settings>,
    worker: Rc<RefCell<Worker>>,
    request: InFlight,
    bytes: Vec<u8>,
    sender: Sender,
) {
    let authority = &settings.targets[request.route.target].authority;
    let asked = tokio::time::timeout(settings.timeout, send(sender, &bytes, authority)).await;
    let mut worker = worker.borrow_mut();
    let now = worker.clock.now();
    match asked {
        Ok(Ok((head, body))) => {
            worker.on_answer(&request, &Answer::of(head.status.as_u16(), &head.headers, &body), now);
        }
        Ok(Err(error)) => worker.on_failure(&request, error, now),
        Err(_) => worker.on_failure(&request, ErrorKind::Timeout, now),
    }
}

async fn send(
    mut sender: Sender,
    bytes: &[u8],
    authority: &str,
) -> Result<(hyper::http::response::Parts, Bytes), ErrorKind> {
    let request = translate(bytes, authority).ok_or(ErrorKind::Malformed)?;
    sender.ready().await.map_err(|_| ErrorKind::Closed)?;
    let answer = sender.send_request(request).await.map_err(|_| ErrorKind::Closed)?;
    let (head, body) = answer.into_parts();
    let body =
        http_body_util::Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| ErrorKind::Closed)?;
    Ok((head, body.to_bytes()))
}

/// Translates a request of HTTP/1.1 into one of HTTP/2.
fn translate(bytes: &[u8], authority: &str) -> Option<Request<Full<Bytes>>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).ok()? else { return None };
    let mut translated =
        Request::builder().method(request.method?).uri(format!("http://{authority}{}", request.path?));
    for header in request.headers.iter() {
        if !header.name.eq_ignore_ascii_case("host") && !header.name.eq_ignore_ascii_case("content-length") {
            translated = translated.header(header.name, header.value);
        }
    }
    translated.body(Full::new(Bytes::copy_from_slice(&bytes[head..]))).ok()
}

/// A timer that is exact to the microsecond: a timerfd that is read like a pipe. tokio's `AsyncFd` is meant for
/// this, but to make one is unsafe; a pipe is registered and read by the same system calls.
struct Timer(pipe::Receiver);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(timer)?))
    }

    async fn sleep(&self, span: Nanos) -> io::Result<()> {
        let it_value = Timespec {
            tv_sec: i64::try_from(span / SECOND).unwrap_or(0),
            tv_nsec: i64::try_from(span % SECOND).unwrap_or(0).max(1),
        };
        let timer = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        rustix::time::timerfd_settime(self.0.as_fd(), TimerfdTimerFlags::empty(), &timer)?;
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::{Response, body::Incoming, server::conn::http2 as server, service::service_fn};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::{
        answer::Visible,
        clock::{Clock, MILLI},
        pace::Curve,
        random::Part,
        record::{Cell, Grid, RequestKind},
        scenario::{Judgement, Scenario},
        target,
        worker::{Shared, WorkerEvent},
    };

    struct Get;

    impl Scenario for Get {
        fn write_request(&mut self, route: Route, _: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
            out.extend_from_slice(b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n");
            Some(InFlight {
                kind: RequestKind::Fixed,
                route,
                subject: 0,
                epoch: 0,
                extra: 0,
                due: 0,
                sent: 0,
            })
        }

        fn judge(&mut self, _: &InFlight, answer: &Answer<'_>, _: Nanos) -> Judgement {
            let right = answer.status == 200
                && answer.body == b"ok"
                && answer.visible() == Some(Visible { acknowledged: 1, nodes: 2 });
            if right { Judgement::Correct } else { Judgement::Failed(ErrorKind::Body) }
        }

        fn on_lost(&mut self, _: &InFlight, _: Nanos) {}
    }

    /// Serves h2c and closes each connection after `life`.
    fn served(life: Duration) -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let answer = service_fn(|request: Request<Incoming>| async move {
                        let status = if request.uri().path() == "/x" { 200 } else { 404 };
                        let answer = Response::builder().status(status).header("Palisade-Visible", "1/2");
                        answer.body(Full::new(Bytes::from_static(b"ok")))
                    });
                    let served = server::Builder::new(Local).serve_connection(TokioIo::new(stream), answer);
                    tokio::task::spawn_local(async move { drop(tokio::time::timeout(life, served).await) });
                }
            });
        });
        address
    }

    fn driven(address: std::net::SocketAddr, rate: Option<f64>) -> Cell {
        let clock = Clock::start();
        let (events, mut received) = unbounded_channel();
        let worker = Worker::new(
            clock,
            Box::new(Get),
            Arc::new(Shared::default()),
            events,
            1,
            Part { index: 0, count: 1 },
        );
        let settings = Settings {
            targets: vec![target::parse(&format!("http://{address}"), false).unwrap()],
            connections: vec![Route { lane: 0, target: 0 }; 3],
            depth: 4,
            timeout: Duration::from_secs(2),
        };
        let (phases, next) = mpsc::channel();
        let curve = rate.map(|rate| Curve { rate, ramp_s: 0.0, day_s: None });
        let begin = clock.now() + 100 * MILLI;
        phases.send(Phase { begin, end: begin + SECOND / 2, curves: vec![curve], measured: true }).unwrap();
        drop(phases);
        drop(drive(settings, worker, &next).unwrap());
        let mut grid = Grid::new(1);
        while let Some(event) = received.blocking_recv() {
            if let WorkerEvent::SecondEnded(second) = event {
                grid.merge(&second.grid);
            }
        }
        grid.all()
    }

    #[test]
    fn h2c_requests_are_answered_when_they_are_due() {
        let address = served(Duration::from_secs(60));
        let cell = driven(address, Some(400.0));
        assert!(
            (199..=201).contains(&cell.requests) && cell.failed() == 0,
            "{} {:?}",
            cell.requests,
            cell.errors
        );
        let cell = driven(address, None);
        assert!(cell.requests > 100 && cell.failed() == 0, "{} {:?}", cell.requests, cell.errors);
    }

    #[test]
    fn closed_connections_are_opened_again() {
        let cell = driven(served(Duration::from_millis(100)), None);
        assert!(cell.requests > 10 * cell.failed().max(1), "{} {:?}", cell.requests, cell.errors);
        let faults: Vec<ErrorKind> = cell.errors.keys().copied().collect();
        assert!(faults.iter().all(|error| *error == ErrorKind::Closed), "{faults:?}");
    }

    #[tokio::test]
    async fn http1_request_is_translated() {
        let text = b"POST /api/v1/auth_token HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}";
        let request = translate(text, "127.0.0.1:80").unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/api/v1/auth_token"));
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "{}");
    }
}
