//! Formats the result in a few lines for stdout.

use std::fmt::Write as _;

use crate::{
    format::{bottleneck, count, micros, percent, rate},
    result::{Objective, RunResult, Summary},
};

/// Wrong answers that are printed at most.
const WRONG_ANSWERS_MAX: usize = 10;

/// The summary of a run, with remarks about it.
#[must_use]
pub fn format(result: &RunResult, notes: &[String]) -> String {
    let mut text = String::new();
    latencies(&mut text, result);
    pairs(&mut text, result);
    search(&mut text, result);
    goals(&mut text, result);
    remarks(&mut text, result, notes);
    wrong_answers(&mut text, result);
    let _ = write!(text, "seed {}", result.plan.seed);
    text
}

fn latencies(text: &mut String, result: &RunResult) {
    let name = result.by_kind.keys().map(String::len).max().unwrap_or(0).max(8);
    let _ = writeln!(
        text,
        "{:name$} {:>12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "requests", "a second", "errors", "p50", "p99", "p99.9", "max"
    );
    for (kind, summary) in &result.by_kind {
        line(text, name, kind, summary);
    }
    line(text, name, "all", &result.total);
    if result.by_target.len() > 1 {
        for (url, summary) in result.targets.iter().zip(&result.by_target) {
            let _ = writeln!(text, "{url}");
            line(text, name, "", summary);
        }
    }
    for (kind, n) in &result.total.errors_by_kind {
        let _ = writeln!(text, "error `{kind}`: {}", count(*n));
    }
    if result.total.errors == result.total.requests {
        text.push_str("no request was served\n");
    }
}

fn pairs(text: &mut String, result: &RunResult) {
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
}

fn search(text: &mut String, result: &RunResult) {
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
    let held = result.search.iter().filter(|step| step.held);
    if let Some(best) = held.map(|step| step.offered).reduce(f64::max) {
        let _ = writeln!(text, "highest rate that held: {}/s", rate(best));
    }
}

/// Faults and objectives.
fn goals(text: &mut String, result: &RunResult) {
    for mark in &result.faults {
        let failed = mark.failed.as_ref().map(|why| format!(" FAILED: {why}")).unwrap_or_default();
        let _ = writeln!(text, "fault at {:.1} s: {} {}{failed}", mark.at_s, mark.action, mark.on);
    }
    for objective in &result.objectives {
        let verdict = if objective.held { "held" } else { "NOT HELD" };
        let measured = measured(objective);
        let _ = writeln!(text, "objective {}: {measured}, {verdict}", objective.text);
    }
}

/// The load of the tool, notes, and why the run ended early.
fn remarks(text: &mut String, result: &RunResult, notes: &[String]) {
    if let Some(tool) = &result.tool {
        let _ = writeln!(
            text,
            "tool: the busiest of {} threads took {} of a core",
            count(tool.threads as u64),
            percent(tool.busiest_thread)
        );
    }
    for note in bottleneck(result).iter().chain(notes) {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(why) = &result.stopped {
        let _ = writeln!(text, "ended before its time: {why}");
    }
}

fn wrong_answers(text: &mut String, result: &RunResult) {
    for wrong in result.wrong.iter().take(WRONG_ANSWERS_MAX) {
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
}

/// The measured value, in the unit of the objective.
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
