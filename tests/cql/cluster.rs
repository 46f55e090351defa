//! Nodes that know each other: what one takes away is refused by all when it has answered, and what
//! becomes of that when nodes die, sleep, are cut off, leave, or are none of ours.
//!
//! | to find | look in |
//! |---|---|
//! | everything works and nothing hurts | [`walk`] |
//! | nodes that are killed, paused, or new | [`nodes`] |
//! | ways that are cut: between nodes, and to the store | [`ways`] |
//! | strangers to the cluster | [`strangers`] |
//! | secrets and keys that are replaced while nodes run | [`secrets`] |
//! | members that do not tell the truth | [`liars`] |
//! | departures and restarts that fail no request | [`leaving`] |
//! | what each call does when something is down, cell by cell | [`table`] |
//! | what operators see | [`status`] |
//!
//! Not here: clocks that differ. Nothing outside of a node can set its clock without `faketime`, so the
//! tests of the protocol and of the verdict, to which time is a parameter, have it.

mod leaving;
mod liars;
mod nodes;
mod secrets;
mod status;
mod strangers;
mod table;
mod walk;
mod ways;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{
    Answer, Client, Cluster, Node, Person, background::SharedBy, cluster::visible, eventually, store,
};

use crate::behind::say;

/// Longest time until a node has received another node's revocation, on a busy machine.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time until a node detects that a store, a cache or peers are down or back.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Shorter times count as "at once" and are not printed.
const NOTABLE_DURATION: Duration = Duration::from_millis(50);
/// Limit of concurrent log-ins: fewer than a node queues.
const CONCURRENT_LOGINS_MAX: usize = 8;

/// Three nodes that several tests use at the same time, and none of them hurts.
struct Three {
    cluster: Arc<Cluster>,
    nodes: Vec<Node>,
}

impl Three {
    async fn nodes() -> Self {
        static SHARED: SharedBy<Cluster> = SharedBy::tests();
        let cluster = SHARED.or(|| Cluster::of(3)).await;
        Self { nodes: cluster.handles(), cluster }
    }

    fn all(&self) -> [&Node; 3] {
        let [a, b, c] = &self.nodes[..] else { unreachable!("three") };
        [a, b, c]
    }

    /// In a session of the test's own: others may end what they like of theirs.
    async fn root(&self) -> Person {
        self.cluster.root().at(&self.nodes[0]).in_another_session().await
    }
}

/// Each of the nodes refuses the access and the refresh token now, without a wait.
async fn is_out_at_once<'a>(nodes: impl IntoIterator<Item = &'a Node>, person: &Person) {
    for node in nodes {
        node.validate(&person.access).await.is_error(401, "Token has been revoked");
        node.refresh(&person.refresh).await.is_error(401, "Token has been revoked");
    }
}

/// Each of the nodes takes the access token.
async fn is_in_everywhere<'a>(nodes: impl IntoIterator<Item = &'a Node>, person: &Person) {
    for node in nodes {
        person.at(node).is_in().await;
    }
}

/// The node refuses the access token before long, after it has taken it for good at most for a while.
async fn is_out_before_long(node: &Client, person: &Person, what: &str) -> Duration {
    let start = Instant::now();
    let refused = eventually(PROPAGATION_TIMEOUT, what, async || {
        let answer = node.validate(&person.access).await;
        (answer.status != 200 && answer.status != 503).then_some(answer)
    });
    refused.await.is_error(401, "Token has been revoked");
    let took = start.elapsed();
    if took > NOTABLE_DURATION {
        say(&format!("{what}: after {took:?}"));
    }
    took
}

/// A metric that has one value.
async fn becomes(node: &Node, metric: &str, value: f64) {
    eventually(DETECTION_TIMEOUT, &format!("{metric} is {value}"), async || {
        (node.metric(metric).await == Some(value)).then_some(())
    })
    .await;
}

/// No other node has acknowledged it, whether the others were missed yet or not.
fn is_visible_nowhere(answer: &Answer) {
    let (k, n) = visible(answer.is_done());
    assert!(k == 0 && n <= 2, "{answer}");
}

/// More sessions of a user, begun at the nodes in turn.
async fn sessions(person: &Person, nodes: &[&Node], count: usize) -> Vec<Person> {
    let mut sessions = Vec::new();
    while sessions.len() < count {
        let some = CONCURRENT_LOGINS_MAX.min(count - sessions.len());
        let log_in = async |n: usize| person.at(nodes[n % nodes.len()]).in_another_session().await;
        sessions.extend(join_all((0..some).map(log_in)).await);
    }
    sessions
}

/// Writes `count` more sessions of a user to the store, in stored form: they need no log-ins, no client
/// has tokens of them, and each is a fact when it is ended.
async fn silent_sessions(cluster: &Cluster, person: &Person, count: usize) {
    let keyspace = cluster.keyspace().name();
    let id = person.session().await;
    let session = store::cassandra().await;
    let row = format!("SELECT JSON * FROM {keyspace}.sessions WHERE user = {} AND id = {id}", person.uuid);
    let row = session.query_unpaged(row, ()).await.unwrap().into_rows_result().unwrap();
    let (row,): (String,) = row.single_row().unwrap();
    let mut row: Value = serde_json::from_str(&row).unwrap();
    let sessions = session.prepare(format!("INSERT INTO {keyspace}.sessions JSON ?")).await.unwrap();
    let of_user = session.prepare(format!("INSERT INTO {keyspace}.sessions_of_user JSON ?")).await.unwrap();
    let ids: Vec<String> = (1..=count).map(|n| format!("{}-{n:012x}", &id[..23])).collect();
    for ids in ids.chunks(100) {
        let insert = ids.iter().map(|id| {
            row["id"] = id.as_str().into();
            let rows = (row.to_string(), json!({"user": person.uuid, "id": id}).to_string());
            let session = &session;
            let sessions = &sessions;
            let of_user = &of_user;
            async move {
                session.execute_unpaged(sessions, (rows.0,)).await.unwrap();
                session.execute_unpaged(of_user, (rows.1,)).await.unwrap();
            }
        });
        join_all(insert).await;
    }
}

/// All metrics of this name together, whatever their labels, that have this in them.
async fn sum(node: &Client, name: &str, labels: &str) -> f64 {
    let metrics = node.get("/metrics").send().await.is(200).text();
    let lines = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A verdict beyond the staleness bound says so: by how much, in milliseconds.
fn stale_ms(answer: &Answer) -> Option<u64> {
    let ms = answer.header("palisade-stale")?;
    Some(ms.parse().unwrap_or_else(|_| panic!("Palisade-Stale is no number\n{answer}")))
}
