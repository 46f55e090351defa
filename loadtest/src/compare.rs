//! What changed from one run to another, beyond what comes and goes by itself.
//!
//! How noise is judged. The seconds of a run are its repeated measurements, but neighbours resemble each other
//! (a garbage collection, a neighbour on the machine). So each run's seconds are put together into at most
//! twelve batches in order (*batch means*, as in the analysis of simulations), each batch the median of
//! its seconds, as a logarithm, because latencies differ by factors. The two sets of batches are compared by
//! *Yuen's test*: means without the highest and the lowest fifth, so that one stall is not taken for a change
//! of everything, with Welch's degrees of freedom, widened by what correlation is left between neighbouring
//! batches. Intervals are made for all comparisons together (Bonferroni): a table of forty lines does not
//! find two changes in nothing. No random numbers: the same two files always say the same.
//!
//! What has no series (p99.9; kinds of requests; revocations from node to node) is compared by the figures of
//! the whole run. Their noise is that of the order statistics, where requests that were slow in the same second
//! count as fewer (*declustering*, by how many different seconds hold the slowest), and that of the nearest
//! series on top.
//!
//! What it cannot know: how much two runs differ from each other because the machine does (clock, memory
//! layout, a neighbour for an hour). Changes below [`Metric::floor`] are therefore never called changes; who
//! needs finer answers runs A, B, A, B and compares each pair.
//!
//! Promises: wrong answers are never noise. Runs that cannot be compared are not.

mod noise;
mod say;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::report::words::{bottleneck, count, micros, node, percent, rate, span};
use crate::result::{Detail, Pair, Percentiles, RunResult, Summary};
use noise::{Estimate, Judged, ln_ratio, rank_variance, student, typical};
use say::relative;

/// Below so many seconds of data noise cannot be judged.
const MIN_SECONDS: usize = 5;
/// How often something is said to have changed when nothing did, over all lines together.
const ALPHA: f64 = 0.05;
/// Pairs of nodes: eight nodes have so many.
const MAX_PAIRS: usize = 64;
/// Requests beyond a percentile, below which it is an anecdote.
const MIN_BEYOND: f64 = 10.0;

/// What changed from A to B.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The run before.
    pub a: Side,
    /// The run after.
    pub b: Side,
    /// Why nothing is compared: the runs are of different things.
    pub refused: Option<String>,
    /// In what the two runs are not the same.
    pub differences: Vec<Difference>,
    /// What the reader has to know before believing the rest.
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
    /// Seconds that were judged: without a ramp and a second that was cut.
    pub seconds: usize,
    pub requests: u64,
    pub wrong: u64,
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Difference {
    pub what: &'static str,
    pub a: String,
    pub b: String,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Metric {
    /// Requests a second.
    Rate,
    /// Microseconds, as the two below.
    P50,
    P99,
    P999,
    /// From 0 to 1.
    ErrorRatio,
}

impl Metric {
    const ALL: [Self; 5] = [Self::Rate, Self::P50, Self::P99, Self::P999, Self::ErrorRatio];

    /// Below it nothing is called a change: two runs of the same thing on the same machine differ by so much.
    /// A share of the value before; for errors a difference of ratios.
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

    fn say(self, value: f64) -> String {
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
    /// `all`, `kind check`, `node 1 · 10.0.0.1:8080`.
    pub of: String,
    /// What is compared.
    pub metric: Metric,
    /// Of the whole run before.
    pub a: f64,
    /// Of the whole run after.
    pub b: f64,
    /// How much it changed, when that can be judged.
    pub effect: Option<Effect>,
    /// Whether that is beyond noise.
    pub verdict: Verdict,
}

/// How much something changed in the typical second: 0.1 is 10 % more than before; for errors the difference of
/// ratios.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Effect {
    /// The estimate.
    pub change: f64,
    /// It is not less than this…
    pub low: f64,
    /// …and not more than this, with a confidence that holds for all lines together.
    pub high: f64,
}

/// What is said of a change.
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
    /// Nothing that noise does not make.
    NoChange,
    /// And why.
    CannotBeJudged(String),
}

