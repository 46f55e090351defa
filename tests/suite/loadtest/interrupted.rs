//! Ctrl-C: a run ends, its users are deleted, and what was measured until then is kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use testkit::{LoadTest, eventually};

use super::{
    front::{Exchange, Front, Reply},
    has_deleted_its_users, node, small,
};

const SOON: Duration = Duration::from_secs(60);

/// Longer than any test waits.
const ENDLESS: &str = "10m";

/// A front that counts questions of one sort.
async fn counting(what: fn(&Exchange) -> bool) -> (Front, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let front = Front::before(&node().await, move |asked| {
        counted.fetch_add(u64::from(what(asked)), SeqCst);
        Reply::AsItIs
    })
    .await;
    (front, count)
}

async fn reaches(count: &AtomicU64, least: u64) {
    let what = format!("{least} questions");
    eventually(SOON, &what, async || (count.load(SeqCst) >= least).then_some(())).await;
}

#[tokio::test]
async fn interrupted_run_keeps_its_results_and_deletes_its_users() {
    let (front, validations) = counting(Exchange::is_validation).await;
    let running = small("validate", front.address()).args(&["--rate", "200", "--duration", ENDLESS]).start();
    reaches(&validations, 250).await;
    running.interrupt();
    let load = running.end().await;
    load.ended(1, &["ended before its time: interrupted"]);
    let result = load.result();
    assert_eq!(result["stopped"], "interrupted");
    let counted = result["total"]["requests"].as_u64().unwrap();
    assert!((250..=validations.load(SeqCst) + 10).contains(&counted), "{counted}");
    assert!(load.report().contains("Ended before its time"));
    has_deleted_its_users(&load, &node().await).await;
}

#[tokio::test]
async fn run_interrupted_while_making_users_deletes_them() {
    let (front, made) = counting(|asked| asked.is("POST", "/api/v1/users") && asked.status == 201).await;
    let running = LoadTest::of("validate", front.address()).args(&["--users", "1000"]).start();
    reaches(&made, 3).await;
    running.interrupt();
    let load = running.end().await;
    load.run.failed_saying(&["interrupted before anything was measured"]);
    assert_eq!(load.file("run.json"), None);
    let root = node().await.root().await;
    let made = usize::try_from(made.load(SeqCst)).unwrap();
    assert!(made < 100, "it went on to make {made} users");
    for n in 0..made + 6 {
        let found = root.list("users", &format!("users?email={}", load.email(n))).await;
        assert!(found.is_empty(), "{found:?} is left: {:?}", load.run);
    }
}
