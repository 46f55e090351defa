//! What operators watch with: the queries of the dashboard and of the alert rules in `compose`, and the metrics that
//! they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use crate::binary::workspace;

/// The alert rules.
pub const RULES: &str = "compose/prometheus/rules.yml";
/// Labels that Prometheus adds.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];
/// The dashboard.
pub const DASHBOARD: &str = "compose/grafana/dashboards/palisade.json";

/// A file of the workspace.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn text(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// Everything that is asked of Prometheus, with where it is asked.
///
/// # Panics
/// When the dashboard cannot be read, or has a variable that nothing replaces.
#[must_use]
pub fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).expect("the dashboard is JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            let query =
                query.replace("$instance", ".*").replace("$__rate_interval", "1m").replace("$__range", "1h");
            assert!(!query.contains('$'), "{title}: an unknown variable: {query}");
            queries.push((format!("panel {title:?}"), query));
        }
    }
    queries.extend(rules());
    queries
}

/// The expressions of the rules, by the names of the rules. An expression is on the line of `expr`, or on lines after
/// it that are indented further.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn rules() -> Vec<(String, String)> {
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut is_expression = false;
    for line in text(RULES).lines() {
        let trimmed = line.trim().trim_start_matches("- ");
        if let Some(name) = trimmed.strip_prefix("alert: ").or_else(|| trimmed.strip_prefix("record: ")) {
            rules.push((name.to_owned(), String::new()));
        } else if let Some(expression) = trimmed.strip_prefix("expr: ") {
            is_expression = true;
            let first = expression.trim_start_matches('>');
            rules.last_mut().expect("a rule has a name").1.push_str(first);
            continue;
        } else if is_expression && line.starts_with("          ") {
            let rule = rules.last_mut().expect("a rule has a name");
            rule.1 = format!("{} {trimmed}", rule.1);
            continue;
        }
        is_expression = false;
    }
    assert!(rules.len() > 20 && rules.iter().all(|(_, expression)| !expression.is_empty()), "{rules:?}");
    rules
}

/// The metrics that a query names, each with the labels that it compares.
#[must_use]
pub fn named(query: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(is_name) {
        let from = &rest[at..];
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        rest = after;
        if ["palisade_", "process_"].iter().any(|prefix| name.starts_with(prefix)) {
            let selector = after.strip_prefix('{').and_then(|after| after.split_once('}'));
            found.push((name.to_owned(), selector.map_or_else(BTreeSet::new, |(inside, _)| labels(inside))));
        }
    }
    found
}

/// The names of labels in `a="1",b=~"2"`, where no value has a comma.
fn labels(selector: &str) -> BTreeSet<String> {
    let name = |pair: &str| pair.split(['=', '!', '~']).next().unwrap_or_default().trim().to_owned();
    selector.split("\",").map(name).filter(|name| !name.is_empty()).collect()
}

/// What a node says: its metrics, each with the names of its labels.
///
/// # Panics
/// When a line is none of Prometheus' text.
#[must_use]
pub fn said(metrics: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, inside) = series.split_once('{').unwrap_or((series, ""));
        said.entry(name.to_owned()).or_default().extend(labels(inside.trim_end_matches('}')));
    }
    said
}

/// Checks the dashboard and the rules against what a node says. `elsewhere` tells which metrics this node cannot say.
///
/// # Panics
/// When they name a metric or a label that there is not.
pub fn check(metrics: &str, elsewhere: impl Fn(&str) -> bool) {
    let said = said(metrics);
    let mut seen = BTreeSet::new();
    for (place, query) in queries() {
        for (name, labels) in named(&query) {
            seen.insert(name.clone());
            let Some(known) = said.get(&name) else {
                assert!(elsewhere(&name), "{place}: no node says {name}");
                continue;
            };
            let is_known =
                |label: &&String| known.contains(*label) || OF_PROMETHEUS.contains(&label.as_str());
            let unknown: Vec<_> = labels.iter().filter(|label| !is_known(label)).collect();
            assert!(unknown.is_empty(), "{place}: {name} has no {unknown:?}, only {known:?}");
        }
    }
    assert!(seen.len() > 30, "{seen:?}");
}
