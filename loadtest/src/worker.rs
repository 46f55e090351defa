//! The work of one thread in one phase, over any wire.
//!
//! Promises: latency counts from the due time in the open model, from sending in the closed model. A request
//! that was due but could not be sent before the end is an error (`unsent`) and changes nothing in the
//! scenario. Requests that are sent after the end are counted apart. Never sleeps and never touches a socket:
//! the wires do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    answer::Answer,
    busy::Busy,
    clock::{Clock, MILLI, Nanos, thread_cpu},
    pace::{Curve, Pacer},
    random::Part,
    record::{Cell, ErrorKind, Recorder, ThreadSecond},
    scenario::{InFlight, Judgement, Route, Scenario},
};

/// A part of a run: the warm-up, the measured part, or a step of a search.
#[derive(Debug, Clone)]
pub struct Phase {
    /// When the phase begins.
    pub begin: Nanos,
    /// When the phase ends: no request is due later.
    pub end: Nanos,
    /// The curve of each lane's rate; `None`: as fast as answers come.
    pub curves: Vec<Option<Curve>>,
    /// Whether this is the measured part.
    pub measured: bool,
}

/// The state that all threads share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Ends the phase at once.
    pub stop: AtomicBool,
    /// Wrong answers so far.
    pub wrong: AtomicU64,
}

/// What a thread reports while it works.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A second has ended.
    SecondEnded(ThreadSecond),
    /// A wrong answer.
    WrongAnswer {
        /// When it came.
        at: Nanos,
        /// The index of the target that gave it.
        target: usize,
        /// The request, the answer, and the correct answer.
        what: String,
    },
    /// The phase has ended for this thread.
    PhaseEnded {
        /// How late the thread itself sent requests: from due time to sending, if a connection was free.
        late: Cell,
        /// The share of a core that the thread used.
        busy: f64,
        /// The thread's backlog.
        backlog: Backlog,
    },
    /// The thread cannot continue, and why.
    Failed(String),
}

/// Requests that were due before the end of a phase and not sent by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The number of requests.
    pub requests: u64,
    /// When the last answer to one of them came; 0 if none came.
    pub last: Nanos,
}

impl Backlog {
    /// Adds the backlog of another thread.
    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.last = self.last.max(other.last);
    }

    /// Whether it is a notable part of `of` requests: some are in flight whenever a phase ends.
    #[must_use]
    pub const fn is_much(&self, of: u64) -> bool {
        self.requests * 100 >= of && self.requests > 0
    }
}

/// Wrong answers that a thread reports at most; more are only counted.
const REPORTED_MAX: u64 = 100;

/// How long after the end of a phase overdue requests are still sent.
const OVERDUE_SEND_MAX: Nanos = 500 * MILLI;

/// A request that is sent after the end of a phase, but at most this late, is not backlog.
const TOLERATED_DELAY_MAX: Nanos = 10 * MILLI;

/// A request that was due less than this before a run was stopped is not backlog.
const STOP_MARGIN: Nanos = 100 * MILLI;

/// The next request of a route.
#[derive(Debug)]
pub enum NextRequest {
    /// Send this one, which was appended to the buffer.
    Send(InFlight),
    /// The next one is due at this time.
    DueAt(Nanos),
    /// There is none, and no due time is known.
    None,
}

/// Whether a request was sent so long after the end of the phase that it is backlog.
const fn is_overdue(request: &InFlight, end: Nanos) -> bool {
    request.sent >= end && request.sent.saturating_sub(request.due) > TOLERATED_DELAY_MAX
}

/// The work of one thread.
pub struct Worker {
    /// The clock of the run.
    pub clock: Clock,
    /// Writes and judges requests.
    pub scenario: Box<dyn Scenario>,
    /// The state that all threads share.
    pub shared: Arc<Shared>,
    events: UnboundedSender<WorkerEvent>,
    targets: usize,
    part: Part,
    phase: Phase,
    pacers: Vec<Option<Pacer>>,
    recorder: Recorder,
    late: Cell,
    busy: Busy,
    reported: u64,
    backlog: Backlog,
    /// When the scenario last had no request to send. Requests that were due by then are not late by the tool's
    /// fault.
    starved_until: Nanos,
}

