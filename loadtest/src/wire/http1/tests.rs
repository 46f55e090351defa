//! Tests against scripted servers, over real sockets.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::{
    answer::Answer,
    clock::Clock,
    pace::Curve,
    random::Part,
    record::{Cell, Grid, RequestKind},
    scenario::{Judgement, Route, Scenario},
    target,
    worker::{Phase, Shared, WorkerEvent},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

struct Get;

impl Scenario for Get {
    fn write_request(&mut self, route: Route, _: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        out.extend_from_slice(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        Some(InFlight { kind: RequestKind::Fixed, route, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
    }

    fn judge(&mut self, _: &InFlight, answer: &Answer<'_>, _: Nanos) -> Judgement {
        if answer.status == 200 && answer.body == b"ok" {
            Judgement::Correct
        } else {
            Judgement::Failed(ErrorKind::Body)
        }
    }

    fn on_lost(&mut self, _: &InFlight, _: Nanos) {}
}

/// Serves each connection by a script, which gets the number of requests so far and ends the connection by
/// `false`.
fn server(script: impl Fn(&mut TcpStream, usize) -> bool + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let script = Arc::clone(&script);
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let mut seen = 0;
                let mut part = [0; 4096];
                while let Ok(more @ 1..) = stream.read(&mut part) {
                    bytes.extend_from_slice(&part[..more]);
                    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                        bytes.drain(..end + 4);
                        seen += 1;
                        if !script(&mut stream, seen) {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn drive(address: SocketAddr, connections: usize, depth: usize, rate: Option<f64>, length: Duration) -> Cell {
    let clock = Clock::start();
    let (events, mut received) = unbounded_channel();
    let mut worker = Worker::new(
        clock,
        Box::new(Get),
        Arc::new(Shared::default()),
        events,
        1,
        Part { index: 0, count: 1 },
    );
    let mut wire = Wire::new(Settings {
        targets: vec![target::parse(&format!("http://{address}"), false).unwrap()],
        connections: vec![Route { lane: 0, target: 0 }; connections],
        depth,
        timeout: Duration::from_millis(700),
    })
    .unwrap();
    let begin = clock.now() + 100 * MILLI;
    let curve = rate.map(|rate| Curve { rate, ramp_s: 0.0, day_s: None });
    worker.begin(Phase { begin, end: begin + nanos(length), curves: vec![curve], measured: true });
    wire.drive(&mut worker).unwrap();
    drop(worker);
    let mut grid = Grid::new(1);
    while let Some(event) = received.blocking_recv() {
        if let WorkerEvent::SecondEnded(second) = event {
            grid.merge(&second.grid);
        }
    }
    grid.all()
}

fn error_kinds(cell: &Cell) -> Vec<ErrorKind> {
    cell.errors.keys().copied().collect()
}

#[test]
fn stall_delays_every_request_that_was_due() {
    let stall = Duration::from_millis(400);
    let began = Instant::now();
    let stalled = AtomicUsize::new(0);
    let address = server(move |stream, _| {
        if began.elapsed() > Duration::from_millis(400) && stalled.fetch_add(1, SeqCst) == 0 {
            // The script stalls on purpose.
            std::thread::sleep(stall);
        }
        stream.write_all(OK).is_ok()
    });
    let cell = drive(address, 1, 1, Some(200.0), Duration::from_secs(1));
    assert!((199..=201).contains(&cell.requests), "{}", cell.requests);
    assert_eq!(cell.failed(), 0, "{:?}", cell.errors);
    // 80 of 200 were due in it, and waited 200 ms on average: a client that waits for answers sees one.
    assert!(cell.quantile(0.79) >= 150_000, "{}", cell.quantile(0.79));
    assert!(cell.quantile(1.0) >= 399_000, "{}", cell.quantile(1.0));
}

#[test]
fn requests_not_sent_before_the_end_are_errors() {
    let all = AtomicUsize::new(0);
    let address = server(move |stream, _| all.fetch_add(1, SeqCst) >= 10 || stream.write_all(OK).is_ok());
    let cell = drive(address, 1, 1, Some(100.0), Duration::from_secs(1));
    assert!((99..=101).contains(&cell.requests), "{}", cell.requests);
    assert_eq!(cell.requests - cell.failed(), 10);
    assert!(
        cell.errors.contains_key(&ErrorKind::Unsent) && cell.errors.contains_key(&ErrorKind::Timeout),
        "{:?}",
        cell.errors
    );
}

#[test]
fn answers_may_come_in_parts_or_together() {
    let split = server(|stream, _| OK.iter().all(|byte| stream.write_all(&[*byte]).is_ok()));
    let cell = drive(split, 2, 1, None, Duration::from_millis(300));
    assert!(cell.requests > 10 && cell.failed() == 0, "{} {:?}", cell.requests, cell.errors);
    let together = server(|stream, seen| !seen.is_multiple_of(4) || stream.write_all(&OK.repeat(4)).is_ok());
    let cell = drive(together, 1, 4, None, Duration::from_millis(300));
    assert!(cell.requests - cell.failed() > 10, "{} {:?}", cell.requests, cell.errors);
    // Fewer than four remain at the end, so they have no answer.
    assert!(
        error_kinds(&cell).iter().all(|kind| *kind == ErrorKind::Timeout) && cell.failed() < 4,
        "{:?}",
        cell.errors
    );
}

#[test]
fn connection_closed_after_an_answer_costs_nothing() {
    let last = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let address = server(move |stream, seen| {
        let _ = stream.write_all(if seen < 5 { OK } else { last });
        seen < 5
    });
    let cell = drive(address, 2, 1, Some(300.0), Duration::from_millis(500));
    assert_eq!(cell.failed(), 0, "{:?}", cell.errors);
    assert!((149..=151).contains(&cell.requests), "{}", cell.requests);
}

#[test]
fn connection_closed_before_the_answer_is_an_error() {
    let address = server(|stream, seen| seen < 5 && stream.write_all(OK).is_ok());
    let cell = drive(address, 1, 1, None, Duration::from_millis(500));
    assert_eq!(error_kinds(&cell), [ErrorKind::Closed]);
    assert!(cell.requests > 2 * cell.failed(), "{} {:?}", cell.requests, cell.errors);
}

#[test]
fn requests_without_a_listener_fail_one_by_one() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cell = drive(address, 2, 1, Some(100.0), Duration::from_millis(500));
    assert!((48..=51).contains(&cell.requests), "{}", cell.requests);
    assert!(
        error_kinds(&cell).iter().all(|fault| matches!(fault, ErrorKind::Connect | ErrorKind::Unsent)),
        "{:?}",
        cell.errors
    );
    assert!(cell.errors[&ErrorKind::Connect] > 30, "{:?}", cell.errors);
}

#[test]
fn silent_server_times_out() {
    let address = server(|_, _| true);
    let cell = drive(address, 3, 1, None, Duration::from_millis(200));
    assert_eq!((cell.requests, error_kinds(&cell)), (3, vec![ErrorKind::Timeout]));
    assert!(cell.quantile(0.5) >= 700_000);
}

#[test]
fn other_protocols_are_malformed() {
    let address = server(|stream, _| stream.write_all(b"SSH-2.0-OpenSSH\r\n").is_ok());
    let cell = drive(address, 1, 1, None, Duration::from_millis(200));
    assert_eq!(error_kinds(&cell), [ErrorKind::Malformed]);
}
