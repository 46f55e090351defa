//! Snapshots of a run in progress: one a second, from the run to the screen.
//!
//! Promises: a snapshot is complete and cheap (it holds no histogram). Never holds a secret.

use std::time::Duration;

use crate::result::Second;

/// A snapshot, once a second, also during the warm-up (`measured` is false then).
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// The time since this phase (the warm-up or the measured part) began.
    pub elapsed: Duration,
    /// The planned length of this phase.
    pub planned: Duration,
    /// False during the warm-up and between the steps of a search.
    pub measured: bool,
    /// The second that has just ended.
    pub second: Second,
    /// The figures of this phase so far.
    pub total: Total,
    /// Wrong answers so far. Any of them is a defect of the deployment.
    pub wrong: u64,
    /// A remark about this second: `node a: kill`, `warming up`, `search: 4000/s`.
    pub note: Option<String>,
}

/// The figures of a phase so far.
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
    /// Errors by kind: `timeout`, `status 503`, …
    pub by_error: Vec<(String, u64)>,
}