impl Worker {
    /// The worker of a thread.
    #[must_use]
    pub fn new(
        clock: Clock,
        scenario: Box<dyn Scenario>,
        shared: Arc<Shared>,
        events: UnboundedSender<WorkerEvent>,
        targets: usize,
        part: Part,
    ) -> Self {
        Self {
            clock,
            scenario,
            shared,
            events,
            targets,
            part,
            phase: Phase { begin: 0, end: 0, curves: Vec::new(), measured: false },
            pacers: Vec::new(),
            recorder: Recorder::new(targets, 0, 0),
            late: Cell::default(),
            busy: Busy::default(),
            reported: 0,
            backlog: Backlog::default(),
            starved_until: 0,
        }
    }

    /// Begins a phase.
    pub fn begin(&mut self, phase: Phase) {
        self.recorder = Recorder::new(self.targets, phase.begin, phase.end);
        self.late = Cell::default();
        self.busy = Busy::default();
        self.backlog = Backlog::default();
        let share = 1.0 / (self.targets * self.part.count) as f64;
        let pacer = |curve: &Option<Curve>, target: usize| {
            let offset = (target * self.part.count + self.part.index) as f64 * share;
            curve.map(|curve| Pacer::new(curve, share, offset, phase.begin, phase.end))
        };
        let pacer = &pacer;
        let pacers = phase.curves.iter().flat_map(|curve| (0..self.targets).map(move |t| pacer(curve, t)));
        self.pacers = pacers.collect();
        if phase.measured {
            self.scenario.start_measuring();
        }
        self.phase = phase;
    }

    /// Whether the phase has ended.
    #[must_use]
    pub fn is_over(&self, now: Nanos) -> bool {
        now >= self.phase.end || self.shared.stop.load(Relaxed)
    }

    /// Whether the phase has ended and nothing more is sent, not even overdue requests.
    #[must_use]
    pub fn is_done_sending(&self, now: Nanos) -> bool {
        let has_backlog = || self.pacers.iter().flatten().any(|pacer| pacer.due().is_some());
        self.is_over(now)
            && (self.shared.stop.load(Relaxed) || now >= self.phase.end + OVERDUE_SEND_MAX || !has_backlog())
    }

    /// Whether this lane has a rate: the open model.
    #[must_use]
    pub fn is_open(&self, lane: usize) -> bool {
        self.phase.curves.get(lane).is_some_and(Option::is_some)
    }

    /// The request that is due on this route. `free_since` is since when a connection waits for one.
    pub fn next_request(
        &mut self,
        route: Route,
        free_since: Nanos,
        now: Nanos,
        out: &mut Vec<u8>,
    ) -> NextRequest {
        if self.shared.stop.load(Relaxed) {
            return NextRequest::None;
        }
        if now < self.phase.begin {
            return NextRequest::DueAt(self.phase.begin);
        }
        let place = route.lane * self.targets + route.target;
        let Some(pacer) = self.pacers.get_mut(place) else { return NextRequest::None };
        let due = match pacer {
            None if now < self.phase.end => now,
            None => return NextRequest::None,
            Some(pacer) => match pacer.due() {
                Some(due) if due <= now => due,
                Some(due) => return NextRequest::DueAt(due),
                None => return NextRequest::None,
            },
        };
        let Some(mut request) = self.scenario.write_request(route, now, out) else {
            self.starved_until = now;
            return NextRequest::None;
        };
        request.due = due;
        request.sent = now;
        if let Some(pacer) = pacer {
            pacer.advance();
            self.backlog.requests += u64::from(is_overdue(&request, self.phase.end));
            if free_since <= due && self.starved_until < due {
                self.late.record(Some(now - due), None, None);
            }
        }
        NextRequest::Send(request)
    }

