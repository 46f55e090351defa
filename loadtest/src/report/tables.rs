//! The tables of the report.
//!
//! Promises: every table has a bounded number of rows and says how many it leaves out. The JSON file has all.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::result::{Objective, Pair, RunResult, Summary};

use crate::format::{count, digits, escape, micros, moment, node_name, percent, rate, span, truncate};

/// Rows of a table at most.
const ROWS_MAX: usize = 100;
/// Nodes on a side of the matrix at most.
const MATRIX_NODES_MAX: usize = 24;
/// Characters of a foreign text, such as a message, at most.
const TEXT_MAX: usize = 600;

/// A table that scrolls on its own in a narrow window.
fn table(class: &str, head: &str, rows: &str) -> String {
    format!(
        "<div class=\"wide\"><table class=\"{class}\"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn left_out(out: &mut String, all: usize) {
    if all > ROWS_MAX {
        let _ = write!(
            out,
            "<p class=\"note\">{} more are in the JSON file.</p>",
            count((all - ROWS_MAX) as u64)
        );
    }
}

/// The wrong answers. The loudest part of the page.
pub fn wrong(run: &RunResult) -> String {
    if run.wrong_answers() == 0 {
        return "<p class=\"fine\">✓ No wrong answer was seen.</p>".into();
    }
    let n = run.wrong_answers();
    let mut out = format!(
        "<section class=\"alarm\" role=\"alert\"><h2>✗ {} wrong answer{}</h2>\
         <p>A node accepted a token that it had to refuse, or refused a good one. Whatever else this report says, the \
         deployment is not correct.</p>",
        count(n),
        if n == 1 { "" } else { "s" }
    );
    let mut rows = String::new();
    for wrong in run.wrong.iter().take(ROWS_MAX) {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td class=\"t\">{}</td><td class=\"w\">{}</td></tr>",
            // To the millisecond, to find it in logs.
            escape(&format!("{:.3} s", wrong.at_s)),
            escape(&node_name(&run.targets, wrong.target)),
            escape(&truncate(&wrong.what, TEXT_MAX))
        );
    }
    out.push_str(&table("", "<th>at</th><th class=\"t\">node</th><th class=\"w\">what</th>", &rows));
    left_out(&mut out, run.wrong.len());
    if n > run.wrong.len() as u64 {
        let listed = count(run.wrong.len() as u64);
        let _ = write!(
            out,
            "<p class=\"note\">{listed} of {} are listed; the others were only counted.</p>",
            count(n)
        );
    }
    out.push_str("</section>");
    out
}

/// The objectives, and whether they held.
pub fn objectives(run: &RunResult) -> String {
    if run.objectives.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for objective in run.objectives.iter().take(ROWS_MAX) {
        let verdict = if objective.held {
            "<td class=\"t held\">✓ held</td>"
        } else {
            "<td class=\"t missed\">✗ not held</td>"
        };
        let _ = write!(
            rows,
            "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td>{verdict}</tr>",
            escape(&truncate(&objective.text, TEXT_MAX)),
            measured(objective)
        );
    }
    let missed = run.objectives.iter().filter(|o| !o.held).count();
    let mut out = match missed {
        0 => "<h2 class=\"fine\">✓ All objectives held</h2>".to_owned(),
        n => format!("<h2 class=\"missed\">✗ {n} of {} objectives not held</h2>", run.objectives.len()),
    };
    out.push_str(&table(
        "narrow",
        "<th class=\"t\">objective</th><th>measured</th><th class=\"t\">verdict</th>",
        &rows,
    ));
    left_out(&mut out, run.objectives.len());
    out
}

/// The measured value, in the unit of the objective.
fn measured(objective: &Objective) -> String {
    let Some((subject, _)) = objective.text.split_once(['<', '>', '=']) else {
        return digits(objective.measured, 4);
    };
    // In `check:p99`, a kind of request stands before the colon.
    match subject.rsplit(':').next().unwrap_or(subject).trim() {
        "errors" => percent(objective.measured),
        "rate" => format!("{}/s", rate(objective.measured)),
        "mean" | "max" => micros(objective.measured),
        p if p.starts_with('p') => micros(objective.measured),
        _ => digits(objective.measured, 4),
    }
}

