//! Members of the cluster that claim what is not so.

use super::*;

/// A member with any id and keys.
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
        marked_for_deletion_grace_period: DEAD_MEMBER_EXPIRY,
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
async fn member_cannot_stop_this_node_by_its_keys() {
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
async fn number_of_members_is_bounded() {
    let own = config(1, address(), &[]);
    let (_seeds, none) = watch::channel(std::collections::HashSet::new());
    let chitchat = chitchat_config(&own.origin.node.to_string(), own.listen, Vec::new());
    let mut chitchat = Chitchat::with_chitchat_id_and_seeds(chitchat, none, Vec::new());
    let keys = values(&[("links", "1-1".into()), ("name", "x".into())]);
    for _ in 0..roster::MEMBERS_MAX + 50 {
        let mut bytes = [0; 10];
        Random.fill(&mut bytes);
        let id = NodeId::new(schema::Timestamp::from_millis(1), bytes).to_string();
        let id = ChitchatId::new(id, 1, own.listen);
        chitchat.reset_node_state_if_update(&id, keys.clone().into_iter(), 2, 0);
    }
    assert_eq!(Reader::default().members(own.origin, &chitchat).len(), roster::MEMBERS_MAX);
}

#[tokio::test]
async fn invalid_keys_of_members_do_no_harm() {
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
        ("reserved", [("links", "1-1"), ("head", "1"), ("name", "e"), ("state", ""), ("?", "")]),
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
    // An honest member is found among them.
    let (b, _) = node(9, &[at_a]).await;
    sees(&a, "the honest one", |m| m.iter().any(|m| m.name == "node-9" && m.alive)).await;
    sees(&b, "the node that was there", |m| m.iter().any(|m| m.name == "node-1" && m.alive)).await;
}

#[tokio::test]
async fn keys_of_members_are_bounded_in_bytes() {
    let (a, at_a) = node(1, &[]).await;
    let (b, _) = node(2, &[at_a]).await;
    sees_alive(&a, 1).await;
    let before = Arc::clone(&a.shared.gossip());
    let liar = liar(&node_id(3).to_string(), &[("links", "1-1")], at_a).await;
    // Text that does not compress, else it fits into few datagrams and does no harm.
    liar.with_chitchat(|chitchat| {
        for n in 0..200 {
            let mut noise = [0; 4_096];
            Random.fill(&mut noise);
            let text: String = noise.iter().map(|byte| char::from(b' ' + byte % 95)).collect();
            chitchat.self_node_state().set(format!("{n}"), text);
        }
    })
    .await;
    eventually("gossip restarts", || !Arc::ptr_eq(&before, &a.shared.gossip())).await;
    liar.abort();
    sees(&a, "the honest one", |m| m.iter().any(|m| m.name == "node-2" && m.alive)).await;
    sees(&b, "the node after its restart", |m| m.iter().any(|m| m.name == "node-1" && m.alive)).await;
}

#[tokio::test]
async fn impossible_incarnations_are_ignored() {
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
async fn later_life_is_reported_while_a_member_claims_it() {
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
