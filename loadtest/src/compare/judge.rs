//! From an estimate to a verdict: a change counts if it is beyond noise and beyond [`Metric::floor`].

use serde::Serialize;

use super::Metric;
use super::noise::{Estimate, student};

/// The probability that anything at all is called a change when nothing changed, over all lines together.
const FALSE_ALARM_MAX: f64 = 0.05;

/// How much a metric changed in the typical second: 0.1 is 10 % more than before. For errors, the difference of
/// the ratios.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Effect {
    /// The estimate.
    pub change: f64,
    /// The lower end of the confidence interval, which holds for all lines together.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How a change is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More requests a second, or less latency.
    Faster,
    /// Fewer requests a second, or more latency.
    Slower,
    /// A lower ratio of errors.
    FewerErrors,
    /// A higher ratio of errors.
    MoreErrors,
    /// Nothing beyond noise.
    NoChange,
    /// The reason why it cannot be judged.
    CannotBeJudged(String),
}

/// Judges one of `comparisons` estimates.
pub(super) fn judge(metric: Metric, estimate: Estimate, comparisons: usize) -> (Option<Effect>, Verdict) {
    let Estimate { difference, variance, freedom } = estimate;
    // Bonferroni: the lines share the false alarms.
    let tail = FALSE_ALARM_MAX / comparisons.max(1) as f64 / 2.0;
    let half = student(1.0 - tail, freedom) * variance.sqrt();
    if !(half.is_finite() && difference.is_finite()) {
        return (None, Verdict::CannotBeJudged("too much noise".into()));
    }
    let is_ratio = metric == Metric::ErrorRatio;
    let change = |difference: f64| if is_ratio { difference } else { difference.min(50.0).exp_m1() };
    let effect = Effect {
        change: change(difference),
        low: change(difference - half),
        high: change(difference + half),
    };
    let floor = if is_ratio { metric.floor() } else { metric.floor().ln_1p() };
    let verdict = if difference.abs() < floor || difference.abs() <= half {
        Verdict::NoChange
    } else {
        match (metric, difference > 0.0) {
            (Metric::ErrorRatio, true) => Verdict::MoreErrors,
            (Metric::ErrorRatio, false) => Verdict::FewerErrors,
            (Metric::Rate, true) => Verdict::Faster,
            (Metric::Rate, false) => Verdict::Slower,
            (Metric::P50 | Metric::P99 | Metric::P999, true) => Verdict::Slower,
            (Metric::P50 | Metric::P99 | Metric::P999, false) => Verdict::Faster,
        }
    };
    (Some(effect), verdict)
}
