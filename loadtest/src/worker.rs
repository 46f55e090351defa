//! What one thread does in one phase, whatever carries its requests.
//!
//! Promises: latency counts from the due time in the open model, from sending in the closed one; what was
//! due and could not be sent before the end is an error (`unsent`), not forgotten, and changes nothing of what
//! the scenario knows. What is sent later than the end is told apart. Never sleeps and never touches a socket:
//! that is for the drivers.

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
    record::{Cell, Fault, Recorder, ThreadSecond},
    scenario::{Note, Scenario, Spot, Verdict},
};

/// A part of a run: a warm-up, what is measured, or a step of a search.
#[derive(Debug, Clone)]
pub struct Phase {
    /// When it begins.
    pub begin: Nanos,
    /// After this nothing is due.
    pub end: Nanos,
    /// The arrivals of each lane; `None`: as fast as answers come.
    pub curves: Vec<Option<Curve>>,
    /// No warm-up.
    pub measured: bool,
}

/// What threads share.
#[derive(Debug, Default)]
pub struct Shared {
    /// The phase ends now.
    pub stop: AtomicBool,
    /// Wrong answers until now.
    pub wrong: AtomicU64,
}

/// What a thread says while it works.
#[derive(Debug)]
pub enum Said {
    /// A second is over.
    Second(ThreadSecond),
    /// An answer that must not be.
    Wrong {
        /// When.
        at: Nanos,
        /// Who gave it.
        target: usize,
        /// Which.
        what: String,
    },
    /// The phase is over for this thread: how late it was itself in sending what was due, and how busy.
    Over {
        /// From due time to sending, where a connection was free.
        late: Cell,
        /// The share of a core that it took.
        busy: f64,
        /// What was due before the end and not sent by then.
        backlog: Backlog,
    },
    /// The thread cannot go on.
    Broken(String),
}

/// What was due before the end of a phase and not sent by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How much.
    pub requests: u64,
    /// When the last answer to it came; 0 without any.
    pub last: Nanos,
}

impl Backlog {
    /// That of all.
    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.last = self.last.max(other.last);
    }

    /// Whether it is worth a word among so many requests: some are under way whenever a phase ends.
    #[must_use]
    pub const fn is_much(&self, of: u64) -> bool {
        self.requests * 100 >= of && self.requests > 0
    }
}

/// Wrong answers that a thread tells of; more are only counted.
const TELL: u64 = 100;

/// So long after the end of a phase what was due before it is still sent.
const LAST: Nanos = 500 * MILLI;

/// Sent no later than this, what was due before the end of a phase is no backlog.
const BARELY: Nanos = 10 * MILLI;

/// What was due no longer before a run was ended is no backlog.
const STOPPING: Nanos = 100 * MILLI;

/// What there is to be sent.
#[derive(Debug)]
pub enum Take {
    /// This, just appended.
    Send(Note),
    /// Nothing before this moment.
    At(Nanos),
    /// Nothing that is known of.
    Nothing,
}

/// Whether it was due before the end, and sent so late after it that others were before it.
const fn is_overdue(note: &Note, end: Nanos) -> bool {
    note.sent >= end && note.sent.saturating_sub(note.due) > BARELY
}

/// One thread's part.
pub struct Worker {
    /// The time.
    pub clock: Clock,
    /// What is asked and judged.
    pub scenario: Box<dyn Scenario>,
    /// With others.
    pub shared: Arc<Shared>,
    said: UnboundedSender<Said>,
    targets: usize,
    threads: usize,
    thread: usize,
    phase: Phase,
    pacers: Vec<Option<Pacer>>,
    recorder: Recorder,
    late: Cell,
    busy: Busy,
    told: u64,
    backlog: Backlog,
    /// When the scenario had nothing to ask last: being late is not the tool's fault then.
    starved_until: Nanos,
}

