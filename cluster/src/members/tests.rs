use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU8, AtomicU64},
};

use schema::id::NodeId;
use tokio::net::UdpSocket;
use zeroize::Zeroizing;

use super::{
    seal::{HEADER, OVERHEAD, seals},
    *,
};

const LONG: Duration = Duration::from_secs(20);

struct Random;

impl Entropy for Random {
    fn fill(&self, bytes: &mut [u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for chunk in bytes.chunks_mut(8) {
            let n = RandomState::new().hash_one(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
            chunk.copy_from_slice(&n[..chunk.len()]);
        }
    }
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Random.fill(&mut bytes);
    bytes
}

/// An address that nobody else uses: every test node has a loopback address of its own.
fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let ip = [127, 0, 7, NEXT.fetch_add(1, Ordering::Relaxed)];
    std::net::UdpSocket::bind(SocketAddr::from((ip, 0))).unwrap().local_addr().unwrap()
}

fn secret(byte: u8, cluster: &str) -> Secret {
    Secret::new(Zeroizing::new(vec![byte; 32]), cluster).unwrap()
}

fn node_id(n: u8) -> NodeId {
    NodeId::new(schema::Timestamp::from_millis(1_700_000_000_000), [n; 10])
}

fn config(n: u8, listen: SocketAddr, seeds: &[SocketAddr]) -> Config {
    Config {
        origin: Origin { node: node_id(n), incarnation: 1 },
        name: format!("node-{n}"),
        cluster: "x".into(),
        secret: secret(1, "x"),
        listen,
        advertise: listen,
        seeds: seeds.iter().map(ToString::to_string).collect(),
        versions: 1..=2,
    }
}

async fn start(config: Config) -> Members {
    Members::join(config, Arc::new(Random)).await.unwrap()
}

async fn node(n: u8, seeds: &[SocketAddr]) -> (Members, SocketAddr) {
    let listen = address();
    (start(config(n, listen, seeds)).await, listen)
}

/// Waits until this is what a node sees.
async fn sees(members: &Members, what: &str, is: impl Fn(&[Member]) -> bool) -> Arc<[Member]> {
    let mut watch = members.watch();
    let seen = timeout(LONG, watch.wait_for(|members| is(members))).await;
    match seen {
        Ok(seen) => seen.unwrap().clone(),
        Err(_) => panic!("{what} was not seen, but {:#?}", members.watch().borrow()),
    }
}

async fn sees_alive(members: &Members, count: usize) {
    sees(members, "company", |m| m.len() == count && m.iter().all(|m| m.alive)).await;
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let mut tick = interval(Duration::from_millis(5));
    let all = async {
        while !is() {
            tick.tick().await;
        }
    };
    assert!(timeout(LONG, all).await.is_ok(), "{what}");
}

fn total(members: &Members) -> u64 {
    members.counters().refused.iter().map(|(_, count)| count).sum()
}

/// Sends datagrams and waits until each was refused or opened.
async fn throw(from: &UdpSocket, to: SocketAddr, at: &Members, datagrams: &[Vec<u8>]) {
    for some in datagrams.chunks(32) {
        let before = total(at);
        for datagram in some {
            from.send_to(datagram, to).await.unwrap();
        }
        eventually("all were refused", || total(at) >= before + some.len() as u64).await;
    }
}

/// A datagram of a node that knows nobody but us.
async fn caught(tap: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = timeout(LONG, tap.recv(&mut buffer)).await.unwrap().unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn three_see_each_other_and_what_they_say() {
    let began = Instant::now();
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    let (c, at_c) = node(3, &[at_a]).await;
    for members in [&a, &b, &c] {
        sees_alive(members, 2).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5));

    c.announce(Announcement { ready: true, leaving: false, head: 1 << 40 });
    for members in [&a, &b] {
        let seen = sees(members, "readiness", |m| m.iter().any(|m| m.ready)).await;
        assert_eq!(
            seen[1],
            Member {
                origin: Origin { node: node_id(3), incarnation: 1 },
                name: "node-3".into(),
                address: at_c,
                alive: true,
                ready: true,
                leaving: false,
                head: 1 << 40,
                versions: 1..=2,
            }
        );
    }

    c.leave().await;
    for members in [&a, &b] {
        sees(members, "leaving", |m| m.iter().any(|m| m.leaving && m.ready && m.alive)).await;
    }
    assert!(std::net::UdpSocket::bind(at_c).is_ok(), "its socket is closed");
    c.leave().await;
    assert_eq!(total(&a) + total(&b), 0);
}

#[tokio::test]
async fn a_killed_one_is_dead_and_comes_back_as_a_new_incarnation() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    let (c, at_c) = node(3, &[at_a]).await;
    for members in [&a, &b, &c] {
        sees_alive(members, 2).await;
    }
    let killed = Instant::now();
    drop(c);
    for members in [&a, &b] {
        sees(members, "death", |m| m.len() == 2 && m.iter().any(|m| !m.alive)).await;
        assert!((Duration::from_secs(3)..Duration::from_secs(7)).contains(&killed.elapsed()));
    }
    let mut again = config(3, at_c, &[at_a]);
    again.origin.incarnation = 2;
    let c = start(again).await;
    for members in [&a, &b] {
        let seen = sees(members, "the new one", |m| m.iter().all(|m| m.alive)).await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].origin, Origin { node: node_id(3), incarnation: 2 });
    }
    // Its own earlier life is none of its peers.
    sees_alive(&c, 2).await;
}

