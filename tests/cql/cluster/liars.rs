//! Members that do not tell the truth: they know the secret, and say what cannot be.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster::{
    link::{self, Local, Reader, Writer},
    members::{self, Members},
    protocol::{Message, VERSIONS},
    secret::Secret,
};
use schema::{Entropy, Fact, FactKind, NodeId, Timestamp, UserId, ledger::Origin, version::MAX_VERSION};
use testkit::{
    Cluster, Node, Person,
    cluster::{SECRET, free_address},
    eventually,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{PROPAGATION_TIMEOUT, is_in_everywhere, is_out_at_once, sum};

/// How long the test observes a node: a node that believed a lie would show it by then.
const OBSERVATION_TIME: Duration = Duration::from_secs(3);

struct Random;

impl Entropy for Random {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("randomness");
    }
}

fn secret() -> Secret {
    let bytes = STANDARD.decode(SECRET).expect("base64").into();
    Secret::new(bytes, "palisade").expect("it is long enough")
}

/// A link of a member by this name.
async fn linked(
    cluster: &Cluster,
    to: usize,
    name: &str,
    origin: Origin,
) -> (Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>) {
    let local = Local { origin, name: name.into(), secret: secret(), versions: VERSIONS };
    let stream = TcpStream::connect(cluster.home(to)).await.expect("the node accepts");
    let (_, reader, writer) = link::dial(stream, &local).await.expect("it knows the secret");
    (reader, writer)
}

async fn says(writer: &mut Writer<OwnedWriteHalf>, message: &Message) {
    let mut frame = Vec::new();
    message.encode(&mut frame);
    writer.write(&frame).await.expect("the link stands");
    writer.flush().await.expect("the link stands");
}

/// The link is cut by the other side.
async fn is_cut(mut reader: Reader<OwnedReadHalf>) {
    let cut = async { while reader.read().await.is_ok() {} };
    tokio::time::timeout(PROPAGATION_TIMEOUT, cut).await.expect("the link is cut");
}

fn someone(n: u8) -> Origin {
    Origin { node: NodeId::from_bytes([n; 16]), incarnation: 1 }
}

fn user(person: &Person) -> UserId {
    person.uuid.parse().expect("an id")
}

fn version(person: &Person, at_least: u64) -> Message {
    let kind = FactKind::UserVersion { user: user(person), at_least };
    let until = Timestamp::from_secs(4_000_000_000);
    Message::Facts { origin: someone(77), first: 1, facts: vec![Fact { kind, until }] }
}

async fn malformed(node: &Node) -> f64 {
    sum(node, "palisade_cluster_refused_total", "reason=\"malformed\"").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossiped_later_incarnation_ends_no_node() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let own = cluster.view(a).await.expect("it answers").0["node"].clone();
    let node: NodeId = own["uuid"].as_str().expect("an id").parse().expect("an id");
    let incarnation = own["incarnation"].as_u64().expect("a number") + 1;
    let home = free_address();
    let liar = members::Config {
        origin: Origin { node, incarnation },
        name: "liar".into(),
        cluster: "palisade".into(),
        secret: secret(),
        listen: home,
        advertise: home,
        seeds: vec![cluster.home(0).to_string(), cluster.home(1).to_string()],
        versions: VERSIONS,
    };
    let liar = Members::join(liar, Arc::new(Random)).await.expect("it joins");
    // A link of that life, and facts of it, which B would write to the ledger for it.
    let (_reader, mut writer) = linked(&cluster, 1, "liar", Origin { node, incarnation }).await;
    let kind = FactKind::TokenRevoked { token: schema::TokenId::from_bytes([7; 16]) };
    let facts = vec![Fact { kind, until: Timestamp::from_secs(4_000_000_000) }];
    says(&mut writer, &Message::Facts { origin: Origin { node, incarnation }, first: 1, facts }).await;
    // A hears of its later life, and the store of none.
    a.logs_with("the store knows of none").await;
    tokio::time::sleep(OBSERVATION_TIME).await;
    assert!(!a.logs().contains("a copy of this data directory"), "it ends");
    ann.at(a).is_in().await;
    a.readiness().await.expect("it answers").is(200);
    // What it takes away holds everywhere, if not at once: B takes the liar for it.
    ann.at(a).delete("auth_token").send().await.is_done();
    super::is_out_before_long(b, &ann, "by the ledger").await;
    // When no member claims it any more, all is as before.
    drop((writer, liar));
    a.restart().await;
    cluster.is_together().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_facts_are_refused_counted_and_named() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let others = super::sessions(&ann, &[a, b], 2).await;
    let before = malformed(a).await;
    for (n, at_least) in [u64::MAX, u64::MAX - 1, MAX_VERSION + 1].into_iter().enumerate() {
        let (reader, mut writer) = linked(&cluster, 0, "mallory", someone(77)).await;
        says(&mut writer, &version(&ann, at_least)).await;
        is_cut(reader).await;
        let n = n as f64 + 1.0;
        eventually(PROPAGATION_TIMEOUT, "it is counted", async || {
            (malformed(a).await >= before + n).then_some(())
        })
        .await;
    }
    let logs = a.logs_with("a user version above the maximum").await;
    let line = logs.lines().find(|line| line.contains("a user version above the maximum"));
    assert!(line.is_some_and(|line| line.contains("mallory")), "{line:?}");
    is_in_everywhere([a, b], &ann).await;
    // Logging out everywhere still works.
    ann.at(a).delete("auth_token/all").send().await.is_done().is_visible_at(1);
    for person in others.iter().chain([&ann]) {
        is_out_at_once([a, b], person).await;
    }
    ann.at(b).in_another_session().await.at(a).is_in().await;
}

/// Damaged rows and absurd claims of a member do not prevent a user from logging out everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_of_the_highest_version_can_log_out_everywhere() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let session = testkit::store::cassandra().await;
    for (name, stored) in [("ann", i64::MAX), ("bob", 1 << 48), ("eve", (1 << 48) - 1)] {
        let person = a.register(name).await;
        let keyspace = cluster.keyspace().name();
        let id = &person.uuid;
        let change = format!("UPDATE {keyspace}.users SET version = {stored} WHERE id = {id} IF EXISTS");
        session.query_unpaged(change, ()).await.expect("the row is changed");
        let first = person.in_another_session().await;
        let second = person.at(b).in_another_session().await;
        is_in_everywhere([a, b], &first).await;
        first.at(a).delete("auth_token/all").send().await.is_done().is_visible_at(1);
        for session in [&first, &second] {
            is_out_at_once([a, b], session).await;
        }
    }
}

/// Connections from the peer's own address that send nothing, or only public data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_no_peer_out() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let homes = [cluster.home(0), cluster.home(1)];
    // Again as soon as they are closed, 64 at each node.
    let flood = tokio::spawn(async move {
        let silent = homes.into_iter().cycle().take(128).map(|home| async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(home).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let _ = stream.write_all(b"PLSD").await;
                let _ = stream.read(&mut [0; 64]).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        futures_util::future::join_all(silent).await;
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..2 {
        b.restart().await;
        cluster.is_together().await;
        let ann = a.register("ann").await;
        ann.delete("auth_token").send().await.is_done().is_visible_at(1);
        is_out_at_once([a, b], &ann).await;
    }
    flood.abort();
}
