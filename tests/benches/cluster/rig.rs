//! Three nodes, and a peer that publishes any number of facts.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster::{Config, FactHandler, protocol::Tuning, secret::Secret};
use schema::{
    Clock, Clocks, Entropy, Fact, FactKind, MonotonicClock, NodeId, SessionId, Timestamp, UserId,
    ledger::{Entry, Head, Origin},
};
use serde_json::Value;
use testkit::{
    Cluster, Node,
    cluster::{Builder, SECRET, free_address},
    eventually,
};

use crate::people;

/// Longest wait for a condition on a busy machine.
pub const CONDITION_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Three nodes with the settings that nodes have by themselves, but for limits and noise.
pub fn three() -> Builder {
    Cluster::builder(3).default_setting("ACK_DEADLINE").default_setting("JOURNAL_SIZE").setting("LOG", "warn")
}

/// A node on the same store that is alone.
pub async fn loner(cluster: &Cluster) -> Node {
    cluster.loner().await.default_setting("JOURNAL_SIZE").setting("LOG", "warn").start().await
}

/// Everything that a node says of the cluster.
pub async fn view(cluster: &Cluster, node: &Node) -> Value {
    cluster.view(node).await.map_or(Value::Null, |view| view.0)
}

/// How many sessions a node refuses; 0 when it does not say so now.
pub async fn refused_sessions(cluster: &Cluster, node: &Node) -> u64 {
    view(cluster, node).await["denials"]["sessions"].as_u64().unwrap_or(0)
}

