//! Strangers to the cluster: other secrets, other clusters, garbage, silence, and replays.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{
    Cluster, Node, Palisade, background::SharedBy, cluster::SECRET, eventually, store::MASTER_KEY,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

use super::{PROPAGATION_TIMEOUT, is_in_everywhere, is_out_at_once, say, sessions, sum};

const REFUSED: &str = "palisade_cluster_refused_total";
/// Longest time until a node has closed a silent connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory that strangers may cost a node, in bytes.
const MEMORY_GROWTH_MAX: u64 = 64 * 1024 * 1024;

/// Two nodes that several tests annoy at the same time.
struct Two {
    cluster: Arc<Cluster>,
    nodes: Vec<Node>,
}

impl Two {
    async fn nodes() -> Self {
        static SHARED: SharedBy<Cluster> = SharedBy::tests();
        let cluster = SHARED.or(|| Cluster::of(2)).await;
        Self { nodes: cluster.handles(), cluster }
    }

    async fn are_unaffected(&self) {
        are_unaffected(&self.cluster, &self.nodes).await;
    }
}

/// Two nodes work normally.
async fn are_unaffected(cluster: &Cluster, nodes: &[Node]) {
    let [a, b] = [&nodes[0], &nodes[1]];
    cluster.are_together(&[a, b]).await;
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 4).await;
    for (n, session) in sessions.iter().enumerate() {
        session.at([a, b][n % 2]).delete("auth_token").send().await.is_done().is_visible_at(1);
        is_out_at_once([a, b], session).await;
    }
    is_in_everywhere([a, b], &ann).await;
}

async fn refused(nodes: &[Node], what: &str) -> f64 {
    let labels = format!("what=\"{what}\"");
    join_all(nodes.iter().map(|node| sum(node, REFUSED, &labels))).await.iter().sum()
}

/// Noise that is the same in every run.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A node that takes itself for a member is refused, and the others say whom they refuse.
async fn is_refused_and_named(setting: &str, value: &str) {
    let two = Two::nodes().await;
    let cluster = &two.cluster;
    let nodes = &two.nodes[..];
    let (stranger, home) = cluster.newcomer("stranger").await;
    let before = refused(nodes, "gossip").await + refused(nodes, "link").await;
    let stranger = stranger.setting(setting, value).start().await;
    eventually(PROPAGATION_TIMEOUT, "it is refused", async || {
        let now = refused(nodes, "gossip").await + refused(nodes, "link").await;
        (now > before).then_some(())
    })
    .await;
    let logs = eventually(PROPAGATION_TIMEOUT, "it is named in the log", async || {
        let logs: String = nodes.iter().map(Node::logs).collect();
        logs.contains(&home.ip().to_string()).then_some(logs)
    })
    .await;
    let line = logs.lines().find(|line| line.contains(&home.ip().to_string())).unwrap_or_default();
    say(&format!("{setting}: {line}"));
    assert!(!logs.contains(SECRET), "the secret is logged");
    two.are_unaffected().await;
    // It hears nothing by itself either, for it is in no cluster; what it decides it has from the ledger.
    for node in nodes {
        let view = cluster.view(node).await.expect("it answers");
        assert!(view.others().iter().all(|member| member["name"] != "stranger"), "{view:?}");
    }
    let view = cluster.view(&stranger).await.expect("it answers");
    assert!(view.others().iter().all(|member| member["linked"] != true), "{view:?}");
    // Not a line for each of its datagrams.
    let lines = logs.lines().filter(|line| line.contains(&home.ip().to_string())).count();
    assert!(lines < 200, "{lines} lines about one stranger");
}

