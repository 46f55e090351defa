//! A node that starts while its database is down, or is not the one it needs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{
    Node, Palisade, eventually, fresh,
    servers::{Cassandra, Proxy},
    store::{self, Keyspace, MASTER_KEY},
};

use crate::behind::{
    AWAY, Behind, RECOVERY_TIMEOUT, alter, gauge, hurt, is_revoked, is_unavailable, on, say, store_of,
};

#[tokio::test]
async fn node_starts_without_database_and_recovers_by_itself() {
    let before = Behind::a_proxy().await;
    let ann = before.node.register("ann").await;
    let bob = before.node.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    for way in AWAY {
        let proxy = Proxy::to(Cassandra::one().await.address()).await;
        let _while = hurt(&proxy, way).await;
        let node = Node::builder().on_keyspace(&before.keyspace, proxy.address()).launch().await;
        eventually(RECOVERY_TIMEOUT, "it lives", async || {
            node.get("/health/live").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        assert_eq!(store_of(&node).await, "connecting");
        is_unavailable(node.get("/health/ready")).await;
        assert_eq!(gauge(&node, "palisade_ready").await, Some(0.0));
        assert_eq!(gauge(&node, "palisade_store_up").await, Some(0.0));
        node.get("/openapi.json").send().await.is(200);
        node.get("/apidocs/").send().await.is(200);
        let credentials = json!({"email": ann.email, "password": ann.password});
        let ann = ann.at(&node);
        let bob = bob.at(&node);
        for request in [
            ann.get("auth_token/validation"),
            bob.get("auth_token/validation"),
            ann.get("/auth_request"),
            ann.post("auth_token/validation/batch").json(&json!({"tokens": [ann.access]})),
            ann.get("users/me"),
            ann.get("users/me/combined_permissions/validation?permissions=%22x%22"),
            ann.delete("auth_token"),
            ann.delete("auth_token/all"),
            node.post("auth_token").json(&credentials),
            node.post("users").json(&json!({"email": "x@example.org", "password": fresh("a secret")})),
            node.post("auth_token/token_refresh").bearer(&ann.refresh),
            node.post("auth_token/token_refresh").bearer(&bob.refresh),
            node.get("/.well-known/jwks.json"),
        ] {
            is_unavailable(request).await;
        }
        proxy.mend().await;
        let start = Instant::now();
        eventually(RECOVERY_TIMEOUT, "it comes up by itself", async || {
            (node.readiness().await.unwrap().status == 200).then_some(())
        })
        .await;
        let up = start.elapsed();
        say(&format!("started while {way:?}, ready {up:?} after it ended"));
        assert!(up < Duration::from_secs(30), "{way:?}: ready only after {up:?}");
        ann.is_in().await;
        is_revoked(&node, &bob.access).await;
        ann.in_another_session().await.is_in().await;
    }
}

#[tokio::test]
async fn node_that_is_not_ready_refuses_connections_if_set() {
    let before = Behind::a_proxy().await;
    let ann = before.node.register("ann").await;
    let proxy = Proxy::to(Cassandra::one().await.address()).await;
    proxy.cut().await;
    let builder = Node::builder().on_keyspace(&before.keyspace, proxy.address());
    let node = builder.setting("LISTEN_WHEN", "ready").launch().await;
    node.logs_with("\"palisade serves\"").await;
    for _ in 0..20 {
        assert!(node.get("/health/live").try_send().await.is_err(), "a node that is not ready answers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.mend().await;
    // The first request that is answered is answered by a node that is ready.
    let first = eventually(RECOVERY_TIMEOUT, "it listens", async || {
        node.get("auth_token/validation").bearer(&ann.access).try_send().await.ok()
    });
    first.await.is(200);
}

#[tokio::test]
async fn dead_contact_point_does_not_prevent_the_start() {
    let keyspace = Arc::new(Keyspace::take().await);
    let alive = Cassandra::one().await.address();
    let dead = Proxy::to(Cassandra::one().await.address()).await;
    dead.cut().await;
    let store = format!("cql://nowhere.invalid,{},{alive}/{}", dead.address(), keyspace.name());
    let node = Node::builder().on_keyspace(&keyspace, alive).setting("STORE", store).start().await;
    node.register("ann").await.is_in().await;
}

/// The node says that it is refused, and decides nothing.
async fn is_refused_by_its_database(node: &Node, token: &str, words: &[&str]) {
    eventually(RECOVERY_TIMEOUT, "the node says that it is refused", async || {
        let answer = node.get("/health/live").try_send().await.ok()?;
        (answer.json()["store"] == "refused").then_some(())
    })
    .await;
    is_unavailable(node.get("/health/ready")).await;
    is_unavailable(node.get("auth_token/validation").bearer(token)).await;
    for word in words {
        node.logs_with(word).await;
    }
    assert_eq!(gauge(node, "palisade_store_up").await, Some(0.0));
}

async fn comes_up(node: &Node) {
    eventually(RECOVERY_TIMEOUT, "it comes up by itself", async || {
        node.readiness().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn schema_of_another_version_is_refused_with_a_message() {
    let keyspace = Arc::new(Keyspace::take().await);
    // No other test may get this keyspace, even if this test fails halfway.
    std::mem::forget(keyspace.clone());
    let first = on(&keyspace).await.start().await;
    let ann = first.register("ann").await;
    let changed = "UPDATE KEYSPACE.schema_migrations SET checksum = 'other' WHERE part = 0 AND number = 1";
    let newer = "INSERT INTO KEYSPACE.schema_migrations (part, number, name, checksum, applied_at) \
                 VALUES (0, 99, 'later', 'x', toTimestamp(now()))";
    let session = store::cassandra().await;
    let select =
        format!("SELECT checksum FROM {}.schema_migrations WHERE part = 0 AND number = 1", keyspace.name());
    let found = session.query_unpaged(select, ()).await.unwrap().into_rows_result().unwrap();
    let (checksum,): (String,) = found.single_row().unwrap();
    let back = changed.replace("other", &checksum);
    let gone = "DELETE FROM KEYSPACE.schema_migrations WHERE part = 0 AND number = 99";
    for (damage, repair, words) in
        [(changed, back.as_str(), ["refused", "checksum"]), (newer, gone, ["refused", "newer Palisade"])]
    {
        alter(&keyspace, damage).await;
        let node = on(&keyspace).await.launch().await;
        is_refused_by_its_database(&node, &ann.access, &words).await;
        let status = node.cli(&["schema", "status"]).await;
        status.failed_saying(&words[1..]);
        // The running node keeps working with the tables.
        ann.is_in().await;
        ann.get("users/me").send().await.is(200);
        alter(&keyspace, repair).await;
        comes_up(&node).await;
        ann.at(&node).is_in().await;
    }
}

#[tokio::test]
async fn node_without_migrate_waits_for_the_operator() {
    let keyspace = Arc::new(Keyspace::fresh());
    let builder = on(&keyspace).await.setting("STORE_MIGRATE", "off");
    let node = builder.launch().await;
    is_refused_by_its_database(&node, "a.b.c", &["palisade schema migrate"]).await;
    let status = node.cli(&["schema", "status", "--json"]).await;
    let pending = status.is_done().json().as_array().unwrap().clone();
    assert!(!pending.is_empty() && pending.iter().all(|one| one["state"] == "pending"), "{pending:?}");
    assert!(node.cli(&["schema", "status"]).await.is_done().stdout.contains("palisade schema migrate"));
    node.cli(&["schema", "migrate"]).await.is_done();
    let applied =
        node.cli(&["schema", "status", "--json"]).await.is_done().json().as_array().unwrap().clone();
    assert_eq!(applied.len(), pending.len());
    assert!(
        applied.iter().all(|one| one["state"] == "applied" && one["applied_at"].is_string()),
        "{applied:?}"
    );
    comes_up(&node).await;
    node.register("ann").await.is_in().await;
    // Again is no error.
    node.cli(&["schema", "migrate"]).await.is_done();
}

#[tokio::test]
async fn node_with_another_master_key_ends_with_a_message() {
    let first = Node::builder().on_cql().await.start().await;
    let ann = first.register("ann").await;
    let other = MASTER_KEY.replace("cGFs", "cGFt");
    let refused = Node::builder().beside(&first).setting("MASTER_KEY", &other).try_start().await.unwrap_err();
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.output.contains("MASTER_KEY"), "{refused:?}");
    assert!(!refused.output.contains(&other), "{refused:?}");
    ann.is_in().await;
    first.register("bob").await.is_in().await;
}

#[tokio::test]
async fn shared_store_requires_a_master_key() {
    for command in ["serve", "check-config"] {
        let directory = testkit::scratch::directory();
        let call = Palisade::with([command])
            .setting("LISTEN", "127.0.0.1:0")
            .setting("DATA_DIR", directory.path().join("data"))
            .setting("STORE", "cql://127.0.0.1:1/palisade");
        call.run().await.failed_saying(&["MASTER_KEY"]).in_one_line();
        assert!(!directory.path().join("data").exists(), "a data directory was made for nothing");
    }
}