impl Comparison {
    /// Whether B is worse than A beyond noise, or gave more wrong answers. What could not be judged is not worse;
    /// runs that cannot be compared are, so that a script does not pass by comparing apples with pears.
    pub fn is_worse(&self) -> bool {
        self.refused.is_some()
            || self.b.wrong > self.a.wrong
            || self.changes.iter().any(|c| matches!(c.verdict, Verdict::Slower | Verdict::MoreErrors))
    }
}

/// Compares a run (`a`) with a later one (`b`).
pub fn compare(a: &RunResult, b: &RunResult) -> Comparison {
    let judged = (Judged::of(a), Judged::of(b));
    let side = |run: &RunResult, judged: &Judged| Side {
        scenario: run.scenario.clone(),
        version: run.version.clone(),
        started_at: run.started_at.clone(),
        targets: run.targets.len(),
        seconds: judged.seconds.len(),
        requests: run.total.requests,
        wrong: run.wrong_answers(),
    };
    let mut out = Comparison {
        a: side(a, &judged.0),
        b: side(b, &judged.1),
        refused: None,
        differences: differences(a, b),
        warnings: warnings(a, b, &judged.0, &judged.1),
        changes: Vec::new(),
    };
    for (what, same) in [
        ("scenarios", a.scenario == b.scenario),
        ("models of load (open, closed)", a.plan.model == b.plan.model),
    ] {
        if !same {
            out.refused = Some(format!(
                "the {what} differ: their figures do not mean the same, and whatever came out would mislead"
            ));
            return out;
        }
    }
    out.changes = changes(a, b, &judged.0, &judged.1);
    out
}

fn differences(a: &RunResult, b: &RunResult) -> Vec<Difference> {
    let facts = |run: &RunResult| {
        let plan = &run.plan;
        let faults: Vec<String> = run.faults.iter().map(|f| format!("{} {}", f.action, f.on)).collect();
        [
            ("scenario", run.scenario.clone()),
            ("model", plan.model.clone()),
            ("protocol", plan.protocol.clone()),
            ("nodes", run.targets.len().to_string()),
            ("rate", plan.rate.map_or_else(|| "as answers come".to_owned(), |r| format!("{}/s", rate(r)))),
            ("connections", plan.connections.to_string()),
            ("duration", span(plan.duration_s)),
            ("warm-up", span(plan.warm_up_s)),
            ("ramp", span(plan.ramp_s)),
            ("users", count(plan.users as u64)),
            ("kinds", run.by_kind.keys().cloned().collect::<Vec<_>>().join(", ")),
            ("faults", if faults.is_empty() { "none".into() } else { faults.join(", ") }),
            ("machine", format!("{}, {} cores, {}", run.machine.cpu, run.machine.cores, run.machine.os)),
            ("tool", run.version.clone()),
        ]
    };
    // What an older version did not say is no difference.
    let details = match (&a.plan.detail, &b.plan.detail) {
        (Some(a), Some(b)) => facts_of(a).into_iter().zip(facts_of(b)).collect(),
        _ => Vec::new(),
    };
    facts(a)
        .into_iter()
        .zip(facts(b))
        .chain(details)
        .filter(|((_, a), (_, b))| a != b)
        .map(|((what, a), (_, b))| Difference { what, a, b })
        .collect()
}

