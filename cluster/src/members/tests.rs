use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU8, AtomicU64},
};

use schema::id::NodeId;
use zeroize::Zeroizing;

use super::*;

mod datagrams;
mod liars;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

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

/// An unused address: every test node has a loopback address of its own.
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

/// Waits until the condition holds for the members that a node sees.
async fn sees(members: &Members, what: &str, is: impl Fn(&[Member]) -> bool) -> Arc<[Member]> {
    let mut watch = members.watch();
    let seen = timeout(TEST_TIMEOUT, watch.wait_for(|members| is(members))).await;
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
    assert!(timeout(TEST_TIMEOUT, all).await.is_ok(), "{what}");
}

fn total(members: &Members) -> u64 {
    members.counters().refused.iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn three_nodes_see_each_others_announcements() {
    let began = timer::now();
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
async fn killed_node_is_dead_and_returns_as_new_incarnation() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    let (c, at_c) = node(3, &[at_a]).await;
    for members in [&a, &b, &c] {
        sees_alive(members, 2).await;
    }
    let killed = timer::now();
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
    // A node does not list its own earlier life among its peers.
    sees_alive(&c, 2).await;
}

#[tokio::test]
async fn node_paused_for_a_second_stays_alive() {
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
async fn unresolvable_seed_does_not_delay_the_others() {
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
async fn late_seed_is_found() {
    let at_a = address();
    let (b, _) = node(2, &[at_a]).await;
    eventually("it asked", || b.counters().sent.0 > 0).await;
    let a = start(config(1, at_a, &[])).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
}

#[tokio::test]
async fn gossip_restart_is_invisible_to_members() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    sees_alive(&b, 1).await;
    b.announce(Announcement { ready: true, leaving: false, head: 7 });
    sees(&a, "readiness", |m| m[0].head == 7).await;
    let mut seen_by_a = a.watch();
    let mut seen_by_b = b.watch();
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
    // Longer than members are held after a restart, and than the failure detector takes.
    let changed = timeout(HOLD_DURATION + Duration::from_secs(2), changed).await;
    assert_eq!(changed.ok(), None);
    sees(&a, "what it says since", |m| m[0].head == 8).await;
}

#[tokio::test]
async fn join_fails_for_a_bad_address_or_name() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let result = Members::join(config(1, taken.local_addr().unwrap(), &[]), Arc::new(Random)).await;
    assert_eq!(result.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    let mut long = config(1, address(), &[]);
    long.name = "x".repeat(NAME_BYTES_MAX + 1);
    let result = Members::join(long, Arc::new(Random)).await;
    assert_eq!(result.err().unwrap().kind(), io::ErrorKind::InvalidInput);
}
