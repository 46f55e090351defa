//! Histograms of latencies and counts of answers: recorded by threads, merged into the result.
//!
//! Promises: recording an answer neither allocates nor locks (but for the first of its kind in a second).
//! Percentiles of a whole are those of merged histograms, never means of percentiles. Latencies are
//! microseconds to three significant digits. Never keeps single samples.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;

use crate::{
    clock::{Nanos, SECOND},
    result::{Percentiles, Slice, Summary},
};

/// The longest latency of a histogram, microseconds: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum RequestKind {
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

impl RequestKind {
    /// All kinds, in the order of their discriminants.
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

    /// The name in the result, in objectives and on the screen.
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

/// Why a request did not get the answer that it should have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The connection could not be opened.
    Connect,
    /// The connection ended before the answer.
    Closed,
    /// No answer in time.
    Timeout,
    /// The request was due but could not be sent before the end.
    Unsent,
    /// The bytes that came are not an HTTP answer.
    Malformed,
    /// An unexpected status that is not a wrong answer: 503 is "unknown", 429 "too many".
    Status(u16),
    /// The status is correct, but the body cannot be used.
    Body,
    /// A 200 for a revoked token with `Palisade-Stale`: the node reports that it may lack revocations.
    Stale,
    /// A wrong answer.
    Wrong,
}

impl fmt::Display for ErrorKind {
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
    /// Answers and failures together.
    pub requests: u64,
    /// Failures by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// Answers by status. There are few, so a list is fast.
    statuses: Vec<(u16, u64)>,
}

impl Default for Cell {
    #[allow(clippy::expect_used, reason = "the bounds are valid constants")]
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("valid bounds");
        Self { latency, requests: 0, errors: BTreeMap::new(), statuses: Vec::new() }
    }
}

impl Cell {
    /// Counts a request. `latency` is `None` if it means nothing, as when a connection was refused.
    pub fn record(&mut self, latency: Option<Nanos>, status: Option<u16>, error: Option<ErrorKind>) {
        self.requests += 1;
        if let Some(latency) = latency {
            self.latency.saturating_record((latency / 1_000).max(1));
        }
        if let Some(status) = status {
            self.count_status(status, 1);
        }
        if let Some(error) = error {
            *self.errors.entry(error).or_default() += 1;
        }
    }

    fn count_status(&mut self, status: u16, more: u64) {
        match self.statuses.iter_mut().find(|entry| entry.0 == status) {
            Some(entry) => entry.1 += more,
            None => self.statuses.push((status, more)),
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        // The bounds are equal, so this cannot fail.
        let _ = self.latency.add(&other.latency);
        self.requests += other.requests;
        for (&error, &more) in &other.errors {
            *self.errors.entry(error).or_default() += more;
        }
        for &(status, more) in &other.statuses {
            self.count_status(status, more);
        }
    }

    /// The number of failures.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latency in microseconds below which this share (0 to 1) of the samples lies; 0 without samples.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        if self.latency.is_empty() { 0 } else { self.latency.value_at_quantile(share) }
    }

    fn max(&self) -> u64 {
        if self.latency.is_empty() { 0 } else { self.latency.max() }
    }

    /// The figures of one second.
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

