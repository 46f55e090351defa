//! Nodes are cut off from their peers and from the store.

use std::sync::Arc;

use serde_json::json;
use testkit::{Cluster, background::SharedBy, eventually};

use super::{Scene, cannot_change, cannot_refresh_and_spends_nothing, check, is_durable_in, is_unavailable};
use crate::cluster::{DETECTION_TIMEOUT, becomes, is_visible_nowhere, stale_ms};

/// The first of three nodes may be stale, the second may not; both are isolated.
async fn scene() -> Arc<Scene> {
    static SCENE: SharedBy<Scene> = SharedBy::tests();
    SCENE
        .or(async || {
            let builder = Cluster::builder(3).relayed().proxied().default_setting("ACK_DEADLINE");
            let builder = builder.setting("MAX_STALENESS", "1s");
            let scene = Scene::of(builder.setting_of(1, "STALE_POLICY", "closed").start().await, None).await;
            for n in [0, 1] {
                scene.cluster.relay().isolate(n);
                scene.cluster.proxy(n).cut().await;
            }
            let witness = scene.cluster.root();
            for n in [0, 1] {
                let node = &scene.cluster[n];
                eventually(DETECTION_TIMEOUT, "it is too old to decide", async || {
                    let answer = node.validate(&witness.access).await;
                    (answer.status == 503 || stale_ms(&answer).is_some()).then_some(())
                })
                .await;
                becomes(node, "palisade_store_up", 0.0).await;
            }
            Scene { asked: 2, ..scene }
        })
        .await
}

#[tokio::test]
async fn validation_reports_staleness_or_is_unknown() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    for _ in 0..5 {
        let answer = nodes[0].validate(&cast.ann.access).await;
        answer.is(200);
        assert!(stale_ms(&answer) >= Some(1_000), "{answer}");
        nodes[1].validate(&cast.ann.access).await.is_error(503, "Revocation state is too old to decide");
        // What was heard to be revoked is.
        nodes[0].validate(&cast.bob.access).await.is_error(401, "Token has been revoked");
        let answer = nodes[1].validate(&cast.bob.access).await;
        assert!(matches!(answer.status, 401 | 503), "{answer}");
    }
}

#[tokio::test]
async fn permission_check_follows_validation_and_new_one_is_503() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    let answer = check(&cast.ann, &scene.films).send().await;
    assert_eq!(answer.is(200).json(), json!({"valid": true}));
    assert!(stale_ms(&answer).is_some(), "{answer}");
    let closed = check(&cast.ann.at(&nodes[1]), &scene.films).send().await;
    closed.is_error(503, "Revocation state is too old to decide");
    for node in &nodes {
        is_unavailable(check(&cast.cid.at(node), &scene.films)).await;
    }
}

#[tokio::test]
async fn logout_holds_here_at_once_and_is_journaled() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    // Taking away needs to know nothing: also where nothing may be decided.
    for (person, node) in [(&cast.other, &nodes[0]), (&cast.cid, &nodes[1])] {
        let answer = person.at(node).delete("auth_token").send().await;
        is_visible_nowhere(&answer);
        is_durable_in(answer.is_done(), "journal");
        let refused = node.validate(&person.access).await;
        assert!(matches!(refused.status, 401 | 503), "{refused}");
    }
    nodes[0].validate(&cast.other.access).await.is_error(401, "Token has been revoked");
}

#[tokio::test]
async fn login_registration_and_changes_are_503() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    cannot_change(&scene, &nodes, &cast).await;
}

#[tokio::test]
async fn refresh_is_503_and_spends_nothing() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    cannot_refresh_and_spends_nothing(&scene, &nodes, &cast.other).await;
}