#[tokio::test]
async fn one_that_pauses_for_a_second_is_not_dead() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
    let gossip = b.shared.gossip().chitchat();
    let mut watch = a.watch();
    let stopped = gossip.lock().await;
    let died = watch.wait_for(|m| !m[0].alive);
    assert!(timeout(Duration::from_millis(1_500), died).await.is_err());
    drop(stopped);
    let before = a.counters().received.0;
    eventually("it gossips again", || a.counters().received.0 > before + 10).await;
    assert!(a.watch().borrow()[0].alive);
}

#[tokio::test]
async fn another_secret_or_cluster_is_refused() {
    let (a, at_a) = node(1, &[]).await;
    let mut other = config(2, address(), &[at_a]);
    other.secret = secret(2, "x");
    let b = start(other).await;
    eventually("another secret is refused", || a.counters().refused(Refusal::OtherSecret) > 0).await;
    let mut other = config(3, address(), &[at_a]);
    other.secret = secret(1, "y");
    other.cluster = "y".into();
    let c = start(other).await;
    eventually("another cluster is refused", || a.counters().refused(Refusal::OtherCluster) > 0).await;
    for members in [&a, &b, &c] {
        assert!(members.watch().borrow().is_empty());
        assert_eq!(members.counters().received, (0, 0));
    }
    assert_eq!(a.counters().sent, (0, 0), "strangers get no answer");
}

#[tokio::test]
async fn altered_cut_replayed_and_reflected_datagrams_are_refused() {
    let (a, at_a) = node(1, &[]).await;
    let tap = UdpSocket::bind(address()).await.unwrap();
    let (b, at_b) = node(2, &[tap.local_addr().unwrap()]).await;
    let datagram = caught(&tap).await;

    let altered: Vec<_> = (0..datagram.len())
        .map(|at| {
            let mut altered = datagram.clone();
            altered[at] ^= 1 << (at % 8);
            altered
        })
        .collect();
    throw(&tap, at_a, &a, &altered).await;
    let cut: Vec<_> = (0..datagram.len()).map(|length| datagram[..length].to_vec()).collect();
    throw(&tap, at_a, &a, &cut).await;
    assert!(a.watch().borrow().is_empty());
    assert_eq!((a.counters().received, a.shared.wire.senders()), ((0, 0), 0));

    tap.send_to(&datagram, at_a).await.unwrap();
    eventually("the real one is opened", || a.counters().received.0 == 1).await;
    throw(&tap, at_a, &a, &vec![datagram.clone(); 10]).await;
    assert_eq!(a.counters().refused(Refusal::Replayed), 10);

    throw(&tap, at_b, &b, &[datagram]).await;
    assert_eq!(b.counters().refused(Refusal::Reflected), 1);
    assert!(b.watch().borrow().is_empty());
}

