//! What operators watch with: the dashboard and the alert rules in `compose` ask only for what nodes say.

mod prometheus;

use std::{fs, path::Path, path::PathBuf, process::Command};

use testkit::{
    Node,
    binary::workspace,
    tools,
    watching::{self, RULES, named, rules, text},
};

/// What only a node on a shared store, in a cluster or with Redis says; `cql` looks at them.
const OF_A_CLUSTER: [&str; 4] =
    ["palisade_cluster_", "palisade_cache_", "palisade_store_", "palisade_ledger_"];
const FRESHNESS: &str = "palisade_freshness_age_seconds";

#[tokio::test]
async fn dashboard_and_rules_ask_for_what_nodes_say() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    ann.is_in().await;
    ann.delete("auth_token").send().await.is_done();
    watching::check(&node.get("/metrics").send().await.text(), |name| {
        OF_A_CLUSTER.iter().any(|prefix| name.starts_with(prefix)) || name == FRESHNESS
    });
}

#[test]
fn every_alert_is_in_the_operators_documentation() {
    let operations = text("docs/OPERATIONS.md");
    let alerts = operations.split("\n## Alerts").nth(1).expect("a section on alerts");
    for (name, expression) in rules().into_iter().filter(|(name, _)| name.starts_with("Palisade")) {
        let row = alerts.lines().find(|line| line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("the alert {name} is not documented"));
        let metric = named(&expression).into_iter().next().map(|(metric, _)| metric);
        let metric = metric.map(|metric| metric.trim_end_matches("_bucket").to_owned());
        assert!(metric.is_none_or(|metric| row.contains(&metric)), "{name} is about something else: {row}");
        assert!(text(RULES).contains(&format!("runbook: docs/OPERATIONS.md#alerts {name}\n")), "{name}");
    }
    for row in
        alerts.lines().filter(|line| line.starts_with("| `palisade_") || line.starts_with("| `Palisade"))
    {
        let name = row.split('`').nth(1).expect("a name");
        assert!(rules().iter().any(|(rule, _)| rule == name), "no rule for {row}");
    }
}

#[tokio::test]
async fn alerts_fire_when_they_should() {
    promtool(&["check", "rules", RULES]).await;
    promtool(&["check", "config", "compose/prometheus/prometheus.yml"]).await;
    promtool(&["test", "rules", "tests/suite/watching/rules.test.yml"]).await;
    let tested = text("tests/suite/watching/rules.test.yml");
    for (name, _) in rules().into_iter().filter(|(name, _)| name.starts_with("Palisade")) {
        assert!(tested.contains(&format!("alertname: {name}\n")), "no test lets {name} fire");
    }
}

/// Runs Prometheus' own tool in the workspace.
async fn promtool(arguments: &[&str]) -> String {
    let found = Command::new("promtool").arg("--version").output();
    assert!(found.is_ok(), "these tests need promtool; install it: apt-get install prometheus");
    tools::run(tokio::process::Command::new("promtool").args(arguments).current_dir(workspace())).await
}

/// A copy of Prometheus' files, in which the node on this port of 127.0.0.1 is the only replica: no DNS has its name.
fn configuration(folder: &Path, port: u16) -> PathBuf {
    fs::write(folder.join("rules.yml"), text(RULES)).expect("a copy");
    let all = text("compose/prometheus/prometheus.yml");
    let (before, discovery) = all.split_once("    dns_sd_configs:\n").expect("it finds replicas by DNS");
    assert!(discovery.contains("names: [palisade]") && discovery.contains("port: 8080"), "{discovery}");
    let replica = format!("    static_configs:\n      - targets: [\"127.0.0.1:{port}\"]\n");
    let there = folder.join("prometheus.yml");
    fs::write(&there, before.to_owned() + &replica).expect("a copy");
    there
}

#[test]
fn watchers_are_pinned_bounded_and_published_on_loopback() {
    let overlay = text("compose/compose.observe.yml");
    let values = |key: &str| -> Vec<_> {
        let value = |line: &str| line.trim().strip_prefix(key).map(|value| value.trim().to_owned());
        overlay.lines().filter_map(value).collect()
    };
    for ports in values("ports:") {
        assert!(ports.starts_with("[\"127.0.0.1:$"), "{ports}");
    }
    for image in values("image:") {
        let tag = image.trim_end_matches('}').rsplit_once(':').map(|(_, tag)| tag.to_owned());
        assert!(tag.is_some_and(|tag| tag.contains('.') && !tag.contains("latest")), "{image}");
    }
    let watchers = values("image:").len();
    assert_eq!(watchers, 3);
    for key in ["<<: *watcher", "mem_limit:", "healthcheck:", "stop_grace_period:", "user:"] {
        assert_eq!(values(key).len(), watchers, "{key}");
    }
    assert!(overlay.contains("read_only: true") && overlay.contains("max-size:"), "{overlay}");
    let sources = text("compose/grafana/provisioning/datasources/palisade.yml");
    assert!(sources.contains("uid: prometheus\n"), "the dashboard asks this data source");
}
