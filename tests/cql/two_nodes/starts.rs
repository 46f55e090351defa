//! Starts and ends of nodes on one store: kills, rolling restarts, new nodes.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{
    Answer, Client, Node, Request, eventually, fresh,
    servers::{Cassandra, Proxy},
    store::{self, Keyspace, MASTER_KEY},
};

use super::{
    PROPAGATION_TIMEOUT, START_TIMEOUT, cannot_refresh, kid, learns_that_it_is_out, propagated, two,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_before_kill_dash_9_holds_on_the_other_node() {
    const PEOPLE: usize = 4;
    const SESSIONS: usize = 20;
    let (a, b) = two().await;
    let people = join_all((0..PEOPLE).map(|_| a.register("ann"))).await;
    let mut sessions = Vec::new();
    for person in &people {
        for _ in 0..SESSIONS / 5 {
            sessions.extend(join_all((0..5).map(|_| person.in_another_session())).await);
        }
    }
    for session in &sessions {
        session.at(&b).is_in().await;
    }
    let done = AtomicUsize::new(0);
    let storm = join_all(sessions.chunks(sessions.len() / 8).map(async |share| {
        let client = a.another_client();
        let mut out = Vec::new();
        for session in share {
            match session.at(&client).delete("auth_token").try_send().await {
                Ok(answer) => {
                    answer.is_done();
                    assert_eq!(answer.header("palisade-durability"), Some("store"), "{answer}");
                    done.fetch_add(1, Ordering::SeqCst);
                    out.push(session.clone());
                }
                // It is dead.
                Err(_) => break,
            }
        }
        out
    }));
    let crash = async {
        let enough = async || (done.load(Ordering::SeqCst) >= sessions.len() / 4).then_some(());
        eventually(Duration::from_secs(60), "a quarter is out", enough).await;
        a.kill_dash_9();
    };
    let (out, ()) = tokio::join!(storm, crash);
    let out: Vec<_> = out.into_iter().flatten().collect();
    println!("{} of {} logouts were answered", out.len(), sessions.len());
    assert!(out.len() < sessions.len(), "it was killed too late");
    for session in &out {
        cannot_refresh(&b, session).await;
        learns_that_it_is_out(&b, session, "a logout on a node that died").await;
    }
    a.restart().await;
    for session in &out {
        session.at(&a).is_out().await;
        session.at(&b).is_out().await;
    }
    // What was not answered is one or the other, and the same on both before long.
    for session in sessions.iter().filter(|session| out.iter().all(|out| out.access != session.access)) {
        propagated("both nodes agree", async || {
            let (here, there) = tokio::join!(a.validate(&session.access), b.validate(&session.access));
            assert!(matches!(here.status, 200 | 401), "{here}");
            (here.status == there.status).then_some(())
        })
        .await;
    }
}

/// Two nodes behind a load balancer: it knows which of them runs, and tries the other when one closes the
/// connection.
struct Balanced<'a> {
    nodes: [&'a Node; 2],
    in_rotation: [AtomicBool; 2],
    next: AtomicUsize,
    tried_again: AtomicUsize,
    answered: AtomicUsize,
}

impl Balanced<'_> {
    async fn ask(&self, request: impl Fn(&Client) -> Request) -> Answer {
        let first = self.next.fetch_add(1, Ordering::SeqCst);
        for n in first..first + 4 {
            let up = self.in_rotation[n % 2].load(Ordering::SeqCst);
            let n = if up { n } else { n + 1 };
            if let Ok(answer) = request(self.nodes[n % 2]).try_send().await {
                self.answered.fetch_add(1, Ordering::SeqCst);
                return answer;
            }
            self.tried_again.fetch_add(1, Ordering::SeqCst);
        }
        panic!("neither node answers");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_fails_no_request() {
    let (a, b) = two().await;
    let root = a.root().await;
    let films = root.makes_permission("films").await;
    let people = join_all((0..4).map(|_| a.register("ann"))).await;
    for person in &people {
        root.gives(person, &films).await.is(200);
        let knows = async || person.at(&b).may(&films).await.then_some(());
        propagated("a permission is given", knows).await;
    }
    let balanced = Balanced {
        nodes: [&a, &b],
        in_rotation: [AtomicBool::new(true), AtomicBool::new(true)],
        next: AtomicUsize::new(0),
        tried_again: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
    };
    let ended = AtomicBool::new(false);
    let load = join_all(people.iter().map(async |person| {
        let mut person = person.clone();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let check = format!("users/me/combined_permissions/validation?permissions=%22{films}%22");
        while !ended.load(Ordering::SeqCst) {
            for path in ["auth_token/validation", &check, "users/me"] {
                pace.tick().await;
                let answer = balanced.ask(|node| node.get(path).bearer(&person.access)).await;
                answer.is(200);
                assert!(path != check || answer.json()["valid"] == true, "{answer}");
            }
            let refresh = |node: &Client| node.post("auth_token/token_refresh").bearer(&person.refresh);
            person = person.with_tokens(balanced.ask(refresh).await.pair());
        }
        person
    }));
    let restarts = async {
        for _ in 0..2 {
            for (n, node) in balanced.nodes.into_iter().enumerate() {
                node.terminate().await;
                balanced.in_rotation[n].store(false, Ordering::SeqCst);
                node.restart().await;
                balanced.in_rotation[n].store(true, Ordering::SeqCst);
                let before = balanced.answered.load(Ordering::SeqCst);
                eventually(START_TIMEOUT, "it takes part in the load", async || {
                    (balanced.answered.load(Ordering::SeqCst) > before + 50).then_some(())
                })
                .await;
            }
        }
        ended.store(true, Ordering::SeqCst);
    };
    let (people, ()) = tokio::join!(load, restarts);
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    println!("{} answers, {} tried again", count(&balanced.answered), count(&balanced.tried_again));
    for person in people {
        person.at(&a).is_in().await;
        person.at(&b).refreshed().await.is_in().await;
    }
}

#[tokio::test]
async fn new_node_decides_nothing_before_it_has_read_the_ledger() {
    let keyspace = Keyspace::take().await;
    let on_it = |url: String| Node::builder().setting("STORE", url).setting("MASTER_KEY", MASTER_KEY);
    let a = on_it(keyspace.url().await).start().await;
    let ann = a.register("ann").await;
    let bob = a.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    let proxies = Proxy::to_all(&Cassandra::one().await.addresses()).await;
    let through_it = format!("cql://{}/{}", proxies[0].address(), keyspace.name());
    // A store that is out of reach at first, then slow.
    proxies[0].stall();
    let c = on_it(through_it).launch().await;
    let mut undecided = 0;
    let mut is_reached = false;
    eventually(START_TIMEOUT, "the newcomer decides", async || {
        let mut statuses = Vec::new();
        for (person, settled) in [(&ann, 200), (&bob, 401)] {
            let Ok(answer) = c.get("auth_token/validation").bearer(&person.access).try_send().await else {
                return None;
            };
            let refresh = c.post("auth_token/token_refresh").bearer("prt_x").try_send().await;
            if let Ok(refresh) = refresh {
                assert!(matches!(refresh.status, 401 | 503), "{refresh}");
            }
            if answer.status == 503 {
                answer.is_refused(503);
                undecided += 1;
            } else {
                assert_eq!(answer.status, settled, "{answer}");
            }
            statuses.push(answer.status);
        }
        let ready = c.readiness().await.ok()?;
        assert!(ready.status == 503 || is_reached, "ready without a store: {ready}");
        if undecided >= 10 && !is_reached {
            proxies[0].delay(Duration::from_millis(50));
            proxies[0].resume();
            is_reached = true;
        }
        (statuses == [200, 401]).then_some(())
    })
    .await;
    println!("{undecided} times it could not know");
    eventually(PROPAGATION_TIMEOUT, "it is ready", async || {
        c.readiness().await.is_ok_and(|ready| ready.status == 200).then_some(())
    })
    .await;
    bob.at(&c).is_out().await;
    ann.at(&c).refreshed().await.at(&a).is_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_starting_at_once_create_one_schema_and_key_set() {
    let keyspace = fresh("ten").replace('-', "_");
    let url = format!("cql://{}/{keyspace}", Cassandra::one().await.address());
    let node = || Node::builder().setting("STORE", &url).setting("MASTER_KEY", MASTER_KEY);
    let start = Instant::now();
    let nodes = join_all((0..10).map(|_| node().start())).await;
    println!("ten nodes are up after {:?}", start.elapsed());
    let kids = nodes[0].published_kids().await;
    let mut people = Vec::new();
    for node in &nodes {
        assert_eq!(node.published_kids().await, kids);
        people.push(node.register("ann").await);
    }
    let active: BTreeSet<_> = people.iter().map(|person| kid(&person.access)).collect();
    assert_eq!(active.len(), 1, "they sign with one key: {active:?}");
    let keys = nodes[9].keys().await;
    assert_eq!(keys.iter().filter(|key| key["state"] == "active").count(), 1, "{keys:?}");
    for (person, node) in people.iter().zip(nodes.iter().rev()) {
        person.at(node).is_in().await;
        person.at(node).refreshed().await.is_in().await;
    }
    for node in [&nodes[0], &nodes[9]] {
        node.cli(&["schema", "status"]).await.is_done();
    }
    let session = store::cassandra().await;
    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), ()).await.unwrap();
}