fn facts_of(detail: &Detail) -> [(&'static str, String); 8] {
    let Detail { revoked, forged, expired, .. } = detail;
    [
        ("requests at a time on a connection", detail.depth.to_string()),
        ("tokens a batch", detail.batch.map_or_else(|| "no batches".to_owned(), |n| n.to_string())),
        ("bad tokens", format!("{revoked} % revoked, {forged} % forged, {expired} % expired")),
        ("writes", detail.writes.clone()),
        ("zipf", detail.zipf.to_string()),
        ("sessions a user", detail.sessions.to_string()),
        ("tokens a session", detail.tokens.to_string()),
        ("time-out", span(detail.timeout_s)),
    ]
}

fn warnings(a: &RunResult, b: &RunResult, judged_a: &Judged, judged_b: &Judged) -> Vec<String> {
    let mut out = Vec::new();
    for (name, run, judged) in [("A", a, judged_a), ("B", b, judged_b)] {
        if judged.seconds.len() < MIN_SECONDS {
            out.push(format!(
                "{name} has {} seconds of data: noise cannot be judged with fewer than {MIN_SECONDS}",
                judged.seconds.len()
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
                "{name} is a search; the highest rate that held: {}. One search has no noise to judge it by",
                highest.map_or_else(|| "none".to_owned(), |r| format!("{}/s", rate(r)))
            ));
        }
    }
    if judged_a.seconds.len() >= MIN_SECONDS && judged_b.seconds.len() >= MIN_SECONDS {
        for metric in [Metric::P50, Metric::P99] {
            let typical = typical(judged_a, judged_b, None, metric).map_or(0.0, |t| t.difference);
            let whole = ln_ratio(metric.of(&a.total), metric.of(&b.total));
            if (whole - typical).abs() > 0.5 {
                out.push(format!(
                    "{} of the whole run changed by {}, that of the typical second by {}: a few seconds were far \
                     from the rest; look at the latency over time in the reports",
                    metric.name(),
                    relative(whole.exp_m1()),
                    relative(typical.exp_m1())
                ));
            }
        }
    }
    if a.pairs.len() > MAX_PAIRS {
        out.push(format!("of {} pairs of nodes only the first {MAX_PAIRS} are compared", a.pairs.len()));
    }
    if (a.total.errors == 0) != (b.total.errors == 0) {
        out.push(format!("errors: {} in A, {} in B", count(a.total.errors), count(b.total.errors)));
    }
    for objective in &b.objectives {
        let before = a.objectives.iter().find(|o| o.text == objective.text);
        if before.is_some_and(|o| o.held) && !objective.held {
            out.push(format!("{} held in A and does not in B", objective.text));
        }
    }
    out
}

/// Which summaries stand beside each other.
struct Pairing<'a> {
    of: String,
    a: &'a Summary,
    b: &'a Summary,
    series: Series,
}

/// What is known second by second of what is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    /// All of it: it is all requests, or a target's.
    Own(Option<usize>),
    /// That of all requests, among which these are.
    Among,
    /// Only that of requests at the same time: revocations take several.
    Beside,
}

impl Series {
    fn target(self) -> Option<usize> {
        match self {
            Self::Own(target) => target,
            Self::Among | Self::Beside => None,
        }
    }

    fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Own(_) | Self::Among => &Metric::ALL,
            Self::Beside => &[Metric::P50, Metric::P99],
        }
    }
}

