//! The settings in which two runs differ: plan, targets, faults, machine, version.
//!
//! Never lists a setting that one of the two result files does not hold.

use serde::Serialize;

use crate::format::{count, rate, span};
use crate::result::{Detail, RunResult};

/// A setting that has different values in the two runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Difference {
    pub what: &'static str,
    pub a: String,
    pub b: String,
}

/// All settings that differ, in a fixed order.
pub(super) fn differences(a: &RunResult, b: &RunResult) -> Vec<Difference> {
    // Result files of older versions have no details. A missing value is not a difference.
    let details = match (&a.plan.detail, &b.plan.detail) {
        (Some(a), Some(b)) => details(a).into_iter().zip(details(b)).collect(),
        _ => Vec::new(),
    };
    settings(a)
        .into_iter()
        .zip(settings(b))
        .chain(details)
        .filter(|((_, a), (_, b))| a != b)
        .map(|((what, a), (_, b))| Difference { what, a, b })
        .collect()
}

fn settings(run: &RunResult) -> [(&'static str, String); 14] {
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
}

fn details(detail: &Detail) -> [(&'static str, String); 8] {
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
