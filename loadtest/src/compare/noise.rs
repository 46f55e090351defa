//! The statistics of [`super`]: how uncertain the figures of a run are, by its seconds.

use crate::result::{RunResult, Second, Slice, Summary};

use super::pairing::Series;
use super::{BEYOND_MIN, Metric};

/// Batches a run at most. With 12, a line at 95 % is wrong in 3 to 5 of 100 pairs of minutes whose neighbouring
/// seconds correlate by 0.5; with 20, in 6 to 8.
const BATCHES_MAX: usize = 12;
/// The share that is cut from each end of the sorted batches.
const TRIMMED_SHARE: f64 = 0.2;
/// With fewer slices, each is a batch of its own.
const SLICES_TO_PAIR_MIN: usize = 10;

/// A run and those of its seconds that are judged.
pub(super) struct JudgedRun<'a> {
    pub(super) run: &'a RunResult,
    /// Without the ramp and without incomplete seconds.
    pub(super) seconds: Vec<&'a Second>,
}

impl<'a> JudgedRun<'a> {
    pub(super) fn of(run: &'a RunResult) -> Self {
        // Late answers come in after the end: those seconds do not hold a whole second's requests.
        let end = if run.search.is_empty() && run.plan.duration_s >= 1.0 {
            run.plan.duration_s + 0.001
        } else {
            f64::INFINITY
        };
        let whole = |s: &&Second| f64::from(s.at_s) >= run.plan.ramp_s && f64::from(s.at_s) + 1.0 <= end;
        let mut seconds: Vec<_> = run.seconds.iter().filter(whole).collect();
        if run.stopped.is_some() {
            // The run ended within its last second.
            seconds.pop();
        }
        Self { run, seconds }
    }

    /// The slices of all requests, or of those to one target.
    fn slices(&self, target: Option<usize>) -> impl Iterator<Item = &'a Slice> {
        self.seconds.iter().filter_map(move |s| match target {
            None => Some(&s.all),
            Some(place) => s.by_target.get(place),
        })
    }

    /// The batches of a metric, in order of time: logarithms, or ratios of errors.
    fn batches(&self, target: Option<usize>, metric: Metric) -> Vec<f64> {
        let slices: Vec<&Slice> = match metric {
            // A second without an answer has no latency.
            Metric::P50 | Metric::P99 | Metric::P999 => {
                self.slices(target).filter(|s| s.max_us > 0).collect()
            }
            Metric::Rate | Metric::ErrorRatio => self.slices(target).collect(),
        };
        // Single seconds resemble their neighbours too much; they are batches only in a very short run.
        let narrowest = if slices.len() < SLICES_TO_PAIR_MIN { 1 } else { 2 };
        let width = slices.len().div_ceil(BATCHES_MAX).max(narrowest);
        slices
            .chunks(width)
            // The last batch may be too short to be compared with the others.
            .filter(|batch| batch.len() * 2 >= width)
            .map(|batch| match metric {
                Metric::ErrorRatio => {
                    let requests: u64 = batch.iter().map(|s| s.requests).sum();
                    let errors: u64 = batch.iter().map(|s| s.errors).sum();
                    errors as f64 / requests.max(1) as f64
                }
                Metric::Rate => {
                    let requests: u64 = batch.iter().map(|s| s.requests).sum();
                    (requests as f64 / batch.len() as f64).max(0.5).ln()
                }
                Metric::P50 => median(batch.iter().map(|s| s.p50_us)).max(1.0).ln(),
                Metric::P99 | Metric::P999 => median(batch.iter().map(|s| s.p99_us)).max(1.0).ln(),
            })
            .collect()
    }

    /// Counts the seconds in which a request took longer than `us`.
    fn seconds_beyond(&self, target: Option<usize>, us: f64) -> SecondsBeyond {
        let mut seconds = SecondsBeyond { beyond: 0.0, answered: 0.0 };
        for slice in self.slices(target).filter(|s| s.max_us > 0) {
            seconds.answered += 1.0;
            if slice.max_us as f64 > us {
                seconds.beyond += 1.0;
            }
        }
        seconds
    }
}

struct SecondsBeyond {
    /// Seconds with a request beyond the limit.
    beyond: f64,
    /// Seconds with an answer.
    answered: f64,
}

fn median(values: impl Iterator<Item = u64>) -> f64 {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    let (Some(low), Some(high)) =
        (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2))
    else {
        return 0.0;
    };
    f64::midpoint(*low as f64, *high as f64)
}

/// The logarithm of `b / a`: how much a figure changed, as a factor.
pub(super) fn ln_ratio(a: f64, b: f64) -> f64 {
    (b.max(1e-9) / a.max(1e-9)).ln()
}

/// An estimated value or change, with its uncertainty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    /// A logarithm or a ratio of errors, or the difference of two.
    pub(super) difference: f64,
    /// The variance of `difference`.
    pub(super) variance: f64,
    /// The degrees of freedom of `variance`.
    pub(super) freedom: f64,
}

