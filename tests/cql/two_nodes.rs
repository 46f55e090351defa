//! Nodes on one store, which receive each other's revocations from its ledger.

#![allow(clippy::print_stdout, reason = "how long it took is shown with --nocapture")]

mod accounts;
mod keys;
mod permissions;
mod sessions;
mod starts;

use std::time::{Duration, Instant};

use testkit::{Answer, Client, Node, Person, Request, eventually, forge};

/// Longest time until a revocation arrives: nodes read the ledger once a second; the rest is for a busy
/// machine.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time from start to readiness.
const START_TIMEOUT: Duration = Duration::from_secs(60);

async fn two() -> (Node, Node) {
    two_with(&[]).await
}

async fn two_with(settings: &[(&str, &str)]) -> (Node, Node) {
    let builder = || settings.iter().fold(Node::builder(), |node, (name, value)| node.setting(name, *value));
    let a = builder().on_cql().await.start().await;
    let b = builder().beside(&a).start().await;
    (a, b)
}

/// Waits until one node has received a change of another, and prints how long that took.
async fn propagated<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let found = eventually(PROPAGATION_TIMEOUT, what, look).await;
    println!("{what}: after {:?}", start.elapsed());
    found
}

/// The node refuses the access token, after it has accepted it for a short time at most.
async fn learns_that_it_is_out(node: &Client, person: &Person, what: &str) {
    let there = person.at(node);
    let refused = propagated(what, async || {
        let answer = there.validate().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.is_error(401, "Token has been revoked");
}

async fn cannot_refresh(node: &Client, person: &Person) {
    node.refresh(&person.refresh).await.is_error(401, "Token has been revoked");
}

/// Retries, as clients do, while the node sheds what its hashing queue cannot hold.
async fn until_not_shed(request: impl Fn() -> Request) -> Answer {
    eventually(Duration::from_secs(60), "room in the hashing queue", async || {
        let answer = request().send().await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

fn kid(token: &str) -> String {
    forge::parts(token).header["kid"].as_str().unwrap().to_owned()
}