fn changes(a: &RunResult, b: &RunResult, judged_a: &Judged, judged_b: &Judged) -> Vec<Change> {
    let mut pairings =
        vec![Pairing { of: "all".into(), a: &a.total, b: &b.total, series: Series::Own(None) }];
    let kinds: BTreeSet<&String> = a.by_kind.keys().filter(|k| b.by_kind.contains_key(*k)).collect();
    // A single kind is all over again.
    if a.by_kind.len() > 1 || b.by_kind.len() > 1 {
        pairings.extend(kinds.into_iter().map(|kind| Pairing {
            of: format!("kind {kind}"),
            a: &a.by_kind[kind],
            b: &b.by_kind[kind],
            series: Series::Among,
        }));
    }
    // With another number of nodes, the third is not the third.
    if a.targets.len() == b.targets.len() && a.targets.len() > 1 {
        pairings.extend(a.by_target.iter().zip(&b.by_target).enumerate().map(|(place, (a, of_b))| Pairing {
            of: format!("node {}", node(&b.targets, place)),
            a,
            b: of_b,
            series: Series::Own(Some(place)),
        }));
    }

    if a.targets.len() == b.targets.len() {
        let of_b = |pair: &Pair| b.pairs.iter().find(|p| (p.from, p.to) == (pair.from, pair.to));
        pairings.extend(a.pairs.iter().take(MAX_PAIRS).filter_map(|pair| {
            Some(Pairing {
                of: format!(
                    "revoked at node {}, refused at node {}",
                    node(&b.targets, pair.from),
                    node(&b.targets, pair.to)
                ),
                a: &pair.refused,
                b: &of_b(pair)?.refused,
                series: Series::Beside,
            })
        }));
    }

    let comparisons = pairings.iter().map(|p| p.series.metrics().len()).sum();
    let mut out = Vec::with_capacity(comparisons);
    for pairing in &pairings {
        for &metric in pairing.series.metrics() {
            let (before, after) = (metric.of(pairing.a), metric.of(pairing.b));
            let estimate = estimate(a, b, judged_a, judged_b, pairing, metric);
            let (effect, verdict) = match estimate {
                Err(why) => (None, Verdict::CannotBeJudged(why)),
                Ok(estimate) => judge(metric, estimate, comparisons),
            };
            out.push(Change { of: pairing.of.clone(), metric, a: before, b: after, effect, verdict });
        }
    }
    out
}

fn estimate(
    a: &RunResult,
    b: &RunResult,
    judged_a: &Judged,
    judged_b: &Judged,
    pairing: &Pairing,
    metric: Metric,
) -> Result<Estimate, String> {
    if judged_a.seconds.len() < MIN_SECONDS || judged_b.seconds.len() < MIN_SECONDS {
        return Err(format!("fewer than {MIN_SECONDS} seconds of data"));
    }
    let (of_a, of_b) = (pairing.a, pairing.b);
    for (name, summary) in [("A", of_a), ("B", of_b)] {
        if summary.requests == 0 {
            return Err(format!("no request in {name}"));
        }
    }
    let nearest = typical(judged_a, judged_b, pairing.series.target(), metric)
        .ok_or_else(|| "too few seconds with an answer".to_owned())?;
    if matches!(pairing.series, Series::Own(_)) && metric != Metric::P999 {
        return Ok(nearest);
    }

    // No series of its own: the figures of the whole run.
    let fewest = of_a.requests.min(of_b.requests) as f64;
    let too_few = || format!("too few requests ({})", count(of_a.requests.min(of_b.requests)));
    let (difference, own) = match metric.quantile() {
        Some(quantile) => {
            if fewest * (1.0 - quantile) < MIN_BEYOND {
                return Err(too_few());
            }
            let own = rank_variance(of_a, judged_a, pairing.series, quantile, metric.of(of_a))
                .and_then(|of_a| {
                    let of_b = rank_variance(of_b, judged_b, pairing.series, quantile, metric.of(of_b))?;
                    Some(of_a + of_b)
                })
                .ok_or_else(|| "the slowest requests fall into too few seconds".to_owned())?;
            (ln_ratio(metric.of(of_a), metric.of(of_b)), own)
        }
        None if metric == Metric::Rate => {
            if fewest < 100.0 {
                return Err(too_few());
            }
            let counted = 1.0 / of_a.requests as f64 + 1.0 / of_b.requests as f64;
            (ln_ratio(of_a.rate, of_b.rate), counted)
        }
        None => {
            if fewest < 100.0 {
                return Err(too_few());
            }
            let binomial = |s: &Summary| {
                let ratio = (s.errors as f64 + 1.0) / (s.requests as f64 + 2.0);
                ratio * (1.0 - ratio) / s.requests as f64
            };
            (metric.of(of_b) - metric.of(of_a), binomial(of_a) + binomial(of_b))
        }
    };
    // A few seconds that were far from the rest are in the whole run's figures. How far they moved those of all
    // requests is how far they may have moved these.
    let strayed = match (pairing.series, metric) {
        (Series::Own(_) | Series::Beside, _) | (_, Metric::ErrorRatio) => 0.0,
        (Series::Among, Metric::P999) => {
            ln_ratio(Metric::P99.of(&a.total), Metric::P99.of(&b.total)) - nearest.difference
        }
        (Series::Among, metric) => ln_ratio(metric.of(&a.total), metric.of(&b.total)) - nearest.difference,
    };
    Ok(Estimate { difference, variance: nearest.variance + own + strayed.powi(2), freedom: nearest.freedom })
}