impl Worker {
    /// One of so many threads.
    #[must_use]
    pub fn new(
        clock: Clock,
        scenario: Box<dyn Scenario>,
        shared: Arc<Shared>,
        said: UnboundedSender<Said>,
        targets: usize,
        (thread, threads): (usize, usize),
    ) -> Self {
        Self {
            clock,
            scenario,
            shared,
            said,
            targets,
            threads,
            thread,
            phase: Phase { begin: 0, end: 0, curves: Vec::new(), measured: false },
            pacers: Vec::new(),
            recorder: Recorder::new(targets, 0, 0),
            late: Cell::default(),
            busy: Busy::default(),
            told: 0,
            backlog: Backlog::default(),
            starved_until: 0,
        }
    }

    /// A phase begins.
    pub fn begin(&mut self, phase: Phase) {
        self.recorder = Recorder::new(self.targets, phase.begin, phase.end);
        self.late = Cell::default();
        self.busy = Busy::default();
        self.backlog = Backlog::default();
        let share = 1.0 / (self.targets * self.threads) as f64;
        let pacer = |curve: &Option<Curve>, target: usize| {
            let offset = (target * self.threads + self.thread) as f64 * share;
            curve.map(|curve| Pacer::new(curve, share, offset, phase.begin, phase.end))
        };
        let pacer = &pacer;
        let pacers = phase.curves.iter().flat_map(|curve| (0..self.targets).map(move |t| pacer(curve, t)));
        self.pacers = pacers.collect();
        if phase.measured {
            self.scenario.measure();
        }
        self.phase = phase;
    }

    /// Whether nothing more is to be sent.
    #[must_use]
    pub fn is_over(&self, now: Nanos) -> bool {
        now >= self.phase.end || self.shared.stop.load(Relaxed)
    }

    /// Whether nothing more is to be sent, not even what was due before the end.
    #[must_use]
    pub fn is_through(&self, now: Nanos) -> bool {
        let has_backlog = || self.pacers.iter().flatten().any(|pacer| pacer.due().is_some());
        self.is_over(now)
            && (self.shared.stop.load(Relaxed) || now >= self.phase.end + LAST || !has_backlog())
    }

    /// Whether this lane has a rate.
    #[must_use]
    pub fn is_open(&self, lane: usize) -> bool {
        self.phase.curves.get(lane).is_some_and(Option::is_some)
    }

    /// The request that is due there. `free_since`: since when a connection waits for it.
    pub fn take(&mut self, spot: Spot, free_since: Nanos, now: Nanos, out: &mut Vec<u8>) -> Take {
        if self.shared.stop.load(Relaxed) {
            return Take::Nothing;
        }
        if now < self.phase.begin {
            return Take::At(self.phase.begin);
        }
        let place = spot.lane * self.targets + spot.target;
        let Some(pacer) = self.pacers.get_mut(place) else { return Take::Nothing };
        let due = match pacer {
            None if now < self.phase.end => now,
            None => return Take::Nothing,
            Some(pacer) => match pacer.due() {
                Some(due) if due <= now => due,
                Some(due) => return Take::At(due),
                None => return Take::Nothing,
            },
        };
        let Some(mut note) = self.scenario.ask(spot, now, out) else {
            self.starved_until = now;
            return Take::Nothing;
        };
        (note.due, note.sent) = (due, now);
        if let Some(pacer) = pacer {
            pacer.advance();
            self.backlog.requests += u64::from(is_overdue(&note, self.phase.end));
            if free_since <= due && self.starved_until < due {
                self.late.record(Some(now - due), None, None);
            }
        }
        Take::Send(note)
    }

    /// An answer came.
    pub fn answered(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) {
        let verdict = self.scenario.answered(note, answer, now);
        let fault = match verdict {
            Verdict::Right => None,
            Verdict::Failed(fault) => Some(fault),
            Verdict::Wrong(what) => {
                self.shared.wrong.fetch_add(1, Relaxed);
                if self.told < TELL {
                    self.told += 1;
                    let _ = self.said.send(Said::Wrong { at: now, target: note.spot.target, what });
                }
                Some(Fault::Wrong)
            }
        };
        if is_overdue(note, self.phase.end) {
            self.backlog.last = self.backlog.last.max(now);
        }
        self.recorder.roll(now);
        let cell = self.recorder.cell(note.spot.target, note.kind);
        cell.record(Some(now.saturating_sub(note.due)), Some(answer.status), fault);
    }

