//! What each scenario asks of a node that is right: so many requests as were asked for, none of them wrong.

use serde_json::Value;
use testkit::{LoadTest, loadtest::Load};

use super::{errors, has_deleted_its_users, node, requests, small};

/// It went to its end, and each of these was asked and answered.
#[track_caller]
fn asked(load: &Load, kinds: &[&str]) -> Value {
    let result = load.ended(0, &[]).result();
    for kind in kinds {
        assert!(requests(&result, kind) > 0, "no {kind}: {:?}", load.run);
        assert!(result["by_kind"][kind]["latency"]["p50"].as_u64() > Some(0), "{:?}", load.run);
    }
    assert_eq!(result["wrong"], serde_json::json!([]));
    assert!(result["stopped"].is_null());
    result
}

#[tokio::test]
async fn validations_are_as_many_as_were_due_and_none_is_wrong() {
    let node = node().await;
    let load = small("validate", node.address()).args(&["--rate", "200", "--duration", "2s"]).run().await;
    let kinds = ["validate", "validate_revoked", "validate_forged"];
    let result = asked(&load, &kinds);
    let all = result["total"]["requests"].as_u64().unwrap();
    assert!((398..=402).contains(&all), "200 a second in 2 s made {all}");
    assert_eq!(kinds.map(|kind| requests(&result, kind)).iter().sum::<u64>(), all, "of no other kind");
    assert_eq!(result["by_target"][0]["requests"], all);
    let seconds: u64 =
        result["seconds"].as_array().unwrap().iter().map(|s| s["all"]["requests"].as_u64().unwrap()).sum();
    assert_eq!(seconds, all, "the seconds together are the whole");
    let statuses = &result["total"]["statuses"];
    assert_eq!(statuses["200"], requests(&result, "validate"));
    assert_eq!(statuses["401"], requests(&result, "validate_revoked"));
    assert_eq!(statuses["422"], requests(&result, "validate_forged"));
    let busiest = result["tool"]["busiest_thread"].as_f64().unwrap();
    assert!(busiest > 0.0 && busiest < 1.05, "{busiest}");
    load.ended(0, &["of a core", "p99"]);
    has_deleted_its_users(&load, &node).await;
}

