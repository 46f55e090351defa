//! What is known while a run goes on: one snapshot a second, from the run to the screen.
//!
//! Promises: a snapshot is whole and costs little to make (no histogram in it). Never holds a secret.

use std::time::Duration;

use crate::result::Second;

/// A snapshot, once a second: of the warm-up too (`measured` is false then).
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// Since this phase began: the warm-up, or the measured part.
    pub elapsed: Duration,
    /// How long this phase is meant to be.
    pub planned: Duration,
    /// False while it warms up, and between the steps of a search.
    pub measured: bool,
    /// The second that has just ended.
    pub second: Second,
    /// Everything of this phase until now.
    pub total: Total,
    /// Wrong answers until now. Any is a defect of what is tested.
    pub wrong: u64,
    /// What there is to be said about this second: `node a: kill`, `warming up`, `search: 4000/s`.
    pub note: Option<String>,
}

/// A small summary.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Total {
    pub requests: u64,
    pub errors: u64,
    /// Requests a second.
    pub rate: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    /// By kind of error: `timeout`, `status 503`, …
    pub by_error: Vec<(String, u64)>,
}