    /// No answer came.
    pub fn failed(&mut self, note: &Note, fault: Fault, now: Nanos) {
        self.scenario.lost(note, now);
        self.count(note, fault, now);
    }

    fn count(&mut self, note: &Note, fault: Fault, now: Nanos) {
        self.recorder.roll(now);
        // How long a connection took to be refused or to end says nothing; a time-out says "at least this long".
        let says = matches!(fault, Fault::Timeout | Fault::Unsent);
        let latency = says.then(|| now.saturating_sub(note.due));
        self.recorder.cell(note.spot.target, note.kind).record(latency, None, Some(fault));
    }

    /// There is no connection: what is due there fails. `one`: also in the closed model, once.
    pub fn refuse(&mut self, spot: Spot, now: Nanos, scratch: &mut Vec<u8>) {
        let open = self.is_open(spot.lane);
        loop {
            scratch.clear();
            let Take::Send(note) = self.take(spot, Nanos::MAX, now, scratch) else { break };
            self.scenario.unsent(&note, now);
            self.count(&note, Fault::Connect, now);
            if !open {
                break;
            }
        }
    }

    /// Hands over the seconds that are over.
    pub fn tick(&mut self, now: Nanos) {
        if now >= self.phase.begin {
            let is_over = self.is_over(now);
            self.busy.look(now, is_over, thread_cpu);
        }
        self.recorder.roll(now);
        for second in self.recorder.take() {
            let _ = self.said.send(Said::Second(second));
        }
    }

