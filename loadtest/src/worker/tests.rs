//! Tests: what a worker counts at the end of a phase.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::{
    answer::{Parsed, parse},
    clock::SECOND,
    record::{Grid, RequestKind},
};

/// Writes this many requests, and asserts that unsent ones are reported as such.
struct Requests(usize);

impl Scenario for Requests {
    fn write_request(&mut self, route: Route, _: Nanos, _: &mut Vec<u8>) -> Option<InFlight> {
        self.0 = self.0.checked_sub(1)?;
        Some(InFlight { kind: RequestKind::Refresh, route, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
    }

    fn judge(&mut self, _: &InFlight, _: &Answer<'_>, _: Nanos) -> Judgement {
        Judgement::Correct
    }

    fn on_lost(&mut self, request: &InFlight, _: Nanos) {
        assert_ne!(request.due, 0, "it was sent");
    }

    fn on_unsent(&mut self, _: &InFlight, _: Nanos) {}
}

const ROUTE: Route = Route { lane: 0, target: 0 };

/// A worker with eight requests a second for a second.
fn worker(count: usize) -> (Worker, UnboundedReceiver<WorkerEvent>) {
    let (events, received) = unbounded_channel();
    let shared = Arc::new(Shared::default());
    let mut worker = Worker::new(
        Clock::start(),
        Box::new(Requests(count)),
        shared,
        events,
        1,
        Part { index: 0, count: 1 },
    );
    let curve = Curve { rate: 8.0, ramp_s: 0.0, day_s: None };
    worker.begin(Phase { begin: 5, end: 5 + SECOND, curves: vec![Some(curve)], measured: true });
    (worker, received)
}

fn ended(worker: Worker, mut received: UnboundedReceiver<WorkerEvent>) -> (Grid, Backlog) {
    drop(worker);
    let mut grid = Grid::new(1);
    let mut of_all = Backlog::default();
    while let Ok(event) = received.try_recv() {
        match event {
            WorkerEvent::SecondEnded(second) => grid.merge(&second.grid),
            WorkerEvent::PhaseEnded { backlog, .. } => of_all.merge(backlog),
            _ => panic!("{event:?}"),
        }
    }
    (grid, of_all)
}

#[test]
fn due_requests_that_were_never_written_are_unsent() {
    let (mut worker, received) = worker(3);
    worker.finish(2 * SECOND);
    let (grid, backlog) = ended(worker, received);
    let kinds: Vec<_> = grid.by_kind().into_iter().map(|(kind, cell)| (kind, cell.errors)).collect();
    let unsent = |n| std::collections::BTreeMap::from([(ErrorKind::Unsent, n)]);
    assert_eq!(kinds, [(RequestKind::Validate, unsent(5)), (RequestKind::Refresh, unsent(3))]);
    assert_eq!(backlog, Backlog { requests: 8, last: 0 });
}

#[test]
fn without_a_connection_requests_fail_to_connect() {
    let (mut worker, received) = worker(usize::MAX);
    worker.refuse(ROUTE, SECOND / 2, &mut Vec::new());
    worker.shared.stop.store(true, Relaxed);
    worker.finish(SECOND / 2);
    let (grid, _) = ended(worker, received);
    assert_eq!(grid.all().errors.keys().copied().collect::<Vec<_>>(), [ErrorKind::Connect]);
}

#[test]
fn requests_sent_after_the_end_are_backlog() {
    let (mut worker, received) = worker(usize::MAX);
    let send = |worker: &mut Worker, now| match worker.next_request(ROUTE, 0, now, &mut Vec::new()) {
        NextRequest::Send(request) => request,
        other => panic!("{other:?}"),
    };
    let in_time = send(&mut worker, SECOND);
    let end = 5 + SECOND;
    let late = send(&mut worker, end);
    let later = send(&mut worker, end + 1);
    let barely = InFlight { due: end - 1, ..late };
    assert!(is_overdue(&late, end) && !is_overdue(&in_time, end) && !is_overdue(&barely, end));
    let mut scratch = Vec::new();
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let Parsed::Whole { answer, .. } = parse(text, &mut scratch) else { panic!() };
    worker.on_answer(&late, &answer, end + 20);
    worker.on_answer(&in_time, &answer, end + 90);
    worker.on_failure(&later, ErrorKind::Timeout, end + 99);
    worker.finish(end + 99);
    let (grid, backlog) = ended(worker, received);
    assert_eq!(grid.all().requests, 8);
    assert_eq!(backlog, Backlog { requests: 7, last: end + 20 });
    assert!(backlog.is_much(700) && !backlog.is_much(701) && !Backlog::default().is_much(0));
}

#[test]
fn closed_connections_do_not_lower_latency() {
    let (mut worker, received) = worker(usize::MAX);
    for error in [ErrorKind::Closed, ErrorKind::Malformed, ErrorKind::Timeout] {
        let request = InFlight {
            kind: RequestKind::Check,
            route: ROUTE,
            subject: 0,
            epoch: 0,
            extra: 0,
            due: 5,
            sent: 5,
        };
        worker.on_failure(&request, error, if error == ErrorKind::Timeout { SECOND / 4 } else { 6 });
    }
    worker.shared.stop.store(true, Relaxed);
    worker.finish(6);
    let (grid, _) = ended(worker, received);
    assert!(grid.all().quantile(0.01) >= 249_000 && grid.all().requests == 3);
}
