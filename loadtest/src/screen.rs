//! The progress of a run: a few lines that are redrawn in place on a terminal, and plain lines elsewhere.
//!
//! Promises: from [`Screen::start`] to [`Screen::end`] nothing else writes to stdout or stderr. The screen
//! writes to stderr only: stdout is for scripts. A closed pipe or terminal ends nothing. Plain lines have
//! stable columns; there is one a second for the first minute, then one every ten seconds.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::format::{count, micros, node_name, percent, rate, span, truncate};
use crate::live::Live;
use crate::result::{Plan, Slice};

/// Nodes with a line of their own at most.
const NODES_MAX: usize = 8;
/// Kinds of errors that are named at most.
const ERROR_KINDS_MAX: usize = 4;
/// Characters of a note at most.
const NOTE_CHARS_MAX: usize = 240;
/// Notes in a second at most: a faulty node gives thousands of wrong answers.
const NOTES_PER_SECOND_MAX: u64 = 10;
/// How long there is a plain line every second; then there is one every ten seconds.
const LINE_A_SECOND_MAX: Duration = Duration::from_secs(60);

/// The display of a run in progress.
pub struct Screen {
    output: Output,
    targets: Vec<String>,
    plain: Plain,
    /// The last note of a snapshot. A note is shown when it changes.
    last_note: Option<String>,
    /// Notes since the last second, shown or not.
    notes: u64,
}

enum Output {
    Drawn(Box<Drawn>),
    Plain,
}

/// Lines that are redrawn in place.
struct Drawn {
    all: MultiProgress,
    /// The progress bar.
    time: ProgressBar,
    now: ProgressBar,
    total: ProgressBar,
    nodes: Vec<ProgressBar>,
    errors: ProgressBar,
    colours: bool,
}

/// The state of plain output.
#[derive(Default)]
struct Plain {
    measured: Option<bool>,
    /// The second of the last line of this phase.
    last_s: Option<u64>,
}

impl Screen {
    /// Shows the plan of the run.
    pub fn start(scenario: &str, plan: &Plan, targets: &[String]) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let output = if stderr().is_terminal() && !dumb {
            Output::Drawn(Box::new(Drawn::new(ProgressDrawTarget::stderr(), targets)))
        } else {
            Output::Plain
        };
        let mut screen =
            Self { output, targets: targets.to_vec(), plain: Plain::default(), last_note: None, notes: 0 };
        screen.line(&headline(scenario, plan, targets.len()));
        screen
    }

    /// Shows a snapshot. Call this once a second.
    pub fn tick(&mut self, live: &Live) {
        self.count_notes();
        if live.note != self.last_note {
            self.last_note.clone_from(&live.note);
            if let Some(note) = &live.note {
                self.line(&format!("  · {}", clean(note)));
            }
        }
        match &self.output {
            Output::Drawn(drawn) => drawn.show(live, &self.targets),
            Output::Plain => {
                for line in self.plain.lines(live, &self.targets) {
                    self.line(&line);
                }
            }
        }
    }

    /// Prints a line that stays: a fault, a wrong answer. Beyond [`NOTES_PER_SECOND_MAX`] in a second they are
    /// only counted.
    pub fn note(&mut self, what: &str) {
        self.notes += 1;
        if self.notes <= NOTES_PER_SECOND_MAX {
            self.line(&format!("  ! {}", clean(what)));
        }
    }

    fn count_notes(&mut self) {
        let hidden = std::mem::take(&mut self.notes).saturating_sub(NOTES_PER_SECOND_MAX);
        if hidden > 0 {
            self.line(&format!("  ! and {} more in this second", count(hidden)));
        }
    }

    /// Leaves the last lines standing and restores the terminal.
    pub fn end(mut self) {
        self.count_notes();
        if let Output::Drawn(drawn) = self.output {
            drawn.end();
        }
    }

    fn line(&mut self, line: &str) {
        match &self.output {
            Output::Drawn(drawn) => {
                // If the terminal is gone, there is no one to tell.
                let _ = drawn.all.println(line);
            }
            Output::Plain => {
                let _ = writeln!(stderr().lock(), "{line}");
            }
        }
    }
}

/// A foreign text on one line, without control characters, of bounded length.
fn clean(foreign: &str) -> String {
    truncate(foreign, NOTE_CHARS_MAX).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn headline(scenario: &str, plan: &Plan, targets: usize) -> String {
    let drive = match plan.rate {
        Some(at) => format!("{}/s, {} model", rate(at), plan.model),
        None => format!("as fast as answers come, {} model", plan.model),
    };
    format!(
        "{}: {targets} node{}, {drive}, {} connections, {}, {} after {} of warm-up",
        clean(scenario),
        if targets == 1 { "" } else { "s" },
        count(plan.connections as u64),
        plan.protocol,
        span(plan.duration_s),
        span(plan.warm_up_s)
    )
}

/// A time as `0:42`.
fn clock(time: Duration) -> String {
    let s = time.as_secs();
    if s < 3_600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
    }
}

