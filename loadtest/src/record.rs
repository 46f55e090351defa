//! Histograms: what threads count, and how it becomes the result.
//!
//! Promises: recording one answer neither allocates nor locks (but for the first of its kind in a second).
//! Percentiles of a whole are those of merged histograms, never means of percentiles. Latencies are
//! microseconds to three significant digits. Never keeps single samples.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;

use crate::{
    clock::{Nanos, SECOND},
    result::{Percentiles, Slice, Summary},
};

/// The longest latency that is told apart, microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Validate,
    ValidateRevoked,
    ValidateForged,
    ValidateExpired,
    Batch,
    Check,
    Login,
    Refresh,
    Logout,
    Fixed,
}

impl Kind {
    /// All of them, by their number.
    pub const ALL: [Self; 10] = [
        Self::Validate,
        Self::ValidateRevoked,
        Self::ValidateForged,
        Self::ValidateExpired,
        Self::Batch,
        Self::Check,
        Self::Login,
        Self::Refresh,
        Self::Logout,
        Self::Fixed,
    ];

    /// As it is called in the result, in objectives and on the screen.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::ValidateRevoked => "validate_revoked",
            Self::ValidateForged => "validate_forged",
            Self::ValidateExpired => "validate_expired",
            Self::Batch => "batch",
            Self::Check => "check",
            Self::Login => "login",
            Self::Refresh => "refresh",
            Self::Logout => "logout",
            Self::Fixed => "fixed",
        }
    }
}

/// Why a request did not get the answer that it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody takes connections.
    Connect,
    /// The connection ended before the answer.
    Closed,
    /// No answer in time.
    Timeout,
    /// It was due and could not be sent before the run ended.
    Unsent,
    /// What came is no answer.
    Malformed,
    /// The answer's status, when it is no wrong answer: 503 is "cannot know", 429 "too many".
    Status(u16),
    /// The answer's status is right, its body is not to be used.
    Body,
    /// A 200 for a revoked token that says by `Palisade-Stale` that it may be one.
    Stale,
    /// An answer that must not be.
    Wrong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Unsent => "unsent",
            Self::Malformed => "malformed",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Body => "body",
            Self::Stale => "stale",
            Self::Wrong => "wrong",
        })
    }
}

/// Counts of one kind of request at one target.
#[derive(Debug, Clone)]
pub struct Cell {
    latency: Histogram<u64>,
    /// Answers and failures.
    pub requests: u64,
    /// By kind of error; few.
    pub errors: BTreeMap<Fault, u64>,
    /// By status; few, so a list: the most frequent is soon the first.
    statuses: Vec<(u16, u64)>,
}

impl Default for Cell {
    #[allow(clippy::expect_used, reason = "the bounds are constants that are good")]
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are good");
        Self { latency, requests: 0, errors: BTreeMap::new(), statuses: Vec::new() }
    }
}

impl Cell {
    /// One more. `latency`: `None` when there is nothing to be learnt from it (a connection was refused).
    pub fn record(&mut self, latency: Option<Nanos>, status: Option<u16>, fault: Option<Fault>) {
        self.requests += 1;
        if let Some(latency) = latency {
            self.latency.saturating_record((latency / 1_000).max(1));
        }
        if let Some(status) = status {
            self.count_status(status, 1);
        }
        if let Some(fault) = fault {
            *self.errors.entry(fault).or_default() += 1;
        }
    }

    fn count_status(&mut self, status: u16, more: u64) {
        match self.statuses.iter_mut().find(|entry| entry.0 == status) {
            Some(entry) => entry.1 += more,
            None => self.statuses.push((status, more)),
        }
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        // The bounds are the same, so there is no error.
        let _ = self.latency.add(&other.latency);
        self.requests += other.requests;
        for (&fault, &more) in &other.errors {
            *self.errors.entry(fault).or_default() += more;
        }
        for &(status, more) in &other.statuses {
            self.count_status(status, more);
        }
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Microseconds below which this share (0 to 1) lies; 0 without samples.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        if self.latency.is_empty() { 0 } else { self.latency.value_at_quantile(share) }
    }

