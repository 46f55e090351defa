//! What was seen, beside what was to be.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::Size;

/// What was seen in a run.
#[derive(Debug)]
pub struct Report {
    line: String,
    began: Instant,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    line: String,
    what: String,
    seen: String,
    goal: String,
    /// `None` when there is no goal.
    met: Option<bool>,
}

impl Report {
    /// Says what is run on what.
    pub fn begin(size: Size) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let load = read("/proc/loadavg");
        println!(
            "{cores} cores ({}), load {} at the start",
            cpu.trim_matches([' ', ':', '\t']),
            load.split(' ').next().unwrap_or("unknown")
        );
        if cfg!(debug_assertions) {
            println!("WARNING: a debug build; the figures mean nothing (cargo bench builds a release)");
        } else {
            println!("release build");
        }
        if size.quick {
            println!("WARNING: --quick: numbers too small to prove anything");
        }
        Self { line: String::new(), began: Instant::now(), rows: Vec::new() }
    }

    /// Begins a line.
    pub fn line(&mut self, line: &str) {
        println!("\n== {line}");
        line.clone_into(&mut self.line);
        self.began = Instant::now();
    }

    /// Says what is being done.
    pub fn says(&self, what: impl fmt::Display) {
        println!("{:>6.1}s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// A figure that has no goal.
    pub fn notes(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        self.row(what.into(), seen.into(), String::new(), None);
    }

    /// A figure that has one.
    pub fn judges(
        &mut self,
        what: impl Into<String>,
        seen: impl Into<String>,
        goal: impl Into<String>,
        met: bool,
    ) {
        self.row(what.into(), seen.into(), goal.into(), Some(met));
    }

    fn row(&mut self, what: String, seen: String, goal: String, met: Option<bool>) {
        let verdict = match met {
            Some(true) => format!("   (goal {goal}: met)"),
            Some(false) => format!("   (goal {goal}: NOT MET)"),
            None => String::new(),
        };
        self.says(format!("{what}: {seen}{verdict}"));
        self.rows.push(Row { line: self.line.clone(), what, seen, goal, met });
    }

    /// The table; says whether every goal was met.
    pub fn show(&self) -> bool {
        println!();
        let cells = |row: &Row| {
            let met = match row.met {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "",
            };
            [row.line.clone(), row.what.clone(), row.seen.clone(), row.goal.clone(), met.to_owned()]
        };
        let head = ["line", "what", "seen", "goal", ""].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.rows.iter().map(cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3), width(4)];
        for row in &rows {
            let padded: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("{}", padded.join("  ").trim_end());
        }
        let missed = self.rows.iter().filter(|row| row.met == Some(false)).count();
        println!("{}", if missed == 0 { "all met".to_owned() } else { format!("{missed} not met") });
        missed == 0
    }
}

/// How long something took, many times.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Of these.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// So many percent took no longer.
    pub fn at(&self, percent: f64) -> Duration {
        let place = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        self.0.get(place.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default()
    }

    /// Half took no longer.
    pub fn p50(&self) -> Duration {
        self.at(50.0)
    }

    /// All but one in a hundred took no longer.
    pub fn p99(&self) -> Duration {
        self.at(99.0)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50(), self.p99(), self.max()];
        write!(f, "p50 {p50:.2?}  p99 {p99:.2?}  max {max:.2?}  of {}", self.0.len())
    }
}

/// The middle one, or what is between the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(at(half.wrapping_sub(1)), at(half)) } else { at(half) }
}
