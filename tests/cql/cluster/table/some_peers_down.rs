//! Some peers are down.

use std::sync::Arc;

use testkit::{Cluster, background::SharedBy};

use super::{
    Scene, changes_normally, checks_normally, decides_normally, logs_out_normally, refreshes_normally,
};

/// The last of three nodes was killed.
async fn scene() -> Arc<Scene> {
    static SCENE: SharedBy<Scene> = SharedBy::tests();
    SCENE
        .or(async || {
            let scene = Scene::of(Cluster::of(3).await, None).await;
            scene.cluster[2].kill_dash_9();
            scene.cluster.is_missed(&scene.cluster[0], "c").await;
            scene.cluster.is_missed(&scene.cluster[1], "c").await;
            Scene { asked: 2, ..scene }
        })
        .await
}

#[tokio::test]
async fn validation_is_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    decides_normally(&nodes, &cast).await;
}

#[tokio::test]
async fn permission_checks_are_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    checks_normally(&nodes, &cast, &scene.films).await;
}

#[tokio::test]
async fn logout_holds_on_all_live_nodes_at_once() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    logs_out_normally(&nodes, &cast).await;
}

#[tokio::test]
async fn login_registration_and_changes_are_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    changes_normally(&nodes, &cast, &scene.root(&nodes[0]), &scene.films).await;
}

#[tokio::test]
async fn refreshes_are_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    refreshes_normally(&nodes, &cast).await;
}
