//! Departures and restarts of nodes that fail no request.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{Answer, Client, Cluster, Node, Request, cluster::visible, eventually};

use super::{is_in_everywhere, is_out_at_once, is_out_before_long, say, sessions};

/// Longest time from a node's farewell until the others know of it. They need not miss the node first.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time from start to readiness.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The others know that it is gone, by its word and not because they miss it.
async fn said_farewell(cluster: &Cluster, name: &str, others: &[&Node], end: Instant) {
    for node in others {
        let gone = async || {
            cluster.view(node).await?;
            match cluster.sight(node, name).await {
                Some(member) if member["state"] == "alive" && member["linked"] == true => None,
                Some(member) => Some(member["state"].as_str().unwrap_or_default().to_owned()),
                None => Some("left".to_owned()),
            }
        };
        let state = eventually(START_TIMEOUT, &format!("{name} is gone"), gone).await;
        assert!(end.elapsed() < FAREWELL_TIMEOUT, "{name} is {state} only {:?} after its end", end.elapsed());
    }
    for node in others {
        let left = async || {
            cluster.view(node).await?;
            let sight = cluster.sight(node, name).await;
            let state = sight.map_or("left".into(), |member| member["state"].clone());
            (state != "alive").then_some(state)
        };
        assert_eq!(
            eventually(START_TIMEOUT, &format!("{name} has left"), left).await,
            "left",
            "it said farewell"
        );
    }
    say(&format!("listed as left {:?} after its end", end.elapsed()));
}

#[tokio::test]
async fn node_announces_departure_and_is_no_longer_counted() {
    let cluster = Cluster::of(3).await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 6).await;
    assert!(c.terminate().await.success());
    let end = Instant::now();
    let start = Instant::now();
    let answer = sessions[0].at(a).delete("auth_token").send().await;
    answer.is_done().is_visible_at(1);
    say(&format!("the first logout after its end took {:?}", start.elapsed()));
    said_farewell(&cluster, "c", &[a, b], end).await;
    for (n, session) in sessions[1..5].iter().enumerate() {
        session.at([a, b][n % 2]).delete("auth_token").send().await.is_done().is_visible_at(1);
        is_out_at_once([a, b], session).await;
    }
    // On the same directory it comes again, and is another incarnation of the same node.
    c.restart().await;
    cluster.is_together().await;
    sessions[5].at(c).delete("auth_token").send().await.is_done().is_visible_at(2);
    for session in &sessions {
        is_out_at_once([c], session).await;
    }
    is_in_everywhere(cluster.nodes(), &ann).await;
}

#[tokio::test]
async fn node_leaves_by_cluster_leave_command() {
    let cluster = Cluster::of(3).await;
    let [a, b, c] = cluster.three();
    let ann = c.register("ann").await;
    c.cli(&["cluster", "leave"]).await.is_done();
    let status = c.ended(Duration::from_secs(30)).await;
    let end = Instant::now();
    assert_eq!(status.code(), Some(0), "{status}");
    said_farewell(&cluster, "c", &[a, b], end).await;
    ann.at(b).delete("auth_token").send().await.is_done().is_visible_at(1);
    is_out_at_once([a, b], &ann).await;
    // Where no node runs there is none to leave.
    c.cli(&["cluster", "leave"]).await.failed_saying(&[]);
}

#[tokio::test]
async fn revocation_made_without_store_survives_departure() {
    let cluster = Cluster::builder(2).proxied_together().start().await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 3).await;
    cluster.proxy(0).cut().await;
    for session in &sessions[..2] {
        let answer = session.at(a).delete("auth_token").send().await;
        answer.is_done().is_visible_at(1);
        assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
    }
    // It ends in peace, with a journal that it cannot give to anybody, and does not come back.
    a.terminate().await;
    b.validate(&sessions[0].access).await.is_error(401, "Token has been revoked");
    cluster.proxy(0).mend().await;
    let loner = cluster.loner().await.start().await;
    for session in &sessions[..2] {
        is_out_before_long(&loner, session, "who reads the ledger alone refuses what one took that left")
            .await;
        is_out_at_once([b], session).await;
    }
    is_in_everywhere([b, &loner], &sessions[2]).await;
}

#[tokio::test]
async fn revocation_during_departure_reaches_all_nodes() {
    let cluster = Cluster::builder(3).setting("DRAIN_GRACE", "3s").start().await;
    let [a, b, c] = cluster.three();
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 6).await;
    c.ask_to_end();
    eventually(START_TIMEOUT, "it is not ready any more", async || {
        c.readiness().await.is_ok_and(|answer| answer.status == 503).then_some(())
    })
    .await;
    // A draining node serves normally until the drain ends.
    let mut served = 0;
    for session in &sessions {
        let Ok(answer) = session.at(c).delete("auth_token").try_send().await else { break };
        let (k, n) = visible(answer.is_done());
        assert_eq!(k, n, "{answer}");
        is_out_at_once([a, b], session).await;
        served += 1;
    }
    assert!(served > 0, "it serves nobody in its drain");
    assert!(c.ended(START_TIMEOUT).await.success());
    is_in_everywhere([a, b], &ann).await;
}

