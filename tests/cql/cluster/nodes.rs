//! Nodes that are killed, paused, or new.

mod copies;
mod newcomers;
mod paused;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{Cluster, Node, Person, cluster::visible, eventually};

use super::{becomes, is_in_everywhere, is_out_at_once, is_out_before_long, say, sessions};

/// Longest time from start to readiness.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time of an answer, whatever happens to a peer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Journal size: enough for thousands of facts.
const JOURNAL_SIZE: &str = "16MiB";
/// Facts that a paused node misses, besides those that the test checks.
const SILENT: usize = 3_000;

/// A cluster whose nodes wait for acknowledgements for the default time.
fn with_default_ack_deadline() -> testkit::cluster::Builder {
    Cluster::builder(3).default_setting("ACK_DEADLINE").setting("JOURNAL_SIZE", JOURNAL_SIZE)
}

/// Validates tokens at a starting node until it is ready. Every answer before that is 503 or right.
async fn starts_without_a_wrong_verdict(node: &Node, out: &[Person], lives: &[Person]) {
    let start = Instant::now();
    let mut undecided = 0;
    let mut decided = 0;
    eventually(START_TIMEOUT, "it is ready", async || {
        // Asked before the verdicts: what is ready decides.
        let ready = node.readiness().await.is_ok_and(|answer| answer.status == 200);
        for (people, verdict) in [(out, 401), (lives, 200)] {
            for person in people {
                let asked = node.get("auth_token/validation").bearer(&person.access).try_send().await;
                let Ok(answer) = asked else { return None };
                if answer.status == 503 && !ready {
                    answer.is_refused(503);
                    undecided += 1;
                } else {
                    assert_eq!(answer.status, verdict, "{answer}");
                    decided += 1;
                }
            }
        }
        ready.then_some(())
    })
    .await;
    say(&format!(
        "ready after {:?}; {undecided} times it could not know, {decided} times it did",
        start.elapsed()
    ));
    for person in out {
        is_out_at_once([node], person).await;
    }
}

#[tokio::test]
async fn killed_node_leaves_k_at_once_and_n_when_detected() {
    let cluster = with_default_ack_deadline().start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 40).await;
    let mut sessions = sessions.iter();
    c.kill_dash_9();
    let killed = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut lacking = 0;
    let noticed = loop {
        let session = sessions.next().expect("it is noticed before all sessions have ended");
        let start = Instant::now();
        let answer = session.at(b).delete("auth_token").send().await;
        slowest = slowest.max(start.elapsed());
        match visible(answer.is_done()) {
            (1, 2) => lacking += 1,
            (1, 1) => break killed.elapsed(),
            other => panic!("{other:?} with one peer that lives and one that was killed\n{answer}"),
        }
        is_out_at_once([a, b], session).await;
        // At a client's pace, for there is nothing to await.
        tokio::time::sleep(Duration::from_millis(400)).await;
    };
    say(&format!("{lacking} times 1/2, 1/1 after {noticed:?}; the slowest answer took {slowest:?}"));
    assert!(slowest < ANSWER_TIME_MAX, "an answer took {slowest:?}");
    cluster.is_missed(a, "c").await;
    for _ in 0..5 {
        let session = sessions.next().expect("enough sessions");
        session.at(a).delete("auth_token").send().await.is_done().is_visible_at(1);
        is_out_at_once([a, b], session).await;
    }
    is_in_everywhere([a, b], &ann).await;
    // Back again, it counts again.
    c.launch_again();
    c.comes_up().await;
    cluster.is_together().await;
    let session = sessions.next().expect("enough sessions");
    session.at(a).delete("auth_token").send().await.is_done().is_visible_at(2);
    is_out_at_once(cluster.nodes(), session).await;
}

