//! Ways that are cut: between nodes, and to the store.

use std::time::{Duration, Instant};

use testkit::{Answer, Cluster, cluster::visible, eventually};

use super::{
    DETECTION_TIMEOUT, PROPAGATION_TIMEOUT, becomes, is_in_everywhere, is_out_at_once, is_out_before_long,
    is_visible_nowhere, say, sessions, stale_ms,
};

/// Longest time until a revocation arrives by the ledger: nodes read it every second; the rest is for a busy
/// machine.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a revocation waits here for unreachable nodes. Reachable nodes acknowledge it in that time,
/// even on a busy machine.
const ACK_WAIT: &str = "1s";
/// Longest time of a revocation, whichever nodes are unreachable.
const REVOCATION_TIME_MAX: Duration = Duration::from_secs(2);

/// 204, on this node's disk.
fn is_out_by_the_journal(answer: &Answer) -> (u32, u32) {
    answer.is_done();
    assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
    visible(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_cut_off_from_peers_learns_from_the_ledger() {
    let cluster = Cluster::builder(3).relayed().setting("ACK_DEADLINE", ACK_WAIT).start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b, c], 16).await;
    cluster.relay().isolate(0);
    // At once, before any node has noticed the cut, and when all have.
    for noticed in [false, true] {
        if noticed {
            let missed = [cluster.is_missed(a, "b").await, cluster.is_missed(b, "a").await];
            cluster.is_missed(a, "c").await;
            cluster.is_missed(c, "a").await;
            say(&format!("they miss each other after {missed:?}"));
        }
        let some = &sessions[4 * usize::from(noticed)..][..4];
        for session in &some[..2] {
            let start = Instant::now();
            let answer = session.at(b).delete("auth_token").send().await;
            assert!(start.elapsed() < REVOCATION_TIME_MAX, "after {:?}", start.elapsed());
            let (k, n) = visible(answer.is_done());
            assert!(k == 1 && n == if noticed { 1 } else { 2 } || (!noticed && n == 1), "{answer}");
            is_out_at_once([b, c], session).await;
            let took = is_out_before_long(a, session, "who is cut off refuses it by the ledger").await;
            assert!(took < LEDGER_TIMEOUT, "{took:?}");
        }
        for session in &some[2..] {
            let answer = session.at(a).delete("auth_token").send().await;
            is_visible_nowhere(&answer);
            is_out_at_once([a], session).await;
            for node in [b, c] {
                let took =
                    is_out_before_long(node, session, "the others refuse what who is cut off took").await;
                assert!(took < LEDGER_TIMEOUT, "{took:?}");
            }
        }
        // It is as fresh as its last look at the ledger: nothing is stale.
        let answer = ann.at(a).validate().await;
        assert_eq!((answer.status, stale_ms(&answer)), (200, None), "{answer}");
    }
    cluster.relay().heal();
    let healed = Instant::now();
    cluster.is_together().await;
    say(&format!("together again {:?} after it was healed", healed.elapsed()));
    for (n, session) in sessions[8..14].iter().enumerate() {
        session.at(cluster.three()[n % 3]).delete("auth_token").send().await.is_done().is_visible_at(2);
        is_out_at_once(cluster.nodes(), session).await;
    }
    is_in_everywhere(cluster.nodes(), &ann).await;
}

