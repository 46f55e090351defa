//! What is seen while a run goes on: a few lines redrawn in place on a terminal, plain lines elsewhere.
//!
//! Promises: it is the only one that writes to stdout or stderr from [`Screen::start`] to [`Screen::end`], and
//! it writes to stderr only: stdout is for what a script reads. A closed pipe or a terminal that is gone ends
//! nothing. Plain lines have stable columns, one a second for the first minute, then one in ten.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::live::Live;
use crate::report::words::{count, micros, node, percent, rate, short, span};
use crate::result::{Plan, Slice};

/// Nodes with a line of their own.
const MAX_NODES: usize = 8;
/// Kinds of errors that are named.
const MAX_ERRORS: usize = 4;
/// Of a note.
const MAX_NOTE: usize = 240;
/// Notes in a second: a node that answers wrongly does so thousands of times.
const MAX_NOTES: u64 = 10;
/// Plain lines come every second until here, then every ten seconds.
const EVERY_SECOND: Duration = Duration::from_secs(60);

/// What is seen while a run goes on.
pub struct Screen {
    how: How,
    targets: Vec<String>,
    plain: Plain,
    /// The last note of a snapshot: said when it changes.
    noted: Option<String>,
    /// Notes since the last second, said and not said.
    notes: u64,
}

enum How {
    Drawn(Box<Drawn>),
    Plain,
}

/// Redrawn in place.
struct Drawn {
    all: MultiProgress,
    /// How far it is.
    time: ProgressBar,
    now: ProgressBar,
    total: ProgressBar,
    nodes: Vec<ProgressBar>,
    errors: ProgressBar,
    colours: bool,
}

/// What was said in lines until now.
#[derive(Default)]
struct Plain {
    measured: Option<bool>,
    /// The second of the last line of this phase.
    said: Option<u64>,
}

impl Screen {
    /// Says what will be driven, and makes room.
    pub fn start(scenario: &str, plan: &Plan, targets: &[String]) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let how = if stderr().is_terminal() && !dumb {
            How::Drawn(Box::new(Drawn::new(ProgressDrawTarget::stderr(), targets)))
        } else {
            How::Plain
        };
        let mut screen =
            Self { how, targets: targets.to_vec(), plain: Plain::default(), noted: None, notes: 0 };
        screen.line(&headline(scenario, plan, targets.len()));
        screen
    }

    /// Shows a second. To be called once a second.
    pub fn tick(&mut self, live: &Live) {
        self.count_notes();
        if live.note != self.noted {
            self.noted.clone_from(&live.note);
            if let Some(note) = &live.note {
                self.line(&format!("  · {}", clean(note)));
            }
        }
        match &self.how {
            How::Drawn(drawn) => drawn.show(live, &self.targets),
            How::Plain => {
                for line in self.plain.lines(live, &self.targets) {
                    self.line(&line);
                }
            }
        }
    }

    /// Says something that stays: a fault, a wrong answer. Beyond [`MAX_NOTES`] in a second they are counted.
    pub fn note(&mut self, what: &str) {
        self.notes += 1;
        if self.notes <= MAX_NOTES {
            self.line(&format!("  ! {}", clean(what)));
        }
    }

    fn count_notes(&mut self) {
        let unsaid = std::mem::take(&mut self.notes).saturating_sub(MAX_NOTES);
        if unsaid > 0 {
            self.line(&format!("  ! and {} more in this second", count(unsaid)));
        }
    }

    /// Leaves the terminal as it was, with the last lines standing.
    pub fn end(mut self) {
        self.count_notes();
        if let How::Drawn(drawn) = self.how {
            drawn.end();
        }
    }

    fn line(&mut self, line: &str) {
        match &self.how {
            How::Drawn(drawn) => {
                // Nobody is left to be told when the terminal is gone.
                let _ = drawn.all.println(line);
            }
            How::Plain => {
                let _ = writeln!(stderr().lock(), "{line}");
            }
        }
    }
}

/// One line, no control characters, of bounded length.
fn clean(foreign: &str) -> String {
    short(foreign, MAX_NOTE).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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

/// `0:42`.
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
    for (kind, n) in sorted.iter().take(MAX_ERRORS) {
        let _ = write!(
            out,
            "{}{} {}",
            if out.is_empty() { "" } else { ", " },
            clean(&short(kind, 32)),
            count(*n)
        );
    }
    if sorted.len() > MAX_ERRORS {
        let _ = write!(out, ", {} more kinds", sorted.len() - MAX_ERRORS);
    }
    out
}

