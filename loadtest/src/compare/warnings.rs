//! Warnings that a reader needs before trusting the rest of a comparison.

use crate::format::{bottleneck, count, rate};
use crate::result::RunResult;

use super::format::relative;
use super::noise::{JudgedRun, ln_ratio, typical_change};
use super::pairing::PAIRS_MAX;
use super::{Metric, SECONDS_MIN};

/// By how much the change of the whole run may differ from that of the typical second, as a logarithm, before
/// the reader is told.
const STRAY_MAX: f64 = 0.5;

/// The warnings about each run, then those about both.
pub(super) fn warnings(a: &JudgedRun, b: &JudgedRun) -> Vec<String> {
    let mut out = Vec::new();
    of_run("A", a, &mut out);
    of_run("B", b, &mut out);
    if a.seconds.len() >= SECONDS_MIN && b.seconds.len() >= SECONDS_MIN {
        out.extend([Metric::P50, Metric::P99].into_iter().filter_map(|metric| stray_seconds(a, b, metric)));
    }
    let a = a.run;
    let b = b.run;
    if a.pairs.len() > PAIRS_MAX {
        out.push(format!("of {} pairs of nodes only the first {PAIRS_MAX} are compared", a.pairs.len()));
    }
    if (a.total.errors == 0) != (b.total.errors == 0) {
        out.push(format!("errors: {} in A, {} in B", count(a.total.errors), count(b.total.errors)));
    }
    out.extend(lost_objectives(a, b));
    out
}

fn of_run(name: &str, judged: &JudgedRun, out: &mut Vec<String>) {
    let run = judged.run;
    let seconds = judged.seconds.len();
    if seconds < SECONDS_MIN {
        out.push(format!(
            "{name} has {seconds} seconds of data: noise cannot be judged with fewer than {SECONDS_MIN}"
        ));
    }
    if let Some(why) = &run.stopped {
        out.push(format!("{name} ended before its time: {why}"));
    }
    if let Some(note) = bottleneck(run) {
        out.push(format!("{name}: {note}"));
    }
    if !run.search.is_empty() {
        let highest = run.search.iter().filter(|s| s.held).map(|s| s.offered).reduce(f64::max);
        out.push(format!(
            "{name} is a search; the highest rate that held: {}. A single search says nothing about its own noise",
            highest.map_or_else(|| "none".to_owned(), |r| format!("{}/s", rate(r)))
        ));
    }
}

/// A warning if a few outlying seconds moved the percentile of the whole run away from that of the typical
/// second.
fn stray_seconds(a: &JudgedRun, b: &JudgedRun, metric: Metric) -> Option<String> {
    let typical = typical_change(a, b, None, metric).map_or(0.0, |t| t.difference);
    let whole = ln_ratio(metric.of(&a.run.total), metric.of(&b.run.total));
    ((whole - typical).abs() > STRAY_MAX).then(|| {
        format!(
            "{} of the whole run changed by {}, that of the typical second by {}: a few seconds were far from the \
             rest; look at the latency over time in the reports",
            metric.name(),
            relative(whole.exp_m1()),
            relative(typical.exp_m1())
        )
    })
}

fn lost_objectives(a: &RunResult, b: &RunResult) -> impl Iterator<Item = String> {
    b.objectives.iter().filter(|objective| !objective.held).filter_map(|objective| {
        let before = a.objectives.iter().find(|o| o.text == objective.text);
        before.is_some_and(|o| o.held).then(|| format!("{} held in A and does not in B", objective.text))
    })
}
