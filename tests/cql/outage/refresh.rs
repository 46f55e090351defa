//! Refreshing while the database is down.

use std::time::{Duration, Instant};

use testkit::{Client, Node, Person, servers::Action};

use crate::behind::{AWAY, Behind, Way, is_one_live_session, is_unavailable, on};

/// Shows the token repeatedly for longer than the grace. The node never calls it revoked.
async fn is_503_past_the_grace(client: &Client, token: &str) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        is_unavailable(client.post("auth_token/token_refresh").bearer(token)).await;
    }
}

/// Shows the token until there is a pair, as a client does. The node never calls it revoked.
async fn gets_its_pair(client: &Client, person: &Person) -> Person {
    let next = person.at(&client.retrying()).refreshed().await.at(client);
    next.is_in().await;
    next
}

const SHORT_GRACE: [(&str, &str); 1] = [("REFRESH_GRACE", "1s")];

/// Another node, for which the database is down as well.
async fn behind_the_same_proxy(here: &Behind) -> Node {
    let builder = Node::builder().on_keyspace(&here.keyspace, here.proxy.address());
    builder.setting("REFRESH_GRACE", "1s").start().await
}

#[tokio::test]
async fn unspent_refresh_token_gets_its_pair_after_a_long_outage() {
    let here = Behind::with(&SHORT_GRACE).await;
    for way in AWAY {
        let ann = here.node.register("ann").await;
        let _while = here.hurt(way).await;
        is_503_past_the_grace(&here.node, &ann.refresh).await;
        ann.is_in().await;
        here.proxy.mend().await;
        let next = gets_its_pair(&here.node, &ann).await;
        is_one_live_session(&next).await;
        here.mended().await;
    }
}

#[tokio::test]
async fn token_spent_without_answer_gets_its_pair_after_long_outage() {
    let here = Behind::with(&SHORT_GRACE).await;
    for times in [1, 3] {
        let ann = here.node.register("ann").await;
        here.proxy.on("UPDATE sessions", Action::CutAfter);
        for _ in 0..times {
            is_503_past_the_grace(&here.node, &ann.refresh).await;
        }
        assert_eq!(here.proxy.waiting(), 0, "the database never got it");
        ann.is_in().await;
        here.proxy.mend().await;
        let next = gets_its_pair(&here.node, &ann).await;
        is_one_live_session(&next).await;
        here.mended().await;
    }
}

#[tokio::test]
async fn token_spent_without_answer_gets_its_pair_on_another_node() {
    let here = Behind::with(&SHORT_GRACE).await;
    let other = behind_the_same_proxy(&here).await;
    let ann = here.node.register("ann").await;
    here.proxy.on("UPDATE sessions", Action::CutAfter);
    is_503_past_the_grace(&here.node, &ann.refresh).await;
    assert_eq!(here.proxy.waiting(), 0, "the database never got it");
    here.mended().await;
    let next = gets_its_pair(&other, &ann).await;
    is_one_live_session(&next).await;
    // The node that spent it agrees.
    next.at(&here.node).is_in().await;
}

#[tokio::test]
async fn token_spent_without_answer_gets_pair_on_recovered_node() {
    let here = Behind::with(&SHORT_GRACE).await;
    let other = behind_the_same_proxy(&here).await;
    for _ in 0..4 {
        let ann = here.node.register("ann").await;
        here.proxy.on("UPDATE sessions", Action::CutAfter);
        is_503_past_the_grace(&here.node, &ann.refresh).await;
        assert_eq!(here.proxy.waiting(), 0, "the database never got it");
        here.proxy.mend().await;
        // At once: the node that spent it may not have reached the database yet.
        let next = gets_its_pair(&other, &ann).await;
        is_one_live_session(&next).await;
        here.mended().await;
    }
}

#[tokio::test]
async fn unspent_refresh_token_gets_its_pair_on_another_node() {
    let here = Behind::with(&SHORT_GRACE).await;
    let other = on(&here.keyspace).await.setting("REFRESH_GRACE", "1s").start().await;
    for way in [Way::Cut, Way::Stalled] {
        let ann = here.node.register("ann").await;
        let _while = here.hurt(way).await;
        // What is stalled may arrive yet, so this client does not wait for the grace to end.
        is_unavailable(here.node.post("auth_token/token_refresh").bearer(&ann.refresh)).await;
        let next = gets_its_pair(&other, &ann).await;
        here.mended().await;
        is_one_live_session(&next).await;
        next.at(&here.node).is_in().await;
    }
}
