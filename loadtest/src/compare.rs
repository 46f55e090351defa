//! Compares two runs: what changed beyond the noise of a run.
//!
//! # How noise is judged
//!
//! The seconds of a run are its repeated measurements, but neighbours resemble each other (a garbage
//! collection, a neighbour on the machine). Each run's seconds are therefore put together, in order, into at
//! most twelve batches (*batch means*, as in the analysis of simulations). A batch is the median of its
//! seconds, as a logarithm, because latencies differ by factors. *Yuen's test* compares the two sets of
//! batches: means without the highest and the lowest fifth, so that one stall is not taken for a change of
//! everything, with Welch's degrees of freedom, widened by the correlation that is left between neighbouring
//! batches. The intervals hold for all comparisons together (Bonferroni): a table of forty lines does not find
//! two changes in nothing. There are no random numbers: the same two files always give the same comparison.
//!
//! Figures without a series (p99.9, kinds of requests, revocations from node to node) are compared by the
//! values of the whole run. Their noise is that of the order statistics plus that of the nearest series.
//! Requests that were slow in the same second count as fewer (*declustering*, by the number of different
//! seconds that hold the slowest).
//!
//! # What a comparison cannot know
//!
//! How much two runs differ because the machine does (clock, memory layout, a neighbour for an hour). Changes
//! below [`Metric::floor`] are therefore never called changes. For finer answers, run A, B, A, B and compare
//! each pair.
//!
//! Promises: wrong answers are never noise. Runs that cannot be compared are not compared.

mod differences;
mod estimate;
mod format;
mod judge;
mod noise;
mod pairing;
#[cfg(test)]
mod tests;
mod warnings;

use serde::Serialize;

pub use differences::Difference;
pub use judge::{Effect, Verdict};

use crate::format::{micros, percent, rate};
use crate::result::{Percentiles, RunResult, Summary};
use noise::JudgedRun;

/// With fewer seconds of data, noise cannot be judged.
const SECONDS_MIN: usize = 5;
/// With fewer requests beyond a percentile, the percentile is an anecdote.
const BEYOND_MIN: f64 = 10.0;

/// What changed from run A to run B.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The run before.
    pub a: Side,
    /// The run after.
    pub b: Side,
    /// Why nothing is compared: the runs measure different things.
    pub refused: Option<String>,
    /// The settings in which the runs differ.
    pub differences: Vec<Difference>,
    /// Warnings that a reader needs before trusting the rest.
    pub warnings: Vec<String>,
    /// All comparisons: overall, by kind, by node, by pair of nodes.
    pub changes: Vec<Change>,
}

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Side {
    pub scenario: String,
    pub version: String,
    pub started_at: String,
    pub targets: usize,
    /// The number of seconds that are judged: without the ramp and without incomplete seconds.
    pub seconds: usize,
    pub requests: u64,
    pub wrong: u64,
}

/// A figure that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Requests a second.
    Rate,
    /// Median latency, microseconds.
    P50,
    /// 99th percentile of the latency, microseconds.
    P99,
    /// 99.9th percentile of the latency, microseconds.
    P999,
    /// Failed requests, from 0 to 1.
    ErrorRatio,
}

impl Metric {
    const ALL: [Self; 5] = [Self::Rate, Self::P50, Self::P99, Self::P999, Self::ErrorRatio];

    /// The smallest difference that is called a change: two runs of the same thing on the same machine differ
    /// by about this much. A share of the value before; for errors, a difference of ratios.
    pub fn floor(self) -> f64 {
        match self {
            Self::Rate => 0.02,
            Self::P50 | Self::P99 => 0.05,
            Self::P999 => 0.10,
            Self::ErrorRatio => 0.000_1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::ErrorRatio => "errors",
        }
    }

    fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            Self::Rate | Self::ErrorRatio => None,
        }
    }

    fn of(self, summary: &Summary) -> f64 {
        let Percentiles { p50, p99, p999, .. } = summary.latency;
        match self {
            Self::Rate => summary.rate,
            Self::P50 => p50 as f64,
            Self::P99 => p99 as f64,
            Self::P999 => p999 as f64,
            Self::ErrorRatio => summary.errors as f64 / summary.requests.max(1) as f64,
        }
    }

    fn format(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{}/s", rate(value)),
            Self::ErrorRatio => percent(value),
            Self::P50 | Self::P99 | Self::P999 => micros(value),
        }
    }
}

/// One line of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The part of the load: `all`, `kind check`, `node 1 · 10.0.0.1:8080`.
    pub of: String,
    /// The figure that is compared.
    pub metric: Metric,
    /// Its value over the whole run before.
    pub a: f64,
    /// Its value over the whole run after.
    pub b: f64,
    /// How much it changed; `None` if that cannot be judged.
    pub effect: Option<Effect>,
    /// Whether the change is beyond noise.
    pub verdict: Verdict,
}

impl Comparison {
    /// Whether B is worse than A beyond noise, or gave more wrong answers.
    ///
    /// A change that cannot be judged is not worse. Runs that cannot be compared are, so that a script does not
    /// pass by comparing apples with pears.
    pub fn is_worse(&self) -> bool {
        self.refused.is_some()
            || self.b.wrong > self.a.wrong
            || self.changes.iter().any(|c| matches!(c.verdict, Verdict::Slower | Verdict::MoreErrors))
    }
}

/// Compares a run (`a`) with a later one (`b`).
pub fn compare(a: &RunResult, b: &RunResult) -> Comparison {
    let judged_a = JudgedRun::of(a);
    let judged_b = JudgedRun::of(b);
    let refused = refusal(a, b);
    let changes = if refused.is_some() { Vec::new() } else { changes(&judged_a, &judged_b) };
    Comparison {
        a: side(&judged_a),
        b: side(&judged_b),
        refused,
        differences: differences::differences(a, b),
        warnings: warnings::warnings(&judged_a, &judged_b),
        changes,
    }
}

fn side(judged: &JudgedRun) -> Side {
    let run = judged.run;
    Side {
        scenario: run.scenario.clone(),
        version: run.version.clone(),
        started_at: run.started_at.clone(),
        targets: run.targets.len(),
        seconds: judged.seconds.len(),
        requests: run.total.requests,
        wrong: run.wrong_answers(),
    }
}

/// Why the runs cannot be compared.
fn refusal(a: &RunResult, b: &RunResult) -> Option<String> {
    let what = if a.scenario != b.scenario {
        "scenarios"
    } else if a.plan.model != b.plan.model {
        "models of load (open, closed)"
    } else {
        return None;
    };
    Some(format!("the {what} differ: their figures do not mean the same, and a comparison would mislead"))
}

fn changes(a: &JudgedRun, b: &JudgedRun) -> Vec<Change> {
    let pairings = pairing::pairings(a.run, b.run);
    let comparisons = pairings.iter().map(|p| p.series.metrics().len()).sum();
    let mut out = Vec::with_capacity(comparisons);
    for pairing in &pairings {
        for &metric in pairing.series.metrics() {
            let (effect, verdict) = match estimate::estimate(a, b, pairing, metric) {
                Err(why) => (None, Verdict::CannotBeJudged(why)),
                Ok(estimate) => judge::judge(metric, estimate, comparisons),
            };
            out.push(Change {
                of: pairing.of.clone(),
                metric,
                a: metric.of(pairing.a),
                b: metric.of(pairing.b),
                effect,
                verdict,
            });
        }
    }
    out
}
