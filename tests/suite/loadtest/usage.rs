//! Calls that cannot be made: said before anything is sent, and told apart from runs that came to nothing.

use testkit::LoadTest;

use super::{
    errors,
    front::{Front, Reply},
    node, small,
};

#[tokio::test]
async fn a_wrong_call_is_status_2_and_says_what_is_wrong() {
    let here = "http://127.0.0.1:9";
    let calls: [(&[&str], &[&str]); 13] = [
        (&[], &["Usage"]),
        (&["validate"], &["--target"]),
        (&["validat", "--target", here], &["validat"]),
        (&["validate", "--target", here, "--rate", "fast"], &["--rate", "fast"]),
        (&["validate", "--target", here, "--duration", "5"], &["--duration", "10s"]),
        (&["validate", "--target", here, "--objective", "p99=5ms"], &["--objective", "p99<5ms"]),
        (&["validate", "--target", here, "--find-max"], &["--find-max", "--objective"]),
        (&["validate", "--target", here, "--out", "none/run.json"], &["none/run.json", "no such directory"]),
        (&["validate", "--target", "https://127.0.0.1"], &["plain http"]),
        (&["check", "--target", here, "--admin-email", "a@b.c"], &["PALISADE_LOADTEST_ADMIN_PASSWORD"]),
        (&["faults", "--target", here], &["--faults"]),
        (&["faults", "--target", here, "--faults", "none.toml"], &["none.toml"]),
        (&["compare", "one.json"], &["FILE"]),
    ];
    for (arguments, words) in calls {
        LoadTest::with(arguments).run().await.run.was_wrong_usage(words);
    }
}

#[tokio::test]
async fn nothing_is_sent_to_anybody_when_one_of_them_is_a_stranger() {
    let front = Front::before(&node().await, |_| Reply::AsItIs).await;
    for stranger in ["http://192.0.2.1:8080", "http://[2001:db8::1]:8080"] {
        let call = small("validate", front.address()).args(&["--target", stranger]);
        let load = call.run().await;
        load.run.was_wrong_usage(&[stranger, "--yes-i-own-it"]).in_one_line();
        assert_eq!((front.connections(), load.file("run.json")), (0, None));
    }
}

#[tokio::test]
async fn an_objective_that_does_not_hold_is_status_1_and_named() {
    let node = node().await;
    let call = small("validate", node.address()).args(&["--rate", "50", "--duration", "1s"]);
    let load = call.args(&["-O", "validate:p99<1us", "-O", "errors<50%", "-O", "rate>1k"]).run().await;
    let lines: Vec<_> = load
        .ended(1, &[])
        .run
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("objective "))
        .map(|line| line.split_once(": ").unwrap_or_default())
        .map(|(goal, verdict)| (goal, !verdict.ends_with("NOT HELD")))
        .collect();
    assert_eq!(lines, [("validate:p99<1us", false), ("errors<50%", true), ("rate>1k", false)]);
    let result = load.result();
    assert_eq!((errors(&result, "wrong"), result["stopped"].is_null()), (0, true));
    assert!(load.report().contains("2 of 3 objectives not held"));
}

#[tokio::test]
async fn a_thread_that_cannot_work_ends_the_run_at_once() {
    let node = node().await;
    let call = small("validate", node.address()).args(&["--cpu", "1023"]);
    let load = call.args(&["--rate", "10", "--duration", "10m"]).run().await;
    load.run.failed_saying(&["--cpu 1023"]);
}

#[tokio::test]
async fn users_that_could_not_be_deleted_are_status_1() {
    let front = Front::before(&node().await, |asked| match asked.is("DELETE", "/api/v1/users/me") {
        true => Reply::Instead(500, "Not today".into()),
        false => Reply::AsItIs,
    })
    .await;
    let load = small("validate", front.address()).args(&["--rate", "20", "--duration", "1s"]).run().await;
    load.ended(1, &["NOT CLEANED UP: 2 of 2 users are left", "500 `Not today`"]);
}

#[tokio::test]
async fn a_deployment_that_cannot_be_tested_is_status_1_and_says_why() {
    let load = LoadTest::with(&["validate", "--target", "http://127.0.0.1:9"]).run().await;
    load.run.failed_saying(&["http://127.0.0.1:9 does not answer"]);

    let node = node().await;
    let front = Front::before(&node, |asked| match asked.is("POST", "/api/v1/users") {
        true => Reply::Instead(429, "Too many".into()),
        false => Reply::AsItIs,
    })
    .await;
    let load = small("validate", front.address()).run().await;
    load.run.failed_saying(&["429", "PALISADE_REGISTRATION_RATE"]);
    assert_eq!(load.file("run.json"), None, "nothing was measured");
}
