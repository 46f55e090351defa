//! What one thread does in one phase, whatever carries its requests.
//!
//! Promises: latency counts from the due time in the open model, from sending in the closed one; what was
//! due and could not be sent before the end is an error (`unsent`), not forgotten. Never sleeps and never
//! touches a socket: that is for the drivers.

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
    },
    /// The thread cannot go on.
    Broken(String),
}

/// Wrong answers that a thread tells of; more are only counted.
const TELL: u64 = 100;

/// So long after the end of a phase what was due before it is still sent.
const LAST: Nanos = 500 * MILLI;

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
            starved_until: 0,
        }
    }

    /// A phase begins.
    pub fn begin(&mut self, phase: Phase) {
        self.recorder = Recorder::new(self.targets, phase.begin, phase.end);
        self.late = Cell::default();
        self.busy = Busy::default();
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
        self.recorder.roll(now);
        let cell = self.recorder.cell(note.spot.target, note.kind);
        cell.record(Some(now.saturating_sub(note.due)), Some(answer.status), fault);
    }

    /// No answer came.
    pub fn failed(&mut self, note: &Note, fault: Fault, now: Nanos) {
        self.scenario.lost(note, now);
        self.recorder.roll(now);
        // How long a refused connection took says nothing; a time-out says "at least this long".
        let latency = (!matches!(fault, Fault::Connect)).then(|| now.saturating_sub(note.due));
        self.recorder.cell(note.spot.target, note.kind).record(latency, None, Some(fault));
    }

    /// There is no connection: what is due there fails. `one`: also in the closed model, once.
    pub fn refuse(&mut self, spot: Spot, now: Nanos, scratch: &mut Vec<u8>) {
        let open = self.is_open(spot.lane);
        loop {
            scratch.clear();
            let Take::Send(note) = self.take(spot, Nanos::MAX, now, scratch) else { break };
            self.failed(&note, Fault::Connect, now);
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
            while let Some(due) = pacer.due()
                && due < end
            {
                pacer.advance();
                scratch.clear();
                // Of what kind it would have been only the scenario knows.
                let Some(mut note) = self.scenario.ask(spot, now, &mut scratch) else { break };
                (note.due, note.sent) = (due, now);
                self.failed(&note, Fault::Unsent, now);
            }
        }
        self.tick(now);
        let recorder = std::mem::replace(&mut self.recorder, Recorder::new(self.targets, 0, 0));
        let _ = self.said.send(Said::Second(recorder.finish()));
        let _ = self.said.send(Said::Over { late: std::mem::take(&mut self.late), busy: self.busy.share() });
    }
}