/// The columns that plain lines and drawn lines share.
fn columns(slice: &Slice) -> String {
    let time = |us: u64| if slice.max_us == 0 { "-".to_owned() } else { micros(us as f64) };
    format!(
        "{:>9}/s  p50 {:>7}  p99 {:>7}  max {:>7}  errors {:>5}",
        count(slice.requests),
        time(slice.p50_us),
        time(slice.p99_us),
        time(slice.max_us),
        count(slice.errors)
    )
}

fn errors(live: &Live) -> String {
    let mut sorted: Vec<_> = live.total.by_error.iter().filter(|e| e.1 > 0).collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut out = String::new();
    for (kind, n) in sorted.iter().take(ERROR_KINDS_MAX) {
        let _ = write!(
            out,
            "{}{} {}",
            if out.is_empty() { "" } else { ", " },
            clean(&truncate(kind, 32)),
            count(*n)
        );
    }
    if sorted.len() > ERROR_KINDS_MAX {
        let _ = write!(out, ", {} more kinds", sorted.len() - ERROR_KINDS_MAX);
    }
    out
}

impl Plain {
    /// The lines of this snapshot; none if it is too early for the next one.
    fn lines(&mut self, live: &Live, targets: &[String]) -> Vec<String> {
        let mut out = Vec::new();
        if self.measured != Some(live.measured) {
            self.measured = Some(live.measured);
            self.last_s = None;
        }
        let now = live.elapsed.as_secs();
        let every = if live.elapsed <= LINE_A_SECOND_MAX { 1 } else { 10 };
        let last = live.elapsed + Duration::from_secs(1) > live.planned;
        if self.last_s.is_some_and(|last| now < last + every) && !last {
            return out;
        }
        self.last_s = Some(now);
        let phase = if live.measured { "run " } else { "warm" };
        let mut line = format!("{phase} {:>8}  {}", clock(live.elapsed), columns(&live.second.all));
        if live.wrong > 0 {
            let _ = write!(line, "  WRONG ANSWERS {}", count(live.wrong));
        }
        out.push(line);
        // The nodes that fail or are silent.
        let slices = &live.second.by_target;
        if targets.len() > 1 && slices.iter().any(|s| s.errors > 0 || s.requests == 0) {
            out.extend(
                slices
                    .iter()
                    .enumerate()
                    .filter(|(_, s)| s.errors > 0 || s.requests == 0)
                    .take(NODES_MAX)
                    .map(|(place, slice)| {
                        format!("     {:>8}  {}  {}", "", columns(slice), clean(&node_name(targets, place)))
                    }),
            );
        }
        if live.second.all.errors > 0 {
            let kinds = errors(live);
            if !kinds.is_empty() {
                out.push(format!("     {:>8}  errors so far: {kinds}", ""));
            }
        }
        out
    }
}