#[tokio::test]
async fn a_report_is_one_file_that_refers_to_nothing_outside() {
    let node = node().await;
    let load = small("validate", node.address()).args(&["--rate", "50", "--duration", "1s"]).run().await;
    let report = load.ended(0, &[]).report();
    for word in ["<!doctype html>", "Latency over time", "No wrong answer was seen", "busiest of 1 threads"] {
        assert!(report.contains(word), "{word}");
    }
    for word in ["src=", "href=", "<script", "<link", "<iframe", "url(", "@import"] {
        assert!(!report.contains(word), "the report has {word}");
    }
    let again = LoadTest::with(&["report", "run.json", "again.html"])
        .file("run.json", &load.file("run.json").unwrap());
    assert_eq!(again.run().await.ended(0, &[]).file("again.html"), Some(report), "the same from the file");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_counts_as_http_1_does() {
    let node = node().await;
    let call = small("validate", node.address()).args(&["--protocol", "h2c"]);
    let load = call.args(&["--rate", "100", "--duration", "1s"]).run().await;
    let result = asked(&load, &["validate"]);
    let all = result["total"]["requests"].as_u64().unwrap();
    assert!((99..=101).contains(&all), "100 a second in 1 s made {all}");
    assert_eq!(result["plan"]["protocol"], "h2c");
}

#[tokio::test]
async fn the_closed_model_asks_as_fast_as_answers_come() {
    let node = node().await;
    let call = small("validate", node.address()).args(&["--duration", "1s"]);
    let load = call.args(&["--batch", "20", "--revoked", "30"]).run().await;
    let result = asked(&load, &["batch"]);
    assert_eq!(result["plan"]["model"], "closed");
    load.ended(0, &["20 tokens a request"]);
}

#[tokio::test]
async fn logging_in_and_refreshing_are_measured() {
    let node = node().await;
    let load = small("login", node.address()).args(&["--rate", "8", "--duration", "1s"]).run().await;
    assert_eq!(errors(&asked(&load, &["login"]), "wrong"), 0);
    has_deleted_its_users(&load, &node).await;
    let load = small("refresh", node.address()).args(&["--rate", "40", "--duration", "1s"]).run().await;
    asked(&load, &["refresh"]);
}

#[tokio::test]
async fn permissions_are_made_checked_and_deleted_again() {
    let node = node().await;
    let root = node.root().await;
    let call = small("check", node.address()).args(&["--admin-email", &root.email]);
    let call = call.env("PALISADE_LOADTEST_ADMIN_PASSWORD", &root.password);
    let load = call.args(&["--rate", "100", "--duration", "1s"]).run().await;
    let result = asked(&load, &["check"]);
    assert_eq!(result["total"]["statuses"]["200"], result["total"]["requests"]);
    let names = root.get("permissions").send().await.is(200).text();
    assert!(!names.contains(load.prefix()), "permissions are left: {names}");
    has_deleted_its_users(&load, &node).await;
}

#[tokio::test]
async fn a_day_has_all_that_users_do() {
    let node = node().await;
    let call = small("mixed", node.address()).args(&["--rate", "150", "--duration", "1s", "--writes", "30"]);
    let load = call.args(&["--seed", "1"]).run().await;
    asked(&load, &["validate", "check", "refresh", "login", "logout"]);
}

#[tokio::test]
async fn a_day_may_be_without_writes_or_of_nothing_else() {
    let node = node().await;
    let of = async |writes: &str| {
        let call = small("mixed", node.address()).args(&["--rate", "40", "--duration", "1s"]);
        let load = call.args(&["--writes", writes]).run().await;
        let result = load.ended(0, &[]).result();
        let all = result["total"]["requests"].as_u64().unwrap();
        assert!((5..=40).contains(&all), "{all} were due: {:?}", load.run);
        (all, ["refresh", "login", "logout"].map(|kind| requests(&result, kind)).iter().sum::<u64>())
    };
    assert_eq!(of("0").await.1, 0, "each reads");
    let (all, writes) = of("100").await;
    assert_eq!(writes, all, "each writes");
}

#[tokio::test]
async fn a_flood_of_log_ins_is_told_apart_from_validations() {
    let node = node().await;
    let call = small("flood", node.address()).args(&["--rate", "100", "--login-rate", "8"]);
    let load = call.args(&["--duration", "1s"]).run().await;
    let result = asked(&load, &["validate", "login"]);
    assert!((7..=9).contains(&requests(&result, "login")), "{:?}", load.run);
}

#[tokio::test]
async fn revocations_are_timed_from_node_to_node() {
    let node = node().await;
    let load = small("revoke-propagation", node.address()).args(&["--duration", "1s"]).run().await;
    let result = asked(&load, &["login", "validate", "logout"]);
    let pair = &result["pairs"][0];
    assert_eq!((&pair["from"], &pair["to"]), (&0.into(), &0.into()), "{:?}", load.run);
    assert!(pair["refused"]["requests"].as_u64() > Some(0) && pair["refused"]["errors"] == 0, "{pair}");
    load.ended(0, &["refused by"]);
    has_deleted_its_users(&load, &node).await;
}

#[tokio::test]
async fn a_search_drives_lower_rates_until_there_is_none_that_holds() {
    let node = node().await;
    let call = small("validate", node.address()).args(&["--find-max", "--step", "1s", "--rate", "3"]);
    let load = call.args(&["--objective", "p99<1us"]).run().await;
    let result = load.ended(1, &["no rate met the objectives", "3/s offered"]).result();
    let steps = result["search"].as_array().unwrap();
    assert_eq!(steps.len(), 2, "a step that does not hold is tried once more: {steps:?}");
    assert!(steps.iter().all(|step| step["held"] == false && step["busiest_thread"].is_f64()), "{steps:?}");
}

#[tokio::test]
async fn soak_of_a_steady_node_holds() {
    let node = node().await;
    let call = small("soak", node.address()).args(&["--rate", "100", "--duration", "2s", "--writes", "20"]);
    let load = call.args(&["--max-drift", "100", "--seed", "1"]).run().await;
    let result = asked(&load, &["validate", "login"]);
    let objectives = result["objectives"].as_array().unwrap();
    assert_eq!(objectives.len(), 1, "two seconds have no tenths to compare p99 of: {objectives:?}");
    let memory = &objectives[0];
    assert!(memory["text"].as_str().unwrap().contains("memory of"), "{memory}");
    assert_eq!(memory["held"], true);
    assert!(memory["measured"].as_f64().unwrap() > 0.1, "{memory}");
    has_deleted_its_users(&load, &node).await;
}
