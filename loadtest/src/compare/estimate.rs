//! How much a metric changed and how uncertain that is: from the pairing's own series where it has one, else
//! from the figures of the whole run.

use crate::format::count;
use crate::result::Summary;

use super::noise::{Estimate, JudgedRun, ln_ratio, rank_variance, typical_change};
use super::pairing::{Pairing, Series};
use super::{BEYOND_MIN, Metric, SECONDS_MIN};

/// Without a series, the fewest requests from which a rate or a ratio of errors is judged.
const COUNTED_MIN: u64 = 100;

/// The change of `metric` from A to B, or the reason why it cannot be judged.
pub(super) fn estimate(
    a: &JudgedRun,
    b: &JudgedRun,
    pairing: &Pairing,
    metric: Metric,
) -> Result<Estimate, String> {
    if a.seconds.len() < SECONDS_MIN || b.seconds.len() < SECONDS_MIN {
        return Err(format!("fewer than {SECONDS_MIN} seconds of data"));
    }
    for (name, summary) in [("A", pairing.a), ("B", pairing.b)] {
        if summary.requests == 0 {
            return Err(format!("no request in {name}"));
        }
    }
    let nearest = typical_change(a, b, pairing.series.target(), metric)
        .ok_or_else(|| "too few seconds with an answer".to_owned())?;
    if matches!(pairing.series, Series::Own(_)) && metric != Metric::P999 {
        return Ok(nearest);
    }
    let whole = of_whole_run(a, b, pairing, metric)?;
    let stray = stray(a, b, pairing.series, metric, nearest.difference);
    Ok(Estimate {
        difference: whole.difference,
        variance: nearest.variance + whole.variance + stray.powi(2),
        freedom: nearest.freedom,
    })
}

/// A change between the figures of whole runs.
struct WholeRunChange {
    /// A difference of logarithms, or of ratios of errors.
    difference: f64,
    /// The variance of the difference that is due to the number of requests alone.
    variance: f64,
}

fn of_whole_run(
    a: &JudgedRun,
    b: &JudgedRun,
    pairing: &Pairing,
    metric: Metric,
) -> Result<WholeRunChange, String> {
    let of_a = pairing.a;
    let of_b = pairing.b;
    let fewest = of_a.requests.min(of_b.requests);
    let too_few = || format!("too few requests ({})", count(fewest));
    if let Some(quantile) = metric.quantile() {
        if fewest as f64 * (1.0 - quantile) < BEYOND_MIN {
            return Err(too_few());
        }
        let variance = rank_variance(of_a, a, pairing.series, quantile, metric.of(of_a))
            .zip(rank_variance(of_b, b, pairing.series, quantile, metric.of(of_b)))
            .map(|(of_a, of_b)| of_a + of_b)
            .ok_or_else(|| "the slowest requests fall into too few seconds".to_owned())?;
        return Ok(WholeRunChange { difference: ln_ratio(metric.of(of_a), metric.of(of_b)), variance });
    }
    if fewest < COUNTED_MIN {
        return Err(too_few());
    }
    Ok(if metric == Metric::Rate {
        WholeRunChange {
            difference: ln_ratio(of_a.rate, of_b.rate),
            variance: 1.0 / of_a.requests as f64 + 1.0 / of_b.requests as f64,
        }
    } else {
        WholeRunChange {
            difference: metric.of(of_b) - metric.of(of_a),
            variance: binomial_variance(of_a) + binomial_variance(of_b),
        }
    })
}

/// The variance of a ratio of errors.
fn binomial_variance(summary: &Summary) -> f64 {
    let requests = summary.requests as f64;
    let ratio = (summary.errors as f64 + 1.0) / (requests + 2.0);
    ratio * (1.0 - ratio) / requests
}

/// How far a few outlying seconds may have moved the figures of the whole run. The estimate is how far they
/// moved those of all requests. `typical`: the change of the typical second.
fn stray(a: &JudgedRun, b: &JudgedRun, series: Series, metric: Metric, typical: f64) -> f64 {
    let metric = match (series, metric) {
        (Series::Own(_) | Series::Beside, _) | (_, Metric::ErrorRatio) => return 0.0,
        // Seconds have no p99.9.
        (Series::Among, Metric::P999) => Metric::P99,
        (Series::Among, metric) => metric,
    };
    ln_ratio(metric.of(&a.run.total), metric.of(&b.run.total)) - typical
}
