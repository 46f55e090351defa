//! Runs one phase on all threads: begins it, follows it second by second, and ends it early if it must.

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
    soak::DriftWatch,
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
    threads::Thread,
    worker::{Backlog, Phase, Shared, WorkerEvent},
};

/// The time between telling the threads and the phase's begin. The threads connect in it.
const START_DELAY: Nanos = 200 * MILLI;
/// How often interrupts, faults and time-outs are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A limit that does not hold for this many successive seconds ends the run.
const MISSED_SECONDS_MAX: u32 = 3;
/// The tool's own lateness beyond which the user is told, microseconds at p99.
const LATENESS_MAX_US: u64 = 1_000;
/// How long threads may take to end after the phase's end and the requests' time-outs.
const END_TIMEOUT: Nanos = 30 * SECOND;

/// The threads of a run, and the screen that shows their progress.
pub struct Driver {
    clock: Clock,
    threads: Vec<Thread>,
    events: UnboundedReceiver<WorkerEvent>,
    shared: Arc<Shared>,
    interrupted: Arc<AtomicBool>,
    screen: Screen,
    urls: Vec<String>,
    note: Option<String>,
}

/// What was measured in a phase.
pub struct PhaseResult {
    /// The counts of the whole phase.
    pub grid: Grid,
    /// The figures of each second.
    pub seconds: Vec<Second>,
    /// The length of the phase in seconds. With a large backlog, it ends with the backlog's last answer.
    pub length_s: f64,
    /// Whether all requests that were due before its end were sent by then, but for one in a hundred.
    pub is_in_time: bool,
    /// Wrong answers; the first hundred of each thread.
    pub wrong: Vec<Wrong>,
    /// The faults that happened.
    pub faults: Vec<FaultMark>,
    /// Why the phase ended early.
    pub stopped: Option<String>,
    /// The objectives of a soak.
    pub drift: Vec<Objective>,
    /// Remarks for the user.
    pub notes: Vec<String>,
    /// The share of a core that the tool's busiest thread used.
    pub busiest: f64,
    late: Cell,
}

impl PhaseResult {
    /// Adds wrong answers from before this phase, which belong in the result as well.
    pub fn add_early(&mut self, mut early: Vec<Wrong>) {
        early.iter_mut().for_each(|wrong| wrong.at_s = 0.0);
        early.append(&mut self.wrong);
        self.wrong = early;
    }

    /// A remark if the tool itself sent requests late.
    #[must_use]
    pub fn late_note(&self) -> Option<String> {
        let p99 = self.late.quantile(0.99);
        (p99 > LATENESS_MAX_US).then(|| {
            format!(
                "the tool itself sent one in a hundred requests at least {} late, although a connection was free: its machine \
                 is too busy, and latencies include the delay",
                crate::format::micros(p99 as f64)
            )
        })
    }
}

impl Driver {
    /// Starts the threads, which wait for a phase.
    pub fn start(
        job: &Job,
        clock: Clock,
        scenarios: Vec<Box<dyn Scenario>>,
        interrupted: Arc<AtomicBool>,
        screen: Screen,
    ) -> Result<Self, RunError> {
        let shared = Arc::new(Shared::default());
        let (sender, events) = unbounded_channel();
        let threads = scenarios.into_iter().enumerate().map(|(thread, scenario)| {
            Thread::start(job, clock, thread, scenario, Arc::clone(&shared), sender.clone())
        });
        let threads = threads.collect::<Result<_, _>>()?;
        let urls = job.targets.iter().map(|target| target.url.clone()).collect();
        Ok(Self { clock, threads, events, shared, interrupted, screen, urls, note: None })
    }

    /// Shows a remark with the next second.
    pub fn note(&mut self, note: String) {
        self.note = Some(note);
    }

    /// Whether the user has interrupted the run.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Ends the threads and waits for them. Returns the latencies of revocations.
    pub fn end(self) -> (Pairs, Screen) {
        self.shared.stop.store(true, Relaxed);
        let mut pairs = Pairs::new();
        for scenario in self.threads.into_iter().filter_map(Thread::end) {
            for (pair, cell) in scenario.pairs() {
                pairs.entry(pair).or_default().merge(&cell);
            }
        }
        (pairs, self.screen)
    }