#[tokio::test]
async fn killed_node_learns_missed_revocations_before_it_decides() {
    let cluster = Cluster::of(3).await;
    let [a, b, c] = cluster.three();
    let root = cluster.root();
    let films = root.makes_permission("films").await;
    for empty in [false, true] {
        let ann = a.register("ann").await;
        let [bob, cid] = [b.register("bob").await, c.register("cid").await];
        root.gives(&ann, &films).await.is(200);
        assert!(ann.at(c).may(&films).await);
        let out = sessions(&ann, &[a, b, c], 10).await;
        let lives = sessions(&ann, &[a, b, c], 3).await;
        let before = sessions(&cid, &[c], 2).await;
        // What it took away itself, just before it died, is not lost with it.
        before[0].delete("auth_token").send().await.is_done();
        c.kill_dash_9();
        is_out_at_once([a, b], &before[0]).await;
        for (n, session) in out.iter().enumerate() {
            session.at([a, b][n % 2]).delete("auth_token").send().await.is_done();
        }
        bob.at(a).delete("auth_token/all").send().await.is_done();
        root.at(b).sets_active(&before[1], false).await.is(200);
        root.takes(&ann, &films).await.is(200);
        if empty {
            c.loses_its_data_directory();
        }
        c.launch_again();
        let out: Vec<_> = out.into_iter().chain([bob, cid]).chain(before).collect();
        starts_without_a_wrong_verdict(c, &out, &lives).await;
        assert!(!ann.at(c).may(&films).await, "a permission that was taken meanwhile");
        cluster.is_together().await;
        // What it takes away now, the others hear: it is not taken for what it was.
        for (n, session) in lives.iter().enumerate() {
            let there = cluster.three()[(n + 2) % 3];
            session.at(there).delete("auth_token").send().await.is_done().is_visible_at(2);
            is_out_at_once(cluster.nodes(), session).await;
        }
    }
}

#[tokio::test]
async fn killed_cluster_refuses_all_revoked_tokens_after_restart() {
    let cluster = Cluster::of(3).await;
    let ann = cluster[0].register("ann").await;
    let nodes: Vec<_> = cluster.nodes().iter().collect();
    let out = sessions(&ann, &nodes, 12).await;
    let lives = sessions(&ann, &nodes, 2).await;
    for (n, session) in out.iter().enumerate() {
        session.at(&cluster[n % 3]).delete("auth_token").send().await.is_done();
    }
    nodes.iter().for_each(|node| node.kill_dash_9());
    nodes.iter().for_each(|node| node.launch_again());
    for node in &nodes {
        starts_without_a_wrong_verdict(node, &out, &lives).await;
    }
    cluster.is_together().await;
    lives[0].at(nodes[1]).delete("auth_token").send().await.is_done().is_visible_at(2);
    is_out_at_once(cluster.nodes(), &lives[0]).await;
}