/// The same, of a node that must say so.
pub async fn refused_by(cluster: &Cluster, node: &Node) -> (u64, Duration) {
    let began = Instant::now();
    loop {
        match cluster.root().at(node).get("cluster").try_send().await {
            Ok(answer) if answer.status == 200 => {
                return (answer.json()["denials"]["sessions"].as_u64().expect("a number"), began.elapsed());
            }
            Ok(answer) => println!("         after {:.1?}: {answer}", began.elapsed()),
            Err(why) => println!("         after {:.1?}: {why:?}", began.elapsed()),
        }
        assert!(began.elapsed() < CONDITION_TIMEOUT, "the node does not say what it refuses");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a node refuses so many sessions; says how long since `from`.
pub async fn refuses(cluster: &Cluster, node: &Node, sessions: u64, from: Instant) -> Duration {
    loop {
        if refused_sessions(cluster, node).await >= sessions {
            return from.elapsed();
        }
        assert!(
            from.elapsed() < CONDITION_TIMEOUT,
            "{sessions} sessions are not refused within {CONDITION_TIMEOUT:?}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until all nodes of a cluster refuse so many sessions; says how long since `from` for each.
pub async fn all_refuse(cluster: &Cluster, sessions: u64, from: Instant) -> Vec<Duration> {
    let all = cluster.nodes().iter().map(|node| refuses(cluster, node, sessions, from));
    futures_util::future::join_all(all).await
}

/// The clock of the machine.
struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        people::now()
    }
}

impl MonotonicClock for Now {
    fn elapsed(&self) -> Duration {
        let elapsed = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(elapsed).unwrap_or_default()
    }
}

fn clocks() -> Arc<Clocks> {
    Arc::new(Clocks::new(Arc::new(Now), Arc::new(Now), "", None))
}

/// The randomness of the machine.
struct Random;

impl Entropy for Random {
    fn fill(&self, bytes: &mut [u8]) {
        rand::fill(bytes).expect("randomness");
    }
}

struct Deaf;

#[async_trait::async_trait]
impl FactHandler for Deaf {
    fn apply(&self, _: &Fact) {}
    async fn keep(&self, _: Vec<Entry>) -> bool {
        false
    }
    fn on_acknowledged(&self, _: Duration) {}
}

/// A member of a cluster that serves no requests: it publishes facts, with the same code as a node.
pub struct Peer {
    cluster: Arc<cluster::Cluster>,
    origin: Origin,
    until: Timestamp,
    said: u64,
}

/// Lifetime of its facts: longer than a run takes.
const FACT_LIFETIME: Duration = Duration::from_secs(3_600);
/// Limit of entries in one write to the ledger.
const LEDGER_WRITE_MAX: u64 = 2_000;

impl Peer {
    /// Joins, and waits until it is linked with all nodes.
    pub async fn of(nodes: &Cluster) -> Self {
        let listen = free_address();
        let secret = STANDARD.decode(SECRET).expect("base64").into();
        let origin = Origin { node: NodeId::new(people::now(), Random.id()), incarnation: 1 };
        let homes = (0..nodes.nodes().len()).map(|n| nodes.home(n));
        let config = Config {
            origin,
            name: "peer".to_owned(),
            cluster: "palisade".to_owned(),
            secret: Secret::new(secret, "palisade").expect("a long secret"),
            listen,
            advertise: listen,
            seeds: homes.map(|home: SocketAddr| home.to_string()).collect(),
            ack_deadline: Duration::from_secs(10),
            tuning: Tuning::default(),
            recovered: Vec::new(),
        };
        let started = cluster::Cluster::start(config, Arc::new(Deaf), clocks(), Arc::new(Random));
        let cluster = started.await.expect("a free address");
        cluster.announce(true);
        let all = nodes.nodes().len();
        eventually(CONDITION_TIMEOUT, "links of the peer", async || {
            let linked = cluster.status().members.iter().filter(|member| member.link.is_some()).count();
            (linked == all).then_some(())
        })
        .await;
        Self { cluster, origin, until: people::now().plus(FACT_LIFETIME), said: 0 }
    }

    /// Says that so many more sessions are revoked.
    pub fn says(&mut self, count: u64) {
        let first = self.said + 1;
        let facts: Vec<_> = (first..first + count).map(|n| fact(&self.origin, n, self.until)).collect();
        self.cluster.publish(first, &facts);
        self.said += count;
    }

    /// Writes all that it said to the ledger, as a node does.
    pub async fn writes(&self, nodes: &Cluster) {
        let config = nodes.keyspace().url().await.parse().expect("a url");
        let opened = store_scylla::open(config, false, clocks(), Arc::new(Random));
        opened.status.up().await;
        let mut written = 0;
        while written < self.said {
            let last = self.said.min(written + LEDGER_WRITE_MAX);
            let entry = |seq| Entry { origin: self.origin, seq, fact: fact(&self.origin, seq, self.until) };
            let entries: Vec<_> = (written + 1..=last).map(entry).collect();
            let head = Head { origin: self.origin, seq: last };
            opened.stores.ledger.append(&entries, &[head]).await.expect("the ledger");
            written = last;
        }
    }

    /// How many of its facts the slowest linked node has not acknowledged.
    pub fn lag(&self) -> u64 {
        let status = self.cluster.status();
        let lags = status.members.iter().filter_map(|member| Some(member.link?.0.acknowledged_lag));
        lags.max().unwrap_or(0)
    }
}

/// One of many facts, all of other sessions.
pub fn fact(origin: &Origin, n: u64, until: Timestamp) -> Fact {
    // As ids that were made over some time: the first half is nearly the same, the rest is by chance.
    let mut random = [0; 10];
    let mixed = (n ^ u64::from(origin.node.as_bytes()[15]) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    random[..8].copy_from_slice(&mixed.to_be_bytes());
    random[8..].copy_from_slice(&origin.node.as_bytes()[14..]);
    let at = Timestamp::from_millis(1_790_000_000_000 + n / 100);
    let session = SessionId::new(at, random);
    Fact { kind: FactKind::SessionRevoked { user: UserId::from_bytes(*session.as_bytes()), session }, until }
}

/// Ticks of the clock of `/proc` in a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of a core that a process has used.
pub fn worked(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // utime and stime are fields 14 and 15 of all, of which the first two are before the bracket.
    let fields = rest.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// What the processor did for whom, in seconds of one core.
#[derive(Clone, Debug)]
pub struct Work {
    at: Instant,
    nodes: f64,
    own: f64,
    all: f64,
}

impl Work {
    /// Up to now.
    pub fn now(nodes: &[&Node]) -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let fields: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
        // user, nice, system, (idle, iowait,) irq, softirq
        let busy = [0, 1, 2, 5, 6].iter().filter_map(|n| fields.get(*n)).sum::<f64>();
        Self {
            at: Instant::now(),
            nodes: nodes.iter().map(|node| worked(node.pid())).sum(),
            own: worked(std::process::id()),
            all: busy / TICKS_PER_SECOND,
        }
    }

    /// Since then, in words.
    pub fn until(&self, then: &Self) -> String {
        let took = then.at.duration_since(self.at).as_secs_f64();
        let cores = |from: f64, to: f64| (to - from) / took;
        let nodes = cores(self.nodes, then.nodes);
        let own = cores(self.own, then.own);
        let rest = (cores(self.all, then.all) - nodes - own).max(0.0);
        format!("cores busy: nodes {nodes:.2}, clients {own:.2}, Cassandra and all else {rest:.2}")
    }
}
