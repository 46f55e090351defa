//! A node is cut off from its peers, and the store is up.

use std::sync::Arc;

use testkit::{Cluster, background::SharedBy, eventually};

use super::{Scene, changes_normally, checks_normally, decides_normally, refreshes_normally};
use crate::cluster::{PROPAGATION_TIMEOUT, is_out_at_once, is_out_before_long, is_visible_nowhere};

/// The first of three nodes does not reach the others, which reach each other. All reach the store.
async fn scene() -> Arc<Scene> {
    static SCENE: SharedBy<Scene> = SharedBy::tests();
    SCENE
        .or(async || {
            let cluster = Cluster::builder(3).relayed().default_setting("ACK_DEADLINE").start().await;
            let scene = Scene::of(cluster, None).await;
            scene.cluster.relay().isolate(0);
            for name in ["b", "c"] {
                scene.cluster.is_missed(&scene.cluster[0], name).await;
            }
            scene
        })
        .await
}

#[tokio::test]
async fn validation_is_unaffected_and_learns_from_the_ledger() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    decides_normally(&nodes, &cast).await;
    cast.other.at(&nodes[1]).delete("auth_token").send().await.is_done();
    is_out_before_long(&nodes[0], &cast.other, "who is cut off refuses it by the ledger").await;
    decides_normally(&nodes, &cast).await;
}

#[tokio::test]
async fn permission_checks_are_unaffected_and_learn_from_ledger() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    checks_normally(&nodes, &cast, &scene.films).await;
    scene.root(&nodes[1]).takes(&cast.ann, &scene.films).await.is(200);
    assert!(!cast.ann.at(&nodes[1]).may(&scene.films).await);
    eventually(PROPAGATION_TIMEOUT, "who is cut off denies it by the ledger", async || {
        (!cast.ann.at(&nodes[0]).may(&scene.films).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn logout_holds_here_at_once_and_elsewhere_by_the_ledger() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    let answer = cast.other.delete("auth_token").send().await;
    is_visible_nowhere(&answer);
    answer.is_done();
    is_out_at_once(&nodes[..1], &cast.other).await;
    for node in &nodes[1..] {
        is_out_before_long(node, &cast.other, "the others refuse it by the ledger").await;
    }
}

#[tokio::test]
async fn login_registration_and_changes_are_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    // What one makes, the others know: the store is one.
    changes_normally(&nodes, &cast, &scene.root(&nodes[0]), &scene.films).await;
}

#[tokio::test]
async fn refreshes_are_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    refreshes_normally(&nodes, &cast).await;
}