    fn max(&self) -> u64 {
        if self.latency.is_empty() { 0 } else { self.latency.max() }
    }

    /// For a second.
    #[must_use]
    pub fn slice(&self) -> Slice {
        Slice {
            requests: self.requests,
            errors: self.failed(),
            p50_us: self.quantile(0.5),
            p99_us: self.quantile(0.99),
            max_us: self.max(),
        }
    }

    /// For the whole, which took so many seconds.
    #[must_use]
    pub fn summary(&self, seconds: f64) -> Summary {
        let empty = self.latency.is_empty();
        Summary {
            requests: self.requests,
            rate: if seconds > 0.0 { self.requests as f64 / seconds } else { 0.0 },
            errors: self.failed(),
            errors_by_kind: self.errors.iter().map(|(fault, &n)| (fault.to_string(), n)).collect(),
            statuses: self.statuses.iter().copied().collect(),
            latency: Percentiles {
                mean: if empty { 0.0 } else { self.latency.mean() },
                min: if empty { 0 } else { self.latency.min() },
                p50: self.quantile(0.5),
                p90: self.quantile(0.9),
                p99: self.quantile(0.99),
                p999: self.quantile(0.999),
                max: self.max(),
            },
            curve: self.curve(),
        }
    }

    /// Ever denser towards the slowest, and no further than there are samples.
    fn curve(&self) -> Vec<(f64, u64)> {
        let samples = self.latency.len();
        if samples == 0 {
            return Vec::new();
        }
        let mut percentiles: Vec<f64> = (0..18).map(|step| f64::from(step) * 5.0).collect();
        let (mut rest, mut more) = (10.0, true);
        while more {
            for part in [1.0, 0.8, 0.6, 0.4, 0.2] {
                let left: f64 = rest * part;
                more = left / 100.0 * samples as f64 >= 1.0;
                if more {
                    percentiles.push(100.0 - left);
                }
            }
            rest /= 10.0;
        }
        percentiles.push(100.0);
        percentiles.into_iter().map(|p| (p, self.latency.value_at_quantile(p / 100.0))).collect()
    }
}

/// Counts by target and kind, of a thread or of all, of a second or of a run.
#[derive(Debug, Clone, Default)]
pub struct Grid {
    targets: usize,
    cells: Vec<Option<Box<Cell>>>,
}

impl Grid {
    /// Nothing yet.
    #[must_use]
    pub fn new(targets: usize) -> Self {
        Self { targets, cells: (0..targets * Kind::ALL.len()).map(|_| None).collect() }
    }

    /// Where this is counted.
    pub fn cell(&mut self, target: usize, kind: Kind) -> &mut Cell {
        self.cells[target * Kind::ALL.len() + kind as usize].get_or_insert_default()
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            if let Some(theirs) = theirs {
                mine.get_or_insert_default().merge(theirs);
            }
        }
    }

    fn sum(&self, wanted: impl Fn(usize, Kind) -> bool) -> Cell {
        let mut sum = Cell::default();
        for (place, cell) in self.cells.iter().enumerate() {
            let (target, kind) = (place / Kind::ALL.len(), Kind::ALL[place % Kind::ALL.len()]);
            if let Some(cell) = cell
                && wanted(target, kind)
            {
                sum.merge(cell);
            }
        }
        sum
    }

    /// Over everything.
    #[must_use]
    pub fn all(&self) -> Cell {
        self.sum(|_, _| true)
    }

    /// By place of the target.
    #[must_use]
    pub fn by_target(&self) -> Vec<Cell> {
        (0..self.targets).map(|place| self.sum(|target, _| target == place)).collect()
    }

    /// By kind, those that there are.
    #[must_use]
    pub fn by_kind(&self) -> Vec<(Kind, Cell)> {
        let kinds = Kind::ALL.into_iter().map(|wanted| (wanted, self.sum(|_, kind| kind == wanted)));
        kinds.filter(|(_, cell)| cell.requests > 0).collect()
    }
}

/// The counts of one thread in one second of a phase.
#[derive(Debug)]
pub struct ThreadSecond {
    /// Which second of the phase.
    pub at_s: u32,
    /// What was counted in it.
    pub grid: Grid,
}

