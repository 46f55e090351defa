//! Nodes that are new to the cluster.

use std::time::Duration;

use testkit::{
    Cluster,
    background::in_background,
    cluster::visible,
    eventually,
    servers::{Cassandra, Proxy},
};

use super::{JOURNAL_SIZE, SILENT, START_TIMEOUT, starts_without_a_wrong_verdict};
use crate::cluster::{is_out_at_once, say, sessions, silent_sessions};

#[tokio::test]
async fn new_node_decides_nothing_before_it_has_the_facts() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let out = sessions(&ann, &[a, b], 10).await;
    let lives = sessions(&ann, &[a, b], 2).await;
    for (n, session) in out.iter().enumerate() {
        session.at([a, b][n % 2]).delete("auth_token").send().await.is_done().is_visible_at(1);
    }
    let cassandra = Cassandra::one().await.address();
    let proxy = in_background(move || Proxy::to(cassandra)).await;
    proxy.cut().await;
    let (newcomer, _) = cluster.newcomer("c").await;
    let c = newcomer.on_keyspace(cluster.keyspace(), proxy.address()).launch().await;
    eventually(START_TIMEOUT, "it lives", async || {
        c.get("/health/live").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    // It has no keys, so it can know nothing, however many peers it has.
    for _ in 0..10 {
        c.readiness().await.expect("an answer").is_refused(503);
        for person in [&out[0], &lives[0]] {
            c.validate(&person.access).await.is_refused(503);
            c.get("/auth_request").bearer(&person.access).send().await.is_refused(503);
        }
    }
    // Revocations are not held up by a member that is not ready.
    lives[1].at(b).delete("auth_token").send().await.is_done();
    is_out_at_once([a, b], &lives[1]).await;
    let out: Vec<_> = out.into_iter().chain([lives[1].clone()]).collect();
    proxy.delay(Duration::from_millis(30));
    proxy.mend().await;
    starts_without_a_wrong_verdict(&c, &out, &lives[..1]).await;
    cluster.are_together(&[a, b, &c]).await;
    lives[0].at(&c).delete("auth_token").send().await.is_done().is_visible_at(2);
    is_out_at_once([a, b, &c], &lives[0]).await;
}

#[tokio::test]
async fn new_node_receives_thousands_of_earlier_facts() {
    let cluster = Cluster::builder(2).setting("JOURNAL_SIZE", JOURNAL_SIZE).start().await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let out = sessions(&ann, &[a, b], 20).await;
    let lives = sessions(&ann, &[a], 1).await;
    silent_sessions(&cluster, &ann, SILENT).await;
    // All but one, and the sessions without tokens.
    let answer = lives[0].delete("auth_token/others").send().await;
    let (k, n) = visible(answer.is_done());
    if k == n {
        for session in &out {
            is_out_at_once([a, b], session).await;
        }
    }
    say(&format!("{SILENT} facts of one call were visible at {k}/{n}"));
    let (newcomer, _) = cluster.newcomer("c").await;
    let c = newcomer.launch().await;
    let out: Vec<_> = out.into_iter().chain([ann]).collect();
    starts_without_a_wrong_verdict(&c, &out, &lives).await;
    let view = cluster.view(&c).await.expect("it answers");
    let known = view.0["denials"]["sessions"].as_u64().expect("a number");
    assert!(known >= SILENT as u64, "only {known} of {SILENT}");
}
