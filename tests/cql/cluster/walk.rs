//! Nothing hurts: what one node answered holds on all, at once.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Answer, Cluster, Node, Person, cluster::visible, eventually, fresh};

use super::{Three, is_in_everywhere, is_out_at_once, say, sessions};

/// Logouts that are looked at one by one.
const LOOPS: usize = 200;

#[tokio::test]
async fn logout_on_a_third_node_ends_the_session_on_all() {
    let three = Three::nodes().await;
    let root = three.root().await;
    let films = root.makes_permission("films").await;
    for turn in 0..3 {
        let [a, b, c] = [0, 1, 2].map(|n| three.all()[(turn + n) % 3]);
        let ann = a.register("ann").await;
        is_in_everywhere(three.all(), &ann).await;
        root.at(a).gives(&ann, &films).await.is(200).is_visible_at(2);
        assert!(ann.at(b).may(&films).await && ann.at(c).may(&films).await);
        let next = ann.at(b).refreshed().await;
        is_in_everywhere(three.all(), &next).await;
        next.at(c).delete("auth_token").send().await.is_done().is_visible_at(2).is_visible_everywhere();
        is_out_at_once(three.all(), &next).await;
        is_out_at_once(three.all(), &ann).await;
    }
}

#[tokio::test]
async fn answered_logouts_on_any_node_hold_on_all_nodes() {
    let three = Three::nodes().await;
    let ann = three.nodes[0].register("ann").await;
    let all = three.all();
    let mut took = Vec::new();
    for (n, session) in sessions(&ann, &all, LOOPS).await.iter().enumerate() {
        let there = all[(n + 1) % 3];
        let other = all[(n + 2) % 3];
        session.at(other).is_in().await;
        let start = Instant::now();
        let answer = session.at(there).delete("auth_token").send().await;
        took.push(start.elapsed());
        answer.is_done().is_visible_at(2);
        for node in [other, all[n % 3], there] {
            node.validate(&session.access).await.is_error(401, "Token has been revoked");
        }
    }
    is_in_everywhere(all, &ann).await;
    took.sort();
    say(&format!("{LOOPS} logouts: p50 {:?}, p99 {:?}", took[LOOPS / 2], took[LOOPS * 99 / 100]));
}

#[tokio::test]
async fn answered_session_end_holds_on_all_nodes() {
    let three = Three::nodes().await;
    let all = three.all();
    let [a, b, c] = all;
    for _ in 0..5 {
        let ann = a.register("ann").await;
        let others = sessions(&ann, &all, 4).await;
        let id = others[0].at(b).session().await;
        let by_id = ann.at(c).delete(&format!("users/me/sessions/{id}")).send().await;
        by_id.is_done().is_visible_at(2);
        is_out_at_once(all, &others[0]).await;
        is_in_everywhere(all, &others[1]).await;

        ann.at(b).delete("auth_token/others").send().await.is_done().is_visible_at(2);
        for other in &others {
            is_out_at_once(all, other).await;
        }
        is_in_everywhere(all, &ann).await;

        let others = sessions(&ann, &all, 2).await;
        others[0].at(c).delete("auth_token/all").send().await.is_done().is_visible_at(2);
        for session in others.iter().chain([&ann]) {
            is_out_at_once(all, session).await;
        }
        // A log-in afterwards is valid, on any node.
        for node in all {
            is_in_everywhere(all, &ann.at(node).in_another_session().await).await;
        }
    }
}

