//! Nodes that know each other: what one takes away is refused by all when it has answered, and what
//! becomes of that when nodes die, sleep, are cut off, leave, or are none of ours.
//!
//! | to find | look in |
//! |---|---|
//! | everything works and nothing hurts | [`walk`] |
//! | nodes that are killed, paused, or new | [`nodes`] |
//! | ways that are cut: between nodes, and to the store | [`ways`] |
//! | who is none of the cluster | [`strangers`] |
//! | members that do not tell the truth | [`liars`] |
//! | ends that nobody notices | [`leaving`] |
//! | what each call does when something is down, cell by cell | [`table`] |
//! | what operators see | [`status`] |
//!
//! Not here: clocks that differ. Nothing outside of a node can set its clock without `faketime`, so the
//! tests of the protocol and of the verdict, to which time is a parameter, have it.

mod leaving;
mod liars;
mod nodes;
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

/// Until a node has heard what another took away, on a busy machine.
const HEARD: Duration = Duration::from_secs(60);
/// Until a node knows what it should of a store, a cache or peers that are down or back.
const NOTICED: Duration = Duration::from_secs(60);
/// What took less than this happened at once.
const WORTH_TELLING: Duration = Duration::from_millis(50);
/// Log-ins under way at a time: fewer than a node queues.
const LOG_INS: usize = 8;

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
    let refused = eventually(HEARD, what, async || {
        let answer = node.validate(&person.access).await;
        (answer.status != 200 && answer.status != 503).then_some(answer)
    });
    refused.await.is_error(401, "Token has been revoked");
    let took = start.elapsed();
    if took > WORTH_TELLING {
        say(&format!("{what}: after {took:?}"));
    }
    took
}

/// A metric that has one value.
async fn becomes(node: &Node, metric: &str, value: f64) {
    eventually(NOTICED, &format!("{metric} is {value}"), async || {
        (node.metric(metric).await == Some(value)).then_some(())
    })
    .await;
}

/// Nobody else has it, whether they were missed yet or not.
fn is_visible_nowhere(answer: &Answer) {
    let (k, n) = visible(answer.is_done());
    assert!(k == 0 && n <= 2, "{answer}");
}

/// More sessions of somebody, at the nodes in turn.
async fn sessions(person: &Person, nodes: &[&Node], count: usize) -> Vec<Person> {
    let mut sessions = Vec::new();
    while sessions.len() < count {
        let some = LOG_INS.min(count - sessions.len());
        let log_in = async |n: usize| person.at(nodes[n % nodes.len()]).in_another_session().await;
        sessions.extend(join_all((0..some).map(log_in)).await);
    }
    sessions
}

/// Gives somebody so many sessions more that nobody has tokens of, as they would lie in the store: it
/// takes no log-ins to make them, and each is a fact when it is ended.
async fn silent_sessions(cluster: &Cluster, person: &Person, count: usize) {
    let (keyspace, id) = (cluster.keyspace().name(), person.session().await);
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
            let (session, sessions, of_user) = (&session, &sessions, &of_user);
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