    /// The figures of a whole of this many seconds.
    #[must_use]
    pub fn summary(&self, seconds: f64) -> Summary {
        let empty = self.latency.is_empty();
        Summary {
            requests: self.requests,
            rate: if seconds > 0.0 { self.requests as f64 / seconds } else { 0.0 },
            errors: self.failed(),
            errors_by_kind: self.errors.iter().map(|(error, &n)| (error.to_string(), n)).collect(),
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

    /// The points of the latency curve: denser towards the slowest, and only as far as there are samples.
    fn curve(&self) -> Vec<(f64, u64)> {
        let samples = self.latency.len();
        if samples == 0 {
            return Vec::new();
        }
        let mut percentiles: Vec<f64> = (0..18).map(|step| f64::from(step) * 5.0).collect();
        let mut rest = 10.0;
        let mut more = true;
        while more {
            for part in [1.0, 0.8, 0.6, 0.4, 0.2] {
                let beyond: f64 = rest * part;
                more = beyond / 100.0 * samples as f64 >= 1.0;
                if more {
                    percentiles.push(100.0 - beyond);
                }
            }
            rest /= 10.0;
        }
        percentiles.push(100.0);
        percentiles.into_iter().map(|p| (p, self.latency.value_at_quantile(p / 100.0))).collect()
    }
}

/// Counts by target and kind: of one thread or of all, of a second or of a run.
#[derive(Debug, Clone, Default)]
pub struct Grid {
    targets: usize,
    cells: Vec<Option<Box<Cell>>>,
}

impl Grid {
    /// An empty grid.
    #[must_use]
    pub fn new(targets: usize) -> Self {
        Self { targets, cells: (0..targets * RequestKind::ALL.len()).map(|_| None).collect() }
    }

    /// The cell of a target and a kind.
    pub fn cell(&mut self, target: usize, kind: RequestKind) -> &mut Cell {
        self.cells[target * RequestKind::ALL.len() + kind as usize].get_or_insert_default()
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            if let Some(theirs) = theirs {
                mine.get_or_insert_default().merge(theirs);
            }
        }
    }

    fn sum(&self, wanted: impl Fn(usize, RequestKind) -> bool) -> Cell {
        let mut sum = Cell::default();
        for (place, cell) in self.cells.iter().enumerate() {
            let (target, kind) =
                (place / RequestKind::ALL.len(), RequestKind::ALL[place % RequestKind::ALL.len()]);
            if let Some(cell) = cell
                && wanted(target, kind)
            {
                sum.merge(cell);
            }
        }
        sum
    }

    /// The sum of all cells.
    #[must_use]
    pub fn all(&self) -> Cell {
        self.sum(|_, _| true)
    }

    /// The sums by target, in order.
    #[must_use]
    pub fn by_target(&self) -> Vec<Cell> {
        (0..self.targets).map(|place| self.sum(|target, _| target == place)).collect()
    }

    /// The sums of the kinds that have requests.
    #[must_use]
    pub fn by_kind(&self) -> Vec<(RequestKind, Cell)> {
        let kinds = RequestKind::ALL.into_iter().map(|wanted| (wanted, self.sum(|_, kind| kind == wanted)));
        kinds.filter(|(_, cell)| cell.requests > 0).collect()
    }
}

/// The counts of one thread in one second of a phase.
#[derive(Debug)]
pub struct ThreadSecond {
    /// The second of the phase, from 0.
    pub at_s: u32,
    /// Its counts.
    pub grid: Grid,
}

/// Records the requests of one thread, second by second.
#[derive(Debug)]
pub struct Recorder {
    begin: Nanos,
    last_s: u32,
    at_s: u32,
    targets: usize,
    grid: Grid,
    /// Seconds that have ended.
    full: Vec<ThreadSecond>,
}

impl Recorder {
    /// A recorder for a phase. Requests after its end count in its last second.
    #[must_use]
    pub fn new(targets: usize, begin: Nanos, end: Nanos) -> Self {
        let length = end.saturating_sub(begin).div_ceil(SECOND).max(1);
        let last_s = u32::try_from(length - 1).unwrap_or(u32::MAX);
        Self { begin, last_s, at_s: 0, targets, grid: Grid::new(targets), full: Vec::new() }
    }

    /// Ends the seconds before `now`.
    pub fn roll(&mut self, now: Nanos) {
        let second = now.saturating_sub(self.begin) / SECOND;
        let second = u32::try_from(second).unwrap_or(u32::MAX).min(self.last_s);
        while self.at_s < second {
            let grid = std::mem::replace(&mut self.grid, Grid::new(self.targets));
            self.full.push(ThreadSecond { at_s: self.at_s, grid });
            self.at_s += 1;
        }
    }

    /// The cell of a target and a kind in the present second.
    pub fn cell(&mut self, target: usize, kind: RequestKind) -> &mut Cell {
        self.grid.cell(target, kind)
    }

    /// Removes and returns the seconds that have ended.
    pub fn ended_seconds(&mut self) -> std::vec::Drain<'_, ThreadSecond> {
        self.full.drain(..)
    }

    /// Ends the recording. Returns the last second.
    #[must_use]
    pub fn finish(self) -> ThreadSecond {
        ThreadSecond { at_s: self.at_s, grid: self.grid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_merged_histograms() {
        let mut fast = Grid::new(2);
        let mut slow = Grid::new(2);
        for n in 1..=990_u64 {
            fast.cell(0, RequestKind::Validate).record(Some(n * 1_000), Some(200), None);
        }
        for _ in 0..10 {
            slow.cell(1, RequestKind::Login).record(
                Some(50_000_000),
                Some(503),
                Some(ErrorKind::Status(503)),
            );
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
            [RequestKind::Validate, RequestKind::Login]
        );
    }

    #[test]
    fn curve_ends_where_the_samples_do() {
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
    fn seconds_end_without_requests() {
        let mut recorder = Recorder::new(1, SECOND, 4 * SECOND);
        recorder.cell(0, RequestKind::Check).record(Some(5), Some(200), None);
        recorder.roll(3 * SECOND + 1);
        let seconds: Vec<_> = recorder.ended_seconds().map(|s| (s.at_s, s.grid.all().requests)).collect();
        assert_eq!(seconds, [(0, 1), (1, 0)]);
        recorder.roll(90 * SECOND);
        assert_eq!(recorder.ended_seconds().count(), 0);
        assert_eq!(recorder.finish().at_s, 2);
    }
}