    /// Judges and counts an answer.
    pub fn on_answer(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) {
        let verdict = self.scenario.judge(request, answer, now);
        let error = match verdict {
            Judgement::Correct => None,
            Judgement::Failed(error) => Some(error),
            Judgement::Wrong(what) => {
                self.shared.wrong.fetch_add(1, Relaxed);
                if self.reported < REPORTED_MAX {
                    self.reported += 1;
                    let _ = self.events.send(WorkerEvent::WrongAnswer {
                        at: now,
                        target: request.route.target,
                        what,
                    });
                }
                Some(ErrorKind::Wrong)
            }
        };
        if is_overdue(request, self.phase.end) {
            self.backlog.last = self.backlog.last.max(now);
        }
        self.recorder.roll(now);
        let cell = self.recorder.cell(request.route.target, request.kind);
        cell.record(Some(now.saturating_sub(request.due)), Some(answer.status), error);
    }

    /// Counts a request without an answer.
    pub fn on_failure(&mut self, request: &InFlight, error: ErrorKind, now: Nanos) {
        self.scenario.on_lost(request, now);
        self.count(request, error, now);
    }

    fn count(&mut self, request: &InFlight, error: ErrorKind, now: Nanos) {
        self.recorder.roll(now);
        // The time until a connection was refused or closed is no latency; a time-out means "at least this
        // long".
        let has_latency = matches!(error, ErrorKind::Timeout | ErrorKind::Unsent);
        let latency = has_latency.then(|| now.saturating_sub(request.due));
        self.recorder.cell(request.route.target, request.kind).record(latency, None, Some(error));
    }

    /// There is no connection: fails the requests that are due on this route; in the closed model, one request.
    pub fn refuse(&mut self, route: Route, now: Nanos, scratch: &mut Vec<u8>) {
        let open = self.is_open(route.lane);
        loop {
            scratch.clear();
            let NextRequest::Send(request) = self.next_request(route, Nanos::MAX, now, scratch) else {
                break;
            };
            self.scenario.on_unsent(&request, now);
            self.count(&request, ErrorKind::Connect, now);
            if !open {
                break;
            }
        }
    }

    /// Reports the seconds that have ended.
    pub fn tick(&mut self, now: Nanos) {
        if now >= self.phase.begin {
            let is_over = self.is_over(now);
            self.busy.sample(now, is_over, thread_cpu);
        }
        self.recorder.roll(now);
        for second in self.recorder.ended_seconds() {
            let _ = self.events.send(WorkerEvent::SecondEnded(second));
        }
    }

    /// Ends the phase, after all requests that were sent have an answer or have failed.
    pub fn finish(&mut self, now: Nanos) {
        let mut scratch = Vec::new();
        let is_stopped = self.shared.stop.load(Relaxed);
        // A thread that is stopped always has requests that were just about to be sent.
        let end = if is_stopped { now.saturating_sub(STOP_MARGIN) } else { now }.min(self.phase.end);
        for place in 0..self.pacers.len() {
            let route = Route { lane: place / self.targets, target: place % self.targets };
            let Some(mut pacer) = self.pacers[place].take() else { continue };
            let mut has_more = true;
            while let Some(due) = pacer.due()
                && due < end
            {
                pacer.advance();
                scratch.clear();
                // Only the scenario knows the kind of the request.
                let asked =
                    if has_more { self.scenario.write_request(route, now, &mut scratch) } else { None };
                has_more = asked.is_some();
                let mut request =
                    asked.inspect(|request| self.scenario.on_unsent(request, now)).unwrap_or(InFlight {
                        kind: self.scenario.default_kind(route.lane),
                        route,
                        subject: 0,
                        epoch: 0,
                        extra: 0,
                        due,
                        sent: now,
                    });
                request.due = due;
                request.sent = now;
                self.count(&request, ErrorKind::Unsent, now);
                self.backlog.requests += 1;
            }
        }
        self.tick(now);
        let recorder = std::mem::replace(&mut self.recorder, Recorder::new(self.targets, 0, 0));
        let _ = self.events.send(WorkerEvent::SecondEnded(recorder.finish()));
        let late = std::mem::take(&mut self.late);
        let _ = self.events.send(WorkerEvent::PhaseEnded {
            late,
            busy: self.busy.share(),
            backlog: self.backlog,
        });
    }
}

#[cfg(test)]
mod tests;