#[tokio::test]
async fn answered_account_or_password_end_holds_on_all_nodes() {
    let three = Three::nodes().await;
    let root = three.root().await;
    let all = three.all();
    for turn in 0..3 {
        let [a, b, c] = [0, 1, 2].map(|n| all[(turn + n) % 3]);
        let people = join_all(["ann", "bob", "cid", "dan", "eve"].map(|name| a.register(name))).await;
        let [ann, bob, cid, dan, eve] = &people[..] else { unreachable!("five") };
        let spare = join_all(people.iter().map(Person::in_another_session)).await;
        let is_out = async |person: usize| {
            is_out_at_once(all, &people[person]).await;
            is_out_at_once(all, &spare[person]).await;
        };

        root.at(b).sets_active(ann, false).await.is(200).is_visible_at(2);
        is_out(0).await;
        root.at(c).delete(&bob.path("")).send().await.is_done().is_visible_at(2);
        is_out(1).await;
        cid.at(b).delete("users/me").send().await.is_done().is_visible_at(2);
        is_out(2).await;
        let body = json!({"new_password": fresh("given by root")});
        root.at(c).post(&dan.path("password")).json(&body).send().await.is_done().is_visible_at(2);
        is_out(3).await;
        let new_password = fresh("a new secret");
        let body = json!({"old_password": eve.password, "new_password": new_password});
        let answer = eve.at(b).post("users/me/password").json(&body).send().await;
        answer.is_visible_at(2);
        is_out(4).await;
        is_in_everywhere(all, &eve.with_tokens(answer.pair())).await;

        for (person, node) in people.iter().zip(all.iter().cycle()) {
            node.log_in(&person.email, &person.password).await.is_error(401, "Bad email or password");
        }
        root.at(a).sets_active(ann, true).await.is(200);
        is_in_everywhere(all, &ann.at(c).in_another_session().await).await;
        is_out(0).await;
    }
}