#[tokio::test]
async fn a_node_with_another_secret_is_refused_and_named() {
    is_refused_and_named("CLUSTER_SECRET", "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3RzIGNsdXM=").await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_and_named() {
    is_refused_and_named("CLUSTER_NAME", "another").await;
}

#[tokio::test]
async fn unworkable_cluster_settings_are_named_at_start() {
    let listen = "127.0.0.1:1";
    let cql = "cql://127.0.0.1:1/palisade";
    let good = [("CLUSTER_LISTEN", listen), ("CLUSTER_SECRET", SECRET), ("STORE", cql)];
    let wrong: &[(&str, Option<&str>)] = &[
        ("CLUSTER_SECRET", None),
        ("CLUSTER_SECRET", Some("")),
        ("CLUSTER_SECRET", Some("c2hvcnQ=")),
        // 31 bytes.
        ("CLUSTER_SECRET", Some("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMQ==")),
        ("CLUSTER_SECRET", Some("no base64, but long enough to be a secret of a cluster")),
        ("STORE", None),
        ("STORE", Some("redb")),
        ("CLUSTER_LISTEN", Some("nowhere")),
        ("CLUSTER_LISTEN", Some("127.0.0.1")),
        ("CLUSTER_ADVERTISE", Some("127.0.0.1:port")),
        ("CLUSTER_SEEDS", Some("a b:1")),
        ("ACK_DEADLINE", Some("soon")),
        ("MAX_STALENESS", Some("-1s")),
        ("STALE_POLICY", Some("perhaps")),
    ];
    for (name, value) in wrong {
        let shown = format!("{name}={value:?}");
        for command in ["check-config", "serve"] {
            let directory = testkit::scratch::directory();
            let mut call = Palisade::with([command])
                .setting("LISTEN", "127.0.0.1:0")
                .setting("DATA_DIR", directory.path().join("data"))
                .setting("MASTER_KEY", MASTER_KEY);
            for (good_name, good) in good.iter().filter(|(good_name, _)| good_name != name) {
                call = call.setting(good_name, good);
            }
            if let Some(value) = value {
                call = call.setting(name, value);
            }
            let run = call.run().await;
            assert_eq!(run.status, 1, "{command} with {shown}: {run:?}");
            assert!(run.stderr.contains(name), "{command} with {shown} does not name it: {run:?}");
            run.in_one_line();
            let shows =
                name == &"CLUSTER_SECRET" && value.is_some_and(|it| it.len() > 9 && run.stderr.contains(it));
            assert!(!shows, "the secret is shown: {run:?}");
            assert!(!directory.path().join("data").exists(), "a data directory was made for nothing");
        }
    }
}

#[tokio::test]
async fn second_node_on_one_cluster_address_is_refused() {
    let cluster = Cluster::of(2).await;
    let home = cluster.home(0).to_string();
    let (second, _) = cluster.newcomer("c").await;
    let second = second.setting("CLUSTER_LISTEN", &home).setting("CLUSTER_ADVERTISE", &home);
    let refused = second.try_start().await.expect_err("the address is taken");
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.output.contains(&home) || refused.output.contains("CLUSTER_LISTEN"), "{refused:?}");
    are_unaffected(&cluster, cluster.nodes()).await;
}

/// Whether the other side ends a connection in time, after it said at most a little.
async fn is_given_up(mut stream: TcpStream) -> bool {
    let mut said = Vec::new();
    let end = async {
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(count @ 1..) => said.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return,
            }
        }
    };
    tokio::time::timeout(CLOSE_TIMEOUT, end).await.is_ok()
}

