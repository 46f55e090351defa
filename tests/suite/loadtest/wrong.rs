//! Answers that must not be, and those that only fail: a front makes them.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

use super::{
    errors,
    front::{Front, Reply},
    has_deleted_its_users, node, requests, small,
};

/// Longer than any test waits: who ends a run of this is not the clock.
const ENDLESS: &str = "10m";

/// Everybody is let in, whoever it is.
async fn credulous() -> Front {
    Front::before(&node().await, |asked| match asked.status {
        401 | 422 if asked.is_validation() => Reply::Instead(200, "Token is valid".into()),
        _ => Reply::AsItIs,
    })
    .await
}

#[tokio::test]
async fn a_server_that_takes_any_token_ends_the_run() {
    let front = credulous().await;
    let call = small("validate", front.address()).args(&["--rate", "200", "--duration", ENDLESS]);
    let load = call.run().await;
    load.ended(1, &["WRONG ANSWER", "is not to be trusted", "ended before its time: a wrong answer"]);
    let result = load.result();
    assert_eq!(result["stopped"], "a wrong answer");
    let what = result["wrong"][0]["what"].as_str().unwrap();
    assert!(what.contains("200 `Token is valid`, not 4"), "{what}");
    assert!(load.report().contains("wrong answer"), "{}", load.report());
    has_deleted_its_users(&load, &node().await).await;
}

#[tokio::test]
async fn a_run_that_goes_on_counts_every_wrong_answer_apart() {
    let front = credulous().await;
    let call = small("validate", front.address()).args(&["--rate", "200", "--duration", "1s"]);
    let load = call.args(&["--revoked", "20", "--forged", "20", "--after-wrong", "go-on"]).run().await;
    let result = load.ended(1, &["WRONG ANSWERS: what is tested is not to be trusted"]).result();
    assert!(result["stopped"].is_null());
    let all = result["total"]["requests"].as_u64().unwrap();
    assert!((199..=201).contains(&all), "it goes on to its end: {all}");
    let must_be_refused = requests(&result, "validate_revoked") + requests(&result, "validate_forged");
    assert!(must_be_refused >= 40, "{must_be_refused}");
    assert_eq!(errors(&result, "wrong"), must_be_refused);
    assert_eq!(result["total"]["errors"], must_be_refused);
    let told = result["wrong"].to_string();
    assert!(told.contains("a revoked token") && told.contains("a forged token"), "{told}");
}

#[tokio::test]
async fn refusing_a_good_token_is_wrong() {
    let front = Front::before(&node().await, |asked| {
        let is_good = asked.is_validation() && asked.status == 200;
        if is_good && asked.nth > 50 {
            Reply::Instead(401, "Token has been revoked".into())
        } else {
            Reply::AsItIs
        }
    })
    .await;
    let call = small("validate", front.address()).args(&["--rate", "200", "--duration", ENDLESS]);
    let load = call.run().await;
    load.ended(1, &["validate with a good token: 401 `Token has been revoked`"]);
    assert_eq!(load.result()["stopped"], "a wrong answer");
}

#[tokio::test]
async fn a_server_that_cannot_answer_fails_and_is_not_wrong() {
    let front = Front::before(&node().await, |asked| match asked.nth % 3 {
        0 if asked.is_validation() => Reply::Instead(503, "Not now".into()),
        1 if asked.is_validation() => Reply::Cut,
        _ => Reply::AsItIs,
    })
    .await;
    let call = small("validate", front.address()).args(&["--rate", "100", "--duration", "1s"]);
    let load = call.args(&["--objective", "errors<1%", "--objective", "max<60s"]).run().await;
    load.ended(1, &["error `status 503`", "error `closed`", "objective errors<1%", "NOT HELD"]);
    let result = load.result();
    assert!(errors(&result, "status 503") >= 10 && errors(&result, "closed") >= 10, "{:?}", load.run);
    assert_eq!((errors(&result, "wrong"), &result["wrong"]), (0, &serde_json::json!([])));
    let held: Vec<_> = result["objectives"].as_array().unwrap().iter().map(|o| o["held"] == true).collect();
    assert_eq!(held, [false, true]);
}

#[tokio::test]
async fn server_that_serves_no_request_is_status_1_without_objectives() {
    let front = Front::before(&node().await, |asked| {
        if asked.is_validation() { Reply::Instead(503, "Not now".into()) } else { Reply::AsItIs }
    })
    .await;
    let call = small("validate", front.address()).args(&["--rate", "50", "--duration", "1s"]);
    call.run().await.ended(1, &["no request was served"]);
}

#[tokio::test]
async fn a_stall_is_counted_for_everyone_who_was_due_meanwhile() {
    let stall = OnceLock::new();
    let front = Front::before(&node().await, move |asked| {
        if asked.is_validation() && asked.nth > 100 {
            let until = stall.get_or_init(|| Instant::now() + Duration::from_secs(1));
            return Reply::NotBefore(*until);
        }
        Reply::AsItIs
    })
    .await;
    let call = small("validate", front.address()).args(&["--rate", "200", "--duration", "2s"]);
    let load = call.run().await;
    let result = load.ended(0, &[]).result();
    let all = result["total"]["requests"].as_u64().unwrap();
    assert!((398..=402).contains(&all), "what was due is not left out: {all}");
    // Two hundred were due meanwhile, and no more than eight, one a connection, could be under way.
    let latency = &result["total"]["latency"];
    let at_least = |name: &str, ms: u64| {
        assert!(latency[name].as_u64().unwrap() >= ms * 1_000, "{name}: {latency}");
    };
    at_least("max", 950);
    at_least("p99", 900);
    at_least("p90", 500);
}

/// A server whose memory grows with each look at it.
#[tokio::test]
async fn soak_fails_when_memory_grows() {
    let front = Front::before(&node().await, |asked| match asked.path.as_str() {
        "/metrics" => Reply::Text(format!("process_resident_memory_bytes {}\n", (asked.nth + 1) << 20)),
        _ => Reply::AsItIs,
    })
    .await;
    let call = small("soak", front.address()).args(&["--rate", "100", "--duration", "2s"]);
    let load = call.args(&["--max-drift", "1.2"]).run().await;
    let result = load.ended(1, &["memory of"]).result();
    assert_eq!(result["objectives"][0]["held"], false, "{}", result["objectives"]);
    has_deleted_its_users(&load, &node().await).await;
}

/// A server that has no metrics is not judged by them.
#[tokio::test]
async fn soak_does_not_judge_memory_it_cannot_read() {
    let front = Front::before(&node().await, |asked| match asked.path.as_str() {
        "/metrics" => Reply::Instead(404, "No such thing".into()),
        _ => Reply::AsItIs,
    })
    .await;
    let call = small("soak", front.address()).args(&["--rate", "100", "--duration", "1s"]);
    let load = call.run().await;
    let result = load.ended(0, &["is not judged"]).result();
    assert_eq!(result["objectives"], serde_json::json!([]));
}
