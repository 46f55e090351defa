//! The threads that drive: each has its scenario, its connections and, when asked, its core.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::mpsc::UnboundedSender;

use super::is_h2c;
use crate::{
    clock::Clock,
    job::Job,
    scenario::{Scenario, Spot},
    wire::{Settings, h2c, http1},
    worker::{Phase, Said, Shared, Worker},
};

/// A thread.
pub struct Thread {
    phases: mpsc::Sender<Phase>,
    handle: JoinHandle<Box<dyn Scenario>>,
}

/// Tells that the thread is over, however it ended.
struct Guard(UnboundedSender<Said>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self
                .0
                .send(Said::Broken("a thread of the load tester failed: that is a defect of it".into()));
        }
    }
}

impl Thread {
    /// Number `thread`; begins to work with the first phase.
    pub fn start(
        job: &Job,
        clock: Clock,
        thread: usize,
        scenario: Box<dyn Scenario>,
        shared: Arc<Shared>,
        said: UnboundedSender<Said>,
    ) -> std::io::Result<Self> {
        let settings = Settings {
            targets: job.targets.clone(),
            connections: connections(job, thread),
            depth: job.depth,
            timeout: job.timeout,
        };
        let cpu = (!job.cpus.is_empty()).then(|| job.cpus[thread % job.cpus.len()]);
        let (phases, next) = mpsc::channel::<Phase>();
        let (h2c, of) = (is_h2c(job), (thread, job.threads));
        let targets = job.targets.len();
        let work = move || {
            let guard = Guard(said.clone());
            if let Some(cpu) = cpu
                && let Err(error) = pin(cpu)
            {
                let _ = guard.0.send(Said::Broken(format!("--cpu {cpu}: {error}")));
                return Box::new(crate::scenario::Nothing) as Box<dyn Scenario>;
            }
            let mut worker = Worker::new(clock, scenario, shared, said, targets, of);
            let driven = if h2c {
                h2c::drive(settings, worker, &next)
            } else {
                raw(settings, &mut worker, &next).map(|()| worker)
            };
            match driven {
                Ok(worker) => worker.scenario,
                Err(error) => {
                    let _ = guard.0.send(Said::Broken(error.to_string()));
                    Box::new(crate::scenario::Nothing)
                }
            }
        };
        let handle = std::thread::Builder::new().name(format!("load-{thread}")).spawn(work)?;
        Ok(Self { phases, handle })
    }

    /// Begins a phase.
    pub fn begin(&self, phase: Phase) {
        // A thread that is over has said so.
        let _ = self.phases.send(phase);
    }

    /// What the scenario knows; the phases must be over.
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

/// Keeps this thread on a core.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(std::io::Error::other("there is no such core"));
    }
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Every lane has at least one connection to each target in each thread, else as many as were asked for.
fn connections(job: &Job, thread: usize) -> Vec<Spot> {
    let targets = job.targets.len();
    let lanes = job.shape.lanes.len().max(1);
    let mut spots = Vec::new();
    for lane in 0..lanes {
        let wanted = if lane == 0 { job.connections } else { job.write_connections };
        for target in 0..targets {
            let here = share(share(wanted, targets, target), job.threads, thread).max(1);
            spots.extend(std::iter::repeat_n(Spot { lane, target }, here));
        }
    }
    spots
}

/// Of `whole`, what falls to the `at`-th of `parts`.
const fn share(whole: usize, parts: usize, at: usize) -> usize {
    whole / parts + if at < whole % parts { 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_out_whole() {
        for (whole, parts) in [(1, 1), (7, 3), (64, 5), (0, 2)] {
            assert_eq!((0..parts).map(|at| share(whole, parts, at)).sum::<usize>(), whole);
        }
    }
}