#[tokio::test]
async fn killed_cluster_without_store_loses_no_revocation() {
    let cluster = Cluster::builder(2).proxied_together().start().await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 6).await;
    cluster.proxy(0).cut().await;
    for (n, session) in sessions[..4].iter().enumerate() {
        let answer = session.at([a, b][n % 2]).delete("auth_token").send().await;
        answer.is_done().is_visible_at(1);
        assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
    }
    for node in [a, b] {
        node.kill_dash_9();
        node.launch_again();
    }
    for node in [a, b] {
        eventually(START_TIMEOUT, "it lives", async || {
            node.get("/health/live").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        for session in &sessions {
            node.validate(&session.access).await.is_refused(503);
        }
    }
    cluster.proxy(0).mend().await;
    // Which of them is back first reads a ledger that does not have what the other kept.
    for (n, session) in sessions[..4].iter().enumerate() {
        for node in [a, b] {
            let mut accepted = 0;
            eventually(START_TIMEOUT, "it is refused", async || {
                let answer = node.validate(&session.access).await;
                accepted += usize::from(answer.status == 200);
                (answer.status == 401).then_some(())
            })
            .await;
            let own = std::ptr::eq(node, [a, b][n % 2]);
            assert!(accepted == 0 || !own, "it forgot what it had in its own journal");
            if accepted > 0 {
                say(&format!("accepted {accepted} times by who had heard it before it was killed"));
            }
        }
    }
    is_in_everywhere([a, b], &sessions[5]).await;
}

/// A revokes sessions while there is no store, and is lost before the store is back: only the other nodes
/// have the facts. `end` ends those, and they start again during the outage.
async fn receiver_ends_without_a_store(end: impl AsyncFn(&Node)) {
    let cluster = Cluster::builder(3).proxied_together().start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let mut out = sessions(&ann, &[a, b, c], 3).await;
    let lives = sessions(&ann, &[a, b, c], 2).await;
    let bob = b.register("bob").await;
    out.extend(sessions(&bob, &[b, c], 2).await);
    for person in out.iter().chain(&lives).chain([&bob]) {
        is_in_everywhere(cluster.nodes(), person).await;
    }
    for node in cluster.nodes() {
        becomes(node, "palisade_ledger_unwritten", 0.0).await;
    }
    cluster.proxy(0).cut().await;
    // Three sessions one by one, and all three of another user at once.
    let one_by_one = out[..3].iter().map(|session| session.at(a).delete("auth_token"));
    for request in one_by_one.chain([bob.at(a).delete("auth_token/all")]) {
        let answer = request.send().await;
        answer.is_done().is_visible_at(2);
        assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
    }
    out.push(bob);
    let taken = a.metric("palisade_ledger_unwritten").await;
    assert!(taken >= Some(4.0), "{taken:?}");
    a.kill_dash_9();
    a.loses_its_data_directory();
    for node in [b, c] {
        for session in &out {
            node.validate(&session.access).await.is_error(401, "Token has been revoked");
        }
    }
    // What is not in the ledger is on the disk by now.
    let heard = Instant::now();
    for node in [b, c] {
        eventually(START_TIMEOUT, "it keeps what it heard", async || {
            (node.metric("palisade_ledger_unwritten").await >= taken).then_some(())
        })
        .await;
    }
    say(&format!("what was heard is kept {:?} after it was", heard.elapsed()));
    join_all([b, c].map(|node| end(node))).await;

    join_all([b, c].map(Node::relaunch)).await;
    for person in out.iter().chain(&lives) {
        for node in [b, c] {
            node.validate(&person.access).await.is_refused(503);
            node.get("/auth_request").bearer(&person.access).send().await.is_refused(503);
        }
    }
    cluster.proxy(0).mend().await;
    join_all([b, c].map(|node| starts_without_a_wrong_verdict(node, &out, &lives))).await;
    cluster.are_together(&[b, c]).await;
    for node in [b, c] {
        becomes(node, "palisade_ledger_unwritten", 0.0).await;
    }
    // A node that can learn it from no peer, and one that can.
    let loner = cluster.loner().await.launch().await;
    starts_without_a_wrong_verdict(&loner, &out, &lives).await;
    let (newcomer, _) = cluster.newcomer("d").await;
    let d = newcomer.launch().await;
    starts_without_a_wrong_verdict(&d, &out, &lives).await;
    cluster.are_together(&[b, c, &d]).await;
    lives[0].at(&d).delete("auth_token").send().await.is_done().is_visible_at(2);
    is_out_at_once([b, c, &d], &lives[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn received_fact_survives_kill_while_store_is_down() {
    receiver_ends_without_a_store(async |node| node.kill_dash_9()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn received_fact_survives_shutdown_while_store_is_down() {
    receiver_ends_without_a_store(async |node| {
        let status = node.terminate().await;
        assert!(status.success(), "{status}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logouts_answered_before_kill_dash_9_hold_on_other_nodes() {
    let cluster = with_default_ack_deadline().start().await;
    let [a, b, c] = cluster.three();
    let people = join_all((0..4).map(|_| a.register("ann"))).await;
    let mut all = Vec::new();
    for person in &people {
        all.extend(sessions(person, &[a, b], 16).await);
    }
    let done = AtomicUsize::new(0);
    let storm = join_all(all.chunks(all.len() / 4).map(async |share| {
        let client = a.another_client();
        let mut everywhere = Vec::new();
        let mut somewhere = Vec::new();
        for session in share {
            // Until it is dead.
            let Ok(answer) = session.at(&client).delete("auth_token").try_send().await else { break };
            let seen = visible(answer.is_done());
            done.fetch_add(1, Ordering::SeqCst);
            let which = if seen == (2, 2) { &mut everywhere } else { &mut somewhere };
            which.push(session.clone());
        }
        (everywhere, somewhere)
    }));
    let crash = async {
        let enough = async || (done.load(Ordering::SeqCst) >= all.len() / 3).then_some(());
        eventually(START_TIMEOUT, "a third is out", enough).await;
        a.kill_dash_9();
    };
    let (answered, ()) = tokio::join!(storm, crash);
    let (everywhere, somewhere): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
    let everywhere = everywhere.concat();
    let somewhere = somewhere.concat();
    say(&format!("{} of {} were visible everywhere, {} not", everywhere.len(), all.len(), somewhere.len()));
    assert!(everywhere.len() + somewhere.len() < all.len(), "it was killed too late");
    for session in &everywhere {
        is_out_at_once([b, c], session).await;
    }
    for session in &somewhere {
        for node in [b, c] {
            is_out_before_long(node, session, "what one took that died").await;
        }
    }
    a.launch_again();
    let answered: Vec<_> = everywhere.into_iter().chain(somewhere).collect();
    starts_without_a_wrong_verdict(a, &answered, &[]).await;
    cluster.is_together().await;
    // What was not answered is one or the other, and the same for all before long.
    for session in all.iter().filter(|one| answered.iter().all(|out| out.access != one.access)) {
        eventually(START_TIMEOUT, "all nodes agree", async || {
            let verdicts = join_all([a, b, c].map(|node| node.validate(&session.access))).await;
            let [first, ..] = &verdicts[..] else { unreachable!("three") };
            verdicts.iter().all(|verdict| verdict.status == first.status).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn repeatedly_killed_node_stays_one_member() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 8).await;
    for (n, pair) in sessions.chunks(2).enumerate() {
        b.kill_dash_9();
        b.launch_again();
        // No node waits for another.
        let answer = pair[0].at(a).delete("auth_token").send().await;
        let (k, of) = visible(answer.is_done());
        assert!(k <= of && of <= 1, "round {n}: {answer}");
        b.comes_up().await;
        is_out_before_long(b, &pair[0], "what was taken while it started").await;
        cluster.is_together().await;
        pair[1].at(b).delete("auth_token").send().await.is_done().is_visible_at(1);
        is_out_at_once([a, b], &pair[1]).await;
    }
    let view = cluster.view(a).await.expect("it answers");
    assert!(view.others().len() <= 1 + sessions.len() / 2, "{view:?}");
    is_in_everywhere([a, b], &ann).await;
}

/// With the store down, `k` counts the other disks that have the fact. All nodes are killed right after the
/// answer, and the one that gave it never comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journal_answer_with_k_outlives_its_node_and_a_power_cut() {
    let cluster = Cluster::builder(3).proxied_together().start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let out = sessions(&ann, &[a, b, c], 3).await;
    let lives = sessions(&ann, &[a, b, c], 1).await;
    cluster.proxy(0).cut().await;
    // The first before the node knows that the store is away, the others after.
    for (n, session) in (1_u32..).zip(&out) {
        let answer = session.at(a).delete("auth_token").send().await;
        assert_eq!(answer.is_done().header("palisade-durability"), Some("journal"), "{answer}");
        answer.is_visible_at(2);
        for node in [b, c] {
            let kept = node.metric("palisade_ledger_unwritten").await;
            assert!(kept >= Some(f64::from(n)), "{kept:?} of {n} are on its disk");
        }
    }
    cluster.nodes().iter().for_each(Node::kill_dash_9);
    a.loses_its_data_directory();
    cluster.proxy(0).mend().await;
    for node in [b, c] {
        node.launch_again();
    }
    join_all([b, c].map(|node| starts_without_a_wrong_verdict(node, &out, &lives))).await;
}

#[tokio::test]
async fn seeds_are_retried_and_resolved_by_name() {
    let cluster = Cluster::of(1).await;
    // An address that has a name, and a port that no other run of tests takes.
    let port = 20_000 + std::process::id() % 10_000;
    let late = Ipv4Addr::LOCALHOST;
    let (first, _) = cluster.newcomer("first").await;
    let first = first.setting("CLUSTER_SEEDS", format!("nowhere.invalid:1,localhost:{port}")).start().await;
    assert_eq!(cluster.view(&first).await.expect("it answers").others().len(), 0);
    let (second, _) = cluster.newcomer("second").await;
    let second = second
        .setting("CLUSTER_SEEDS", "")
        .setting("CLUSTER_LISTEN", format!("{late}:{port}"))
        .setting("CLUSTER_ADVERTISE", format!("{late}:{port}"));
    let second = second.start().await;
    let start = Instant::now();
    cluster.are_together(&[&first, &second]).await;
    say(&format!("a seed that came late was found {:?} after it was ready", start.elapsed()));
    // Gone and back at the same name, as a container that was replaced.
    second.kill_dash_9();
    second.loses_its_data_directory();
    second.launch_again();
    second.comes_up().await;
    cluster.are_together(&[&first, &second]).await;
    let ann = first.register("ann").await;
    ann.at(&second).delete("auth_token").send().await.is_done().is_visible_at(1);
    is_out_at_once([&first, &second], &ann).await;
}
