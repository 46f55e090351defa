//! The store is down.

use std::sync::Arc;

use testkit::{Cluster, background::SharedBy};

use super::{
    Scene, cannot_change, cannot_refresh_and_spends_nothing, check, decides_normally, is_durable_in,
    is_unavailable,
};
use crate::cluster::becomes;

async fn scene() -> Arc<Scene> {
    static SCENE: SharedBy<Scene> = SharedBy::tests();
    SCENE
        .or(async || {
            let scene = Scene::of(Cluster::builder(2).proxied_together().start().await, None).await;
            scene.cluster.proxy(0).cut().await;
            for node in scene.cluster.nodes() {
                becomes(node, "palisade_store_up", 0.0).await;
            }
            scene
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
async fn repeated_permission_check_succeeds_and_new_one_is_503() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    for node in &nodes {
        assert!(cast.ann.at(node).may(&scene.films).await);
        assert!(!cast.ann.at(node).may("nothing").await);
        is_unavailable(check(&cast.cid.at(node), &scene.films)).await;
    }
}

#[tokio::test]
async fn logout_holds_on_all_nodes_at_once_and_is_journaled() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    for (person, node) in [(&cast.other, &nodes[0]), (&cast.cid, &nodes[1])] {
        let answer = person.at(node).delete("auth_token").send().await;
        is_durable_in(answer.is_done().is_visible_at(1), "journal");
        for node in &nodes {
            node.validate(&person.access).await.is_error(401, "Token has been revoked");
        }
    }
    let answer = cast.ann.delete("auth_token/all").send().await;
    is_durable_in(answer.is_done().is_visible_at(1), "journal");
    for node in &nodes {
        node.validate(&cast.ann.access).await.is_error(401, "Token has been revoked");
    }
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
