//! Merges the seconds of all threads into the seconds of the run.
//!
//! Promises: a second is complete once every thread has ended it. Seconds are complete in order, each once.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Nanos,
    live::{Live, Total},
    record::{Grid, ThreadSecond},
    result::Second,
};

/// The counts of one phase.
pub struct Collector {
    targets: usize,
    threads: usize,
    pending: BTreeMap<u32, PendingSecond>,
    /// The counts of all complete seconds.
    pub grid: Grid,
    /// The figures of each complete second.
    pub seconds: Vec<Second>,
    /// The counts of the last complete second, for limits.
    pub last: Grid,
}

/// A second that some threads have not ended yet.
struct PendingSecond {
    /// Threads that have ended it.
    threads: usize,
    grid: Grid,
}

impl PendingSecond {
    fn new(targets: usize) -> Self {
        Self { threads: 0, grid: Grid::new(targets) }
    }
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(targets: usize, threads: usize) -> Self {
        let grid = Grid::new(targets);
        Self { targets, threads, pending: BTreeMap::new(), last: grid.clone(), grid, seconds: Vec::new() }
    }

    /// Adds a second of one thread. Returns whether a second is now complete.
    pub fn add(&mut self, second: &ThreadSecond) -> bool {
        let entry = self.pending.entry(second.at_s).or_insert_with(|| PendingSecond::new(self.targets));
        entry.threads += 1;
        entry.grid.merge(&second.grid);
        let mut is_complete = false;
        while self.pending.first_key_value().is_some_and(|(_, second)| second.threads >= self.threads) {
            self.close();
            is_complete = true;
        }
        is_complete
    }

    /// Completes the seconds that are left: the threads have ended.
    pub fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some((at_s, PendingSecond { grid, .. })) = self.pending.pop_first() else { return };
        let by_target = grid.by_target().iter().map(crate::record::Cell::slice).collect();
        self.seconds.push(Second { at_s, all: grid.all().slice(), by_target });
        self.grid.merge(&grid);
        self.last = grid;
    }

    /// The snapshot for the screen; `None` before the first second is complete.
    #[must_use]
    pub fn live(&self, planned: Duration, measured: bool, wrong: u64, note: Option<String>) -> Option<Live> {
        let second = self.seconds.last()?.clone();
        let elapsed = Duration::from_secs(u64::from(second.at_s) + 1);
        let all = self.grid.all();
        let quantile = |share| all.quantile(share);
        let total = Total {
            requests: all.requests,
            errors: all.failed(),
            rate: all.requests as f64 / elapsed.as_secs_f64(),
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: quantile(1.0),
            by_error: all.errors.iter().map(|(fault, &n)| (fault.to_string(), n)).collect(),
        };
        Some(Live { elapsed: elapsed.min(planned), planned, measured, second, total, wrong, note })
    }
}

/// The length of a phase in seconds: as planned, or until it was ended.
#[must_use]
pub fn length(begin: Nanos, end: Nanos, ended: Nanos) -> f64 {
    super::since(begin, ended.min(end)).max(1e-3)
}
