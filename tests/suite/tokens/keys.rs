//! Signing keys: published before they sign, good for what they signed, refused when retired.

use std::time::Duration;

use testkit::{Node, eventually, forge};

fn kid(token: &str) -> String {
    forge::parts(token).header["kid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_next_key_is_published_before_it_signs() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let before = node.published_kids().await;
    node.cli(&["keys", "rotate"]).await.is_done();
    let next = eventually(Duration::from_secs(10), "the next key signs", async || {
        let next = ann.in_another_session().await;
        (kid(&next.access) != kid(&ann.access)).then_some(next)
    })
    .await;
    assert!(before.contains(&kid(&next.access)), "it signs with a key that was not published: {before:?}");
    next.is_in().await;
    ann.is_in().await;
    assert!(node.published_kids().await.contains(&kid(&ann.access)), "what it signed is still verified");
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn the_command_line_lists_keys_with_their_states() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let keys = node.keys().await;
    let active: Vec<_> = keys.iter().filter(|key| key["state"] == "active").collect();
    assert_eq!(active.len(), 1, "{keys:?}");
    assert_eq!(active[0]["kid"], kid(&ann.access).as_str());
    assert_eq!(active[0]["algorithm"], "EdDSA");
    let published = node.published_kids().await;
    assert!(keys.iter().all(|key| published.contains(key["kid"].as_str().unwrap())));
}

#[tokio::test]
async fn a_retired_key_stays_refused_after_kill_dash_9() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let retired = kid(&ann.access);
    node.cli(&["keys", "retire", &retired]).await.is_done();
    node.kill_dash_9();
    node.restart().await;
    ann.validate().await.is_error(401, "Token has been revoked");
    assert!(!node.published_kids().await.contains(&retired));
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn unknown_key_cannot_be_retired() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let run = node.cli(&["keys", "retire", "01890a5d-ac96-774b-bcce-b302099a8057"]).await;
    run.failed_saying(&["01890a5d-ac96-774b-bcce-b302099a8057"]).in_one_line();
    let run = node.cli(&["keys", "retire", "no-kid"]).await;
    assert!(matches!(run.status, 1 | 2), "{run:?}");
    ann.is_in().await;
}

#[tokio::test]
async fn keys_and_tokens_survive_a_restart() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let before = node.published_kids().await;
    node.restart().await;
    assert_eq!(node.published_kids().await, before);
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn keys_rotate_even_when_no_node_runs() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    node.terminate().await;
    node.cli(&["keys", "rotate"]).await.is_done();
    node.restart().await;
    ann.is_in().await;
    assert_ne!(kid(&ann.in_another_session().await.access), kid(&ann.access));
}

#[tokio::test]
async fn the_algorithm_can_be_changed_and_old_tokens_stay_good() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    node.terminate().await;
    let successor = node.successor().setting("SIGNING_ALGORITHM", "ES256").start().await;
    let ann = ann.at(&successor);
    ann.is_in().await;
    // When the new algorithm takes over (at once, or with the next rotation) is the node's business.
    successor.cli(&["keys", "rotate"]).await.is_done();
    successor.cli(&["keys", "rotate"]).await.is_done();
    let next = ann.in_another_session().await;
    next.is_in().await;
    assert_eq!(forge::parts(&next.access).header["alg"], "ES256");
    ann.is_in().await;
}
