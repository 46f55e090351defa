//! Nodes that are killed, paused, or new.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::{
    Cluster, Node, Person, Raw,
    background::in_background,
    cluster::visible,
    eventually,
    raw::Reply,
    servers::{Cassandra, Proxy},
};

use super::{is_in_everywhere, is_out_at_once, say, sessions, silent_sessions, stale_ms};

const START: Duration = Duration::from_secs(60);
/// An answer is never late, whatever became of a peer.
const IN_TIME: Duration = Duration::from_secs(1);
/// What a node that was away needs to refuse everything: two seconds are promised. The rest is for a
/// build without optimisation on a busy machine.
const CAUGHT_UP: Duration = Duration::from_secs(10);
/// For thousands of facts.
const ROOM: &str = "16MiB";
/// Facts that a paused node missed, beside those that are looked at.
const SILENT: usize = 4_000;

/// A cluster whose nodes wait for acknowledgements as long as they do by themselves.
fn impatient() -> testkit::cluster::Builder {
    Cluster::builder(3).default_setting("ACK_DEADLINE").setting("JOURNAL_SIZE", ROOM)
}

/// Asks a node that starts about tokens, until it is ready. What it says before is 503, or right.
async fn starts_without_a_wrong_verdict(node: &Node, out: &[Person], lives: &[Person]) {
    let start = Instant::now();
    let (mut undecided, mut decided) = (0, 0);
    eventually(START, "it is ready", async || {
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
async fn a_killed_node_is_missing_in_k_at_once_and_in_n_when_it_is_noticed() {
    let cluster = impatient().start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 60).await;
    let mut sessions = sessions.iter();
    c.kill_dash_9();
    let killed = Instant::now();
    let (mut slowest, mut lacking) = (Duration::ZERO, 0);
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
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    say(&format!("{lacking} times 1/2, 1/1 after {noticed:?}; the slowest answer took {slowest:?}"));
    assert!(slowest < IN_TIME, "an answer took {slowest:?}");
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
async fn a_node_that_was_killed_refuses_what_was_revoked_meanwhile_before_it_decides_anything() {
    let cluster = impatient().start().await;
    let [a, b, c] = cluster.three();
    let root = cluster.root();
    let films = root.makes_permission("films").await;
    for empty in [false, true] {
        let ann = a.register("ann").await;
        let [bob, cid] = [b.register("bob").await, c.register("cid").await];
        root.gives(&ann, &films).await.is(200);
        assert!(ann.at(c).may(&films).await);
        let out = sessions(&ann, &[a, b, c], 20).await;
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
async fn a_cluster_that_was_killed_whole_refuses_all_that_was_revoked_when_it_is_back() {
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

/// Requests that lie in a paused node's sockets: it reads them first when it goes on.
async fn asked_while_paused(node: &Node, people: &[Person]) -> Vec<Raw> {
    let ask = people.iter().map(async |person| {
        let mut raw = Raw::to(node).await;
        let request = format!(
            "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: palisade\r\nAuthorization: Bearer {}\r\n\r\n",
            person.access
        );
        raw.send(request).await.expect("the kernel takes it");
        raw
    });
    join_all(ask).await
}

/// Pauses C while thousands of revocations happen, and looks what it says when it goes on.
async fn paused_under(policy: &str) {
    let builder = impatient().setting("MAX_STALENESS", "1s").setting("STALE_POLICY", policy);
    let cluster = builder.start().await;
    let [a, b, c] = cluster.three();
    let mut people = join_all((0..4).map(|_| a.register("ann"))).await;
    let whole = people.pop().expect("four");
    let crowd = a.register("crowd").await;
    silent_sessions(&cluster, &crowd, SILENT).await;
    let mut out = Vec::new();
    for person in &people {
        out.extend(sessions(person, &[a, b], 30).await);
    }
    let more = sessions(&whole, &[a, b], 10).await;
    // It knows them all.
    for session in out.iter().chain(&more) {
        session.at(c).is_in().await;
    }
    // Opened before, as connections of clients are.
    let connections = 20;

    c.pause();
    let paused = Instant::now();
    crowd.delete("auth_token/others").send().await.is_done();
    let shares = out.chunks(out.len().div_ceil(4)).enumerate();
    join_all(shares.map(async |(n, share)| {
        for session in share {
            session.at([a, b][n % 2]).delete("auth_token").send().await.is_done();
        }
    }))
    .await;
    whole.at(b).delete("auth_token/all").send().await.is_done();
    out.extend(more);
    out.push(whole);
    is_out_at_once([a, b], &out[out.len() - 1]).await;
    // At least until it is too old to decide, and in any case until the others have missed it.
    cluster.is_missed(a, "c").await;
    cluster.is_missed(b, "c").await;
    eventually(START, "a few seconds have passed", async || {
        (paused.elapsed() > Duration::from_secs(5)).then_some(())
    })
    .await;
    let asked = asked_while_paused(c, &out[..connections]).await;
    say(&format!("paused for {:?}, missed {} facts", paused.elapsed(), SILENT + out.len()));

    c.resume();
    let resumed = Instant::now();
    let (mut refused, mut undecided, mut stale) = (0, 0, 0);
    let mut is_right = |status: u16, stale_ms: Option<u64>| match (status, policy, stale_ms) {
        (401, ..) => refused += 1,
        (503, "closed", _) => undecided += 1,
        (200, "open", Some(_)) => stale += 1,
        other => panic!("{other:?}, {:?} after it went on", resumed.elapsed()),
    };
    for mut raw in asked {
        let Reply::Answer { status, head, .. } = raw.reply(START).await else { panic!("no answer") };
        let stale = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("palisade-stale:")?.trim().parse().ok());
        is_right(status, stale);
    }
    let caught_up = eventually(START, "all is refused", async || {
        let start = resumed.elapsed();
        let mut all = true;
        for session in &out {
            let answer = c.validate(&session.access).await;
            if answer.status == 503 {
                answer.is_error(503, "Revocation state is too old to decide");
            }
            is_right(answer.status, stale_ms(&answer));
            all &= answer.status == 401;
        }
        all.then_some(start)
    })
    .await;
    say(&format!(
        "{policy}: all is refused {caught_up:?} after it went on; before that {undecided} times 503, {stale} times \
         200 with Palisade-Stale, {refused} times 401"
    ));
    assert!(caught_up < CAUGHT_UP, "only after {caught_up:?}");
    // And what lives is taken again.
    let fresh = people[0].in_another_session().await;
    eventually(CAUGHT_UP, "it decides again", async || {
        let answer = c.validate(&fresh.access).await;
        (answer.status == 200 && stale_ms(&answer).is_none()).then_some(())
    })
    .await;
    cluster.is_together().await;
    fresh.at(c).delete("auth_token").send().await.is_done();
    is_out_at_once([c], &fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_node_says_how_stale_it_is_until_it_refuses_what_was_revoked_meanwhile() {
    paused_under("open").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_node_that_may_not_be_stale_decides_nothing_until_it_refuses_what_was_revoked_meanwhile() {
    paused_under("closed").await;
}

#[tokio::test]
async fn a_newcomer_decides_nothing_before_it_has_the_facts() {
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
    eventually(START, "it lives", async || {
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
async fn a_newcomer_takes_over_thousands_of_facts_that_were_there_before_it() {
    let cluster = Cluster::builder(2).setting("JOURNAL_SIZE", ROOM).start().await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let out = sessions(&ann, &[a, b], 20).await;
    let lives = sessions(&ann, &[a], 1).await;
    silent_sessions(&cluster, &ann, SILENT).await;
    // All but one, and those that nobody has tokens of.
    lives[0].delete("auth_token/others").send().await.is_done();
    let (newcomer, _) = cluster.newcomer("c").await;
    let c = newcomer.launch().await;
    let out: Vec<_> = out.into_iter().chain([ann]).collect();
    starts_without_a_wrong_verdict(&c, &out, &lives).await;
    let view = cluster.view(&c).await.expect("it answers");
    let known = view.0["denials"]["sessions"].as_u64().expect("a number");
    assert!(known >= SILENT as u64, "only {known} of {SILENT}");
}
