//! The job of a run: what the command line asks for.

use std::{path::PathBuf, time::Duration};

use crate::{
    faults::Schedule,
    objective::Goal,
    scenario::specs::{BadTokens, ScenarioSpec},
    target::Target,
    test_accounts::{AccountCounts, Admin},
};

/// The protocol of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Http1,
    H2c,
}

impl Protocol {
    /// The name on the command line and in the result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2c => "h2c",
        }
    }
}

/// The job of a run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The scenario's constants.
    pub spec: &'static ScenarioSpec,
    /// The scenario's name in the result: `validate`, or `faults: validate`.
    pub scenario: String,
    /// The arguments of the process, for the result.
    pub command: Vec<String>,
    /// The targets of requests.
    pub targets: Vec<Target>,
    /// The protocol of requests.
    pub protocol: Protocol,
    /// Connections of the first lane, over all threads and targets.
    pub connections: usize,
    /// Connections of the second lane, over all threads and targets.
    pub write_connections: usize,
    /// Requests at a time on a connection.
    pub depth: usize,
    /// Threads that send requests.
    pub threads: usize,
    /// The cores to which the threads are pinned, in turn; none: they are not pinned.
    pub cpus: Vec<usize>,
    /// Requests a second; `None`: the closed model.
    pub rate: Option<f64>,
    /// The rate of the second lane.
    pub writes: Writes,
    /// The length of the measured part.
    pub duration: Duration,
    /// The length of the warm-up, which is not measured.
    pub warm_up: Duration,
    /// How long the rate rises from a tenth to its full value.
    pub ramp: Duration,
    /// The accounts to create.
    pub accounts: AccountCounts,
    /// The share of validations with tokens that must be refused.
    pub bad_tokens: BadTokens,
    /// Tokens in one batch; `None`: no batches.
    pub batch: Option<usize>,
    /// Zipf's exponent in the choice of sessions.
    pub zipf: f64,
    /// The seed of all random choices.
    pub seed: u64,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The administrator who creates permissions.
    pub admin: Option<Admin>,
    /// The objectives of the whole run.
    pub objectives: Vec<Goal>,
    /// Goals that end the run if they do not hold for some seconds.
    pub limits: Vec<Goal>,
    /// Whether the first wrong answer ends the run.
    pub ends_when_wrong: bool,
    /// The length of a step of a search; `None`: no search.
    pub find_max: Option<Duration>,
    /// How much memory and p99 may grow in a soak, as a factor: 1.5 is by a half.
    pub max_drift: Option<f64>,
    /// The schedule of faults.
    pub faults: Option<Schedule>,
    /// The result file.
    pub out: Option<PathBuf>,
    /// The report file.
    pub report: Option<PathBuf>,
}

/// The rate of the second lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Writes {
    /// A part of the whole rate, from 0 to 1.
    Part(f64),
    /// Requests a second.
    Rate(f64),
    /// As fast as answers come.
    Closed,
}
