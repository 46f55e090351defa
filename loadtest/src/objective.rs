//! Objectives: `p99<5ms`, `errors<0.1%`, `check:p999<=20ms`, `rate>50000`.
//!
//! A percentile is two digits followed by decimals (`p50`, `p999` is 99.9), or has a decimal point (`p99.9`,
//! `p5.0`); `p100` is the maximum.
//!
//! Promises: an objective without a sample does not hold. Percentiles are over all answers; a time-out counts
//! as a latency of at least its length. Never rounds in favour of the deployment.

use thiserror::Error;

use crate::{
    record::{Cell, Grid, RequestKind},
    result::Objective,
};

/// An objective or a limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// The text as given.
    pub text: String,
    kind: Option<RequestKind>,
    metric: Metric,
    comparison: Comparison,
    /// Microseconds, a share, or requests a second.
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Mean,
    /// In ten thousandths: 9900 is p99.
    Quantile(u32),
    Max,
    Errors,
    Rate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// The text is not an objective.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not an objective. Write METRIC, one of < <= > >=, and a value: p99<5ms, errors<0.1%, rate>50000. \
     Metrics: mean p50 p90 p99 p999 p9999 max (with us, ms or s), errors (with %), rate (a second). A kind of \
     request may come first: check:p99<5ms"
)]
pub struct GoalError(String);

/// Parses an objective.
pub fn parse(text: &str) -> Result<Goal, GoalError> {
    goal(text).ok_or_else(|| GoalError(text.to_owned()))
}

fn goal(text: &str) -> Option<Goal> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (kind, rest) = match compact.split_once(':') {
        None => (None, compact.as_str()),
        Some((name, rest)) => (Some(RequestKind::ALL.into_iter().find(|kind| kind.name() == name)?), rest),
    };
    let at = rest.find(['<', '>'])?;
    let (name, rest) = rest.split_at(at);
    let (comparison, value) = match rest.as_bytes() {
        [b'<', b'=', ..] => (Comparison::AtMost, &rest[2..]),
        [b'>', b'=', ..] => (Comparison::AtLeast, &rest[2..]),
        [b'<', ..] => (Comparison::Less, &rest[1..]),
        _ => (Comparison::More, &rest[1..]),
    };
    let metric = match name {
        "mean" => Metric::Mean,
        "max" => Metric::Max,
        "errors" => Metric::Errors,
        "rate" => Metric::Rate,
        _ => percentile(name.strip_prefix('p')?)?,
    };
    let bound = match metric {
        Metric::Errors => number(value.strip_suffix('%')?)? / 100.0,
        Metric::Rate => crate::units::rate(value).ok()?,
        _ => {
            let (number_text, scale) = [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
                .into_iter()
                .find_map(|(unit, scale)| Some((value.strip_suffix(unit)?, scale)))?;
            number(number_text)? * scale
        }
    };
    Some(Goal { text: text.to_owned(), kind, metric, comparison, bound })
}

/// Parses `99`, `999`, `99.9` or `100`.
fn percentile(text: &str) -> Option<Metric> {
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) => (whole, decimals),
        None if text == "100" => (text, "00"),
        // Ambiguous: 100 % or 10 % with decimals?
        None if text.starts_with("100") => return None,
        None => text.split_at_checked(2)?,
    };
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let are_few = (1..=3).contains(&whole.len()) && decimals.len() <= 2;
    if !are_few || !are_digits(whole) || !are_digits(decimals) || text.ends_with('.') {
        return None;
    }
    match format!("{whole}{decimals:0<2}").parse().ok()? {
        10_000 => Some(Metric::Max),
        of_all @ 1..10_000 => Some(Metric::Quantile(of_all)),
        _ => None,
    }
}