/// A is cut off from its peers and from the store, until it is too old to decide.
async fn cut_off_from_all(policy: &str) -> (Cluster, Vec<testkit::Person>) {
    let builder = Cluster::builder(3).relayed().proxied().setting("ACK_DEADLINE", ACK_WAIT);
    let cluster = builder.setting("MAX_STALENESS", "2s").setting("STALE_POLICY", policy).start().await;
    let [a, b, c] = cluster.three();
    let ann = b.register("ann").await;
    let sessions = sessions(&ann, &[a, b, c], 8).await;
    cluster.root().gives(&ann, "users_admin").await.is(200).is_visible_at(2);
    for session in &sessions {
        session.at(a).is_in().await;
    }
    assert!(ann.at(a).may("users_admin").await);
    let answer = sessions[0].at(a).validate().await;
    assert_eq!((answer.status, stale_ms(&answer)), (200, None), "{answer}");
    cluster.relay().isolate(0);
    cluster.proxy(0).cut().await;
    let start = Instant::now();
    eventually(DETECTION_TIMEOUT, "it is too old to decide", async || {
        let answer = sessions[0].at(a).validate().await;
        match (policy, answer.status, stale_ms(&answer)) {
            (_, 200, None) => None,
            ("open", 200, Some(ms)) => {
                assert!(ms >= 2_000, "stale before the bound: {answer}");
                Some(())
            }
            ("closed", 503, _) => {
                answer.is_error(503, "Revocation state is too old to decide");
                Some(())
            }
            _ => panic!("{answer}"),
        }
    })
    .await;
    say(&format!("{policy}: stale {:?} after it was cut off", start.elapsed()));
    assert!(start.elapsed() > Duration::from_secs(1), "it was fresh when it was cut off");
    (cluster, sessions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_node_reports_staleness_and_catches_up() {
    let (cluster, sessions) = cut_off_from_all("open").await;
    let [a, b, c] = cluster.three();
    let root = cluster.root().at(b);
    root.takes(&sessions[7], "users_admin").await.is(200);
    b.validate(&sessions[7].access).await.is(200);
    sessions[0].at(b).delete("auth_token").send().await.is_done();
    is_out_at_once([b, c], &sessions[0]).await;
    // It cannot know, and says so, more with every answer.
    let mut last = 0;
    for _ in 0..20 {
        let answer = sessions[0].at(a).validate().await;
        let ms = stale_ms(&answer);
        assert!(answer.status == 200 && ms >= Some(last), "{answer}");
        last = ms.expect("it is stale");
    }
    // The batch and the gateway's answer say so too.
    let answer = sessions[1].at(a).get("/auth_request").send().await;
    assert!(matches!(answer.status, 200 | 204) && stale_ms(&answer).is_some(), "{answer}");
    let body = serde_json::json!({"tokens": [sessions[0].access]});
    let answer = sessions[1].at(a).post("auth_token/validation/batch").json(&body).send().await;
    assert!(answer.status == 200 && stale_ms(&answer).is_some(), "{answer}");
    let view = cluster.view(a).await.expect("it answers");
    assert_eq!((&view.0["stale"], &view.0["stale_policy"]), (&true.into(), &"open".into()), "{view:?}");
    assert!(view.0["freshness_ms"].as_u64().is_none_or(|ms| ms >= 2_000), "{view:?}");
    // What it takes away itself it refuses at once, and keeps for the others.
    let own = sessions[1].at(a).delete("auth_token").send().await;
    let (k, n) = is_out_by_the_journal(&own);
    assert!(k == 0 && n <= 2, "{own}");
    a.validate(&sessions[1].access).await.is_error(401, "Token has been revoked");
    b.validate(&sessions[1].access).await.is(200);

    // Back with its peers alone, which is enough to hear and to be heard.
    cluster.relay().heal();
    is_out_before_long(a, &sessions[0], "who is back refuses what was taken elsewhere").await;
    for node in [b, c] {
        is_out_before_long(node, &sessions[1], "the others refuse what it had in its journal").await;
    }
    cluster.is_together().await;
    // What may have been taken is not answered from memory; the store is still away.
    eventually(PROPAGATION_TIMEOUT, "it does not know what they may do", async || {
        let answer = sessions[7].at(a).asks("\"users_admin\"").await;
        (answer.status == 503).then_some(())
    })
    .await;
    eventually(PROPAGATION_TIMEOUT, "it is fresh by its peers", async || {
        let answer = sessions[2].at(a).validate().await;
        (answer.status == 200 && stale_ms(&answer).is_none()).then_some(())
    })
    .await;
    let answer = sessions[2].at(a).delete("auth_token").send().await;
    assert_eq!(is_out_by_the_journal(&answer), (2, 2));
    is_out_at_once([b, c], &sessions[2]).await;
    cluster.proxy(0).mend().await;
    becomes(a, "palisade_ledger_unwritten", 0.0).await;
    assert!(!sessions[7].at(a).may("users_admin").await && !sessions[7].at(b).may("users_admin").await);
    let loner = cluster.loner().await.start().await;
    for session in &sessions[..3] {
        is_out_at_once(cluster.nodes(), session).await;
        is_out_before_long(&loner, session, "who reads the ledger alone refuses it").await;
    }
    is_in_everywhere(cluster.nodes(), &sessions[7]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_strict_node_decides_nothing_until_reconnected() {
    let (cluster, sessions) = cut_off_from_all("closed").await;
    let [a, b, c] = cluster.three();
    sessions[0].at(c).delete("auth_token").send().await.is_done();
    is_out_at_once([b, c], &sessions[0]).await;
    for session in sessions.iter().cycle().take(24) {
        a.validate(&session.access).await.is_error(503, "Revocation state is too old to decide");
    }
    a.get("/auth_request").bearer(&sessions[3].access).send().await.is_refused(503);
    let body = serde_json::json!({"tokens": [sessions[0].access, sessions[3].access]});
    let batch = sessions[3].at(a).post("auth_token/validation/batch").json(&body).send().await;
    assert!(batch.status == 503 || !batch.text().contains("200"), "a stale verdict in a batch: {batch}");
    // A refusal that needs no other node is unaffected.
    a.validate("a.b.c").await.is_refused(422);

    cluster.proxy(0).mend().await;
    let mended = Instant::now();
    eventually(PROPAGATION_TIMEOUT, "it decides again, by the ledger alone", async || {
        let out = a.validate(&sessions[0].access).await;
        let lives = a.validate(&sessions[3].access).await;
        assert!(matches!(out.status, 401 | 503), "{out}");
        (out.status == 401 && lives.status == 200).then_some(())
    })
    .await;
    say(&format!("closed: decides {:?} after the store is back", mended.elapsed()));
    cluster.relay().heal();
    cluster.is_together().await;
    sessions[4].at(b).delete("auth_token").send().await.is_done().is_visible_at(2);
    is_out_at_once(cluster.nodes(), &sessions[4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_network_cut_loses_no_revocation() {
    let cluster = Cluster::builder(3).relayed().setting("ACK_DEADLINE", ACK_WAIT).start().await;
    let [a, b, c] = cluster.three();
    let ann = c.register("ann").await;
    let sessions = sessions(&ann, &[a, b, c], 12).await;
    // B does not hear A, A hears B, and C hears and is heard.
    cluster.relay().cut_path(0, 1);
    for (n, session) in sessions[..8].iter().enumerate() {
        let there = [a, b][n % 2];
        let start = Instant::now();
        let answer = session.at(there).delete("auth_token").send().await;
        let (k, of) = visible(answer.is_done());
        assert!(start.elapsed() < REVOCATION_TIME_MAX, "after {:?}", start.elapsed());
        assert!(k <= of && of <= 2, "{answer}");
        is_out_at_once([there], session).await;
        if k == 2 {
            is_out_at_once(cluster.nodes(), session).await;
        }
        for node in [a, b, c] {
            is_out_before_long(node, session, "who is not heard is heard of").await;
        }
    }
    // A node that two of three can reach is not called dead for long.
    cluster.relay().heal();
    cluster.is_together().await;
    for session in &sessions[8..] {
        session.at(a).delete("auth_token").send().await.is_done().is_visible_at(2);
        is_out_at_once(cluster.nodes(), session).await;
    }
    is_in_everywhere(cluster.nodes(), &ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn third_node_relays_between_two_separated_nodes() {
    let cluster = Cluster::builder(3).relayed().proxied_together().start().await;
    let [a, b, c] = cluster.three();
    let ann = c.register("ann").await;
    let sessions = sessions(&ann, &[a, b, c], 5).await;
    // There is no ledger, and no way between A and B.
    cluster.proxy(0).cut().await;
    cluster.relay().cut(0, 1);
    for (n, session) in sessions[..4].iter().enumerate() {
        let there = [a, b][n % 2];
        let other = [b, a][n % 2];
        let answer = session.at(there).delete("auth_token").send().await;
        let (k, of) = is_out_by_the_journal(&answer);
        assert!((1..=2).contains(&k) && k <= of && of <= 2, "{answer}");
        for node in [there, c] {
            node.validate(&session.access).await.is_error(401, "Token has been revoked");
        }
        let took = is_out_before_long(other, session, "a third tells it").await;
        assert!(took < LEDGER_TIMEOUT, "{took:?}");
    }
    sessions[4].at(a).is_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_both_paths_relays_between_peers_and_ledger() {
    const BOUND: Duration = Duration::from_secs(5);
    let builder = Cluster::builder(3).relayed().proxied().setting("ACK_DEADLINE", ACK_WAIT);
    let cluster = builder.setting("MAX_STALENESS", "5s").start().await;
    let [a, b, c] = cluster.three();
    let ann = c.register("ann").await;
    let sessions = sessions(&ann, &[a, b, c], 4).await;
    cluster.relay().isolate(0);
    cluster.proxy(1).cut().await;
    cluster.is_missed(b, "a").await;
    cluster.is_missed(c, "a").await;
    for session in &sessions[..2] {
        let answer = session.at(b).delete("auth_token").send().await;
        assert_eq!(is_out_by_the_journal(&answer), (1, 1));
        is_out_at_once([c], session).await;
    }
    for session in &sessions[..2] {
        let start = Instant::now();
        eventually(PROPAGATION_TIMEOUT, "C writes down what B cannot, and A reads it", async || {
            let answer = session.at(a).validate().await;
            // Until then it must not take itself for fresh.
            let bound_is_kept =
                answer.status != 200 || stale_ms(&answer).is_some() || start.elapsed() < 3 * BOUND;
            assert!(
                bound_is_kept,
                "{:?} after its end, with a bound of {BOUND:?}\n{answer}",
                start.elapsed()
            );
            (answer.status == 401).then_some(())
        })
        .await;
        say(&format!("by one that has both: after {:?}", start.elapsed()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_use_the_ledger_when_only_gossip_passes() {
    let cluster = Cluster::builder(2).relayed().setting("ACK_DEADLINE", ACK_WAIT).start().await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 8).await;
    cluster.relay().cut_links();
    for (n, session) in sessions[..6].iter().enumerate() {
        let there = [a, b][n % 2];
        let other = [b, a][n % 2];
        let start = Instant::now();
        let answer = session.at(there).delete("auth_token").send().await;
        assert!(start.elapsed() < REVOCATION_TIME_MAX, "after {:?}", start.elapsed());
        // Alive, and it does not have it.
        assert_eq!(visible(answer.is_done()), (0, 1), "{answer}");
        let took = is_out_before_long(other, session, "who cannot be linked hears by the ledger").await;
        assert!(took < LEDGER_TIMEOUT, "{took:?}");
    }
    eventually(DETECTION_TIMEOUT, "they know that there is no link", async || {
        let sight = cluster.sight(a, "b").await?;
        (sight["state"] == "alive" && sight["linked"] == false).then_some(())
    })
    .await;
    let answer = ann.at(a).validate().await;
    assert_eq!((answer.status, stale_ms(&answer)), (200, None), "{answer}");
    cluster.relay().heal();
    cluster.is_together().await;
    sessions[6].at(b).delete("auth_token").send().await.is_done().is_visible_at(1);
    is_out_at_once([a, b], &sessions[6]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_overstates_visibility_when_only_links_pass() {
    let cluster = Cluster::builder(2).relayed().setting("ACK_DEADLINE", ACK_WAIT).start().await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 10).await;
    cluster.relay().lose(100);
    for noticed in [false, true] {
        if noticed {
            say(&format!("without gossip they miss each other after {:?}", cluster.is_missed(a, "b").await));
            cluster.is_missed(b, "a").await;
        }
        let some = &sessions[4 * usize::from(noticed)..][..4];
        for (n, session) in some.iter().enumerate() {
            let there = [a, b][n % 2];
            let other = [b, a][n % 2];
            let answer = session.at(there).delete("auth_token").send().await;
            let (k, of) = visible(answer.is_done());
            if k == 1 {
                is_out_at_once([other], session).await;
            }
            say(&format!("without gossip, noticed: {noticed}: {k}/{of}"));
            let took = is_out_before_long(other, session, "without gossip it is heard of").await;
            assert!(took < LEDGER_TIMEOUT, "{took:?}");
        }
    }
    cluster.relay().heal();
    cluster.is_together().await;
    sessions[8].at(b).delete("auth_token").send().await.is_done().is_visible_at(1);
    is_out_at_once([a, b], &sessions[8]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_network_loses_no_revocation() {
    let cluster = Cluster::builder(3).relayed().start().await;
    let ann = cluster[0].register("ann").await;
    let nodes = cluster.three();
    let sessions = sessions(&ann, &nodes, 36).await;
    let (lossy, rest) = sessions.split_at(12);
    let (slow, reset) = rest.split_at(12);
    // Every third datagram is lost, and more of those from A to B.
    cluster.relay().lose(33);
    cluster.relay().lose_datagrams(0, 1, 66);
    let before = cluster.relay().passed();
    eventually(DETECTION_TIMEOUT, "gossip passes", async || {
        (cluster.relay().passed() > before + 60).then_some(())
    })
    .await;
    for (n, session) in lossy.iter().enumerate() {
        // Links do not lose anything.
        session.at(nodes[n % 3]).delete("auth_token").send().await.is_done().is_visible_at(2);
        is_out_at_once(nodes, session).await;
    }
    cluster.relay().heal();
    cluster.relay().delay(Duration::from_millis(100));
    for (n, session) in slow.iter().enumerate() {
        let start = Instant::now();
        session.at(nodes[n % 3]).delete("auth_token").send().await.is_done().is_visible_at(2);
        // There it may be known already by the ledger: what says so takes the way back.
        assert!(start.elapsed() >= Duration::from_millis(100), "faster than the way back");
        is_out_at_once(nodes, session).await;
    }
    cluster.relay().heal();
    for (n, sessions) in reset.chunks(3).enumerate() {
        cluster.relay().sever();
        for session in sessions {
            session.at(nodes[n % 3]).delete("auth_token").send().await.is_done();
        }
        for session in sessions {
            for node in nodes {
                is_out_before_long(node, session, "refused after a reset").await;
            }
        }
        cluster.is_together().await;
    }
    is_in_everywhere(nodes, &ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_without_store_holds_everywhere_and_survives_its_node() {
    let cluster = Cluster::builder(3).proxied_together().start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b, c], 8).await;
    cluster.proxy(0).cut().await;
    for (n, session) in sessions[..4].iter().enumerate() {
        if n == 2 {
            for node in [a, b, c] {
                becomes(node, "palisade_store_up", 0.0).await;
            }
        }
        let answer = session.at(a).delete("auth_token").send().await;
        assert_eq!(is_out_by_the_journal(&answer), (2, 2));
        for node in [a, b, c] {
            node.validate(&session.access).await.is_error(401, "Token has been revoked");
        }
    }
    a.kill_dash_9();
    for session in &sessions[..4] {
        for node in [b, c] {
            node.validate(&session.access).await.is_error(401, "Token has been revoked");
        }
    }
    cluster.is_missed(b, "a").await;
    // The store is back, and A is not: a node that received the fact writes it to the ledger.
    cluster.proxy(0).mend().await;
    let mended = Instant::now();
    for node in [b, c] {
        becomes(node, "palisade_store_up", 1.0).await;
    }
    let loner = cluster.loner().await.start().await;
    for session in &sessions[..4] {
        is_out_before_long(&loner, session, "who reads the ledger alone refuses what a dead node took").await;
    }
    say(&format!("in the ledger {:?} after the store is back", mended.elapsed()));
    sessions[5].at(&loner).is_in().await;
    // A is back with its journal, and C without anything.
    a.launch_again();
    a.comes_up().await;
    c.kill_dash_9();
    c.loses_its_data_directory();
    c.launch_again();
    c.comes_up().await;
    cluster.is_together().await;
    for session in &sessions[..4] {
        is_out_at_once(cluster.nodes(), session).await;
    }
    is_in_everywhere(cluster.nodes(), &sessions[5]).await;
    sessions[6].at(a).delete("auth_token").send().await.is_done().is_visible_at(2);
    is_out_at_once(cluster.nodes(), &sessions[6]).await;
}