/// Counts what one thread does, second by second.
#[derive(Debug)]
pub struct Recorder {
    begin: Nanos,
    last_s: u32,
    at_s: u32,
    targets: usize,
    grid: Grid,
    full: Vec<ThreadSecond>,
}

impl Recorder {
    /// For a phase; what is recorded after its end counts in its last second.
    #[must_use]
    pub fn new(targets: usize, begin: Nanos, end: Nanos) -> Self {
        let length = end.saturating_sub(begin).div_ceil(SECOND).max(1);
        let last_s = u32::try_from(length - 1).unwrap_or(u32::MAX);
        Self { begin, last_s, at_s: 0, targets, grid: Grid::new(targets), full: Vec::new() }
    }

    /// Ends the seconds that are over.
    pub fn roll(&mut self, now: Nanos) {
        let second = now.saturating_sub(self.begin) / SECOND;
        let second = u32::try_from(second).unwrap_or(u32::MAX).min(self.last_s);
        while self.at_s < second {
            let grid = std::mem::replace(&mut self.grid, Grid::new(self.targets));
            self.full.push(ThreadSecond { at_s: self.at_s, grid });
            self.at_s += 1;
        }
    }

    /// Where to count.
    pub fn cell(&mut self, target: usize, kind: Kind) -> &mut Cell {
        self.grid.cell(target, kind)
    }

    /// The seconds that ended since this was asked last.
    pub fn take(&mut self) -> std::vec::Drain<'_, ThreadSecond> {
        self.full.drain(..)
    }

    /// The last second.
    #[must_use]
    pub fn finish(self) -> ThreadSecond {
        ThreadSecond { at_s: self.at_s, grid: self.grid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_whole() {
        let (mut fast, mut slow) = (Grid::new(2), Grid::new(2));
        for n in 1..=990_u64 {
            fast.cell(0, Kind::Validate).record(Some(n * 1_000), Some(200), None);
        }
        for _ in 0..10 {
            slow.cell(1, Kind::Login).record(Some(50_000_000), Some(503), Some(Fault::Status(503)));
        }
        fast.merge(&slow);
        let all = fast.all().summary(10.0);
        assert_eq!((all.requests, all.errors, all.rate), (1_000, 10, 100.0));
        assert_eq!(all.statuses, BTreeMap::from([(200, 990), (503, 10)]));
        assert_eq!(all.errors_by_kind, BTreeMap::from([("status 503".to_owned(), 10)]));
        assert!((499..=501).contains(&all.latency.p50), "{:?}", all.latency);
        assert!((989..=991).contains(&all.latency.p99), "{:?}", all.latency);
        assert!((49_900..=50_100).contains(&all.latency.p999), "{:?}", all.latency);
        assert_eq!(fast.by_target()[1].requests, 10);
        assert_eq!(
            fast.by_kind().iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [Kind::Validate, Kind::Login]
        );
    }

    #[test]
    fn a_curve_ends_where_the_samples_do() {
        let mut cell = Cell::default();
        (0..1_000).for_each(|n| cell.record(Some(n * 1_000), Some(200), None));
        let curve = cell.summary(1.0).curve;
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{curve:?}");
        assert_eq!(curve.first().unwrap().0, 0.0);
        assert_eq!(curve.last().unwrap(), &(100.0, cell.max()));
        assert!(curve[curve.len() - 2].0 <= 99.9, "{curve:?}");
        assert!(Cell::default().summary(1.0).curve.is_empty());
    }

    #[test]
    fn seconds_end_also_when_nothing_happens() {
        let mut recorder = Recorder::new(1, SECOND, 4 * SECOND);
        recorder.cell(0, Kind::Check).record(Some(5), Some(200), None);
        recorder.roll(3 * SECOND + 1);
        let seconds: Vec<_> = recorder.take().map(|s| (s.at_s, s.grid.all().requests)).collect();
        assert_eq!(seconds, [(0, 1), (1, 0)]);
        recorder.roll(90 * SECOND);
        assert_eq!(recorder.take().count(), 0);
        assert_eq!(recorder.finish().at_s, 2);
    }
}