#[tokio::test]
async fn what_is_sealed_but_unreadable_is_refused_and_holds_up_nobody() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    let (sealer, _) = seals(&secret(1, "x"), &Random).unwrap();
    let garbage: Vec<_> = (0..200)
        .map(|length| {
            let mut datagram = vec![0; length + OVERHEAD];
            datagram[HEADER..HEADER + length].copy_from_slice(&random(length));
            assert!(sealer.seal(&mut datagram, length).is_some());
            datagram
        })
        .collect();
    let tap = UdpSocket::bind(address()).await.unwrap();
    throw(&tap, at_a, &a, &garbage).await;
    assert!(a.counters().refused(Refusal::Malformed) >= 200);
    assert!(a.watch().borrow()[0].alive);
    assert!(b.watch().borrow().iter().all(|m| m.alive));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_takes_no_memory_and_kills_nobody() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
    let mut watch = a.watch();
    let tap = UdpSocket::bind(address()).await.unwrap();
    let flood = async {
        for n in 0..100_000 {
            let mut datagram = random(n % 400);
            if n % 2 == 0 && datagram.len() > 5 {
                datagram[0] = 1;
                datagram[1..5].copy_from_slice(&secret(1, "x").fingerprint());
            }
            tap.send_to(&datagram, at_a).await.unwrap();
        }
    };
    select! {
        () = flood => {}
        _ = watch.wait_for(|m| !m[0].alive) => panic!("the flood killed a member"),
    }
    assert!(a.shared.wire.senders() <= 1);
    assert!(total(&a) > 0);
    let before = a.counters().received.0;
    eventually("it gossips on", || a.counters().received.0 > before + 10).await;
}

#[tokio::test]
async fn seeds_are_names_and_one_that_does_not_resolve_holds_up_no_other() {
    let at_a = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let a = start(config(1, at_a, &[])).await;
    let mut by_name = config(2, address(), &[]);
    by_name.seeds =
        vec!["nowhere.invalid:7100".into(), "no port".into(), format!("localhost:{}", at_a.port())];
    let b = start(by_name).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
}

#[tokio::test]
async fn a_seed_that_comes_later_is_found() {
    let at_a = address();
    let (b, _) = node(2, &[at_a]).await;
    eventually("it asked", || b.counters().sent.0 > 0).await;
    let a = start(config(1, at_a, &[])).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
}

#[tokio::test]
async fn gossip_that_ends_starts_again_and_nobody_sees_it() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
    b.announce(Announcement { ready: true, leaving: false, head: 7 });
    sees(&a, "readiness", |m| m[0].head == 7).await;
    let (mut seen_by_a, mut seen_by_b) = (a.watch(), b.watch());
    let before = Arc::clone(&b.shared.gossip());
    before.abort();
    eventually("it runs again", || !Arc::ptr_eq(&before, &b.shared.gossip())).await;
    b.announce(Announcement { ready: true, leaving: false, head: 8 });
    let alive = |m: &Arc<[Member]>| m.len() == 1 && m[0].alive;
    let changed = async {
        select! {
            _ = seen_by_a.wait_for(|m| !alive(m)) => "at the other",
            _ = seen_by_b.wait_for(|m| !alive(m)) => "at itself",
        }
    };
    // Longer than those from before are held, and than death takes.
    let changed = timeout(HELD + Duration::from_secs(2), changed).await;
    assert_eq!(changed.ok(), None);
    sees(&a, "what it says since", |m| m[0].head == 8).await;
}

/// A member whose id and keys are as it likes.
async fn liar(id: &str, keys: &[(&str, &str)], seed: SocketAddr) -> ChitchatHandle {
    let listen = address();
    let wire = Arc::new(Wire::new(&secret(1, "x"), &Random).unwrap());
    let config = chitchat_config(id, listen, vec![seed.to_string()]);
    let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    spawn_chitchat(config, keys, &Sealed(wire)).await.unwrap()
}

fn chitchat_config(id: &str, listen: SocketAddr, seed_nodes: Vec<String>) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: ChitchatId::new(id, 1, listen),
        cluster_id: "x".into(),
        gossip_interval: GOSSIP_INTERVAL,
        listen_addr: listen,
        seed_nodes,
        failure_detector_config: failure_detector(),
        marked_for_deletion_grace_period: FORGET,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}