    /// The phase is over and everything that was sent is answered or given up.
    pub fn finish(&mut self, now: Nanos) {
        let mut scratch = Vec::new();
        let is_stopped = self.shared.stop.load(Relaxed);
        // Who is stopped has always something that was just about to be sent.
        let end = if is_stopped { now.saturating_sub(STOPPING) } else { now }.min(self.phase.end);
        for place in 0..self.pacers.len() {
            let spot = Spot { lane: place / self.targets, target: place % self.targets };
            let Some(mut pacer) = self.pacers[place].take() else { continue };
            let mut has_more = true;
            while let Some(due) = pacer.due()
                && due < end
            {
                pacer.advance();
                scratch.clear();
                // Of what kind it would have been only the scenario knows.
                let asked = if has_more { self.scenario.ask(spot, now, &mut scratch) } else { None };
                has_more = asked.is_some();
                let mut note = asked.inspect(|note| self.scenario.unsent(note, now)).unwrap_or(Note {
                    kind: self.scenario.first(spot.lane),
                    spot,
                    subject: 0,
                    epoch: 0,
                    extra: 0,
                    due,
                    sent: now,
                });
                (note.due, note.sent) = (due, now);
                self.count(&note, Fault::Unsent, now);
                self.backlog.requests += 1;
            }
        }
        self.tick(now);
        let recorder = std::mem::replace(&mut self.recorder, Recorder::new(self.targets, 0, 0));
        let _ = self.said.send(Said::Second(recorder.finish()));
        let late = std::mem::take(&mut self.late);
        let _ = self.said.send(Said::Over { late, busy: self.busy.share(), backlog: self.backlog });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::{
        answer::{Parsed, parse},
        clock::SECOND,
        record::{Grid, Kind},
    };

    /// Asks so often, and is told what was never sent.
    struct Asks(usize);

    impl Scenario for Asks {
        fn ask(&mut self, spot: Spot, _: Nanos, _: &mut Vec<u8>) -> Option<Note> {
            self.0 = self.0.checked_sub(1)?;
            Some(Note { kind: Kind::Refresh, spot, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
        }

        fn answered(&mut self, _: &Note, _: &Answer<'_>, _: Nanos) -> Verdict {
            Verdict::Right
        }

        fn lost(&mut self, note: &Note, _: Nanos) {
            assert_ne!(note.due, 0, "it was sent");
        }

        fn unsent(&mut self, _: &Note, _: Nanos) {}
    }

    const SPOT: Spot = Spot { lane: 0, target: 0 };

    /// Eight a second for a second.
    fn worker(asks: usize) -> (Worker, UnboundedReceiver<Said>) {
        let (said, heard) = unbounded_channel();
        let shared = Arc::new(Shared::default());
        let mut worker = Worker::new(Clock::start(), Box::new(Asks(asks)), shared, said, 1, (0, 1));
        let curve = Curve { rate: 8.0, ramp_s: 0.0, day_s: None };
        worker.begin(Phase { begin: 5, end: 5 + SECOND, curves: vec![Some(curve)], measured: true });
        (worker, heard)
    }

    fn ended(worker: Worker, mut heard: UnboundedReceiver<Said>) -> (Grid, Backlog) {
        drop(worker);
        let (mut grid, mut of_all) = (Grid::new(1), Backlog::default());
        while let Ok(said) = heard.try_recv() {
            match said {
                Said::Second(second) => grid.merge(&second.grid),
                Said::Over { backlog, .. } => of_all.merge(backlog),
                _ => panic!("{said:?}"),
            }
        }
        (grid, of_all)
    }

    #[test]
    fn what_was_due_and_could_not_even_be_asked_is_unsent() {
        let (mut worker, heard) = worker(3);
        worker.finish(2 * SECOND);
        let (grid, backlog) = ended(worker, heard);
        let kinds: Vec<_> = grid.by_kind().into_iter().map(|(kind, cell)| (kind, cell.errors)).collect();
        let unsent = |n| std::collections::BTreeMap::from([(Fault::Unsent, n)]);
        assert_eq!(kinds, [(Kind::Validate, unsent(5)), (Kind::Refresh, unsent(3))]);
        assert_eq!(backlog, Backlog { requests: 8, last: 0 });
    }

    #[test]
    fn without_a_connection_nothing_was_sent() {
        let (mut worker, heard) = worker(usize::MAX);
        worker.refuse(SPOT, SECOND / 2, &mut Vec::new());
        worker.shared.stop.store(true, Relaxed);
        worker.finish(SECOND / 2);
        let (grid, _) = ended(worker, heard);
        assert_eq!(grid.all().errors.keys().copied().collect::<Vec<_>>(), [Fault::Connect]);
    }

    #[test]
    fn what_is_sent_after_the_end_is_a_backlog_until_its_last_answer() {
        let (mut worker, heard) = worker(usize::MAX);
        let send = |worker: &mut Worker, now| match worker.take(SPOT, 0, now, &mut Vec::new()) {
            Take::Send(note) => note,
            other => panic!("{other:?}"),
        };
        let (in_time, end) = (send(&mut worker, SECOND), 5 + SECOND);
        let (late, later) = (send(&mut worker, end), send(&mut worker, end + 1));
        let barely = Note { due: end - 1, ..late };
        assert!(is_overdue(&late, end) && !is_overdue(&in_time, end) && !is_overdue(&barely, end));
        let mut scratch = Vec::new();
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let Parsed::Whole { answer, .. } = parse(text, &mut scratch) else { panic!() };
        worker.answered(&late, &answer, end + 20);
        worker.answered(&in_time, &answer, end + 90);
        worker.failed(&later, Fault::Timeout, end + 99);
        worker.finish(end + 99);
        let (grid, backlog) = ended(worker, heard);
        assert_eq!(grid.all().requests, 8);
        assert_eq!(backlog, Backlog { requests: 7, last: end + 20 });
        assert!(backlog.is_much(700) && !backlog.is_much(701) && !Backlog::default().is_much(0));
    }

    #[test]
    fn a_connection_that_ends_at_once_makes_nothing_faster() {
        let (mut worker, heard) = worker(usize::MAX);
        for fault in [Fault::Closed, Fault::Malformed, Fault::Timeout] {
            let note =
                Note { kind: Kind::Check, spot: SPOT, subject: 0, epoch: 0, extra: 0, due: 5, sent: 5 };
            worker.failed(&note, fault, if fault == Fault::Timeout { SECOND / 4 } else { 6 });
        }
        worker.shared.stop.store(true, Relaxed);
        worker.finish(6);
        let (grid, _) = ended(worker, heard);
        assert!(grid.all().quantile(0.01) >= 249_000 && grid.all().requests == 3);
    }
}
