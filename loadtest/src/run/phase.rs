//! One phase of all threads: begun together, watched second by second, ended early when it must be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Pairs, RunError,
    collect::{Collector, length},
    since,
    soak::Watch,
    threads::Thread,
};
use crate::{
    clock::{Clock, MILLI, Nanos, SECOND, nanos},
    faults,
    job::Job,
    pace::Curve,
    record::{Cell, Grid},
    result::{FaultMark, Objective, Second, Wrong},
    scenario::Scenario,
    screen::Screen,
    worker::{Backlog, Phase, Said, Shared},
};

/// From telling the threads to the phase's begin: connections are made meanwhile.
const LEAD: Nanos = 200 * MILLI;
/// How often one looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// A limit must be passed in so many seconds in a row.
const IN_A_ROW: u32 = 3;
/// The tool's own lateness that is worth a word.
const LATE_US: u64 = 1_000;
/// Beyond its end and the time-out a phase takes no longer.
const GRACE: Nanos = 30 * SECOND;

/// The threads.
pub struct Driver {
    clock: Clock,
    threads: Vec<Thread>,
    said: UnboundedReceiver<Said>,
    shared: Arc<Shared>,
    interrupted: Arc<AtomicBool>,
    screen: Screen,
    urls: Vec<String>,
    note: Option<String>,
}

/// What came of a phase.
pub struct Phased {
    /// Counts.
    pub grid: Grid,
    /// Seconds.
    pub seconds: Vec<Second>,
    /// How long it was: with much of a backlog, until the last of that was answered.
    pub length_s: f64,
    /// Whether what was due before its end was sent by then, but for one in a hundred.
    pub is_in_time: bool,
    /// Wrong answers; the first hundred of each thread.
    pub wrong: Vec<Wrong>,
    /// Faults.
    pub faults: Vec<FaultMark>,
    /// Why it ended early.
    pub stopped: Option<String>,
    /// Objectives of a soak.
    pub drift: Vec<Objective>,
    /// What is to be said beside it.
    pub notes: Vec<String>,
    /// The share of a core that the busiest thread of the tool took.
    pub busiest: f64,
    late: Cell,
}

impl Phased {
    /// Wrong answers from before this phase, which the result has to tell as well.
    pub fn add_early(&mut self, mut early: Vec<Wrong>) {
        early.iter_mut().for_each(|wrong| wrong.at_s = 0.0);
        early.append(&mut self.wrong);
        self.wrong = early;
    }

    /// A word when the tool itself was late.
    #[must_use]
    pub fn late_note(&self) -> Option<String> {
        let p99 = self.late.quantile(0.99);
        (p99 > LATE_US).then(|| {
            format!(
                "the tool itself sent one in a hundred requests {} late or later, though a connection was free: its \
                 machine is too busy, and latencies include that",
                crate::report::words::micros(p99 as f64)
            )
        })
    }
}

impl Driver {
    /// Starts the threads; they wait for a phase.
    pub fn start(
        job: &Job,
        clock: Clock,
        scenarios: Vec<Box<dyn Scenario>>,
        interrupted: Arc<AtomicBool>,
        screen: Screen,
    ) -> Result<Self, RunError> {
        let shared = Arc::new(Shared::default());
        let (tell, said) = unbounded_channel();
        let threads = scenarios.into_iter().enumerate().map(|(thread, scenario)| {
            Thread::start(job, clock, thread, scenario, Arc::clone(&shared), tell.clone())
        });
        let threads = threads.collect::<Result<_, _>>()?;
        let urls = job.targets.iter().map(|target| target.url.clone()).collect();
        Ok(Self { clock, threads, said, shared, interrupted, screen, urls, note: None })
    }

    /// To be shown with the next second.
    pub fn note(&mut self, note: String) {
        self.note = Some(note);
    }

    /// Whether somebody wants it to end.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Ends the threads, whatever they are at; what they know of pairs. It waits for them.
    pub fn end(self) -> (Pairs, Screen) {
        self.shared.stop.store(true, Relaxed);
        let mut pairs = Pairs::new();
        for scenario in self.threads.into_iter().filter_map(Thread::end) {
            for (from, to, cell) in scenario.pairs() {
                pairs.entry((from, to)).or_default().merge(&cell);
            }
        }
        (pairs, self.screen)
    }

