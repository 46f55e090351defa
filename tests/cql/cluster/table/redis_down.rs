//! Redis is down.

use std::sync::Arc;

use testkit::{Cluster, background::SharedBy, servers::Redis};

use super::{
    Scene, changes_normally, checks_normally, decides_normally, logs_out_normally, refreshes_normally,
};
use crate::cluster::becomes;

async fn scene() -> Arc<Scene> {
    static SCENE: SharedBy<Scene> = SharedBy::tests();
    SCENE
        .or(async || {
            let redis = Redis::start().await;
            let builder = Cluster::builder(2).setting("REDIS", redis.url());
            let scene = Scene::of(builder.setting("LOGIN_ACCOUNT_FAILURES", "5/15m").start().await, None);
            let scene = scene.await;
            redis.kill();
            for node in scene.cluster.nodes() {
                becomes(node, "palisade_cache_up", 0.0).await;
            }
            Scene { _redis: Some(redis), ..scene }
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
async fn logout_holds_on_all_nodes_at_once() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    logs_out_normally(&nodes, &cast).await;
}

#[tokio::test]
async fn login_and_changes_are_unaffected_with_limits_per_node() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    changes_normally(&nodes, &cast, &scene.root(&nodes[0]), &scene.films).await;
    for _ in 0..5 {
        let failed = nodes[0].log_in(&cast.cid.email, "not the password").await;
        failed.is_error(401, "Bad email or password");
    }
    nodes[0].log_in(&cast.cid.email, &cast.cid.password).await.is_refused(429);
    nodes[1].log_in(&cast.cid.email, &cast.cid.password).await.is(200);
}

#[tokio::test]
async fn refreshes_are_unaffected() {
    let scene = scene().await;
    let (nodes, cast) = scene.play();
    refreshes_normally(&nodes, &cast).await;
}
