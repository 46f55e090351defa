//! The result in a few lines, for stdout.

use std::fmt::Write as _;

use crate::{
    report::words::{bottleneck, count, micros, percent, rate},
    result::{Objective, RunResult, Summary},
};

/// What is worth a line.
#[must_use]
pub fn text(result: &RunResult, notes: &[String]) -> String {
    let mut text = String::new();
    let name = result.by_kind.keys().map(String::len).max().unwrap_or(0).max(8);
    let _ = writeln!(
        text,
        "{:name$} {:>12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "requests", "a second", "errors", "p50", "p99", "p99.9", "max"
    );
    for (kind, summary) in &result.by_kind {
        line(&mut text, name, kind, summary);
    }
    line(&mut text, name, "all", &result.total);
    if result.by_target.len() > 1 {
        for (url, summary) in result.targets.iter().zip(&result.by_target) {
            let _ = writeln!(text, "{url}");
            line(&mut text, name, "", summary);
        }
    }
    for (kind, n) in &result.total.errors_by_kind {
        let _ = writeln!(text, "error `{kind}`: {}", count(*n));
    }
    if result.total.errors == result.total.requests {
        text.push_str("no request was served\n");
    }
    for pair in &result.pairs {
        let latency = &pair.refused.latency;
        let _ = writeln!(
            text,
            "revoked at {} refused by {}: p50 {}, p99 {}, max {} ({} times)",
            result.targets[pair.from],
            result.targets[pair.to],
            micros(latency.p50 as f64),
            micros(latency.p99 as f64),
            micros(latency.max as f64),
            count(pair.refused.requests)
        );
        if pair.refused.errors > 0 {
            let _ = writeln!(text, "GIVEN UP in {} of them", count(pair.refused.errors));
        }
    }
    for step in &result.search {
        let verdict = if step.held { "held" } else { "not held" };
        let p99 = micros(step.p99_us as f64);
        let _ = writeln!(
            text,
            "{}/s offered, {}/s served, p99 {p99}, errors {}: {verdict}",
            rate(step.offered),
            rate(step.served),
            percent(step.error_ratio)
        );
    }
    if let Some(best) =
        result.search.iter().filter(|step| step.held).map(|step| step.offered).reduce(f64::max)
    {
        let _ = writeln!(text, "highest rate that held: {}/s", rate(best));
    }
    for mark in &result.faults {
        let failed = mark.failed.as_ref().map(|why| format!(" FAILED: {why}")).unwrap_or_default();
        let _ = writeln!(text, "fault at {:.1} s: {} {}{failed}", mark.at_s, mark.action, mark.on);
    }
    for objective in &result.objectives {
        let verdict = if objective.held { "held" } else { "NOT HELD" };
        let measured = measured(objective);
        let _ = writeln!(text, "objective {}: {measured}, {verdict}", objective.text);
    }
    if let Some(tool) = &result.tool {
        let _ = writeln!(
            text,
            "tool: the busiest of {} threads took {} of a core",
            count(tool.threads as u64),
            percent(tool.busiest_thread)
        );
    }
    if let Some(note) = bottleneck(result) {
        let _ = writeln!(text, "note: {note}");
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(why) = &result.stopped {
        let _ = writeln!(text, "ended before its time: {why}");
    }
    for wrong in result.wrong.iter().take(10) {
        let _ = writeln!(
            text,
            "WRONG ANSWER at {:.3} s from {}: {}",
            wrong.at_s, result.targets[wrong.target], wrong.what
        );
    }
    if result.wrong_answers() > 0 {
        let all = count(result.wrong_answers());
        let _ = writeln!(text, "{all} WRONG ANSWERS: what is tested is not to be trusted");
    }
    let _ = write!(text, "seed {}", result.plan.seed);
    text
}

/// In the unit of what was asked for.
fn measured(objective: &Objective) -> String {
    let text = &objective.text;
    if objective.measured.is_nan() {
        return "not judged".to_owned();
    }
    let metric = text.split(['<', '>']).next().unwrap_or_default();
    match metric.rsplit(':').next().unwrap_or_default().trim() {
        _ if !text.contains(['<', '>']) => format!("{:.2}", objective.measured),
        "errors" => percent(objective.measured),
        "rate" => format!("{}/s", rate(objective.measured)),
        _ => micros(objective.measured),
    }
}

fn line(text: &mut String, name: usize, what: &str, summary: &Summary) {
    let latency = &summary.latency;
    let _ = writeln!(
        text,
        "{what:name$} {:>12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        count(summary.requests),
        rate(summary.rate),
        count(summary.errors),
        micros(latency.p50 as f64),
        micros(latency.p99 as f64),
        micros(latency.p999 as f64),
        micros(latency.max as f64)
    );
}
