//! A comparison in words, for a terminal or a log.

use std::fmt;

use crate::report::words::{count, digits};

use super::{Comparison, Effect, Metric, Verdict};

/// `+12 %`, `−3.1 %`.
pub(super) fn relative(change: f64) -> String {
    let sign = if change < 0.0 { "−" } else { "+" };
    format!("{sign}{} %", digits((change * 100.0).abs(), if change.abs() < 0.1 { 2 } else { 3 }))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faster => "faster",
            Self::Slower => "SLOWER",
            Self::FewerErrors => "fewer errors",
            Self::MoreErrors => "MORE ERRORS",
            Self::NoChange => "no change beyond noise",
            Self::CannotBeJudged(why) => return write!(f, "cannot be judged: {why}"),
        })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}  [{}, {}]", relative(self.change), relative(self.low), relative(self.high))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, side) in [("A", &self.a), ("B", &self.b)] {
            writeln!(
                f,
                "{name}  {}, {} nodes, {} requests, {} seconds judged, began {}",
                plain(&side.scenario),
                side.targets,
                count(side.requests),
                side.seconds,
                plain(&side.started_at)
            )?;
        }
        if !self.differences.is_empty() {
            writeln!(f, "\nNot the same in A and B:")?;
            for difference in &self.differences {
                writeln!(f, "  {:<12} {} → {}", difference.what, plain(&difference.a), plain(&difference.b))?;
            }
        }
        if self.a.wrong > 0 || self.b.wrong > 0 {
            writeln!(f, "\nWRONG ANSWERS: {} in A, {} in B", self.a.wrong, self.b.wrong)?;
        }
        if !self.warnings.is_empty() {
            writeln!(f)?;
        }
        for warning in &self.warnings {
            writeln!(f, "! {}", plain(warning))?;
        }
        if let Some(why) = &self.refused {
            return writeln!(f, "\nNot compared: {why}.");
        }

        let mut of = "";
        for change in &self.changes {
            if change.of != of {
                of = &change.of;
                writeln!(f, "\n{}", plain(of))?;
            }
            let effect = match (&change.effect, change.metric) {
                (None, _) => String::new(),
                (Some(e), Metric::ErrorRatio) => {
                    let points = |d: f64| {
                        format!("{}{}", if d < 0.0 { "−" } else { "+" }, digits((d * 100.0).abs(), 2))
                    };
                    format!("{:>8}  [{}, {}] points", points(e.change), points(e.low), points(e.high))
                }
                (Some(e), _) => e.to_string(),
            };
            writeln!(
                f,
                "  {:<7} {:>12} → {:<12} {effect:<38} {}",
                change.metric.name(),
                change.metric.say(change.a),
                change.metric.say(change.b),
                change.verdict
            )?;
        }
        writeln!(f)?;
        let which = |verdicts: &[Verdict]| {
            self.changes
                .iter()
                .filter(|c| verdicts.contains(&c.verdict))
                .map(|c| format!("{} {}", plain(&c.of), c.metric.name()))
                .collect::<Vec<_>>()
        };
        let worse = which(&[Verdict::Slower, Verdict::MoreErrors]);
        let better = which(&[Verdict::Faster, Verdict::FewerErrors]);
        let unknown = self.changes.iter().filter(|c| matches!(c.verdict, Verdict::CannotBeJudged(_))).count();
        if !worse.is_empty() {
            writeln!(f, "B is worse: {}.", worse.join(", "))?;
        }
        if !better.is_empty() {
            writeln!(f, "B is better: {}.", better.join(", "))?;
        }
        if unknown == self.changes.len() {
            writeln!(f, "Nothing could be judged.")?;
        } else if worse.is_empty() && better.is_empty() {
            writeln!(f, "Nothing changed beyond noise.")?;
        }
        Ok(())
    }
}

/// Foreign text in a terminal: without control characters.
fn plain(foreign: &str) -> String {
    foreign.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
