//! The load tester `palisade-loadtest`: its figures fit what was asked, a wrong answer is called wrong and
//! nothing else is, and it leaves nothing behind.
//!
//! What a node never does (accept a revoked token, stand still for a second) a [`front`] does for it.

mod faults;
mod front;
mod interrupted;
mod results;
mod scenarios;
mod secrets;
mod usage;
mod wrong;

use std::net::SocketAddr;

use serde_json::Value;
use testkit::{LoadTest, Node, Shared, loadtest::Load};

/// A node that all of these tests share.
async fn node() -> Node {
    static NODE: Shared = Shared::with(&[]);
    NODE.node().await
}

/// A scenario of few users without a warm-up: how long and how much is for the test to say.
fn small(scenario: &str, target: SocketAddr) -> LoadTest {
    LoadTest::of(scenario, target)
        .args(&["--warm-up", "0s", "--users", "2", "--sessions", "2", "--threads", "1"])
        .args(&["--connections", "8"])
}

/// The two users of [`small`] are deleted, and it says so.
async fn has_deleted_its_users(load: &Load, node: &Node) {
    let root = node.root().await;
    for n in 0..2 {
        let found = root.list("users", &format!("users?email={}", load.email(n))).await;
        assert!(found.is_empty(), "{found:?} is left: {:?}", load.run);
    }
    assert!(load.run.stdout.contains("2 users were deleted again"), "{:?}", load.run);
}

/// How often something was asked, or none such was.
fn requests(result: &Value, kind: &str) -> u64 {
    result["by_kind"][kind]["requests"].as_u64().unwrap_or(0)
}

/// How many errors of a kind there were.
fn errors(result: &Value, kind: &str) -> u64 {
    result["total"]["errors_by_kind"][kind].as_u64().unwrap_or(0)
}