/// The whole run in six numbers.
pub fn cards(run: &RunResult) -> String {
    let total = &run.total;
    let latency = &total.latency;
    let ratio = total.errors as f64 / (total.requests.max(1)) as f64;
    let mut out = String::from("<dl class=\"cards\">");
    for (name, value) in [
        ("requests a second", escape(&rate(total.rate))),
        ("p50", micros(latency.p50 as f64)),
        ("p99", micros(latency.p99 as f64)),
        ("p99.9", micros(latency.p999 as f64)),
        ("slowest", micros(latency.max as f64)),
        ("errors", format!("{} <small>of {}</small>", percent(ratio), count(total.requests))),
    ] {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>");
    out
}

const SUMMARY_HEAD: &str = "<th>requests</th><th>a second</th><th>errors</th><th>mean</th><th>min</th><th>p50</th>\
                            <th>p90</th><th>p99</th><th>p99.9</th><th>max</th>";

fn summary_row(rows: &mut String, name: &str, summary: &Summary, sum: bool) {
    let latency = &summary.latency;
    let _ = write!(
        rows,
        "<tr{}><th scope=\"row\" class=\"t\">{}</th><td>{}</td><td>{}</td>",
        if sum { " class=\"sum\"" } else { "" },
        escape(&truncate(name, 80)),
        count(summary.requests),
        rate(summary.rate)
    );
    let errors = match summary.errors {
        0 => "0".to_owned(),
        n => format!(
            "<span class=\"missed\">{}</span> ({})",
            count(n),
            percent(n as f64 / summary.requests.max(1) as f64)
        ),
    };
    let _ = write!(rows, "<td>{errors}</td>");
    let times = [
        latency.mean,
        latency.min as f64,
        latency.p50 as f64,
        latency.p90 as f64,
        latency.p99 as f64,
        latency.p999 as f64,
        latency.max as f64,
    ];
    for us in times {
        let time = if latency.max == 0 { "–".to_owned() } else { micros(us) };
        let _ = write!(rows, "<td>{time}</td>");
    }
    rows.push_str("</tr>");
}

/// Summaries by kind of request.
pub fn by_kind(run: &RunResult) -> String {
    let mut rows = String::new();
    for (kind, summary) in run.by_kind.iter().take(ROWS_MAX) {
        summary_row(&mut rows, kind, summary, false);
    }
    summary_row(&mut rows, "all", &run.total, true);
    let mut out = table("", &format!("<th class=\"t\">kind</th>{SUMMARY_HEAD}"), &rows);
    left_out(&mut out, run.by_kind.len());
    out
}

/// Summaries by node.
pub fn by_target(run: &RunResult) -> String {
    let mut rows = String::new();
    for (place, summary) in run.by_target.iter().enumerate().take(ROWS_MAX) {
        summary_row(&mut rows, &node_name(&run.targets, place), summary, false);
    }
    let mut out = table("", &format!("<th class=\"t\">node</th>{SUMMARY_HEAD}"), &rows);
    left_out(&mut out, run.by_target.len());
    out
}

/// A table of counts, with the share of all requests and the count at each node.
fn counts<K: Display + Ord>(
    run: &RunResult,
    name: &str,
    of: impl Fn(&Summary) -> &BTreeMap<K, u64>,
) -> String {
    /// Columns of nodes at most.
    const NODES_MAX: usize = 8;
    let all = of(&run.total);
    let nodes = if run.targets.len() > 1 { run.by_target.len().min(NODES_MAX) } else { 0 };
    let mut head = format!("<th class=\"t\">{name}</th><th>count</th><th>of requests</th>");
    for place in 0..nodes {
        let _ = write!(head, "<th>{}</th>", escape(&node_name(&run.targets, place)));
    }
    let mut rows = String::new();
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (key, n) in sorted.into_iter().take(ROWS_MAX) {
        let _ = write!(
            rows,
            "<tr><th scope=\"row\" class=\"w\">{}</th><td>{}</td><td>{}</td>",
            escape(&truncate(&key.to_string(), 200)),
            count(*n),
            percent(*n as f64 / run.total.requests.max(1) as f64)
        );
        for summary in run.by_target.iter().take(nodes) {
            let _ = write!(rows, "<td>{}</td>", count(of(summary).get(key).copied().unwrap_or(0)));
        }
        rows.push_str("</tr>");
    }
    let mut out = table("narrow", &head, &rows);
    left_out(&mut out, all.len());
    out
}

/// Errors by kind.
pub fn errors(run: &RunResult) -> String {
    if run.total.errors_by_kind.is_empty() {
        return "<p class=\"note\">None.</p>".into();
    }
    counts(run, "kind", |s| &s.errors_by_kind)
}

/// Answers by status.
pub fn statuses(run: &RunResult) -> String {
    if run.total.statuses.is_empty() {
        return "<p class=\"note\">No answer came.</p>".into();
    }
    counts(run, "status", |s| &s.statuses)
}

/// The faults, numbered as in the plots.
pub fn faults(run: &RunResult) -> String {
    let mut rows = String::new();
    for (i, fault) in run.faults.iter().enumerate().take(ROWS_MAX) {
        let done = match &fault.failed {
            None => "<td class=\"t\">done</td>".to_owned(),
            Some(why) => {
                format!("<td class=\"w missed\">not done: {}</td>", escape(&truncate(why, TEXT_MAX)))
            }
        };
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td class=\"t\">{}</td><td class=\"w\">{}</td>{done}</tr>",
            i + 1,
            moment(fault.at_s),
            escape(&truncate(&fault.action, 40)),
            escape(&truncate(&fault.on, 200))
        );
    }
    let mut out = table(
        "narrow",
        "<th></th><th>at</th><th class=\"t\">action</th><th class=\"w\">on</th><th class=\"t\"></th>",
        &rows,
    );
    left_out(&mut out, run.faults.len());
    out
}

