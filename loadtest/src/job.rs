//! What a run is told to do, once the command line is understood.

use std::{path::PathBuf, time::Duration};

use crate::{
    faults::Schedule,
    objective::Goal,
    scenario::shapes::{Bad, Shape},
    target::Target,
};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Http1,
    H2c,
}

impl Protocol {
    /// As it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2c => "h2c",
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is asked.
    pub shape: &'static Shape,
    /// The scenario as it is named in the result: `validate`, or `faults: validate`.
    pub scenario: String,
    /// Arguments, for the result.
    pub command: Vec<String>,
    /// Where to.
    pub targets: Vec<Target>,
    /// How.
    pub protocol: Protocol,
    /// Of the first lane, over all threads and targets.
    pub connections: usize,
    /// Of the second lane.
    pub write_connections: usize,
    /// Requests at a time on a connection.
    pub depth: usize,
    /// Threads.
    pub threads: usize,
    /// Cores that the threads are pinned to, in turn.
    pub cpus: Vec<usize>,
    /// Requests a second; `None`: closed.
    pub rate: Option<f64>,
    /// Of the second lane: part of the rate, or a rate of its own, or closed.
    pub writes: Writes,
    /// Measured.
    pub duration: Duration,
    /// Not measured.
    pub warm_up: Duration,
    /// From a tenth to the full rate.
    pub ramp: Duration,
    /// Users, log-ins of each, tokens of each log-in.
    pub people: (usize, usize, usize),
    /// Percentages.
    pub bad: Bad,
    /// Tokens in one batch.
    pub batch: Option<usize>,
    /// Exponent.
    pub zipf: f64,
    /// Of the random choices.
    pub seed: u64,
    /// An answer that takes longer is none.
    pub timeout: Duration,
    /// Who makes permissions.
    pub admin: Option<(String, String)>,
    /// What has to hold.
    pub objectives: Vec<Goal>,
    /// What ends the run when it does not hold for three seconds in a row.
    pub limits: Vec<Goal>,
    /// Whether the first wrong answer ends it.
    pub ends_when_wrong: bool,
    /// Steps of a search, each so long.
    pub find_max: Option<Duration>,
    /// How much memory and p99 may grow, in a soak: 1.5 is by a half.
    pub max_drift: Option<f64>,
    /// Faults.
    pub faults: Option<Schedule>,
    /// The result file.
    pub out: Option<PathBuf>,
    /// The report.
    pub report: Option<PathBuf>,
}

/// How fast the second lane is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Writes {
    /// A part of the whole rate.
    Part(f64),
    /// So many a second.
    Rate(f64),
    /// As fast as answers come.
    Closed,
}
