//! Against servers that follow a script, over real sockets.

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
    record::{Cell, Grid, Kind},
    scenario::{Scenario, Spot, Verdict},
    target,
    worker::{Phase, Said, Shared},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

struct Get;

impl Scenario for Get {
    fn ask(&mut self, spot: Spot, _: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        out.extend_from_slice(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        Some(Note { kind: Kind::Fixed, spot, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
    }

    fn answered(&mut self, _: &Note, answer: &Answer<'_>, _: Nanos) -> Verdict {
        if answer.status == 200 && answer.body == b"ok" {
            Verdict::Right
        } else {
            Verdict::Failed(Fault::Body)
        }
    }

    fn lost(&mut self, _: &Note, _: Nanos) {}
}

/// Serves each connection by this script, which is told how many requests have come and ends it by `false`.
fn server(script: impl Fn(&mut TcpStream, usize) -> bool + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, script) = (stream.unwrap(), Arc::clone(&script));
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let (mut bytes, mut seen) = (Vec::new(), 0);
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
    let (said, mut heard) = unbounded_channel();
    let mut worker = Worker::new(clock, Box::new(Get), Arc::new(Shared::default()), said, 1, (0, 1));
    let mut wire = Wire::new(Settings {
        targets: vec![target::parse(&format!("http://{address}"), false).unwrap()],
        connections: vec![Spot { lane: 0, target: 0 }; connections],
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
    while let Some(said) = heard.blocking_recv() {
        if let Said::Second(second) = said {
            grid.merge(&second.grid);
        }
    }
    grid.all()
}

fn faults(cell: &Cell) -> Vec<Fault> {
    cell.errors.keys().copied().collect()
}

#[test]
fn a_stall_is_felt_by_every_request_that_was_due_in_it() {
    let stall = Duration::from_millis(400);
    let began = Instant::now();
    let stalled = AtomicUsize::new(0);
    let address = server(move |stream, _| {
        if began.elapsed() > Duration::from_millis(400) && stalled.fetch_add(1, SeqCst) == 0 {
            // A script: the stall is what is tested.
            #[allow(clippy::disallowed_methods, reason = "a stall is a stall")]
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
fn what_could_not_be_sent_before_the_end_is_an_error() {
    let all = AtomicUsize::new(0);
    let address = server(move |stream, _| all.fetch_add(1, SeqCst) >= 10 || stream.write_all(OK).is_ok());
    let cell = drive(address, 1, 1, Some(100.0), Duration::from_secs(1));
    assert!((99..=101).contains(&cell.requests), "{}", cell.requests);
    assert_eq!(cell.requests - cell.failed(), 10);
    assert!(
        cell.errors.contains_key(&Fault::Unsent) && cell.errors.contains_key(&Fault::Timeout),
        "{:?}",
        cell.errors
    );
}

#[test]
fn answers_may_come_byte_by_byte_or_many_at_once() {
    let split = server(|stream, _| OK.iter().all(|byte| stream.write_all(&[*byte]).is_ok()));
    let cell = drive(split, 2, 1, None, Duration::from_millis(300));
    assert!(cell.requests > 10 && cell.failed() == 0, "{} {:?}", cell.requests, cell.errors);
    let together = server(|stream, seen| !seen.is_multiple_of(4) || stream.write_all(&OK.repeat(4)).is_ok());
    let cell = drive(together, 1, 4, None, Duration::from_millis(300));
    assert!(cell.requests - cell.failed() > 10, "{} {:?}", cell.requests, cell.errors);
    // The last ones had no four to be answered with.
    assert!(
        faults(&cell).iter().all(|fault| *fault == Fault::Timeout) && cell.failed() < 4,
        "{:?}",
        cell.errors
    );
}

#[test]
fn a_connection_that_is_closed_after_an_answer_costs_nothing() {
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
fn a_connection_that_ends_before_the_answer_is_an_error_and_the_next_one_serves() {
    let address = server(|stream, seen| seen < 5 && stream.write_all(OK).is_ok());
    let cell = drive(address, 1, 1, None, Duration::from_millis(500));
    assert_eq!(faults(&cell), [Fault::Closed]);
    assert!(cell.requests > 2 * cell.failed(), "{} {:?}", cell.requests, cell.errors);
}

#[test]
fn what_is_due_while_nobody_listens_fails_one_by_one() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cell = drive(address, 2, 1, Some(100.0), Duration::from_millis(500));
    assert!((48..=51).contains(&cell.requests), "{}", cell.requests);
    assert!(
        faults(&cell).iter().all(|fault| matches!(fault, Fault::Connect | Fault::Unsent)),
        "{:?}",
        cell.errors
    );
    assert!(cell.errors[&Fault::Connect] > 30, "{:?}", cell.errors);
}

#[test]
fn who_never_answers_times_out() {
    let address = server(|_, _| true);
    let cell = drive(address, 3, 1, None, Duration::from_millis(200));
    assert_eq!((cell.requests, faults(&cell)), (3, vec![Fault::Timeout]));
    assert!(cell.quantile(0.5) >= 700_000);
}

#[test]
fn what_is_no_http_is_said() {
    let address = server(|stream, _| stream.write_all(b"SSH-2.0-OpenSSH\r\n").is_ok());
    let cell = drive(address, 1, 1, None, Duration::from_millis(200));
    assert_eq!(faults(&cell), [Fault::Malformed]);
}