    /// One phase. With `control` it is measured: faults happen and limits are watched.
    pub async fn phase(
        &mut self,
        job: &Job,
        duration: Duration,
        curves: Vec<Option<Curve>>,
        control: Option<&mut faults::Control>,
    ) -> Result<Phased, RunError> {
        let measured = control.is_some();
        self.shared.stop.store(false, Relaxed);
        let begin = self.clock.now() + LEAD;
        let end = begin + nanos(duration);
        for thread in &self.threads {
            thread.begin(Phase { begin, end, curves: curves.clone(), measured });
        }
        let mut running = control.map(|control| control.run(job.faults.as_ref(), self.clock, begin));
        let mut watch = Watch::new(job, measured);
        let mut state = State::new(self.urls.len(), self.threads.len());
        let mut look = tokio::time::interval(LOOK);
        while state.over < self.threads.len() {
            tokio::select! {
                said = self.said.recv() => match said {
                    Some(said) => self.hear(job, said, &mut state, (begin, duration, measured)),
                    None => return Err(RunError::Broken("the threads are gone".into())),
                },
                _ = look.tick() => {
                    if self.is_interrupted() {
                        self.stop(&mut state, "interrupted");
                    }
                    for mark in running.iter().flat_map(faults::Running::marks) {
                        let failed = mark.failed.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                        self.screen.note(&format!("{:.1} s: {} {}{failed}", mark.at_s, mark.action, mark.on));
                        state.faults.push(mark);
                    }
                    watch.look(self.clock.now(), begin);
                    if self.clock.now() > end + nanos(job.timeout) * 2 + GRACE {
                        return Err(RunError::Broken("the threads did not end with the phase".into()));
                    }
                }
            }
            if let Some(why) = state.broken.take() {
                return Err(RunError::Broken(why));
            }
        }
        if let Some(running) = running.take() {
            // A hook may take its time.
            state.faults.extend(super::blocking(move || running.end()).await?);
        }
        state.collector.finish();
        let is_in_time = !state.backlog.is_much(state.collector.grid.all().requests);
        let end = if is_in_time { end } else { end.max(state.backlog.last) };
        let length_s = length(begin, end, state.ended.unwrap_or(end));
        let seconds = state.collector.seconds;
        let judge = move || {
            let judged = watch.judge(&seconds);
            (judged, seconds)
        };
        let ((drift, notes), seconds) = super::blocking(judge).await?;
        Ok(Phased {
            grid: state.collector.grid,
            seconds,
            length_s,
            is_in_time,
            wrong: state.wrong,
            faults: state.faults,
            stopped: state.stopped,
            drift,
            notes,
            busiest: state.busiest,
            late: state.late,
        })
    }

    fn stop(&self, state: &mut State, why: &str) {
        if state.stopped.is_none() {
            state.stopped = Some(why.to_owned());
            state.ended = Some(self.clock.now());
            self.shared.stop.store(true, Relaxed);
        }
    }

    fn hear(
        &mut self,
        job: &Job,
        said: Said,
        state: &mut State,
        (begin, planned, measured): (Nanos, Duration, bool),
    ) {
        match said {
            Said::Second(second) => {
                if state.collector.add(&second) {
                    let wrong = self.shared.wrong.load(Relaxed);
                    let note = self.note.take();
                    if let Some(live) = state.collector.live(planned, measured, wrong, note) {
                        self.screen.tick(&live);
                    }
                    if measured && let Some(why) = state.passed(job) {
                        self.stop(state, &why);
                    }
                }
            }
            Said::Wrong { at, target, what } => {
                let what_was = format!("WRONG ANSWER of {}: {what}", self.urls[target]);
                self.screen.note(&what_was);
                state.wrong.push(Wrong { at_s: since(begin, at), target, what });
                if job.ends_when_wrong {
                    self.stop(state, "a wrong answer");
                }
            }
            Said::Over { late, busy, backlog } => {
                state.over += 1;
                state.backlog.merge(backlog);
                state.busiest = state.busiest.max(busy);
                state.late.merge(&late);
            }
            Said::Broken(why) => {
                // The others are not to go on for hours.
                self.shared.stop.store(true, Relaxed);
                state.broken = Some(why);
            }
        }
    }
}

struct State {
    collector: Collector,
    over: usize,
    wrong: Vec<Wrong>,
    faults: Vec<FaultMark>,
    stopped: Option<String>,
    ended: Option<Nanos>,
    broken: Option<String>,
    late: Cell,
    busiest: f64,
    backlog: Backlog,
    /// For each limit: how many seconds in a row it has been passed.
    in_a_row: Vec<u32>,
}

impl State {
    fn new(targets: usize, threads: usize) -> Self {
        Self {
            collector: Collector::new(targets, threads),
            over: 0,
            wrong: Vec::new(),
            faults: Vec::new(),
            stopped: None,
            ended: None,
            broken: None,
            late: Cell::default(),
            busiest: 0.0,
            backlog: Backlog::default(),
            in_a_row: Vec::new(),
        }
    }

    /// The limit that was passed for too long.
    fn passed(&mut self, job: &Job) -> Option<String> {
        self.in_a_row.resize(job.limits.len(), 0);
        for (goal, in_a_row) in job.limits.iter().zip(&mut self.in_a_row) {
            let passed = !goal.judge(&self.collector.last, 1.0).held;
            *in_a_row = if passed { *in_a_row + 1 } else { 0 };
            if *in_a_row >= IN_A_ROW {
                return Some(format!("`{}` did not hold for {IN_A_ROW} seconds", goal.text));
            }
        }
        None
    }
}