impl Plain {
    /// The lines of this snapshot: none, when one was said a moment ago.
    fn lines(&mut self, live: &Live, targets: &[String]) -> Vec<String> {
        let mut out = Vec::new();
        if self.measured != Some(live.measured) {
            self.measured = Some(live.measured);
            self.said = None;
        }
        let now = live.elapsed.as_secs();
        let every = if live.elapsed <= EVERY_SECOND { 1 } else { 10 };
        let last = live.elapsed + Duration::from_secs(1) > live.planned;
        if self.said.is_some_and(|said| now < said + every) && !last {
            return out;
        }
        self.said = Some(now);
        let phase = if live.measured { "run " } else { "warm" };
        let mut line = format!("{phase} {:>8}  {}", clock(live.elapsed), columns(&live.second.all));
        if live.wrong > 0 {
            let _ = write!(line, "  WRONG ANSWERS {}", count(live.wrong));
        }
        out.push(line);
        // Which node it is matters when one of them fails or is silent.
        let slices = &live.second.by_target;
        if targets.len() > 1 && slices.iter().any(|s| s.errors > 0 || s.requests == 0) {
            out.extend(
                slices
                    .iter()
                    .enumerate()
                    .filter(|(_, s)| s.errors > 0 || s.requests == 0)
                    .take(MAX_NODES)
                    .map(|(place, slice)| {
                        format!("     {:>8}  {}  {}", "", columns(slice), clean(&node(targets, place)))
                    }),
            );
        }
        if live.second.all.errors > 0 {
            let said = errors(live);
            if !said.is_empty() {
                out.push(format!("     {:>8}  errors until now: {said}", ""));
            }
        }
        out
    }
}

/// Of templates that are written here: one that is wrong is drawn as a bar.
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
            (0..targets.len().min(MAX_NODES) + usize::from(targets.len() > MAX_NODES))
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
                _ if place == MAX_NODES => format!("         and {} more nodes", targets.len() - MAX_NODES),
                // Its place first: a narrow terminal cuts the end.
                Some(slice) => {
                    let host = node(targets, place);
                    let host = host.split_once(" · ").map_or("", |(_, host)| host);
                    format!("node {:<3} {}  {}", place + 1, columns(slice), clean(host))
                }
                None => format!("node {:<3} -", place + 1),
            });
        }
        let ratio = total.errors as f64 / total.requests.max(1) as f64;
        let mut said = match total.errors {
            0 => format!("{} requests, no errors", count(total.requests)),
            n => {
                let many = self.paint("33", &format!("{} errors ({})", count(n), percent(ratio)));
                format!("{} requests, {many}: {}", count(total.requests), errors(live))
            }
        };
        if live.wrong > 0 {
            // First: a narrow terminal cuts the end.
            let loud = self.paint("1;31", &format!("WRONG ANSWERS: {}", count(live.wrong)));
            said = format!("{loud}   {said}");
        }
        self.errors.set_message(said);
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn end(&self) {
        for bar in [&self.time, &self.now, &self.total].into_iter().chain(&self.nodes).chain([&self.errors]) {
            bar.abandon();
        }
        // The cursor stands behind the last line.
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
    fn a_line_a_second_and_then_one_in_ten() {
        let mut plain = Plain::default();
        let said: Vec<u64> = (1..=300).filter(|s| !lines(&mut plain, &live(*s, false)).is_empty()).collect();
        assert_eq!(said[..60], (1..=60).collect::<Vec<_>>());
        assert_eq!(said[60..], (7..=30).map(|s| s * 10).collect::<Vec<_>>());
    }

    #[test]
    fn the_measured_part_begins_with_a_line() {
        let mut plain = Plain::default();
        let mut warm = live(100, false);
        warm.measured = false;
        assert!(lines(&mut plain, &warm)[0].starts_with("warm     1:40  "));
        assert!(lines(&mut plain, &live(1, false))[0].starts_with("run      0:01  "));
    }

    #[test]
    fn columns_stay_where_they_are() {
        let said = lines(&mut Plain::default(), &live(1, true));
        assert_eq!(said.len(), 3, "{said:#?}");
        let at = |line: &str| line.find("p50").unwrap();
        assert_eq!(at(&said[0]), at(&said[1]));
        assert!(said[0].ends_with("WRONG ANSWERS 2"));
        assert!(said[1].contains("p99       -") && said[1].ends_with("2 · 10.0.0.2:8080"), "{}", said[1]);
        assert!(
            said[2].ends_with("connect 1,700, status 503 220, a [2Jb 1, c 1, 1 more kinds"),
            "{}",
            said[2]
        );
    }

    #[test]
    fn a_screen_that_nobody_sees_does_its_work() {
        let live = live(3, true);
        for targets in [0, 1, 3, 20] {
            let targets = vec!["http://somewhere:1".to_owned(); targets];
            let drawn = Drawn::new(ProgressDrawTarget::hidden(), &targets);
            drawn.show(&live, &targets);
            drawn.end();
        }
    }

    /// To look at, in a terminal: `SCREEN=1 cargo test … screen_to_look_at -- --nocapture`.
    #[test]
    fn screen_to_look_at() {
        if std::env::var_os("SCREEN").is_none() {
            return;
        }
        // Behind what the test runner says.
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
