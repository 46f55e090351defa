//! Formats a comparison as text for a terminal or a log.

use std::fmt::{self, Display, Formatter};

use crate::format::{count, digits};

use super::{Change, Comparison, Effect, Metric, Verdict};

/// `+12 %`, `−3.1 %`.
pub(super) fn relative(change: f64) -> String {
    let significant = if change.abs() < 0.1 { 2 } else { 3 };
    format!("{}{} %", sign(change), digits((change * 100.0).abs(), significant))
}

/// `+0.12`, `−3.1`: percentage points.
fn points(difference: f64) -> String {
    format!("{}{}", sign(difference), digits((difference * 100.0).abs(), 2))
}

fn sign(value: f64) -> &'static str {
    if value < 0.0 { "−" } else { "+" }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
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

impl Display for Effect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}  [{}, {}]", relative(self.change), relative(self.low), relative(self.high))
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        if let Some(why) = &self.refused {
            return writeln!(f, "\nNot compared: {why}.");
        }
        self.table(f)?;
        self.conclusion(f)
    }
}

impl Comparison {
    /// The two runs, their differences, and all warnings.
    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
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
        Ok(())
    }

    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut of = "";
        for change in &self.changes {
            if change.of != of {
                of = &change.of;
                writeln!(f, "\n{}", plain(of))?;
            }
            writeln!(
                f,
                "  {:<7} {:>12} → {:<12} {:<38} {}",
                change.metric.name(),
                change.metric.format(change.a),
                change.metric.format(change.b),
                change.effect_text(),
                change.verdict
            )?;
        }
        writeln!(f)
    }

    fn conclusion(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let worse = self.names_of(&[Verdict::Slower, Verdict::MoreErrors]);
        let better = self.names_of(&[Verdict::Faster, Verdict::FewerErrors]);
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

    fn names_of(&self, verdicts: &[Verdict]) -> Vec<String> {
        let wanted = self.changes.iter().filter(|change| verdicts.contains(&change.verdict));
        wanted.map(|change| format!("{} {}", plain(&change.of), change.metric.name())).collect()
    }
}

impl Change {
    fn effect_text(&self) -> String {
        match (&self.effect, self.metric) {
            (None, _) => String::new(),
            (Some(e), Metric::ErrorRatio) => {
                format!("{:>8}  [{}, {}] points", points(e.change), points(e.low), points(e.high))
            }
            (Some(effect), _) => effect.to_string(),
        }
    }
}

/// Text from a file, for a terminal: without control characters.
fn plain(foreign: &str) -> String {
    foreign.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