/// The matrix of how long each node took to refuse tokens that were revoked at each other node.
pub fn pairs(run: &RunResult) -> String {
    let side = run.pairs.iter().map(|p| p.from.max(p.to) + 1).max().unwrap_or(0);
    let drawn = side.min(MATRIX_NODES_MAX);
    let mut cells: BTreeMap<(usize, usize), &Pair> = BTreeMap::new();
    for pair in &run.pairs {
        cells.insert((pair.from, pair.to), pair);
    }
    let measured = || run.pairs.iter().map(|p| p.refused.latency.p99.max(1) as f64);
    let low = measured().fold(f64::INFINITY, f64::min);
    let high = measured().fold(1.0, f64::max);
    let mut head = String::from("<th class=\"t\">revoked at ↓, refused at →</th>");
    for to in 0..drawn {
        let _ = write!(head, "<th class=\"t\">{}</th>", escape(&node_name(&run.targets, to)));
    }
    let mut rows = String::new();
    for from in 0..drawn {
        let _ = write!(rows, "<tr><th scope=\"row\">{}</th>", escape(&node_name(&run.targets, from)));
        for to in 0..drawn {
            let same = if from == to { " same" } else { "" };
            match cells.get(&(from, to)).filter(|p| p.refused.requests > 0) {
                None => {
                    let _ = write!(rows, "<td class=\"pair{same}\">–</td>");
                }
                Some(pair) => {
                    let latency = &pair.refused.latency;
                    let share = if high > low {
                        (latency.p99.max(1) as f64 / low).ln() / (high / low).ln()
                    } else {
                        0.0
                    };
                    let failed = match pair.refused.errors {
                        0 => String::new(),
                        n => format!("<small class=\"missed\">{} errors</small>", count(n)),
                    };
                    let _ = write!(
                        rows,
                        "<td class=\"pair{same}\" style=\"background:rgba(var(--heat),{:.2})\">{}<small>p99 {}</small>\
                         <small>max {}</small><small>n {}</small>{failed}</td>",
                        0.03 + 0.27 * share.clamp(0.0, 1.0),
                        micros(latency.p50 as f64),
                        micros(latency.p99 as f64),
                        micros(latency.max as f64),
                        count(pair.refused.requests)
                    );
                }
            }
        }
        rows.push_str("</tr>");
    }
    let mut out = table("narrow", &head, &rows);
    if side > drawn {
        let _ = write!(
            out,
            "<p class=\"note\">Only the first {drawn} of {side} nodes; the JSON file has all.</p>"
        );
    }
    out
}