/// The trimmed mean of some batches and its uncertainty (Yuen). `share` is cut from each end. `None` if fewer
/// than three batches remain.
fn trimmed_mean(batches: &[f64], share: f64) -> Option<Estimate> {
    let n = batches.len();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a fifth of at most BATCHES_MAX"
    )]
    let cut = (share * n as f64).floor() as usize;
    let kept = n.checked_sub(2 * cut).filter(|kept| *kept >= 3)?;
    let mut sorted = batches.to_vec();
    sorted.sort_by(f64::total_cmp);
    let low = sorted[cut];
    let high = sorted[n - 1 - cut];
    let mean = sorted[cut..n - cut].iter().sum::<f64>() / kept as f64;

    // Batches that are cut count as the outermost that are kept.
    let winsorized: Vec<f64> = batches.iter().map(|v| v.clamp(low, high)).collect();
    let middle = winsorized.iter().sum::<f64>() / n as f64;
    let squares: f64 = winsorized.iter().map(|v| (v - middle).powi(2)).sum();
    let neighbours: f64 = winsorized.windows(2).map(|w| (w[0] - middle) * (w[1] - middle)).sum();
    // A short series underestimates its correlation; this adds about a third of what is missing.
    let correlation =
        if squares > 0.0 { (neighbours / squares + 1.0 / n as f64).clamp(0.0, 0.8) } else { 0.0 };
    let widened = (1.0 + correlation) / (1.0 - correlation);
    let kept = kept as f64;
    Some(Estimate {
        difference: mean,
        variance: squares * widened / (kept * (kept - 1.0)),
        freedom: kept - 1.0,
    })
}

/// How the typical second changed from A to B: a difference of logarithms, or of ratios of errors. `None` if
/// there are too few batches.
pub(super) fn typical_change(
    a: &JudgedRun,
    b: &JudgedRun,
    target: Option<usize>,
    metric: Metric,
) -> Option<Estimate> {
    // A burst of errors is a finding and must not be trimmed.
    let share = if metric == Metric::ErrorRatio { 0.0 } else { TRIMMED_SHARE };
    let a = trimmed_mean(&a.batches(target, metric), share)?;
    let b = trimmed_mean(&b.batches(target, metric), share)?;
    let variance = a.variance + b.variance;
    let freedom = if variance > 0.0 {
        variance.powi(2) / (a.variance.powi(2) / a.freedom + b.variance.powi(2) / b.freedom)
    } else {
        a.freedom + b.freedom
    };
    Some(Estimate { difference: b.difference - a.difference, variance, freedom })
}

/// The uncertainty of a percentile of a whole run, as the variance of its logarithm, from the percentiles
/// beside it. `None` if its slowest requests come from a handful of seconds.
pub(super) fn rank_variance(
    summary: &Summary,
    judged: &JudgedRun,
    series: Series,
    quantile: f64,
    value_us: f64,
) -> Option<f64> {
    let requests = summary.requests as f64;
    let beyond = requests * (1.0 - quantile);
    let independent = match series {
        Series::Beside => beyond,
        Series::Own(_) | Series::Among => {
            let seconds = judged.seconds_beyond(series.target(), value_us);
            let share = seconds.beyond / seconds.answered;
            // This many requests, thrown at random, would have hit this many different seconds.
            if seconds.beyond < seconds.answered {
                (-seconds.answered * (1.0 - share).ln()).min(beyond)
            } else {
                beyond
            }
        }
    };
    if independent < BEYOND_MIN {
        return None;
    }
    let effective = independent / (1.0 - quantile);
    let spread = (quantile * (1.0 - quantile) / effective).sqrt();
    let above = ln_at(summary, quantile + spread)?;
    let below = ln_at(summary, quantile - spread)?;
    Some((f64::midpoint(above, -below)).powi(2))
}

/// The logarithm of the latency at a quantile, interpolated between the points of the curve.
fn ln_at(summary: &Summary, quantile: f64) -> Option<f64> {
    let percentile = quantile * 100.0;
    let ln = |us: u64| (us.max(1) as f64).ln();
    let after = summary.curve.iter().position(|(p, _)| *p >= percentile)?;
    let (p1, us1) = summary.curve[after];
    let Some((p0, us0)) = after.checked_sub(1).map(|i| summary.curve[i]) else { return Some(ln(us1)) };
    let share = if p1 > p0 { (percentile - p0) / (p1 - p0) } else { 1.0 };
    Some(ln(us0) + share * (ln(us1) - ln(us0)))
}

/// The quantile of Student's t, by its expansion around the normal distribution (Abramowitz and Stegun 26.7.5).
/// The error is a few hundredths from four degrees of freedom on; below, the result is a little too small.
pub(super) fn student(p: f64, freedom: f64) -> f64 {
    let z = normal(p);
    let n = freedom.max(2.0);
    let z3 = z.powi(3);
    let z5 = z.powi(5);
    let z7 = z.powi(7);
    let z9 = z.powi(9);
    z + (z3 + z) / (4.0 * n)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3))
        + (79.0 * z9 + 776.0 * z7 + 1_482.0 * z5 - 1_920.0 * z3 - 945.0 * z) / (92_160.0 * n.powi(4))
}

/// The quantile of the normal distribution (Abramowitz and Stegun 26.2.23), within 0.00045, for `p` above a
/// half.
pub(super) fn normal(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).max(1e-300).ln()).sqrt();
    t - (2.515_517 + 0.802_853 * t + 0.010_328 * t * t)
        / (1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_printed_tables() {
        for (p, z) in [(0.975, 1.959_96), (0.999, 3.090_23), (0.999_5, 3.290_53)] {
            assert!((normal(p) - z).abs() < 0.000_5, "{p}");
        }
        for (p, n, t) in
            [(0.975, 4.0, 2.776), (0.975, 20.0, 2.086), (0.995, 10.0, 3.169), (0.999_5, 12.0, 4.318)]
        {
            assert!((student(p, n) - t).abs() < 0.03, "{p} {n}: {}", student(p, n));
        }
    }
}
