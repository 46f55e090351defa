//! Nodes that are killed, paused, or new.

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{
    Cluster, Node, Person, Raw,
    background::in_background,
    cluster::visible,
    eventually,
    raw::Reply,
    servers::{Cassandra, Proxy},
};

use super::{
    becomes, is_in_everywhere, is_out_at_once, is_out_before_long, say, sessions, silent_sessions, stale_ms,
};

const START: Duration = Duration::from_secs(60);
/// An answer is never late, whatever became of a peer.
const IN_TIME: Duration = Duration::from_secs(1);
/// What a node that was away needs to refuse everything: two seconds are promised. The rest is for a
/// build without optimisation on a busy machine.
const CAUGHT_UP: Duration = Duration::from_secs(10);
/// For thousands of facts.
const ROOM: &str = "16MiB";
/// Facts that a paused node missed, beside those that are looked at.
const SILENT: usize = 3_000;

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
    let sessions = sessions(&ann, &[a, b], 40).await;
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
        tokio::time::sleep(Duration::from_millis(400)).await;
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

#[tokio::test]
async fn a_cluster_that_was_killed_whole_without_a_store_loses_nothing() {
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
        eventually(START, "it lives", async || {
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
            eventually(START, "it is refused", async || {
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

/// A takes something away while there is no store, and is gone for good before there is one again: all that
/// is left of it is what the others heard. Those end so, and start again during the outage.
async fn who_heard_it_ends_without_a_store(end: impl AsyncFn(&Node)) {
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
    // Three sessions one by one, and all three of somebody at once.
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
        eventually(START, "it keeps what it heard", async || {
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
    // Who hears it of nobody, and who may.
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
async fn what_was_only_heard_is_not_forgotten_when_who_heard_it_is_killed_without_a_store() {
    who_heard_it_ends_without_a_store(async |node| node.kill_dash_9()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_only_heard_is_not_forgotten_when_who_heard_it_is_told_to_end_without_a_store() {
    who_heard_it_ends_without_a_store(async |node| {
        let status = node.terminate().await;
        assert!(status.success(), "{status}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_answered_in_a_storm_before_kill_dash_9_the_others_refuse() {
    let cluster = impatient().start().await;
    let [a, b, c] = cluster.three();
    let people = join_all((0..4).map(|_| a.register("ann"))).await;
    let mut all = Vec::new();
    for person in &people {
        all.extend(sessions(person, &[a, b], 16).await);
    }
    let done = AtomicUsize::new(0);
    let storm = join_all(all.chunks(all.len() / 4).map(async |share| {
        let client = a.another_client();
        let (mut everywhere, mut somewhere) = (Vec::new(), Vec::new());
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
        eventually(START, "a third is out", enough).await;
        a.kill_dash_9();
    };
    let (answered, ()) = tokio::join!(storm, crash);
    let (everywhere, somewhere): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
    let (everywhere, somewhere) = (everywhere.concat(), somewhere.concat());
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
        eventually(START, "all nodes agree", async || {
            let verdicts = join_all([a, b, c].map(|node| node.validate(&session.access))).await;
            let [first, ..] = &verdicts[..] else { unreachable!("three") };
            verdicts.iter().all(|verdict| verdict.status == first.status).then_some(())
        })
        .await;
    }
}

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&path, &to),
            kind if kind.is_file() => drop(std::fs::copy(&path, &to).unwrap()),
            // The control socket.
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_node_restored_from_yesterdays_disk_repeats_none_of_its_numbers() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 16).await;
    let end = async |sessions: &[Person]| {
        for session in sessions {
            session.at(b).delete("auth_token").send().await.is_done().is_visible_at(1);
            is_out_at_once([a, b], session).await;
        }
    };
    end(&sessions[..3]).await;
    b.terminate().await;
    let yesterday = testkit::scratch::directory();
    copy(b.data_dir(), yesterday.path());
    for (n, restored) in [3, 7, 11].into_iter().enumerate() {
        b.launch_again();
        b.comes_up().await;
        cluster.is_together().await;
        end(&sessions[restored..restored + 4]).await;
        // Killed in one round, ended in another.
        if n % 2 == 0 {
            b.kill_dash_9();
        } else {
            b.terminate().await;
        }
        b.loses_its_data_directory();
        copy(yesterday.path(), b.data_dir());
    }
    b.launch_again();
    starts_without_a_wrong_verdict(b, &sessions[..15], &sessions[15..]).await;
    let loner = cluster.loner().await.start().await;
    for session in &sessions[..15] {
        is_out_at_once([a, b, &loner], session).await;
    }
    is_in_everywhere([a, b, &loner], &sessions[15]).await;
}

#[tokio::test]
async fn a_node_that_is_killed_and_started_again_and_again_is_one_member() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 8).await;
    for (n, pair) in sessions.chunks(2).enumerate() {
        b.kill_dash_9();
        b.launch_again();
        // Nobody waits for anybody.
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

/// What `k` says when the store is down: so many other disks have it. All nodes are killed the moment after
/// the answer, and the one that gave it never comes back.
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

/// A mistake: the same node twice. Others take the later one for it, and the earlier one would not be told
/// any more.
#[tokio::test]
async fn of_a_node_and_a_copy_of_its_data_directory_the_earlier_one_ends() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 6).await;
    b.terminate().await;
    let copied = testkit::scratch::directory();
    copy(b.data_dir(), copied.path());
    b.restart().await;
    cluster.is_together().await;
    let (twin, _) = cluster.newcomer("twin").await;
    let twin = twin.data_dir(copied.path()).start().await;
    b.ended(START).await;
    b.logs_with("a copy of this data directory").await;
    cluster.are_together(&[a, &twin]).await;
    for (n, session) in sessions.iter().enumerate() {
        session.at([a, &twin][n % 2]).delete("auth_token").send().await.is_done();
        for node in [a, &twin] {
            is_out_before_long(node, session, "the twin is the node now").await;
        }
    }
}

#[tokio::test]
async fn seeds_are_looked_for_again_and_again_and_by_name() {
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
    let one_of_it = crowd.in_another_session().await;
    silent_sessions(&cluster, &crowd, SILENT).await;
    let mut out = Vec::new();
    for person in &people {
        out.extend(sessions(person, &[a, b], 20).await);
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
    let answer = one_of_it.delete("auth_token").send().await;
    let (k, n) = visible(answer.is_done());
    assert!(k <= 1 && n == 2, "{answer}");
    let first = paused.elapsed();
    say(&format!("with a peer that does not answer a logout takes {first:?}"));
    assert!(first < IN_TIME, "it takes {first:?}");
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
    out.extend([whole, one_of_it]);
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
