//! Nodes on one store whose clocks were wrong.

use testkit::{Client, Node, Person, Shift};

const HOUR: i32 = 3_600;
const MINUTE: i32 = 60;

const fn later(secs: i32) -> Shift {
    Shift { wall: secs, boot: secs }
}

async fn is_revoked(node: &Client, person: &Person) {
    person.at(node).validate().await.is_error(401, "Token has been revoked");
}

/// The one that revokes never had that clock: it learns from the session's row how long its tokens last.
#[tokio::test]
async fn token_of_another_nodes_clock_is_revoked_until_its_end() {
    let issuer = Node::builder().clocks(Shift { wall: HOUR, boot: 0 }).on_cql().await.start().await;
    let revoker = Node::builder().clocks(Shift::default()).beside(&issuer).start().await;
    let ann = issuer.register("ann").await;
    issuer.move_clocks(Shift::default()).await;
    let next = ann.at(&revoker).refreshed().await;
    next.delete("auth_token").send().await.is_done();
    // Before, it is a token of the future to a node that has not seen it.
    for minutes in [62, 70] {
        for node in [&issuer, &revoker] {
            node.move_clocks(later(minutes * MINUTE)).await;
            node.has_forgotten_what_it_may().await;
        }
        is_revoked(&revoker, &ann).await;
    }
    revoker.restart().await;
    is_revoked(&revoker, &ann).await;
    issuer.restart().await;
    is_revoked(&issuer, &ann).await;
    let newcomer = Node::builder().clocks(later(70 * MINUTE)).beside(&issuer).start().await;
    is_revoked(&newcomer, &ann).await;
}

/// What a node writes whose clock is ahead lives as long as what one writes whose clock is right.
#[tokio::test]
async fn rows_written_by_a_fast_clock_exist_when_it_is_right() {
    let ahead = Node::builder().clocks(Shift::default()).on_cql().await.start().await;
    let other = Node::builder().beside(&ahead).start().await;
    let ann = ahead.register("ann").await;
    let bob = ahead.register("bob").await;
    ahead.move_clocks(Shift { wall: 40 * 24 * HOUR, boot: 0 }).await;
    ahead.has_forgotten_what_it_may().await;
    let eve = ahead.register("eve").await;
    Person::log_in(&ahead, &ann.email, &ann.password).await.delete("auth_token/all").send().await.is_done();
    ahead.move_clocks(Shift::default()).await;
    ahead.has_forgotten_what_it_may().await;
    ahead.restart().await;
    let late = Node::builder().beside(&ahead).start().await;
    for node in [&ahead, &other, &late] {
        // One that reads the ledger hears within a second or two.
        testkit::eventually(std::time::Duration::from_secs(30), "the revocation", async || {
            (ann.at(node).validate().await.status == 401).then_some(())
        })
        .await;
        bob.at(node).is_in().await;
    }
    bob.at(&late).refreshed().await.is_in().await;
    eve.at(&late).refreshed().await.is_in().await;
}