fn judge(metric: Metric, estimate: Estimate, comparisons: usize) -> (Option<Effect>, Verdict) {
    let half =
        student(1.0 - ALPHA / comparisons.max(1) as f64 / 2.0, estimate.freedom) * estimate.variance.sqrt();
    if !(half.is_finite() && estimate.difference.is_finite()) {
        return (None, Verdict::CannotBeJudged("too much noise".into()));
    }
    let errors = metric == Metric::ErrorRatio;
    let of = |difference: f64| if errors { difference } else { difference.min(50.0).exp_m1() };
    let effect = Effect {
        change: of(estimate.difference),
        low: of(estimate.difference - half),
        high: of(estimate.difference + half),
    };
    let floor = if errors { metric.floor() } else { metric.floor().ln_1p() };
    let verdict = if estimate.difference.abs() < floor || estimate.difference.abs() <= half {
        Verdict::NoChange
    } else {
        match (metric, estimate.difference > 0.0) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Objective, Wrong, sample};

    fn verdict<'a>(comparison: &'a Comparison, of: &str, metric: Metric) -> &'a Verdict {
        &comparison.changes.iter().find(|c| c.of.starts_with(of) && c.metric == metric).unwrap().verdict
    }

    #[test]
    fn the_same_run_twice_has_not_changed() {
        for run in [sample::run(1, 60, 3, 1.0), sample::whole()] {
            let comparison = compare(&run, &run);
            assert!(!comparison.is_worse() && comparison.differences.is_empty());
            for change in &comparison.changes {
                assert!(
                    matches!(change.verdict, Verdict::NoChange | Verdict::CannotBeJudged(_)),
                    "{comparison}"
                );
            }
            assert_eq!(*verdict(&comparison, "all", Metric::P99), Verdict::NoChange);
        }
    }

    #[test]
    fn noise_alone_is_no_change() {
        for (seconds, targets) in [(8, 1), (20, 3), (60, 3), (300, 2)] {
            let quiet = (0..100_u64)
                .filter(|seed| {
                    let a = sample::run(2 * seed + 1, seconds, targets, 1.0);
                    let b = sample::run(2 * seed + 2, seconds, targets, 1.0);
                    let comparison = compare(&a, &b);
                    comparison
                        .changes
                        .iter()
                        .all(|c| matches!(c.verdict, Verdict::NoChange | Verdict::CannotBeJudged(_)))
                })
                .count();
            assert!(quiet >= 95, "{quiet} of 100 pairs of {seconds} seconds");
        }
    }

    #[test]
    fn a_third_more_latency_is_slower_and_back_is_faster() {
        for seed in 0..20 {
            let a = sample::run(seed, 60, 3, 1.0);
            let b = sample::run(seed + 100, 60, 3, 1.35);
            let slower = compare(&a, &b);
            let faster = compare(&b, &a);
            for of in ["all", "kind check", "kind validate", "node 2"] {
                for metric in [Metric::P50, Metric::P99] {
                    assert_eq!(*verdict(&slower, of, metric), Verdict::Slower, "{slower}");
                    assert_eq!(*verdict(&faster, of, metric), Verdict::Faster, "{faster}");
                }
            }
            assert_eq!(*verdict(&slower, "all", Metric::Rate), Verdict::NoChange, "{slower}");
            assert!(slower.is_worse() && !faster.is_worse());
            let effect = slower.changes.iter().find(|c| c.metric == Metric::P50).unwrap().effect.unwrap();
            assert!(effect.low > 0.2 && (effect.change - 0.35).abs() < 0.06, "{effect}");
        }
    }

    #[test]
    fn the_tail_alone_is_seen() {
        let a = sample::run(1, 120, 1, 1.0);
        let mut b = sample::run(2, 120, 1, 1.0);
        b.total.latency.p999 *= 3;
        for (percentile, us) in &mut b.total.curve {
            if *percentile > 99.5 {
                *us *= 3;
            }
        }
        for second in &mut b.seconds {
            second.all.max_us *= 3;
        }
        let comparison = compare(&a, &b);
        assert_eq!(*verdict(&comparison, "all", Metric::P999), Verdict::Slower, "{comparison}");
        assert_eq!(*verdict(&comparison, "all", Metric::P99), Verdict::NoChange, "{comparison}");
    }

    #[test]
    fn slower_revocations_from_node_to_node_are_seen() {
        let a = sample::whole();
        let mut b = sample::whole();
        for pair in b.pairs.iter_mut().filter(|p| p.from != p.to) {
            pair.refused.latency.p50 = pair.refused.latency.p50 * 3 / 2;
            for (_, us) in &mut pair.refused.curve {
                *us = *us * 3 / 2;
            }
        }
        let comparison = compare(&a, &b);
        let slower: Vec<_> = comparison.changes.iter().filter(|c| c.verdict == Verdict::Slower).collect();
        assert_eq!(slower.len(), 6, "{comparison}");
        assert!(slower.iter().all(|c| c.of.starts_with("revoked at node ")), "{comparison}");
    }

    #[test]
    fn fewer_requests_and_more_errors_are_seen() {
        let a = sample::run(1, 60, 2, 1.0);
        let mut b = sample::run(2, 60, 2, 1.0);
        for second in &mut b.seconds {
            second.all.requests = second.all.requests * 4 / 5;
            second.all.errors = second.all.requests / 200;
        }
        b.total.errors = b.total.requests / 200;
        let comparison = compare(&a, &b);
        assert_eq!(*verdict(&comparison, "all", Metric::Rate), Verdict::Slower);
        assert_eq!(*verdict(&comparison, "all", Metric::ErrorRatio), Verdict::MoreErrors);
        assert_eq!(*verdict(&compare(&b, &a), "all", Metric::Rate), Verdict::Faster);
        assert_eq!(*verdict(&compare(&b, &a), "all", Metric::ErrorRatio), Verdict::FewerErrors);
        assert!(comparison.to_string().contains("! errors: 0 in A"));
    }

    #[test]
    fn one_stall_is_said_but_not_called_a_change() {
        let a = sample::run(1, 60, 1, 1.0);
        let mut b = sample::run(2, 60, 1, 1.0);
        for second in &mut b.seconds[30..33] {
            second.all.p99_us = 3_000_000;
            second.all.max_us = 3_000_000;
        }
        b.total.latency.p99 = 900_000;
        let comparison = compare(&a, &b);
        assert!(!comparison.is_worse(), "{comparison}");
        assert!(comparison.to_string().contains("a few seconds were far from the rest"), "{comparison}");
    }

    #[test]
    fn short_runs_are_not_judged() {
        for seconds in [0, 1, 4] {
            let comparison = compare(&sample::run(1, seconds, 1, 1.0), &sample::run(2, 60, 1, 3.0));
            assert!(!comparison.is_worse());
            let said = comparison.to_string();
            assert!(
                said.contains("noise cannot be judged") && said.contains("Nothing could be judged"),
                "{said}"
            );
        }
        let comparison = compare(&sample::empty(), &sample::empty());
        assert!(comparison.to_string().contains("Nothing could be judged"));
    }

    #[test]
    fn other_plans_are_said_first() {
        let a = sample::run(1, 60, 3, 1.0);
        let mut b = sample::run(2, 60, 2, 1.0);
        b.plan.protocol = "h2c".into();
        b.plan.connections = 8;
        b.targets[0] = "http://elsewhere:1".into();
        let comparison = compare(&a, &b);
        let what: Vec<_> = comparison.differences.iter().map(|d| d.what).collect();
        assert_eq!(what, ["protocol", "nodes", "connections"]);
        assert!(comparison.changes.iter().all(|c| !c.of.starts_with("node")), "another number of nodes");
        let said = comparison.to_string();
        assert!(said.find("http1 → h2c").unwrap() < said.find("\nall\n").unwrap(), "{said}");
    }

    #[test]
    fn other_scenarios_are_not_compared() {
        let a = sample::run(1, 60, 3, 1.0);
        let mut b = sample::run(2, 60, 3, 1.0);
        b.scenario = "login\u{1b}[2J".into();
        let comparison = compare(&a, &b);
        assert!(comparison.refused.is_some() && comparison.changes.is_empty() && comparison.is_worse());
        let said = comparison.to_string();
        assert!(said.contains("Not compared") && !said.contains('\u{1b}'), "{said}");
        b.scenario = a.scenario.clone();
        b.plan.model = "closed".into();
        assert!(compare(&a, &b).refused.is_some());
    }

    #[test]
    fn a_wrong_answer_that_is_only_counted_is_one() {
        let a = sample::run(1, 60, 3, 1.0);
        let mut b = a.clone();
        b.total.errors_by_kind.insert("wrong".into(), 1_000);
        let found = compare(&a, &b);
        assert!(found.b.wrong == 1_000 && found.is_worse());
    }

    #[test]
    fn a_detail_that_differs_is_listed_when_both_say_it() {
        let a = sample::run(1, 60, 3, 1.0);
        let mut b = a.clone();
        if let Some(detail) = &mut b.plan.detail {
            (detail.zipf, detail.batch) = (1.0, Some(20));
        }
        let listed = |a: &RunResult, b: &RunResult| -> Vec<&str> {
            compare(a, b).differences.iter().map(|difference| difference.what).collect()
        };
        assert_eq!(listed(&a, &b), ["tokens a batch", "zipf"]);
        b.plan.detail = None;
        assert!(listed(&a, &b).is_empty());
    }

    #[test]
    fn a_wrong_answer_is_never_noise() {
        let a = sample::run(1, 60, 3, 1.0);
        let mut b = a.clone();
        b.wrong.push(Wrong { at_s: 1.0, target: 0, what: "200".into() });
        b.objectives.push(Objective { text: "p99<1ms".into(), measured: 1_900.0, held: false });
        let mut a = a;
        a.objectives.push(Objective { text: "p99<1ms".into(), measured: 900.0, held: true });
        let comparison = compare(&a, &b);
        assert!(comparison.is_worse() && !compare(&b, &a).is_worse());
        let said = comparison.to_string();
        assert!(said.contains("WRONG ANSWERS: 0 in A, 1 in B"), "{said}");
        assert!(said.contains("p99<1ms held in A and does not in B"), "{said}");
    }

    #[test]
    fn it_is_json_too() {
        let comparison = compare(&sample::run(1, 60, 3, 1.0), &sample::run(2, 60, 3, 1.4));
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["changes"][1]["metric"], "p50");
        assert_eq!(json["changes"][1]["verdict"], "slower");
    }

    /// To look at: `cargo test … comparison_to_look_at -- --nocapture`.
    #[test]
    fn comparison_to_look_at() {
        if let Ok(path) = std::env::var("SAMPLE_COMPARISON") {
            let mut b = sample::run(2, 60, 3, 1.3);
            b.plan.connections = 128;
            std::fs::write(path, compare(&sample::run(1, 60, 3, 1.0), &b).to_string()).unwrap();
        }
    }
}