/// The style of a template. Templates are constants; an invalid one would be drawn as a bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drawn {
    fn new(target: ProgressDrawTarget, targets: &[String]) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let plain = style("  {wide_msg}");
        let line = || all.add(ProgressBar::new(1).with_style(plain.clone()));
        let time = all.add(
            ProgressBar::new(1)
                .with_style(style("  {prefix} {bar:28.cyan/dim} {wide_msg}").progress_chars("━━╌")),
        );
        let now = line();
        let total = line();
        let nodes = if targets.len() > 1 {
            (0..targets.len().min(NODES_MAX) + usize::from(targets.len() > NODES_MAX))
                .map(|_| line())
                .collect()
        } else {
            Vec::new()
        };
        let errors = line();
        // https://no-color.org
        let colours = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { all, time, now, total, nodes, errors, colours }
    }

    fn show(&self, live: &Live, targets: &[String]) {
        self.time.set_length(u64::try_from(live.planned.as_millis()).unwrap_or(u64::MAX).max(1));
        self.time.set_position(u64::try_from(live.elapsed.min(live.planned).as_millis()).unwrap_or(u64::MAX));
        self.time.set_prefix(if live.measured { "measuring " } else { "warming up" });
        self.time.set_message(format!("{} of {}", clock(live.elapsed), clock(live.planned)));
        self.now.set_message(format!("{}     {}", self.paint("1", "now "), columns(&live.second.all)));
        let total = &live.total;
        self.total.set_message(format!(
            "{}  {:>9}/s  p50 {:>7}  p99 {:>7}  max {:>7}  p99.9 {:>7}  p90 {}",
            self.paint("1", "in all "),
            rate(total.rate),
            micros(total.p50_us as f64),
            micros(total.p99_us as f64),
            micros(total.max_us as f64),
            micros(total.p999_us as f64),
            micros(total.p90_us as f64)
        ));
        for (place, bar) in self.nodes.iter().enumerate() {
            bar.set_message(match live.second.by_target.get(place) {
                _ if place == NODES_MAX => format!("         and {} more nodes", targets.len() - NODES_MAX),
                // The number comes first: a narrow terminal cuts the end.
                Some(slice) => {
                    let host = node_name(targets, place);
                    let host = host.split_once(" · ").map_or("", |(_, host)| host);
                    format!("node {:<3} {}  {}", place + 1, columns(slice), clean(host))
                }
                None => format!("node {:<3} -", place + 1),
            });
        }
        let ratio = total.errors as f64 / total.requests.max(1) as f64;
        let mut line = match total.errors {
            0 => format!("{} requests, no errors", count(total.requests)),
            n => {
                let many = self.paint("33", &format!("{} errors ({})", count(n), percent(ratio)));
                format!("{} requests, {many}: {}", count(total.requests), errors(live))
            }
        };
        if live.wrong > 0 {
            // This comes first: a narrow terminal cuts the end.
            let loud = self.paint("1;31", &format!("WRONG ANSWERS: {}", count(live.wrong)));
            line = format!("{loud}   {line}");
        }
        self.errors.set_message(line);
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn end(&self) {
        for bar in [&self.time, &self.now, &self.total].into_iter().chain(&self.nodes).chain([&self.errors]) {
            bar.abandon();
        }
        // The cursor is at the end of the last line.
        if !self.all.is_hidden() {
            let _ = writeln!(stderr().lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Total;
    use crate::result::{Second, sample};

    fn live(elapsed_s: u64, failing: bool) -> Live {
        let run = sample::run(5, 2, 3, 1.0);
        let mut second: Second = run.seconds[1].clone();
        if failing {
            second.all.errors = 160;
            second.by_target[1] = Slice { requests: 160, errors: 160, ..Slice::default() };
        }
        Live {
            elapsed: Duration::from_secs(elapsed_s),
            planned: Duration::from_secs(300),
            measured: true,
            second,
            total: Total {
                requests: 4_496_859,
                errors: if failing { 1_920 } else { 0 },
                rate: 49_965.1,
                p50_us: 297,
                p90_us: 800,
                p99_us: 1_500,
                p999_us: 2_720,
                max_us: 14_200,
                by_error: vec![
                    ("status 503".into(), 220),
                    ("connect".into(), 1_700),
                    ("a\u{1b}[2Jb".into(), 1),
                    ("c".into(), 1),
                    ("d".into(), 1),
                    ("none".into(), 0),
                ],
            },
            wrong: u64::from(failing) * 2,
            note: None,
        }
    }

    fn lines(plain: &mut Plain, live: &Live) -> Vec<String> {
        plain.lines(live, &sample::run(5, 2, 3, 1.0).targets)
    }

    #[test]
    fn plain_lines_become_rarer_after_a_minute() {
        let mut plain = Plain::default();
        let shown: Vec<u64> = (1..=300).filter(|s| !lines(&mut plain, &live(*s, false)).is_empty()).collect();
        assert_eq!(shown[..60], (1..=60).collect::<Vec<_>>());
        assert_eq!(shown[60..], (7..=30).map(|s| s * 10).collect::<Vec<_>>());
    }

    #[test]
    fn measured_part_begins_with_a_line() {
        let mut plain = Plain::default();
        let mut warm = live(100, false);
        warm.measured = false;
        assert!(lines(&mut plain, &warm)[0].starts_with("warm     1:40  "));
        assert!(lines(&mut plain, &live(1, false))[0].starts_with("run      0:01  "));
    }

    #[test]
    fn columns_are_stable() {
        let shown = lines(&mut Plain::default(), &live(1, true));
        assert_eq!(shown.len(), 3, "{shown:#?}");
        let at = |line: &str| line.find("p50").unwrap();
        assert_eq!(at(&shown[0]), at(&shown[1]));
        assert!(shown[0].ends_with("WRONG ANSWERS 2"));
        assert!(shown[1].contains("p99       -") && shown[1].ends_with("2 · 10.0.0.2:8080"), "{}", shown[1]);
        assert!(
            shown[2].ends_with("connect 1,700, status 503 220, a [2Jb 1, c 1, 1 more kinds"),
            "{}",
            shown[2]
        );
    }

    #[test]
    fn hidden_screen_does_its_work() {
        let live = live(3, true);
        for targets in [0, 1, 3, 20] {
            let targets = vec!["http://somewhere:1".to_owned(); targets];
            let drawn = Drawn::new(ProgressDrawTarget::hidden(), &targets);
            drawn.show(&live, &targets);
            drawn.end();
        }
    }

    /// To look at in a terminal: `SCREEN=1 cargo test … screen_to_look_at -- --nocapture`.
    #[test]
    fn screen_to_look_at() {
        if std::env::var_os("SCREEN").is_none() {
            return;
        }
        // After the output of the test runner.
        let _ = writeln!(stderr().lock());
        let run = sample::whole();
        let mut screen = Screen::start("mixed", &run.plan, &run.targets);
        for s in 1..6 {
            screen.tick(&live(s * 50, s > 3));
            if s == 4 {
                (0..12).for_each(|_| screen.note("node 2: kill"));
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
        screen.end();
    }
}
