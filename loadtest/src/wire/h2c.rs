//! HTTP/2 without TLS ("prior knowledge", RFC 9113 section 3.3), by hyper, many streams a connection.
//!
//! Promises: the same pacing, judging and counting as over HTTP/1.1; what a scenario writes is taken apart
//! again, so scenarios know nothing of it. It costs the tool some ten times more a request than HTTP/1.1:
//! its ceiling is lower. Timers are exact (timerfd), tokio's own count in milliseconds.

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

use super::{AGAIN, Settings};
use crate::{
    answer::Answer,
    clock::{Nanos, SECOND},
    record::Fault,
    scenario::{Note, Spot},
    worker::{Phase, Take, Worker},
};

/// How often the end is looked at.
const TICK: Duration = Duration::from_millis(50);
/// When there was nothing to ask.
const LULL: Duration = Duration::from_millis(1);
/// No answer is larger.
const LARGEST: usize = 8 << 20;

/// Whose connection is next: one task waits for what is due at a target, not all of them.
type Turn = Rc<tokio::sync::Mutex<()>>;
type Sender = http2::SendRequest<Full<Bytes>>;

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Carries the requests of all phases; gives the worker back.
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
    let mut turns: Vec<(Spot, Turn)> = Vec::new();
    for spot in settings.connections.clone() {
        let known = turns.iter().find(|(other, _)| *other == spot).map(|(_, turn)| Rc::clone(turn));
        let turn = known.unwrap_or_else(|| {
            turns.push((spot, Turn::default()));
            Rc::clone(&turns[turns.len() - 1].1)
        });
        let (settings, worker) = (Rc::clone(&settings), Rc::clone(&worker));
        tasks.spawn_local(async move { connection(&settings, &worker, spot, &turn).await });
    }
    let ticker = {
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(TICK).await;
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

/// One connection, made anew when it ends, with as many streams as are wanted.
async fn connection(
    settings: &Rc<Settings>,
    worker: &Rc<RefCell<Worker>>,
    spot: Spot,
    turn: &Turn,
) -> io::Result<()> {
    let timer = Timer::new()?;
    let mut scratch = Vec::new();
    loop {
        if is_over(worker) {
            return Ok(());
        }
        let Some(sender) = connect(settings, spot).await else {
            let now = worker.borrow().clock.now();
            worker.borrow_mut().refuse(spot, now, &mut scratch);
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        if !streams(settings, worker, spot, (turn, &timer), sender).await? && !is_over(worker) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn is_over(worker: &Rc<RefCell<Worker>>) -> bool {
    let worker = worker.borrow();
    worker.is_through(worker.clock.now())
}

async fn connect(settings: &Settings, spot: Spot) -> Option<Sender> {
    let address = settings.targets[spot.target].address;
    let connecting = async {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(async move {
            // How it ended is what its requests say.
            let _ = connection.await;
        });
        Some(sender)
    };
    tokio::time::timeout(settings.timeout, connecting).await.ok()?
}

/// Sends on this connection until it or the phase is over; whether anything was sent.
async fn streams(
    settings: &Rc<Settings>,
    worker: &Rc<RefCell<Worker>>,
    spot: Spot,
    (turn, timer): (&Turn, &Timer),
    sender: Sender,
) -> io::Result<bool> {
    let mut under_way = JoinSet::new();
    let mut was_of_use = false;
    let mut free_since = worker.borrow().clock.now();
    loop {
        if under_way.len() >= settings.depth {
            under_way.join_next().await;
            free_since = worker.borrow().clock.now();
            continue;
        }
        while under_way.try_join_next().is_some() {}
        match next(worker, spot, (turn, timer), &sender, free_since).await? {
            Some((note, bytes)) => {
                was_of_use = true;
                under_way.spawn_local(one(
                    Rc::clone(settings),
                    Rc::clone(worker),
                    note,
                    bytes,
                    sender.clone(),
                ));
            }
            None => {
                while under_way.join_next().await.is_some() {}
                return Ok(was_of_use);
            }
        }
    }
}

/// Waits for what is due; `None` when the phase or the connection is over.
async fn next(
    worker: &Rc<RefCell<Worker>>,
    spot: Spot,
    (turn, timer): (&Turn, &Timer),
    sender: &Sender,
    free_since: Nanos,
) -> io::Result<Option<(Note, Vec<u8>)>> {
    let _mine = turn.lock().await;
    let mut out = Vec::new();
    loop {
        if is_over(worker) || sender.is_closed() {
            return Ok(None);
        }
        let now = worker.borrow().clock.now();
        let take = worker.borrow_mut().take(spot, free_since, now, &mut out);
        match take {
            Take::Send(note) => return Ok(Some((note, out))),
            Take::At(due) => timer.sleep(due.saturating_sub(now).min(SECOND / 20)).await?,
            // An answer may give something to ask.
            Take::Nothing => tokio::time::sleep(LULL).await,
        }
    }
}

async fn one(
    settings: Rc<Settings>,
    worker: Rc<RefCell<Worker>>,
    note: Note,
    bytes: Vec<u8>,
    sender: Sender,
) {
    let authority = &settings.targets[note.spot.target].authority;
    let asked = tokio::time::timeout(settings.timeout, ask(sender, &bytes, authority)).await;
    let mut worker = worker.borrow_mut();
    let now = worker.clock.now();
    match asked {
        Ok(Ok((head, body))) => {
            worker.answered(&note, &Answer::of(head.status.as_u16(), &head.headers, &body), now);
        }
        Ok(Err(fault)) => worker.failed(&note, fault, now),
        Err(_) => worker.failed(&note, Fault::Timeout, now),
    }
}

async fn ask(
    mut sender: Sender,
    bytes: &[u8],
    authority: &str,
) -> Result<(hyper::http::response::Parts, Bytes), Fault> {
    let request = translate(bytes, authority).ok_or(Fault::Malformed)?;
    sender.ready().await.map_err(|_| Fault::Closed)?;
    let answer = sender.send_request(request).await.map_err(|_| Fault::Closed)?;
    let (head, body) = answer.into_parts();
    let body = http_body_util::Limited::new(body, LARGEST).collect().await.map_err(|_| Fault::Closed)?;
    Ok((head, body.to_bytes()))
}

/// A request of HTTP/1.1 as one of HTTP/2.
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

/// Sleeps to the microsecond: a timerfd, read like a pipe. (tokio's `AsyncFd`, made for this, is unsafe to
/// make; a pipe is registered and read by the same system calls.)
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
        clock::{Clock, MILLI},
        pace::Curve,
        record::{Cell, Grid, Kind},
        scenario::{Scenario, Verdict},
        target,
        worker::{Said, Shared},
    };

    struct Get;

    impl Scenario for Get {
        fn ask(&mut self, spot: Spot, _: Nanos, out: &mut Vec<u8>) -> Option<Note> {
            out.extend_from_slice(b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n");
            Some(Note { kind: Kind::Fixed, spot, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
        }

        fn answered(&mut self, _: &Note, answer: &Answer<'_>, _: Nanos) -> Verdict {
            let right = answer.status == 200 && answer.body == b"ok" && answer.visible() == Some((1, 2));
            if right { Verdict::Right } else { Verdict::Failed(Fault::Body) }
        }

        fn lost(&mut self, _: &Note, _: Nanos) {}
    }

    /// Serves h2c; a connection lives so long.
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
        let (said, mut heard) = unbounded_channel();
        let worker = Worker::new(clock, Box::new(Get), Arc::new(Shared::default()), said, 1, (0, 1));
        let settings = Settings {
            targets: vec![target::parse(&format!("http://{address}"), false).unwrap()],
            connections: vec![Spot { lane: 0, target: 0 }; 3],
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
        while let Some(said) = heard.blocking_recv() {
            if let Said::Second(second) = said {
                grid.merge(&second.grid);
            }
        }
        grid.all()
    }

    #[test]
    fn requests_are_answered_over_h2c_when_they_are_due() {
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
    fn connections_that_end_are_made_anew() {
        let cell = driven(served(Duration::from_millis(100)), None);
        assert!(cell.requests > 10 * cell.failed().max(1), "{} {:?}", cell.requests, cell.errors);
        let faults: Vec<Fault> = cell.errors.keys().copied().collect();
        assert!(faults.iter().all(|fault| *fault == Fault::Closed), "{faults:?}");
    }

    #[tokio::test]
    async fn what_a_scenario_writes_is_taken_apart() {
        let text = b"POST /api/v1/auth_token HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}";
        let request = translate(text, "127.0.0.1:80").unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/api/v1/auth_token"));
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "{}");
    }
}
