//! Entries that have expired, by whose word.

use super::*;

#[test]
fn forgotten_entries_are_skipped_by_the_own_horizon() {
    let dead = origin(2);
    let peer = origin(3);
    let newcomer = origin(4);
    let mut replicator = linked(&[peer, newcomer], now(0));
    let forgotten = Forgotten { seq: 256, until: now(0).wall };
    let told = Message::Heads(vec![LogHead { forgotten, ..head(dead, 300) }]);
    replicator.receive(peer, told.clone(), now(1)).unwrap();
    assert_eq!(replicator.complete(dead), 0, "it has not expired by this clock");
    replicator.receive(peer, told, now(60_001)).unwrap();
    assert_eq!(replicator.complete(dead), 256);
    replicator.receive(newcomer, Message::Pull { origin: dead, first: 1, last: 256 }, now(60_002)).unwrap();
    let answer = sent_to(&mut replicator, newcomer, now(60_002));
    assert!(answer.contains(&Message::Pulled { origin: dead, last: 256, forgotten }), "{answer:?}");
}

#[test]
fn entries_that_the_ledger_skipped_are_not_awaited() {
    let dead = origin(2);
    let newcomer = origin(3);
    let mut replicator = linked(&[newcomer], now(0));
    replicator.learn(dead, 11, &facts(11, 20));
    replicator.ledger_has(dead, 20);
    replicator.upkeep(now(1));
    replicator.receive(newcomer, Message::Pull { origin: dead, first: 1, last: 20 }, now(2)).unwrap();
    let answer = sent_to(&mut replicator, newcomer, now(2));
    assert!(answer.contains(&Message::Facts { origin: dead, first: 11, facts: facts(11, 20) }), "{answer:?}");
    let forgets =
        |message: &Message| matches!(message, Message::Pulled { forgotten, .. } if forgotten.seq == 10);
    assert!(answer.iter().any(forgets), "{answer:?}");
}

#[test]
fn third_party_cannot_hide_entries_of_a_linked_peer() {
    let writer = origin(2);
    let liar = origin(3);
    let mut replicator = linked(&[writer, liar], now(0));
    let forgotten = Forgotten { seq: 1_000, until: Timestamp::EPOCH };
    let told = Message::Heads(vec![LogHead { forgotten, ..head(writer, 1_000) }]);
    replicator.receive(liar, told, now(1)).unwrap();
    assert_eq!(replicator.complete(writer), 0);
    let told =
        Message::Heads(vec![LogHead { forgotten: Forgotten { seq: 7, ..forgotten }, ..head(writer, 9) }]);
    replicator.receive(writer, told, now(2)).unwrap();
    assert_eq!(replicator.complete(writer), 7, "the writer's own word counts");
}

#[test]
fn hearsay_does_not_replace_reading_the_ledger() {
    let dead = origin(2);
    let liar = origin(3);
    let mut replicator = linked(&[liar], now(0));
    replicator.learn(dead, 1, &facts(1, 5));
    let forgotten = Forgotten { seq: 1_000, until: Timestamp::EPOCH };
    replicator
        .receive(liar, Message::Heads(vec![LogHead { forgotten, ..head(dead, 1_000) }]), now(1))
        .unwrap();
    assert_eq!((replicator.complete(dead), replicator.proven(dead)), (1_000, 5));
    replicator.ledger_has(dead, 700);
    assert_eq!((replicator.complete(dead), replicator.proven(dead)), (1_000, 700));
    replicator.ledger_has(dead, 1_200);
    assert_eq!((replicator.complete(dead), replicator.proven(dead)), (1_200, 1_200));
}

#[test]
fn head_is_sent_when_the_own_log_forgets_entries() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.publish(1, &facts(1, 256));
    let _ = sent_to(&mut replicator, peer, now(1));
    replicator.upkeep(Now { horizon: horizon_at(LATER.plus(CLOCK_SKEW * 2)), ..now(2_000) });
    let told = sent_to(&mut replicator, peer, now(3_000)).into_iter().any(|message| {
        matches!(message, Message::Heads(heads) if heads.iter().any(|head| head.forgotten.seq == 256))
    });
    assert!(told);
}