/// Versioned values as a member might send them.
fn values(keys: &[(&str, String)]) -> Vec<(String, chitchat::VersionedValue)> {
    let value = |(version, (key, value)): (u64, &(&str, String))| {
        let status = chitchat::DeletionStatus::Set;
        ((*key).to_owned(), chitchat::VersionedValue { value: value.clone(), version, status })
    };
    (1..).zip(keys).map(value).collect()
}

#[tokio::test]
async fn a_member_that_speaks_for_us_does_not_end_us() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    let liar = liar(&node_id(3).to_string(), &[("links", "1-1")], at_a).await;
    sees_alive(&a, 2).await;
    let own = ChitchatId::new(node_id(1).to_string(), 1, at_a);
    liar.with_chitchat(|c| {
        c.reset_node_state_if_update(&own, values(&[("head", "9".into())]).into_iter(), u64::MAX, 0);
    })
    .await;
    a.announce(Announcement { ready: true, leaving: false, head: 1 });
    eventually("it was told", || a.shared.mute.load(Ordering::Relaxed)).await;
    b.announce(Announcement { ready: true, leaving: false, head: 2 });
    sees(&a, "others still", |m| m.len() == 2 && m.iter().all(|m| m.alive) && m[0].ready).await;
    a.leave().await;
}

#[tokio::test]
async fn there_are_no_more_members_than_the_bound() {
    let own = config(1, address(), &[]);
    let (_seeds, none) = watch::channel(std::collections::HashSet::new());
    let chitchat = chitchat_config(&own.origin.node.to_string(), own.listen, Vec::new());
    let mut chitchat = Chitchat::with_chitchat_id_and_seeds(chitchat, none, Vec::new());
    let keys = values(&[("links", "1-1".into()), ("name", "x".into())]);
    for _ in 0..roster::MAX_MEMBERS + 50 {
        let mut bytes = [0; 10];
        Random.fill(&mut bytes);
        let id = NodeId::new(schema::Timestamp::from_millis(1), bytes).to_string();
        let id = ChitchatId::new(id, 1, own.listen);
        chitchat.reset_node_state_if_update(&id, keys.clone().into_iter(), 2, 0);
    }
    assert_eq!(Reader::default().members(own.origin, &chitchat).len(), roster::MAX_MEMBERS);
}

#[tokio::test]
async fn members_that_say_what_cannot_be_do_no_harm() {
    let (a, at_a) = node(1, &[]).await;
    let long = "é".repeat(20_000);
    let huge = "x".repeat(1 << 20);
    let members: [(&str, [(&str, &str); 5]); 5] = [
        (&node_id(2).to_string(), [("links", "all"), ("name", "b"), ("head", "1"), ("state", ""), ("?", "")]),
        (
            &node_id(3).to_string(),
            [
                ("links", "1-1"),
                ("head", "9223372036854775808"),
                ("name", &long),
                ("state", "x ready"),
                ("", "?"),
            ],
        ),
        (
            &node_id(4).to_string(),
            [("links", "1-1"), ("head", "-1"), ("name", "\n"), ("state", "READY"), ("x", &long)],
        ),
        ("nobody", [("links", "1-1"), ("head", "1"), ("name", "e"), ("state", ""), ("?", "")]),
        (
            &node_id(5).to_string(),
            [("links", "1-1"), ("head", "5"), ("name", "f"), ("state", "leaving"), ("?", &huge)],
        ),
    ];
    let mut handles = Vec::new();
    for (id, keys) in members {
        handles.push(liar(id, &keys, at_a).await);
    }
    let seen = sees(&a, "what can be read", |m| {
        let all = m.len() == 4 && m.iter().all(|m| m.alive);
        all && m[0].name == "b" && m[1].ready && !m[2].name.is_empty() && m[3].leaving
    })
    .await;
    assert!(seen[0].versions.is_empty());
    assert_eq!((seen[0].head, seen[1].head, seen[2].head, seen[3].head), (1, 0, 0, 5));
    assert_eq!(seen[1].name, "é".repeat(64));
    assert_eq!(seen[2].name, "\u{fffd}");
    assert!(!seen[2].ready);
    // And an honest one comes in among them.
    let (b, _) = node(9, &[at_a]).await;
    sees(&a, "the honest one", |m| m.iter().any(|m| m.name == "node-9" && m.alive)).await;
    sees(&b, "who was there", |m| m.iter().any(|m| m.name == "node-1" && m.alive)).await;
}

