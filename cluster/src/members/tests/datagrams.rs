//! Datagrams that a node must refuse, without harm or delay.

use tokio::net::UdpSocket;

use super::*;
use crate::members::seal::{HEADER_BYTES, OVERHEAD_BYTES, seals};

/// Sends datagrams and waits until each was refused or decrypted.
async fn throw(from: &UdpSocket, to: SocketAddr, at: &Members, datagrams: &[Vec<u8>]) {
    for some in datagrams.chunks(32) {
        let before = total(at);
        for datagram in some {
            from.send_to(datagram, to).await.unwrap();
        }
        eventually("all were refused", || total(at) >= before + some.len() as u64).await;
    }
}

/// A datagram of a node whose only seed is the tap.
async fn caught(tap: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = timeout(TEST_TIMEOUT, tap.recv(&mut buffer)).await.unwrap().unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn node_of_other_secret_or_cluster_is_refused() {
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
async fn unreadable_content_is_refused_without_delay() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    let (sealer, _) = seals(&secret(1, "x"), &Random).unwrap();
    let garbage: Vec<_> = (0..200)
        .map(|length| {
            let mut datagram = vec![0; length + OVERHEAD_BYTES];
            datagram[HEADER_BYTES..HEADER_BYTES + length].copy_from_slice(&random(length));
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
async fn flood_takes_no_memory_and_kills_no_member() {
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
