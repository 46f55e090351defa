//! The statistics of [`super`]: what a run's seconds say about how sure its figures are.

use crate::result::{RunResult, Second, Slice, Summary};

use super::{MIN_BEYOND, Metric, Series};

/// Of each run. With 12, what one line says at 95 % is wrong in 3 to 5 of 100 pairs of minutes whose neighbouring
/// seconds correlate by 0.5; with 20, in 6 to 8.
const BATCHES: usize = 12;
/// Cut from each end of the sorted batches.
const TRIMMED: f64 = 0.2;

/// The seconds of a run that are judged.
pub(super) struct Judged<'a> {
    pub(super) seconds: Vec<&'a Second>,
}

impl<'a> Judged<'a> {
    pub(super) fn of(run: &'a RunResult) -> Self {
        // What is late comes in after the end: those seconds have not a whole second's requests.
        let end = if run.search.is_empty() && run.plan.duration_s >= 1.0 {
            run.plan.duration_s + 0.001
        } else {
            f64::INFINITY
        };
        let whole = |s: &&Second| f64::from(s.at_s) >= run.plan.ramp_s && f64::from(s.at_s) + 1.0 <= end;
        let mut seconds: Vec<_> = run.seconds.iter().filter(whole).collect();
        if run.stopped.is_some() {
            // It ended somewhere within the last.
            seconds.pop();
        }
        Self { seconds }
    }

    /// The slices of all requests, or of one target's.
    fn slices(&self, target: Option<usize>) -> impl Iterator<Item = &'a Slice> {
        self.seconds.iter().filter_map(move |s| match target {
            None => Some(&s.all),
            Some(place) => s.by_target.get(place),
        })
    }

    /// The batches of a metric: logarithms, or ratios of errors.
    fn batches(&self, target: Option<usize>, metric: Metric) -> Vec<f64> {
        let slices: Vec<&Slice> = match metric {
            // A second without an answer has no latency.
            Metric::P50 | Metric::P99 | Metric::P999 => {
                self.slices(target).filter(|s| s.max_us > 0).collect()
            }
            Metric::Rate | Metric::ErrorRatio => self.slices(target).collect(),
        };
        // Single seconds resemble their neighbours too much, unless there are hardly any.
        let width = slices.len().div_ceil(BATCHES).max(if slices.len() < 10 { 1 } else { 2 });
        slices
            .chunks(width)
            // The rest of the division is too short to stand beside the others.
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

    /// In how many of the seconds a request was slower, and in how many there were answers.
    fn seconds_beyond(&self, target: Option<usize>, us: f64) -> (f64, f64) {
        let answered = self.slices(target).filter(|s| s.max_us > 0);
        answered.fold((0.0, 0.0), |(beyond, all), s| {
            (beyond + f64::from(u8::from(s.max_us as f64 > us)), all + 1.0)
        })
    }
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

pub(super) fn ln_ratio(a: f64, b: f64) -> f64 {
    (b.max(1e-9) / a.max(1e-9)).ln()
}

/// An estimate and how sure it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    /// Of logarithms, or of ratios of errors.
    pub(super) difference: f64,
    /// Of the difference.
    pub(super) variance: f64,
    /// Degrees of freedom of the variance.
    pub(super) freedom: f64,
}

/// Where the middle of some batches is, and how sure that is (Yuen).
fn trimmed(batches: &[f64], share: f64) -> Option<Estimate> {
    let n = batches.len();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fifth of at most BATCHES")]
    let cut = (share * n as f64).floor() as usize;
    let kept = n.checked_sub(2 * cut).filter(|kept| *kept >= 3)?;
    let mut sorted = batches.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[cut], sorted[n - 1 - cut]);
    let mean = sorted[cut..n - cut].iter().sum::<f64>() / kept as f64;

    // Those that are cut count as the outermost that are kept.
    let winsorized: Vec<f64> = batches.iter().map(|v| v.clamp(low, high)).collect();
    let middle = winsorized.iter().sum::<f64>() / n as f64;
    let squares: f64 = winsorized.iter().map(|v| (v - middle).powi(2)).sum();
    let neighbours: f64 = winsorized.windows(2).map(|w| (w[0] - middle) * (w[1] - middle)).sum();
    // Short series have their correlation estimated too low, by about a third of the way.
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