async fn tells(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("the node accepts");
    // It may have hung up in the middle.
    let _ = stream.write_all(bytes).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_over_tcp_is_refused_counted_and_cheap() {
    let two = Two::nodes().await;
    let home = two.cluster.home(0);
    let a = &two.nodes[0];
    let links = refused(&two.nodes, "link").await;
    let memory = a.memory_bytes();
    let http = format!("GET /api/v1/cluster HTTP/1.1\r\nHost: {home}\r\nConnection: keep-alive\r\n\r\n");
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(600, 7)].concat();
    let frames: [Vec<u8>; 9] = [
        http.into_bytes(),
        tls,
        // Lengths that claim everything, in whatever form they are written.
        vec![0xff; 64],
        [&[0xff, 0xff][..], &noise(70_000, 1)].concat(),
        [&[0, 0, 0, 0x7f][..], &noise(100_000, 2)].concat(),
        vec![0; 4_096],
        noise(48, 3),
        noise(1_000_000, 4),
        noise(1, 5),
    ];
    for _ in 0..3 {
        for bytes in &frames {
            let stream = tells(home, bytes).await;
            assert!(is_given_up(stream).await, "{} bytes are listened to for ever", bytes.len());
        }
    }
    let counted = refused(&two.nodes, "link").await - links;
    say(&format!("{counted} connections of 27 counted, memory {memory} -> {}", a.memory_bytes()));
    assert!(counted >= 27.0, "only {counted} refusals of 27 were counted");
    assert!(a.memory_bytes() < memory + MEMORY_GROWTH_MAX, "it has grown");
    two.are_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_delay_no_peer_and_are_closed() {
    const SILENT: usize = 500;
    let cluster = Cluster::of(2).await;
    let memory = cluster[0].memory_bytes();
    let mut silent = Vec::new();
    for n in 0..SILENT {
        // Nothing, or the beginning of something, and then nothing.
        silent.push(tells(cluster.home(0), &noise(n % 3, 9)).await);
    }
    let held = cluster[0].memory_bytes();
    are_unaffected(&cluster, cluster.nodes()).await;
    // One that comes now is let in all the same.
    cluster[1].restart().await;
    cluster.is_together().await;
    let start = Instant::now();
    let closed = join_all(silent.into_iter().map(is_given_up)).await;
    let closed = closed.into_iter().filter(|closed| *closed).count();
    say(&format!("{closed} of {SILENT} closed after {:?}; memory {memory} -> {held}", start.elapsed()));
    assert_eq!(closed, SILENT);
    assert!(
        held < memory + MEMORY_GROWTH_MAX && cluster[0].memory_bytes() < memory + MEMORY_GROWTH_MAX,
        "it has grown"
    );
    are_unaffected(&cluster, cluster.nodes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_unauthenticated_connection_is_closed() {
    let two = Two::nodes().await;
    let mut stream = tells(two.cluster.home(0), &[0, 48]).await;
    let start = Instant::now();
    let dripped = eventually(CLOSE_TIMEOUT, "it is closed", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut buffer = [0; 64];
        let read = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut buffer)).await;
        let closed = matches!(read, Ok(Ok(0) | Err(_)));
        (closed || stream.write_all(&[7]).await.is_err()).then(|| start.elapsed())
    });
    say(&format!("dripping was given up after {:?}", dripped.await));
    two.are_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_datagrams_are_refused_counted_and_cheap() {
    let two = Two::nodes().await;
    let cluster = &two.cluster;
    let nodes = &two.nodes[..];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gossip = refused(nodes, "gossip").await;
    let memory = nodes[0].memory_bytes();
    let count_lines = || nodes.iter().map(|node| node.logs().lines().count()).sum::<usize>();
    let lines = count_lines();
    let start = Instant::now();
    for n in 0..5_000_usize {
        let length = [0, 1, 7, 16, 24, 60, 200, 1_400, 9_000, 60_000][n % 10];
        let sent = socket.send_to(&noise(length, n as u64), cluster.home(n % 2)).await;
        assert_eq!(sent.unwrap(), length);
        if n % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let some = async || {
        let counted = refused(nodes, "gossip").await - gossip;
        (counted >= 1_000.0).then_some(counted)
    };
    let counted = eventually(PROPAGATION_TIMEOUT, "they are counted", some).await;
    say(&format!("{counted} of 5000 datagrams counted after {:?}", start.elapsed()));
    assert!(nodes[0].memory_bytes() < memory + MEMORY_GROWTH_MAX, "it has grown");
    let lines = count_lines() - lines;
    assert!(lines < 1_000, "{lines} lines of log for 5,000 datagrams");
    two.are_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_or_altered_datagrams_are_refused() {
    let cluster = Cluster::builder(3).relayed().start().await;
    let [a, b, c] = cluster.three();
    let relay = cluster.relay();
    // Among them is what C said of itself while it lived.
    eventually(PROPAGATION_TIMEOUT, "there is something to replay", async || {
        (relay.passed() > 60).then_some(())
    })
    .await;
    let heard = relay.datagrams();
    c.terminate().await;
    cluster.are_together(&[a, b]).await;
    let before = refused(&cluster.nodes()[..2], "gossip").await;
    let mut sent = 0;
    for _ in 0..5 {
        for datagram in heard.iter().rev().take(200) {
            // Unchanged, from whom it came and from another; then with a bit that is wrong, or less of it.
            for to in [0, 1] {
                relay.inject(datagram.from, to, &datagram.bytes).await;
                relay.inject(1 - to, to, &datagram.bytes).await;
                let mut altered = datagram.bytes.clone();
                let place = (sent * 31) % altered.len();
                altered[place] ^= 1 << (sent % 8);
                relay.inject(datagram.from, to, &altered).await;
                relay.inject(datagram.from, to, &datagram.bytes[..place]).await;
                sent += 4;
            }
            tokio::task::yield_now().await;
        }
        let view = cluster.sight(a, "c").await;
        assert!(view.is_none_or(|member| member["state"] != "alive"), "a dead node was replayed to life");
    }
    let counted = eventually(PROPAGATION_TIMEOUT, "they are counted", async || {
        let counted = refused(&cluster.nodes()[..2], "gossip").await - before;
        (counted >= 10.0).then_some(counted)
    })
    .await;
    let reasons = a.get("/metrics").send().await.text();
    let reasons: Vec<_> = reasons.lines().filter(|line| line.starts_with(REFUSED)).collect();
    say(&format!("{counted} of {sent} replayed and altered datagrams counted: {reasons:?}"));
    // Nor later.
    for node in [a, b] {
        let ann = node.register("ann").await;
        ann.delete("auth_token").send().await.is_done().is_visible_at(1);
        is_out_at_once([a, b], &ann).await;
        assert_eq!(sum(node, "palisade_cluster_links", "").await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_link_cannot_be_replayed() {
    let cluster = Cluster::builder(2).relayed().start().await;
    are_unaffected(&cluster, cluster.nodes()).await;
    let beginnings = cluster.relay().beginnings();
    assert!(!beginnings.is_empty(), "there is a link");
    let before = refused(cluster.nodes(), "link").await;
    for beginning in beginnings.iter().filter(|beginning| !beginning.pieces.is_empty()) {
        for to in [0, 1] {
            // All at once; and as it came, after what the other side says to it.
            let all = tells(cluster.home(to), &beginning.pieces.concat()).await;
            let mut stream = tells(cluster.home(to), &beginning.pieces[0]).await;
            let mut answer = [0; 4_096];
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
            let _ = stream.write_all(&beginning.pieces[1..].concat()).await;
            for stream in [all, stream] {
                assert!(is_given_up(stream).await, "a replayed link is believed");
            }
        }
    }
    let counted = refused(cluster.nodes(), "link").await - before;
    say(&format!("{counted} replays of {} links counted", beginnings.len()));
    assert!(counted >= 1.0, "no replay was counted");
    are_unaffected(&cluster, cluster.nodes()).await;
}

#[tokio::test]
async fn cluster_secret_is_never_disclosed() {
    let cluster = Cluster::builder(2).setting("LOG", "trace").start().await;
    are_unaffected(&cluster, cluster.nodes()).await;
    let raw = "the secret of the tests' cluster";
    let mut seen: String = cluster.nodes().iter().map(Node::logs).collect();
    for node in cluster.nodes() {
        for arguments in
            [&["check-config", "--json"][..], &["cluster", "status"], &["cluster", "status", "--json"]]
        {
            seen += &format!("{:?}", node.cli(arguments).await);
        }
        seen += &node.get("/metrics").send().await.text();
        seen += &cluster.view(node).await.expect("it answers").0.to_string();
    }
    for secret in [SECRET, raw] {
        let line = seen.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{}", line.unwrap_or_default().replace(secret, "<the secret>"));
    }
}
