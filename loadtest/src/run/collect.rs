//! Seconds of threads become seconds of the run.
//!
//! Promises: a second is told when every thread is through with it, in order, once.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Nanos,
    live::{Live, Total},
    record::{Grid, ThreadSecond},
    result::Second,
};

/// What was counted in one phase.
pub struct Collector {
    targets: usize,
    threads: usize,
    pending: BTreeMap<u32, (usize, Grid)>,
    /// Of all seconds that are whole.
    pub grid: Grid,
    /// Them.
    pub seconds: Vec<Second>,
    /// Of the last second: for limits.
    pub last: Grid,
}

impl Collector {
    /// Nothing yet.
    #[must_use]
    pub fn new(targets: usize, threads: usize) -> Self {
        let grid = Grid::new(targets);
        Self { targets, threads, pending: BTreeMap::new(), last: grid.clone(), grid, seconds: Vec::new() }
    }

    /// A thread is through with a second; whether that made one whole.
    pub fn add(&mut self, second: &ThreadSecond) -> bool {
        let entry = self.pending.entry(second.at_s).or_insert_with(|| (0, Grid::new(self.targets)));
        entry.0 += 1;
        entry.1.merge(&second.grid);
        let mut whole = false;
        while self.pending.first_key_value().is_some_and(|(_, (threads, _))| *threads >= self.threads) {
            self.close();
            whole = true;
        }
        whole
    }

    /// No thread says anything more.
    pub fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some((at_s, (_, grid))) = self.pending.pop_first() else { return };
        let by_target = grid.by_target().iter().map(crate::record::Cell::slice).collect();
        self.seconds.push(Second { at_s, all: grid.all().slice(), by_target });
        self.grid.merge(&grid);
        self.last = grid;
    }

    /// For the screen.
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

/// How long a phase was in seconds: as long as it was meant to be, or until it was ended.
#[must_use]
pub fn length(begin: Nanos, end: Nanos, ended: Nanos) -> f64 {
    super::since(begin, ended.min(end)).max(1e-3)
}