/// Something before three nodes that asks each whether it is ready, as load balancers do, and tries
/// another one only when a connection was refused, or closed before a byte of an answer.
struct Balancer<'a> {
    nodes: [&'a Node; 3],
    ready: [AtomicBool; 3],
    next: AtomicUsize,
    tried_again: AtomicUsize,
    answered: AtomicUsize,
}

impl Balancer<'_> {
    async fn look(&self, ended: &AtomicBool) {
        join_all(self.nodes.iter().zip(&self.ready).map(async |(node, ready)| {
            while !ended.load(Ordering::SeqCst) {
                let is_ready = node.readiness().await.is_ok_and(|answer| answer.status == 200);
                ready.store(is_ready, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }))
        .await;
    }

    async fn ask(&self, clients: &[Client; 3], request: impl Fn(&Client) -> Request) -> Answer {
        let mut why = String::new();
        for _ in 0..6 {
            let next = self.next.fetch_add(1, Ordering::SeqCst);
            let turn = (next..next + 3).map(|n| n % 3);
            let ready = turn.clone().find(|n| self.ready[*n].load(Ordering::SeqCst));
            let n = ready.unwrap_or(next % 3);
            match request(&clients[n]).try_send().await {
                Ok(answer) => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    return answer;
                }
                Err(no_answer) => {
                    why = no_answer.0;
                    // Of hyper: not connected; and closed before the message was complete, of which no
                    // byte had come.
                    let before_a_byte =
                        ["Connect", "ConnectionRefused", "ConnectionReset", "IncompleteMessage"];
                    assert!(before_a_byte.iter().any(|kind| why.contains(kind)), "{why}");
                    self.tried_again.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        panic!("no node answers: {why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_of_three_nodes_fails_no_request() {
    let cluster = Cluster::builder(3).setting("DRAIN_GRACE", "1s").start().await;
    let root = cluster.root();
    let films = root.makes_permission("films").await;
    let people = join_all((0..4).map(|_| cluster[0].register("ann"))).await;
    for person in &people {
        root.gives(person, &films).await.is(200);
    }
    let balancer = Balancer {
        nodes: cluster.three(),
        ready: [true; 3].map(AtomicBool::new),
        next: AtomicUsize::new(0),
        tried_again: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
    };
    let ended = AtomicBool::new(false);
    let load = join_all(people.iter().map(async |person| {
        let clients = cluster.three().map(Node::another_client);
        let mut person = person.clone();
        let mut out = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_millis(15));
        let check = format!("users/me/combined_permissions/validation?permissions=%22{films}%22");
        let body = serde_json::json!({"email": person.email, "password": person.password});
        while !ended.load(Ordering::SeqCst) {
            for path in ["auth_token/validation", &check, "users/me"] {
                pace.tick().await;
                let answer = balancer.ask(&clients, |node| node.get(path).bearer(&person.access)).await;
                answer.is(200);
                assert!(path != check || answer.json()["valid"] == true, "{answer}");
            }
            let refresh = |node: &Client| node.post("auth_token/token_refresh").bearer(&person.refresh);
            person = person.with_tokens(balancer.ask(&clients, refresh).await.pair());
            let pair = balancer.ask(&clients, |node| node.post("auth_token").json(&body)).await.pair();
            let other = person.with_tokens(pair);
            let logout = |node: &Client| node.delete("auth_token").bearer(&other.access);
            let answer = balancer.ask(&clients, logout).await;
            // A logout that was done and not answered is done once.
            assert!(matches!(answer.status, 204 | 401), "{answer}");
            let refused =
                balancer.ask(&clients, |node| node.get("auth_token/validation").bearer(&other.access)).await;
            refused.is_error(401, "Token has been revoked");
            out.push(other);
        }
        (person, out)
    }));
    let restarts = async {
        let start = Instant::now();
        for node in cluster.nodes() {
            node.restart().await;
            cluster.is_together().await;
            let before = balancer.answered.load(Ordering::SeqCst);
            eventually(START_TIMEOUT, "it takes part in the load", async || {
                (balancer.answered.load(Ordering::SeqCst) > before + 60).then_some(())
            })
            .await;
        }
        say(&format!("three nodes were restarted in {:?}", start.elapsed()));
        ended.store(true, Ordering::SeqCst);
    };
    let (lived, (), ()) = tokio::join!(load, restarts, balancer.look(&ended));
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    say(&format!("{} answers, {} tried again", count(&balancer.answered), count(&balancer.tried_again)));
    for (person, out) in lived {
        is_in_everywhere(cluster.nodes(), &person).await;
        for out in out.iter().step_by(5) {
            is_out_at_once(cluster.nodes(), out).await;
        }
    }
}
