//! The threads that send requests: each has a scenario, connections and, with `--cpu`, a core.
//!
//! Promises: a thread that fails or panics reports it.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    clock::Clock,
    job::{Job, Protocol},
    random::Part,
    scenario::{Route, Scenario},
    wire::{Settings, h2c, http1},
    worker::{Phase, Shared, Worker, WorkerEvent},
};

/// A thread that sends requests.
pub struct Thread {
    phases: mpsc::Sender<Phase>,
    handle: JoinHandle<Box<dyn Scenario>>,
}

/// Reports a panic of the thread.
struct Guard(UnboundedSender<WorkerEvent>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(WorkerEvent::Failed(
                "a thread of the load tester panicked: this is a bug in the load tester".into(),
            ));
        }
    }
}

impl Thread {
    /// Starts thread number `thread`, which waits for the first phase.
    pub fn start(
        job: &Job,
        clock: Clock,
        thread: usize,
        scenario: Box<dyn Scenario>,
        shared: Arc<Shared>,
        events: UnboundedSender<WorkerEvent>,
    ) -> std::io::Result<Self> {
        let settings = Settings {
            targets: job.targets.clone(),
            connections: connections(job, thread),
            depth: job.depth,
            timeout: job.timeout,
        };
        let cpu = (!job.cpus.is_empty()).then(|| job.cpus[thread % job.cpus.len()]);
        let (phases, next_phase) = mpsc::channel::<Phase>();
        let is_h2c = job.protocol == Protocol::H2c;
        let part = Part { index: thread, count: job.threads };
        let targets = job.targets.len();
        let work = move || {
            let guard = Guard(events.clone());
            if let Some(cpu) = cpu
                && let Err(error) = pin(cpu)
            {
                let _ = guard.0.send(WorkerEvent::Failed(format!("--cpu {cpu}: {error}")));
                return Box::new(crate::scenario::Nothing) as Box<dyn Scenario>;
            }
            let mut worker = Worker::new(clock, scenario, shared, events, targets, part);
            let driven = if is_h2c {
                h2c::drive(settings, worker, &next_phase)
            } else {
                raw(settings, &mut worker, &next_phase).map(|()| worker)
            };
            match driven {
                Ok(worker) => worker.scenario,
                Err(error) => {
                    let _ = guard.0.send(WorkerEvent::Failed(error.to_string()));
                    Box::new(crate::scenario::Nothing)
                }
            }
        };
        let handle = std::thread::Builder::new().name(format!("load-{thread}")).spawn(work)?;
        Ok(Self { phases, handle })
    }

    /// Begins a phase.
    pub fn begin(&self, phase: Phase) {
        // A thread that has ended has reported why.
        let _ = self.phases.send(phase);
    }

    /// Ends the thread and returns its scenario. The phases must have ended.
    pub fn end(self) -> Option<Box<dyn Scenario>> {
        drop(self.phases);
        self.handle.join().ok()
    }
}

fn raw(settings: Settings, worker: &mut Worker, phases: &mpsc::Receiver<Phase>) -> std::io::Result<()> {
    let mut wire = http1::Wire::new(settings)?;
    while let Ok(phase) = phases.recv() {
        worker.begin(phase);
        wire.drive(worker)?;
    }
    Ok(())
}

/// Pins the calling thread to a core.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(std::io::Error::other("no such core"));
    }
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The connections of a thread: its share of those that the job asks for, and at least one for each lane and
/// target.
fn connections(job: &Job, thread: usize) -> Vec<Route> {
    let targets = job.targets.len();
    let lanes = job.spec.lanes.len().max(1);
    let mut routes = Vec::new();
    for lane in 0..lanes {
        let wanted = if lane == 0 { job.connections } else { job.write_connections };
        for target in 0..targets {
            let here = share(share(wanted, targets, target), job.threads, thread).max(1);
            routes.extend(std::iter::repeat_n(Route { lane, target }, here));
        }
    }
    routes
}

/// The share of the `at`-th of `parts` in `whole`.
const fn share(whole: usize, parts: usize, at: usize) -> usize {
    whole / parts + if at < whole % parts { 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        for (whole, parts) in [(1, 1), (7, 3), (64, 5), (0, 2)] {
            assert_eq!((0..parts).map(|at| share(whole, parts, at)).sum::<usize>(), whole);
        }
    }
}