#[tokio::test]
async fn answered_permission_change_holds_on_all_nodes() {
    let three = Three::nodes().await;
    let root = three.root().await;
    let all = three.all();
    let ann = three.nodes[0].register("ann").await;
    let mut changes = 0;
    for turn in 0..7 {
        let films = root.makes_permission("films").await;
        let viewer = root.makes_role("viewer", &[]).await;
        let at = |n: usize| root.at(all[(turn + n) % 3]);
        let mut is = async |answer: &Answer, may: bool, what: &str| {
            assert!(matches!(answer.status, 200 | 204), "{what}\n{answer}");
            answer.is_visible_at(2);
            for node in all {
                assert_eq!(ann.at(node).may(&films).await, may, "turn {turn}: {what}");
            }
            changes += 1;
        };
        // All have it in memory.
        for node in all {
            assert!(!ann.at(node).may(&films).await);
        }
        is(&at(0).gives(&ann, &films).await, true, "a permission is given").await;
        is(&at(1).takes(&ann, &films).await, false, "a permission is taken").await;
        is(&at(2).gives_role(&ann, &viewer).await, false, "an empty role is given").await;
        is(&at(0).puts(&films, &viewer).await, true, "a permission is put into a role").await;
        is(&at(1).takes_out(&films, &viewer).await, false, "a permission is taken out of a role").await;
        is(&at(2).puts(&films, &viewer).await, true, "a permission is put into a role again").await;
        is(&at(0).takes_role(&ann, &viewer).await, false, "a role is taken").await;
        is(&at(1).gives_role(&ann, &viewer).await, true, "a role is given").await;
        let path = format!("roles/{viewer}");
        is(&at(2).delete(&path).send().await, false, "a role is deleted").await;
        is(&at(0).gives(&ann, &films).await, true, "a permission is given again").await;
        let path = format!("permissions/{films}");
        is(&at(1).delete(&path).send().await, false, "a permission is deleted").await;
    }
    say(&format!("{changes} changes were seen at once"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_checks_do_not_restore_a_revoked_permission() {
    let three = Three::nodes().await;
    let root = three.root().await;
    let films = root.makes_permission("films").await;
    let ann = three.nodes[0].register("ann").await;
    let ended = AtomicBool::new(false);
    let taken_at: Mutex<Option<Instant>> = Mutex::new(None);
    let wrong = AtomicUsize::new(0);
    let checked = AtomicUsize::new(0);
    let checks = join_all(three.nodes.iter().cycle().take(6).map(async |node| {
        let ann = ann.at(&node.another_client());
        while !ended.load(Ordering::SeqCst) {
            let taken = taken_at.lock().unwrap().is_some();
            let may = ann.may(&films).await;
            // Still revoked: it was not granted again during this check.
            let still = taken_at.lock().unwrap().is_some();
            wrong.fetch_add(usize::from(taken && still && may), Ordering::SeqCst);
            checked.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let changes = async {
        for turn in 0..24 {
            let root = root.at(three.all()[turn % 3]);
            root.gives(&ann, &films).await.is(200);
            root.takes(&ann, &films).await.is(200).is_visible_at(2);
            *taken_at.lock().unwrap() = Some(Instant::now());
            let before = checked.load(Ordering::SeqCst);
            eventually(Duration::from_secs(30), "it is checked", async || {
                (checked.load(Ordering::SeqCst) > before + 12).then_some(())
            })
            .await;
            *taken_at.lock().unwrap() = None;
        }
        ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(checks, changes);
    say(&format!("{} checks while it was given and taken", checked.load(Ordering::SeqCst)));
    assert_eq!(wrong.load(Ordering::SeqCst), 0, "checks that were sent after the answer said yes");
}

/// What validations of one token said, and when they were sent.
#[derive(Default)]
struct Seen {
    verdicts: Mutex<Vec<(Instant, u16)>>,
    over: AtomicBool,
}

impl Seen {
    fn count(&self) -> usize {
        self.verdicts.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_after_a_visible_revocation_is_answered_200() {
    const CLIENTS: usize = 4;
    const SESSIONS: usize = 30;
    const AFTER: usize = 36;
    // A cluster of its own, which has the ack deadline that nodes have by themselves.
    let cluster = Cluster::builder(3).default_setting("ACK_DEADLINE").start().await;
    let all = cluster.three();
    let sent_after = AtomicUsize::new(0);
    let wrong = AtomicUsize::new(0);
    let partly = AtomicUsize::new(0);
    let client = async |nth: usize| {
        let ann = all[nth % 3].register("ann").await;
        for (n, session) in sessions(&ann, &all, SESSIONS).await.iter().enumerate() {
            let seen = Seen::default();
            let validations = join_all(all.iter().cycle().take(6).map(async |node| {
                let node = node.another_client();
                while !seen.over.load(Ordering::SeqCst) {
                    let sent = Instant::now();
                    let status = node.validate(&session.access).await.status;
                    seen.verdicts.lock().unwrap().push((sent, status));
                }
            }));
            let revocation = async {
                let some = async || (seen.count() >= 6).then_some(());
                eventually(Duration::from_secs(30), "it is validated", some).await;
                let answer = session.at(all[(nth + n) % 3]).delete("auth_token").send().await;
                let answered = Instant::now();
                let (k, n) = visible(answer.is_done());
                let before = seen.count();
                let some = async || (seen.count() >= before + AFTER).then_some(());
                eventually(Duration::from_secs(30), "it is validated again", some).await;
                seen.over.store(true, Ordering::SeqCst);
                (k == n && n == 2).then_some(answered)
            };
            let ((), answered) = tokio::join!(async { drop(validations.await) }, revocation);
            let Some(answered) = answered else {
                partly.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            let verdicts = seen.verdicts.into_inner().unwrap();
            let after = verdicts.iter().filter(|(sent, _)| *sent > answered);
            sent_after.fetch_add(after.clone().count(), Ordering::SeqCst);
            wrong.fetch_add(after.filter(|(_, status)| *status != 401).count(), Ordering::SeqCst);
        }
    };
    let start = Instant::now();
    join_all((0..CLIENTS).map(client)).await;
    let [sent_after, wrong, partly] = [sent_after, wrong, partly].map(AtomicUsize::into_inner);
    say(&format!(
        "{sent_after} validations were sent after the answer in {:?}, {wrong} of them not refused; {partly} of {} \
         logouts were not visible everywhere",
        start.elapsed(),
        CLIENTS * SESSIONS
    ));
    assert_eq!(wrong, 0);
    assert!(sent_after >= 2_000, "only {sent_after} tries");
    assert!(partly * 2 <= CLIENTS * SESSIONS, "{partly} logouts were not visible everywhere in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_racing_the_end_of_an_account_leave_no_session() {
    let three = Three::nodes().await;
    let root = three.root().await;
    let all = three.all();
    let mut raced = 0;
    let mut given = 0;
    for (turn, wait) in (0..4).cycle().take(9).enumerate() {
        let [a, b, c] = [0, 1, 2].map(|n| all[(turn + n) % 3]);
        let ann = a.register("ann").await;
        let log_ins = join_all([b, c, b].map(|node| node.log_in(&ann.email, &ann.password)));
        let refreshes = join_all([b, c].map(|node| node.refresh(&ann.refresh)));
        // In the middle of the hashing, as far as one can tell from outside.
        let end = async {
            tokio::time::sleep(Duration::from_millis(20 * wait)).await;
            match turn % 3 {
                0 => {
                    root.at(a).sets_active(&ann, false).await.is(200).is_visible_at(2);
                }
                1 => {
                    root.at(a).delete(&ann.path("")).send().await.is_done().is_visible_at(2);
                }
                _ => {
                    ann.at(a).delete("users/me").send().await.is_done().is_visible_at(2);
                }
            }
        };
        let (log_ins, refreshes, ()) = tokio::join!(log_ins, refreshes, end);
        for answer in log_ins.iter().chain(&refreshes) {
            raced += 1;
            if answer.status != 200 {
                answer.is_refused(answer.status);
                continue;
            }
            given += 1;
            is_out_at_once(all, &ann.with_tokens(answer.pair())).await;
        }
    }
    say(&format!("{given} of {raced} calls beside the end of an account got tokens, none of them good"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_agree_on_logins_that_race_with_logout_of_all() {
    let three = Three::nodes().await;
    let all = three.all();
    let mut lived = 0;
    for (turn, wait) in (0..4).cycle().take(9).enumerate() {
        let [a, b, c] = [0, 1, 2].map(|n| all[(turn + n) % 3]);
        let ann = a.register("ann").await;
        let log_ins = join_all([b, c, b].map(|node| node.log_in(&ann.email, &ann.password)));
        let end = async {
            tokio::time::sleep(Duration::from_millis(20 * wait)).await;
            ann.delete("auth_token/all").send().await.is_done().is_visible_at(2);
        };
        let (log_ins, ()) = tokio::join!(log_ins, end);
        for answer in log_ins {
            let session = ann.with_tokens(answer.pair());
            let mut verdicts = Vec::new();
            for node in all {
                verdicts.push(node.validate(&session.access).await.status);
            }
            assert!(verdicts == [200; 3] || verdicts == [401; 3], "turn {turn}: {verdicts:?}");
            lived += usize::from(verdicts[0] == 200);
        }
        is_out_at_once(all, &ann).await;
        is_in_everywhere(all, &ann.at(b).in_another_session().await).await;
    }
    say(&format!("{lived} of 27 log-ins came after"));
}

#[tokio::test]
async fn parallel_refreshes_over_three_nodes_get_one_successor() {
    let three = Three::nodes().await;
    let all = three.all();
    for _ in 0..2 {
        let ann = all[0].register("ann").await;
        let answers = join_all((0..100).map(|n| all[n % 3].refresh(&ann.refresh))).await;
        let successors: BTreeSet<_> = answers.iter().map(|answer| answer.pair().1).collect();
        assert_eq!(successors.len(), 1, "{} successors", successors.len());
        let next = ann.with_tokens(answers[0].pair());
        is_in_everywhere(all, &next).await;
        assert_eq!(next.at(all[1]).list("sessions", "users/me/sessions").await.len(), 1);
        next.at(all[2]).refreshed().await.is_in().await;
    }
}

#[tokio::test]
async fn refresh_token_reused_after_grace_revokes_session_everywhere() {
    let cluster = Cluster::builder(3).setting("REFRESH_GRACE", "1s").start().await;
    let [a, b, c] = cluster.three();
    for (first, second) in [(a, b), (b, c), (c, a)] {
        let ann = first.register("ann").await;
        let next = ann.refreshed().await;
        let refused = eventually(Duration::from_secs(30), "the grace ends", async || {
            let answer = second.refresh(&ann.refresh).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        refused.is_error(401, "Token has been revoked");
        is_out_at_once(cluster.nodes(), &next).await;
        is_out_at_once(cluster.nodes(), &ann).await;
        ann.at(c).in_another_session().await.is_in().await;
    }
}

#[tokio::test]
async fn key_retired_on_one_node_is_refused_by_all_at_once() {
    let cluster = Cluster::of(3).await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let bob = b.register("bob").await;
    let kid = testkit::forge::parts(&ann.access).header["kid"].as_str().unwrap().to_owned();
    is_in_everywhere(cluster.nodes(), &ann).await;
    b.cli(&["keys", "retire", &kid]).await.is_done();
    for node in [a, b, c] {
        for person in [&ann, &bob] {
            node.validate(&person.access).await.is_error(401, "Token has been revoked");
        }
    }
    // The sessions go on, with another key, which all nodes know.
    for node in [a, b, c] {
        is_in_everywhere(cluster.nodes(), &ann.at(node).refreshed().await).await;
        let cid: Person = Node::register(node, "cid").await;
        is_in_everywhere(cluster.nodes(), &cid).await;
    }
}