    /// Runs one phase. With `control` it is measured: faults happen and limits are watched.
    pub async fn phase(
        &mut self,
        job: &Job,
        duration: Duration,
        curves: Vec<Option<Curve>>,
        control: Option<&mut faults::Control>,
    ) -> Result<PhaseResult, RunError> {
        let measured = control.is_some();
        self.shared.stop.store(false, Relaxed);
        let begin = self.clock.now() + START_DELAY;
        let end = begin + nanos(duration);
        for thread in &self.threads {
            thread.begin(Phase { begin, end, curves: curves.clone(), measured });
        }
        let running = control.map(|control| control.run(job.faults.as_ref(), self.clock, begin));
        let mut watch = DriftWatch::new(job, measured);
        let mut state = State::new(self.urls.len(), self.threads.len(), begin, duration, measured);
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        while state.over < self.threads.len() {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(job, event, &mut state),
                    None => return Err(RunError::Broken("the threads are gone".into())),
                },
                _ = poll.tick() => {
                    self.on_poll(&mut state, running.as_ref());
                    watch.poll(self.clock.now(), begin);
                    if self.clock.now() > end + nanos(job.timeout) * 2 + END_TIMEOUT {
                        return Err(RunError::Broken("the threads did not end with the phase".into()));
                    }
                }
            }
            if let Some(why) = state.broken.take() {
                return Err(RunError::Broken(why));
            }
        }
        if let Some(running) = running {
            // Blocking: a hook may take long.
            state.faults.extend(super::blocking(move || running.end()).await?);
        }
        super::blocking(move || state.into_result(watch, end)).await
    }

    /// Handles an interrupt and the faults that have happened.
    fn on_poll(&mut self, state: &mut State, running: Option<&faults::Running>) {
        if self.is_interrupted() {
            self.stop(state, "interrupted");
        }
        for mark in running.into_iter().flat_map(faults::Running::marks) {
            let failed = mark.failed.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            self.screen.note(&format!("{:.1} s: {} {}{failed}", mark.at_s, mark.action, mark.on));
            state.faults.push(mark);
        }
    }

    fn stop(&self, state: &mut State, why: &str) {
        if state.stopped.is_none() {
            state.stopped = Some(why.to_owned());
            state.ended = Some(self.clock.now());
            self.shared.stop.store(true, Relaxed);
        }
    }

    fn on_event(&mut self, job: &Job, event: WorkerEvent, state: &mut State) {
        match event {
            WorkerEvent::SecondEnded(second) => {
                if state.collector.add(&second) {
                    let wrong = self.shared.wrong.load(Relaxed);
                    let note = self.note.take();
                    if let Some(live) = state.collector.live(state.planned, state.measured, wrong, note) {
                        self.screen.tick(&live);
                    }
                    if state.measured
                        && let Some(why) = state.missed_limit(job)
                    {
                        self.stop(state, &why);
                    }
                }
            }
            WorkerEvent::WrongAnswer { at, target, what } => {
                self.screen.note(&format!("WRONG ANSWER of {}: {what}", self.urls[target]));
                state.wrong.push(Wrong { at_s: since(state.begin, at), target, what });
                if job.ends_when_wrong {
                    self.stop(state, "a wrong answer");
                }
            }
            WorkerEvent::PhaseEnded { late, busy, backlog } => {
                state.over += 1;
                state.backlog.merge(backlog);
                state.busiest = state.busiest.max(busy);
                state.late.merge(&late);
            }
            WorkerEvent::Failed(why) => {
                // The other threads must not continue for hours.
                self.shared.stop.store(true, Relaxed);
                state.broken = Some(why);
            }
        }
    }
}

/// The state of a phase while it runs.
struct State {
    begin: Nanos,
    planned: Duration,
    measured: bool,
    collector: Collector,
    /// Threads that have ended the phase.
    over: usize,
    wrong: Vec<Wrong>,
    faults: Vec<FaultMark>,
    stopped: Option<String>,
    ended: Option<Nanos>,
    /// Why a thread failed.
    broken: Option<String>,
    late: Cell,
    busiest: f64,
    backlog: Backlog,
    /// For each limit: for how many successive seconds it has not held.
    missed: Vec<u32>,
}

impl State {
    fn new(targets: usize, threads: usize, begin: Nanos, planned: Duration, measured: bool) -> Self {
        Self {
            begin,
            planned,
            measured,
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
            missed: Vec::new(),
        }
    }

    /// The limit that has not held for too long, as the reason to end the run.
    fn missed_limit(&mut self, job: &Job) -> Option<String> {
        self.missed.resize(job.limits.len(), 0);
        for (goal, missed) in job.limits.iter().zip(&mut self.missed) {
            let held = goal.judge(&self.collector.last, 1.0).held;
            *missed = if held { 0 } else { *missed + 1 };
            if *missed >= MISSED_SECONDS_MAX {
                return Some(format!("`{}` did not hold for {MISSED_SECONDS_MAX} seconds", goal.text));
            }
        }
        None
    }

    /// The result of a phase that was planned to end at `end`. Waits for the watch's last readings.
    fn into_result(mut self, watch: DriftWatch, end: Nanos) -> PhaseResult {
        self.collector.finish();
        let Collector { grid, seconds, .. } = self.collector;
        let is_in_time = !self.backlog.is_much(grid.all().requests);
        let end = if is_in_time { end } else { end.max(self.backlog.last) };
        let length_s = length(self.begin, end, self.ended.unwrap_or(end));
        let drift = watch.judge(&seconds);
        PhaseResult {
            grid,
            seconds,
            length_s,
            is_in_time,
            wrong: self.wrong,
            faults: self.faults,
            stopped: self.stopped,
            drift: drift.objectives,
            notes: drift.unknown,
            busiest: self.busiest,
            late: self.late,
        }
    }
}