fn number(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

impl Goal {
    /// Judges the counts of this many seconds.
    #[must_use]
    pub fn judge(&self, grid: &Grid, seconds: f64) -> Objective {
        let cell = match self.kind {
            None => grid.all(),
            Some(wanted) => {
                let of = grid.by_kind().into_iter().find(|(kind, _)| *kind == wanted);
                of.map(|(_, cell)| cell).unwrap_or_default()
            }
        };
        self.judge_cell(&cell, seconds)
    }

    fn judge_cell(&self, cell: &Cell, seconds: f64) -> Objective {
        let summary = cell.summary(seconds);
        let measured = match self.metric {
            Metric::Mean => summary.latency.mean,
            Metric::Quantile(q) => cell.quantile(f64::from(q) / 10_000.0) as f64,
            Metric::Max => summary.latency.max as f64,
            Metric::Errors => summary.errors as f64 / summary.requests.max(1) as f64,
            Metric::Rate => (summary.requests - summary.errors) as f64 / seconds.max(f64::MIN_POSITIVE),
        };
        let known = match self.metric {
            Metric::Errors => summary.requests > 0,
            Metric::Rate => true,
            // Without an answer there is no latency.
            _ => summary.latency.max > 0,
        };
        let holds = match self.comparison {
            Comparison::Less => measured < self.bound,
            Comparison::AtMost => measured <= self.bound,
            Comparison::More => measured > self.bound,
            Comparison::AtLeast => measured >= self.bound,
        };
        Objective { text: self.text.clone(), measured, held: known && holds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ErrorKind;

    #[test]
    fn objectives_are_parsed() {
        let goal = parse("p99<5ms").unwrap();
        assert_eq!(
            (goal.metric, goal.comparison, goal.bound),
            (Metric::Quantile(9900), Comparison::Less, 5000.0)
        );
        assert_eq!(parse("p99.9 <= 20us").unwrap().metric, Metric::Quantile(9990));
        for (text, metric) in [
            ("p50", Metric::Quantile(5000)),
            ("p999", Metric::Quantile(9990)),
            ("p9999", Metric::Quantile(9999)),
            ("p1.0", Metric::Quantile(100)),
            ("p9.99", Metric::Quantile(999)),
            ("p99.99", Metric::Quantile(9999)),
            ("p100", Metric::Max),
            ("p100.0", Metric::Max),
        ] {
            assert_eq!(parse(&format!("{text}<1s")).unwrap().metric, metric, "{text}");
        }
        let goal = parse("errors<0.1%").unwrap();
        assert!((goal.bound - 0.001).abs() < 1e-12);
        let goal = parse("check:rate>=2k").unwrap();
        assert_eq!((goal.kind, goal.bound), (Some(RequestKind::Check), 2000.0));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "p99",
            "p99<5",
            "p99=5ms",
            "errors<1",
            "p<5ms",
            "p9x<1ms",
            "max<-1ms",
            "who:p99<1ms",
            "rate>nan",
            "p99<infms",
            "p99999<1ms",
            "p5<1ms",
            "p101.0<1ms",
            "p1000<1ms",
            "p100.1<1ms",
            "p99.<1ms",
            "p99.9.9<1ms",
            "p00<1ms",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objectives_hold_up_to_their_bound() {
        let mut grid = Grid::new(1);
        for n in 1..=100_u64 {
            grid.cell(0, RequestKind::Validate).record(Some(n * 100_000), Some(200), None);
        }
        grid.cell(0, RequestKind::Login).record(None, None, Some(ErrorKind::Connect));
        let held = |text: &str| parse(text).unwrap().judge(&grid, 1.0).held;
        assert!(held("p50<5.1ms") && !held("p50<5ms") && held("max<=10.01ms"));
        assert!(held("errors<1%") && !held("errors<0.9%") && held("rate>=100") && !held("rate>100"));
        assert!(held("validate:errors<=0%") && !held("login:errors<99%"));
        assert!(!held("login:p99<1s"), "a latency without an answer");
        assert!(!held("check:errors<1%"), "no request");
    }
}
