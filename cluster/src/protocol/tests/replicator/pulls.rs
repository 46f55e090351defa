//! Gaps: which peer is asked for which range, and when.

use super::*;

#[test]
fn log_known_only_by_its_head_stays_until_pulled() {
    let dead = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[peer], now(0));
    replicator.receive(peer, Message::Heads(vec![head(dead, 7)]), now(1)).unwrap();
    replicator.upkeep(now(2));
    assert!(!replicator.is_caught_up());
    let asked = sent_to(&mut replicator, peer, now(200));
    assert!(asked.contains(&Message::Pull { origin: dead, first: 1, last: 7 }), "{asked:?}");
}

#[test]
fn gap_is_pulled_from_its_origin_first_and_only_once() {
    let writer = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[writer, peer], now(0));
    let heads = |of| Message::Heads(vec![head(of, 100)]);
    replicator.receive(peer, heads(writer), now(1)).unwrap();
    replicator.receive(writer, Message::Heads(Vec::new()), now(1)).unwrap();
    let is_pull = |message: &Message| matches!(message, Message::Pull { .. });
    assert!(!sent_to(&mut replicator, peer, now(2)).iter().any(is_pull));
    replicator
        .receive(writer, Message::Facts { origin: writer, first: 50, facts: facts(50, 60) }, now(3))
        .unwrap();
    let asked = sent_to(&mut replicator, writer, now(3));
    assert!(asked.contains(&Message::Pull { origin: writer, first: 1, last: 49 }), "{asked:?}");
    let asked: Vec<_> = sent_to(&mut replicator, peer, now(300)).into_iter().filter(is_pull).collect();
    assert_eq!(
        asked,
        [Message::Pull { origin: writer, first: 61, last: 100 }],
        "not the range that another peer is asked for"
    );
}

#[test]
fn peer_that_has_nothing_is_not_asked_again_soon() {
    let dead = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[peer], now(0));
    replicator.receive(peer, Message::Heads(vec![head(dead, 7)]), now(1)).unwrap();
    let pull = Message::Pull { origin: dead, first: 1, last: 7 };
    assert!(sent_to(&mut replicator, peer, now(200)).contains(&pull));
    let nothing = Message::Pulled { origin: dead, last: 7, forgotten: Forgotten::default() };
    replicator.receive(peer, nothing, now(201)).unwrap();
    assert!(!sent_to(&mut replicator, peer, now(59_000)).contains(&pull));
    sent_to(&mut replicator, peer, now(61_000));
    assert!(
        sent_to(&mut replicator, peer, now(61_001)).contains(&pull),
        "the peer may have received it since"
    );
}

#[test]
fn entry_beyond_reach_is_pulled_from_the_gap_on() {
    let peer = origin(2);
    let mut replicator = Replicator::new(origin(1), Tuning { reach_max: 1_000, ..Tuning::default() });
    replicator.add_link(peer, 1, now(0));
    let message = |first, last| Message::Facts { origin: peer, first, facts: facts(first, last) };
    replicator.receive(peer, message(1, 10), now(1)).unwrap();
    replicator.receive(peer, message(1_005, 1_011), now(2)).unwrap();
    assert_eq!((replicator.kept(), replicator.complete(peer)), (10, 10), "one of them lies beyond the reach");
    let asked = sent_to(&mut replicator, peer, now(3));
    assert!(asked.contains(&Message::Pull { origin: peer, first: 11, last: 1_010 }), "{asked:?}");
    replicator.receive(peer, message(11, 600), now(4)).unwrap();
    replicator.receive(peer, message(1_005, 1_011), now(5)).unwrap();
    assert_eq!(replicator.kept(), 607, "now it lies within the reach");
}

fn pulls(said: &[Message]) -> Vec<(u64, u64)> {
    let range = |message: &Message| match message {
        Message::Pull { first, last, .. } => Some((*first, *last)),
        _ => None,
    };
    said.iter().filter_map(range).collect()
}

#[test]
fn peer_is_not_asked_again_for_entries_it_lacks() {
    let dead = origin(2);
    let peer = origin(3);
    let tuning = Tuning { pull_max: 100, ..Tuning::default() };
    let mut replicator = Replicator::new(origin(1), tuning);
    replicator.add_link(peer, 1, now(0));
    replicator.learn(dead, 250, &facts(250, 256));
    // The peer has forgotten entries that have not expired by this node's clock, and holds later ones.
    let forgotten = Forgotten { seq: 120, until: now(0).wall };
    let told = LogHead { forgotten, ..head(dead, 300) };
    replicator.receive(peer, Message::Heads(vec![told]), now(1)).unwrap();
    let pulled = |replicator: &mut Replicator, last, at| {
        replicator.receive(peer, Message::Pulled { origin: dead, last, forgotten }, now(at)).unwrap();
    };
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(200))), [(1, 100)]);
    assert!(!replicator.is_caught_up());
    pulled(&mut replicator, 100, 210);
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(220))), [(101, 200)]);
    replicator
        .receive(peer, Message::Facts { origin: dead, first: 121, facts: facts(121, 200) }, now(230))
        .unwrap();
    pulled(&mut replicator, 200, 230);
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(240))), [(201, 249)], "up to what is held");
    replicator
        .receive(peer, Message::Facts { origin: dead, first: 201, facts: facts(201, 249) }, now(250))
        .unwrap();
    pulled(&mut replicator, 249, 250);
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(260))), [(257, 300)]);
    replicator
        .receive(peer, Message::Facts { origin: dead, first: 257, facts: facts(257, 300) }, now(270))
        .unwrap();
    pulled(&mut replicator, 300, 270);
    assert!(replicator.is_caught_up(), "it has every entry that can be had");
    for at in (1_000..59_000).step_by(500) {
        let said = sent_to(&mut replicator, peer, now(at));
        assert_eq!(pulls(&said), [], "{at}");
        if let Some(nonce) = pings(&said) {
            replicator.receive(peer, Message::Pong { nonce, head: 0 }, now(at)).unwrap();
        }
    }
    // They are skipped once they have expired by this node's clock.
    assert_eq!(replicator.complete(dead), 0);
    replicator.upkeep(now(60_001));
    assert_eq!(replicator.complete(dead), 300);
}

#[test]
fn peer_whose_head_advances_is_asked_again() {
    let dead = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[peer], now(0));
    let heads = |complete| Message::Heads(vec![LogHead { highest: 9, ..head(dead, complete) }]);
    replicator.receive(peer, heads(0), now(1)).unwrap();
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(200))), [(1, 9)]);
    let nothing = Message::Pulled { origin: dead, last: 9, forgotten: Forgotten::default() };
    replicator.receive(peer, nothing, now(210)).unwrap();
    replicator.receive(peer, heads(0), now(220)).unwrap();
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(5_000))), []);
    replicator.receive(peer, heads(4), now(5_001)).unwrap();
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(5_002))), [(1, 9)]);
}

#[test]
fn entries_that_the_ledger_skipped_are_not_pulled() {
    let dead = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[peer], now(0));
    replicator.learn(dead, 1, &facts(1, 5));
    replicator.ledger_has(dead, 300);
    let digests = Message::Digests { origin: dead, first: 0, sums: vec![17] };
    replicator.receive(peer, digests, now(1)).unwrap();
    assert_eq!(pulls(&sent_to(&mut replicator, peer, now(2))), []);
    assert_eq!(replicator.counters().diverged, 0);
}
