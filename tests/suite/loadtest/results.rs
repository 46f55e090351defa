//! Two results beside each other: what differs beyond noise is told, and what is no result is said.

use serde_json::Value;
use testkit::{LoadTest, loadtest::Load};

use super::{node, small};

/// A real result, as if it had gone on for half a minute with latencies of this many times its own.
fn stretched(result: &Value, times: u64) -> String {
    let mut result = result.clone();
    let second = result["seconds"][0].clone();
    let noisy = |at: u64| {
        let mut second = second.clone();
        second["at_s"] = at.into();
        for slice in ["/all", "/by_target/0"] {
            let slice = second.pointer_mut(slice).unwrap();
            for (name, us) in [("p50_us", 300), ("p99_us", 900), ("max_us", 2_000)] {
                slice[name] = ((us + at * 7 % 11) * times).into();
            }
        }
        second
    };
    result["seconds"] = (0..30).map(noisy).collect();
    result["plan"]["duration_s"] = 30.into();
    for (name, us) in [("mean", 310), ("p50", 300), ("p90", 500), ("p99", 900), ("p999", 1_500)] {
        result["total"]["latency"][name] = (us * times).into();
    }
    result.to_string()
}

async fn compared(a: &str, b: &str) -> Load {
    LoadTest::with(&["compare", "a.json", "b.json"]).file("a.json", a).file("b.json", b).run().await
}

#[tokio::test]
async fn result_is_worse_when_slower_and_not_worse_than_itself() {
    let node = node().await;
    let load = small("validate", node.address()).args(&["--rate", "100", "--duration", "1s"]).run().await;
    let result = load.ended(0, &[]).result();
    let (before, after) = (stretched(&result, 1), stretched(&result, 3));
    let same = compared(&before, &before).await;
    same.ended(0, &[]);
    assert!(!same.run.stdout.contains("SLOWER"), "{}", same.run.stdout);
    compared(&before, &after).await.ended(1, &["SLOWER", "B is worse"]);
    compared(&after, &before).await.ended(0, &["B is better"]);
    // One second is too short to know what is noise.
    compared(&result.to_string(), &result.to_string()).await.ended(0, &["noise cannot be judged"]);
    let mut other = result;
    other["scenario"] = "login".into();
    compared(&before, &other.to_string()).await.ended(1, &["Not compared"]);
}

#[tokio::test]
async fn what_is_no_result_is_said() {
    for (text, words) in [
        ("{}", "not a result file of palisade-loadtest"),
        ("GIF89a", "not a result file of palisade-loadtest"),
        ("{\"format\": 99}", "format 99"),
    ] {
        compared(text, text).await.run.failed_saying(&["a.json", words]).in_one_line();
    }
    LoadTest::with(&["compare", "none.json", "none.json"]).run().await.run.failed_saying(&["none.json"]);
}
