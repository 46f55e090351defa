//! Memory that requests hold: bounded for the node, shared among clients, and given back.

use std::{net::Ipv4Addr, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, Person, Raw, eventually, raw::Reply};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const HELD: &str = "palisade_body_budget_held_bytes";
/// Bytes held by an idle node: only the request that reads the metric.
const NOTHING: f64 = 64.0 * 1024.0;
const MIB: usize = 1024 * 1024;

async fn small() -> Node {
    Node::builder().setting("BODY_BUDGET", "32MiB").start().await
}

/// Sends a batch from an address but for its last byte.
async fn begin(node: &Node, ann: &Person, from: Ipv4Addr, bytes: usize) -> Raw {
    let mut raw = Raw::from(from.octets(), node).await;
    let head = format!(
        "POST /api/v1/auth_token/validation/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {}\r\nContent-Length: {bytes}\r\n\r\n",
        ann.access
    );
    raw.send(head).await.unwrap();
    // The node may refuse before it has all of it.
    let _ = raw.send([b"{\"tokens\":[\"", "a".repeat(bytes - 15).as_bytes()].concat()).await;
    raw
}

async fn finish(mut raw: Raw) -> Reply {
    let _ = raw.send("\"]}").await;
    raw.reply(ANSWER_TIMEOUT).await
}

async fn gives_back(node: &Node) {
    eventually(ANSWER_TIMEOUT, "what was held", async || {
        let is_answered = node.get("/metrics").send().await.status == 200;
        (is_answered && node.metric(HELD).await? <= NOTHING).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bodies_beyond_the_share_of_an_address_are_refused() {
    let node = small().await;
    let ann = node.register("ann").await;
    let [here, there] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
    // A quarter of 32 MiB has room for two of these.
    let mut held = Vec::new();
    for n in 1..=2 {
        held.push(begin(&node, &ann, here, 3 * MIB).await);
        let least = f64::from(n) * 2.9 * 1024.0 * 1024.0;
        eventually(ANSWER_TIMEOUT, "a body", async || (node.metric(HELD).await? > least).then_some(())).await;
    }
    let mut beyond = begin(&node, &ann, here, 3 * MIB).await;
    let reply = beyond.reply(ANSWER_TIMEOUT).await;
    let Reply::Answer { status: 503, head, body } = &reply else { panic!("{reply:?}") };
    assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "), "{head}");
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["code"], "busy");
    // Others do not notice, and what is held is answered.
    let other = finish(begin(&node, &ann, there, 3 * MIB).await).await;
    assert_eq!(other.status(), Some(200), "{other:?}");
    ann.in_another_session().await.is_in().await;
    for raw in held {
        let reply = finish(raw).await;
        assert_eq!(reply.status(), Some(200), "{reply:?}");
    }
    drop(beyond);
    gives_back(&node).await;
    assert!(node.metric("palisade_body_budget_refusals_total").await.unwrap() >= 1.0);
}

#[tokio::test]
async fn disconnected_clients_release_their_share() {
    let node = small().await;
    let ann = node.register("ann").await;
    for _ in 0..4 {
        let held = join_all((2..6).map(|n| begin(&node, &ann, Ipv4Addr::new(127, 0, 0, n), 2 * MIB))).await;
        eventually(ANSWER_TIMEOUT, "bodies", async || (node.metric(HELD).await? > 4e6).then_some(())).await;
        drop(held);
        gives_back(&node).await;
    }
}

#[tokio::test]
async fn declared_body_reserves_little_before_it_arrives() {
    let node = small().await;
    let ann = node.register("ann").await;
    let mut held = Vec::new();
    for n in 2..6 {
        for _ in 0..8 {
            let mut raw = Raw::from([127, 0, 0, n], &node).await;
            let head = "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
            raw.send(format!("{head}Content-Length: 65000\r\n\r\n{{")).await.unwrap();
            held.push(raw);
        }
    }
    eventually(ANSWER_TIMEOUT, "requests", async || {
        (node.metric(HELD).await? > 32.0 * 16_384.0).then_some(())
    })
    .await;
    let bytes = node.metric(HELD).await.unwrap();
    assert!(bytes < 33.0 * 24.0 * 1024.0, "{bytes} bytes are held for 32 bytes of bodies");
    ann.post("auth_token/validation/batch").json(&json!({"tokens": [ann.access]})).send().await.is(200);
}

#[tokio::test]
async fn health_and_validation_are_answered_when_a_share_is_full() {
    let node = small().await;
    let ann = node.register("ann").await;
    // A quarter of 32 MiB has room for some 500 requests that are not all there yet.
    let mut held = Vec::new();
    for _ in 0..520 {
        let mut raw = Raw::to(&node).await;
        let head = "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
        raw.send(format!("{head}Content-Length: 65000\r\n\r\n")).await.unwrap();
        held.push(raw);
    }
    eventually(ANSWER_TIMEOUT, "no room", async || {
        let answer = node.get("/openapi.json").send().await;
        (answer.status == 503).then(|| answer.is_refused(503).status)
    })
    .await;
    node.get("/health/live").send().await.is(200);
    node.get("/health/ready").send().await.is(200);
    ann.is_in().await;
    drop(held);
    gives_back(&node).await;
}
