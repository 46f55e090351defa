//! A verdict may be remembered, but never longer than it is true.

use std::time::Duration;

use serde_json::json;
use testkit::{Node, Person, Shared, eventually, forge};

/// Asks often enough for the verdict to be remembered wherever it may be.
async fn is_well_remembered(person: &Person) {
    for _ in 0..20 {
        person.is_in().await;
    }
}

#[tokio::test]
async fn cached_token_is_refused_when_it_expires() {
    static BRIEF: Shared = Shared::with(&[("ACCESS_TTL", "2s")]);
    let node = BRIEF.node().await;
    let ann = node.register("ann").await;
    is_well_remembered(&ann).await;
    let until = eventually(Duration::from_secs(8), "the token expires", async || {
        let answer = ann.validate().await;
        (answer.status != 200).then_some(answer)
    });
    until.await.is_error(401, "Token has expired");
}

#[tokio::test]
async fn cached_token_is_refused_after_logout() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    is_well_remembered(&ann).await;
    ann.delete("auth_token").send().await.is_done();
    ann.is_out().await;
}

#[tokio::test]
async fn cached_token_is_refused_when_the_user_version_rises() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    is_well_remembered(&ann).await;
    is_well_remembered(&other).await;
    ann.delete("auth_token/all").send().await.is_done();
    ann.is_out().await;
    other.is_out().await;
}

#[tokio::test]
async fn cached_token_is_refused_when_its_key_retires() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    is_well_remembered(&ann).await;
    let kid = forge::parts(&ann.access).header["kid"].as_str().unwrap().to_owned();
    node.cli(&["keys", "retire", &kid]).await.is_done();
    let revoked = eventually(Duration::from_secs(5), "the key is retired", async || {
        let answer = ann.validate().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    revoked.is_error(401, "Token has been revoked");
    // The session is not ended by that: its refresh token gets tokens under another key.
    let next = ann.refreshed().await;
    next.is_in().await;
    assert_ne!(forge::parts(&next.access).header["kid"], kid.as_str());
}

#[tokio::test]
async fn cached_token_is_refused_when_its_user_is_disabled_or_deleted() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    is_well_remembered(&ann).await;
    is_well_remembered(&bob).await;
    root.sets_active(&ann, false).await.is(200);
    root.delete(&bob.path("")).send().await.is_done();
    ann.is_out().await;
    bob.is_out().await;
}

#[tokio::test]
async fn a_refused_token_stays_refused_however_often_it_is_shown() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    ann.delete("auth_token").send().await.is_done();
    for _ in 0..20 {
        ann.validate().await.is_error(401, "Token has been revoked");
    }
    let bob = node.register("bob").await;
    let forged = forge::parts(&bob.access).with_claim("sub", json!(ann.uuid));
    for _ in 0..5 {
        node.validate(&forged).await.is_error(422, "Signature verification failed");
        bob.is_in().await;
    }
}