/// How the typical second changed: a difference of logarithms, or of ratios of errors.
pub(super) fn typical(a: &Judged, b: &Judged, target: Option<usize>, metric: Metric) -> Option<Estimate> {
    // A burst of errors is what is looked for, not what is to be overlooked.
    let share = if metric == Metric::ErrorRatio { 0.0 } else { TRIMMED };
    let a = trimmed(&a.batches(target, metric), share)?;
    let b = trimmed(&b.batches(target, metric), share)?;
    let variance = a.variance + b.variance;
    let freedom = if variance > 0.0 {
        variance.powi(2) / (a.variance.powi(2) / a.freedom + b.variance.powi(2) / b.freedom)
    } else {
        a.freedom + b.freedom
    };
    Some(Estimate { difference: b.difference - a.difference, variance, freedom })
}

/// How sure a percentile of a whole run is, as the variance of its logarithm: from the percentiles beside it.
/// `None` when its slowest requests come from a handful of seconds.
pub(super) fn rank_variance(
    summary: &Summary,
    judged: &Judged,
    series: Series,
    quantile: f64,
    value_us: f64,
) -> Option<f64> {
    let requests = summary.requests as f64;
    let beyond = requests * (1.0 - quantile);
    // So many, thrown at random, would have fallen into so many different seconds.
    let (held, seconds) = match series {
        Series::Beside => (1.0, 1.0),
        Series::Own(_) | Series::Among => judged.seconds_beyond(series.target(), value_us),
    };
    let independent =
        if held < seconds { (-seconds * (1.0 - held / seconds).ln()).min(beyond) } else { beyond };
    if independent < MIN_BEYOND {
        return None;
    }
    let effective = independent / (1.0 - quantile);
    let spread = (quantile * (1.0 - quantile) / effective).sqrt();
    let above = ln_at(summary, quantile + spread)?;
    let below = ln_at(summary, quantile - spread)?;
    Some((f64::midpoint(above, -below)).powi(2))
}

/// The logarithm of the latency at a quantile, between the points of the curve.
fn ln_at(summary: &Summary, quantile: f64) -> Option<f64> {
    let percentile = quantile * 100.0;
    let ln = |us: u64| (us.max(1) as f64).ln();
    let after = summary.curve.iter().position(|(p, _)| *p >= percentile)?;
    let (p1, us1) = summary.curve[after];
    let Some((p0, us0)) = after.checked_sub(1).map(|i| summary.curve[i]) else { return Some(ln(us1)) };
    let share = if p1 > p0 { (percentile - p0) / (p1 - p0) } else { 1.0 };
    Some(ln(us0) + share * (ln(us1) - ln(us0)))
}

/// The quantile of Student's t, by its expansion around the normal (Abramowitz and Stegun 26.7.5): within a few
/// hundredths from four degrees of freedom on, a little too small below.
pub(super) fn student(p: f64, freedom: f64) -> f64 {
    let z = normal(p);
    let n = freedom.max(2.0);
    let (z2, z3) = (z * z, z * z * z);
    let (z5, z7, z9) = (z3 * z2, z3 * z2 * z2, z3 * z3 * z3);
    z + (z3 + z) / (4.0 * n)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3))
        + (79.0 * z9 + 776.0 * z7 + 1_482.0 * z5 - 1_920.0 * z3 - 945.0 * z) / (92_160.0 * n.powi(4))
}

/// The quantile of the normal distribution (Abramowitz and Stegun 26.2.23), within 0.00045; `p` above a half.
pub(super) fn normal(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).max(1e-300).ln()).sqrt();
    t - (2.515_517 + 0.802_853 * t + 0.010_328 * t * t)
        / (1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
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