/// The steps of a search, in the order in which they were tried.
pub fn search(run: &RunResult) -> String {
    let mut rows = String::new();
    for (i, step) in run.search.iter().enumerate().take(ROWS_MAX) {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{}</tr>",
            i + 1,
            rate(step.offered),
            rate(step.served),
            micros(step.p99_us as f64),
            percent(step.error_ratio),
            percent(step.busiest_thread),
            if step.held {
                "<td class=\"t held\">✓ held</td>"
            } else {
                "<td class=\"t missed\">✗ not held</td>"
            }
        );
    }
    let mut out = table(
        "narrow",
        "<th>step</th><th>offered</th><th>served</th><th>p99</th><th>errors</th>\
         <th>busiest thread of the tool</th><th class=\"t\"></th>",
        &rows,
    );
    left_out(&mut out, run.search.len());
    out
}

/// The plan, the machine and the command.
pub fn circumstances(run: &RunResult) -> String {
    let plan = &run.plan;
    let model = match plan.rate {
        Some(at) => format!("{}, {} requests a second", plan.model, rate(at)),
        None => plan.model.clone(),
    };
    let busy = run.tool.as_ref().map_or_else(
        || "not measured".to_owned(),
        |tool| {
            let threads = count(tool.threads as u64);
            format!("the busiest of {threads} threads took {} of a core", percent(tool.busiest_thread))
        },
    );
    let facts = [
        ("scenario", run.scenario.clone()),
        ("model", model),
        ("connections", count(plan.connections as u64)),
        ("protocol", plan.protocol.clone()),
        ("warm-up", span(plan.warm_up_s)),
        ("ramp", span(plan.ramp_s)),
        ("duration", span(plan.duration_s)),
        ("users", count(plan.users as u64)),
        ("seed", plan.seed.to_string()),
        ("began", run.started_at.clone()),
        ("tool", format!("palisade-loadtest {}, result format {}", run.version, run.format)),
        (
            "machine of the tool",
            format!("{}, {} cores, {}", run.machine.cpu, run.machine.cores, run.machine.os),
        ),
        ("load of the tool", busy),
    ];
    let mut out = String::from("<table><tbody>");
    for (name, value) in facts {
        let _ = write!(
            out,
            "<tr><th scope=\"row\" class=\"t\">{name}</th><td class=\"w\">{}</td></tr>",
            escape(&truncate(&value, TEXT_MAX))
        );
    }
    for (place, url) in run.targets.iter().enumerate().take(ROWS_MAX) {
        let _ = write!(
            out,
            "<tr><th scope=\"row\" class=\"t\">node {}</th><td class=\"w\"><code>{}</code></td></tr>",
            place + 1,
            escape(&truncate(url, TEXT_MAX))
        );
    }
    out.push_str("</tbody></table>");
    left_out(&mut out, run.targets.len());
    let mut command = String::new();
    for word in &run.command {
        if command.len() > 4_000 {
            command.push_str(" …");
            break;
        }
        let _ = write!(command, "{}{}", if command.is_empty() { "" } else { " " }, quoted(word));
    }
    let _ = write!(out, "<h3>Command</h3><code>{}</code>", escape(&truncate(&command, 6_000)));
    out
}

/// An argument, quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_value_has_the_unit_of_its_objective() {
        assert_eq!(measured_as("p99<5ms", 3_913.0), "3.91 ms");
        assert_eq!(measured_as("check:p999<=20ms", 12_000.0), "12 ms");
        assert_eq!(measured_as("max<1s", 14_200.0), "14.2 ms");
        assert_eq!(measured_as("errors<0.1%", 0.000_43), "0.043 %");
        assert_eq!(measured_as("rate>50000", 49_965.2), "49,965/s");
        assert_eq!(
            measured_as("memory of http://generate:1: last tenth over first, at most 1.5", 1.034_12),
            "1.034"
        );
    }

    fn measured_as(text: &str, measured: f64) -> String {
        super::measured(&Objective { text: text.into(), measured, held: true })
    }

    #[test]
    fn command_is_quoted_for_a_shell() {
        assert_eq!(quoted("--rate=50000"), "--rate=50000");
        assert_eq!(quoted("it's <b>"), r"'it'\''s <b>'");
        assert_eq!(quoted(""), "''");
    }
}
