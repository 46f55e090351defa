//! Claims that cannot be true.

use super::*;

#[test]
fn claim_beyond_the_own_head_is_a_duplicate_identity() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.publish(1, &facts(1, 2));
    for (message, seq) in [
        (Message::Heads(vec![head(origin(1), 3)]), 3),
        (Message::Ack(Applied { complete: 3, newest: (0, 0) }), 3),
        (Message::Ack(Applied { complete: 0, newest: (2, 4) }), 4),
        (Message::Facts { origin: origin(1), first: 2, facts: facts(2, 6) }, 6),
    ] {
        assert_eq!(replicator.receive(peer, message, now(1)), Err(DuplicateIdentity(seq)));
    }
    assert_eq!(replicator.receive(peer, Message::Heads(vec![head(origin(1), 2)]), now(1)), Ok(()));
}

#[test]
fn impossible_numbers_are_not_learned() {
    let dead = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[peer], now(0));
    for first in [0, SEQ_MAX, SEQ_MAX + 1, u64::MAX - 1, u64::MAX] {
        replicator.learn(dead, first, &facts(1, 2));
        replicator.ledger_has(dead, first.max(SEQ_MAX + 1));
    }
    assert_eq!((replicator.complete(dead), replicator.kept()), (0, 0));
    replicator.upkeep(now(1));
    sent_to(&mut replicator, peer, now(2));
}

#[test]
fn confirmation_beyond_the_head_is_a_duplicate_identity() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.publish(1, &facts(1, 2));
    assert_eq!(
        replicator.receive(peer, Message::Kept { first: 1, last: 3 }, now(1)),
        Err(DuplicateIdentity(3))
    );
    for (first, last) in [(0, 0), (0, 2), (2, 1)] {
        replicator.receive(peer, Message::Kept { first, last }, now(1)).unwrap();
        assert_eq!(replicator.on_disk(1, 2), count(0, 1), "{first} {last}");
    }
}

#[test]
fn insane_facts_are_neither_learned_nor_sent() {
    let dead = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[peer], now(0));
    let mut all = facts(1, 9);
    let user = UserId::from_bytes([1; 16]);
    all[3].kind = FactKind::UserVersion { user, at_least: u64::MAX };
    all[6].until = Timestamp::MAX;
    replicator.learn(dead, 1, &all);
    assert_eq!((replicator.kept(), replicator.complete(dead)), (7, 3));
    replicator.ledger_has(dead, 9);
    assert_eq!(replicator.complete(dead), 9);
    replicator.receive(peer, Message::Pull { origin: dead, first: 1, last: 9 }, now(1)).unwrap();
    for message in sent_to(&mut replicator, peer, now(1)) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(Message::decode(&bytes), Ok(Some(message)));
    }
    for incarnation in [u64::MAX, TIME_MAX_MS + 1] {
        replicator.learn(life(2, incarnation), 1, &facts(1, 2));
        assert_eq!(replicator.complete(life(2, incarnation)), 0);
    }
}