#[tokio::test]
async fn what_members_say_is_bounded_in_bytes() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    let before = Arc::clone(&a.shared.gossip());
    let liar = liar(&node_id(3).to_string(), &[("links", "1-1")], at_a).await;
    // Text that does not compress: what is said fits into few datagrams else, which is no harm.
    liar.with_chitchat(|chitchat| {
        for n in 0..200 {
            let mut noise = [0; 4_096];
            Random.fill(&mut noise);
            let text: String = noise.iter().map(|byte| char::from(b' ' + byte % 95)).collect();
            chitchat.self_node_state().set(format!("{n}"), text);
        }
    })
    .await;
    eventually("it begins anew", || !Arc::ptr_eq(&before, &a.shared.gossip())).await;
    drop(liar);
    sees(&a, "the honest one", |m| m.iter().any(|m| m.name == "node-2" && m.alive)).await;
    sees(&b, "who began anew", |m| m.iter().any(|m| m.name == "node-1" && m.alive)).await;
}

#[tokio::test]
async fn impossible_incarnations_are_not_believed() {
    let (a, at_a) = node(1, &[]).await;
    let (_b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    for (node, incarnation) in [(1, u64::MAX), (2, u64::MAX), (2, 1 << 48)] {
        let listen = address();
        let wire = Arc::new(Wire::new(&secret(1, "x"), &Random).unwrap());
        let mut config = chitchat_config("", listen, vec![at_a.to_string()]);
        config.chitchat_id = ChitchatId::new(node_id(node).to_string(), incarnation, listen);
        let keys = vec![("links".to_owned(), "1-1".to_owned())];
        let received = a.counters().received.0;
        let _liar = spawn_chitchat(config, keys, &Sealed(wire)).await.unwrap();
        eventually("it gossips", || a.counters().received.0 > received + 20).await;
        assert!(!a.is_superseded());
        let seen = a.watch().borrow().clone();
        assert!(seen.iter().all(|member| member.origin.incarnation == 1), "{seen:?}");
    }
}

#[tokio::test]
async fn later_life_is_told_of_as_long_as_a_member_says_so() {
    let (a, at_a) = node(1, &[]).await;
    assert!(!a.is_superseded());
    let mut later = config(1, address(), &[at_a]);
    later.origin.incarnation = 2;
    let later = start(later).await;
    eventually("it is heard of", || a.is_superseded()).await;
    drop(later);
    eventually("it is not said any more", || !a.is_superseded()).await;
}

#[tokio::test]
async fn only_the_newest_incarnation_counts() {
    let (a, at_a) = node(1, &[]).await;
    let (old, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    let mut newer = config(2, address(), &[at_a]);
    newer.origin.incarnation = 7;
    let newer = start(newer).await;
    sees(&a, "the newer", |m| m.len() == 1 && m[0].alive && m[0].origin.incarnation == 7).await;
    drop(newer);
    let seen = sees(&a, "its death", |m| !m[0].alive).await;
    assert_eq!((seen.len(), seen[0].origin.incarnation), (1, 7));
    let received = a.counters().received.0;
    eventually("the older still gossips", || a.counters().received.0 > received + 5).await;
    assert!(!a.watch().borrow()[0].alive);
    drop(old);
}

#[tokio::test]
async fn joining_fails_where_it_cannot_succeed() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let result = Members::join(config(1, taken.local_addr().unwrap(), &[]), Arc::new(Random)).await;
    assert_eq!(result.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    let mut long = config(1, address(), &[]);
    long.name = "x".repeat(MAX_NAME + 1);
    let result = Members::join(long, Arc::new(Random)).await;
    assert_eq!(result.err().unwrap().kind(), io::ErrorKind::InvalidInput);
}
