//! Tests of the ledger reader.

use super::*;

#[tokio::test]
async fn begin_reads_everything_also_after_heads() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    // More entries than one query reads.
    world.put(log(1), 1..=10_001, 10_001).await;
    world.put(log(2), 1..=3, 2).await;
    world.put(log(3), 1..=2, 0).await;
    let (_, count) = LedgerReader::begin(&world.faulty(), &facts, OWN, None).await.unwrap();
    assert_eq!(count, 10_006);
    assert_eq!(applied.of(2), [1, 2, 3]);
    assert_eq!(applied.of(3), [1, 2]);
    assert_eq!(applied.of(1), (1..=10_001).collect::<Vec<_>>());
}

#[tokio::test]
async fn begin_fails_unless_all_logs_are_read() {
    let world = World::new().await;
    let (facts, _) = world.reader_facts();
    world.put(log(1), 1..=3, 3).await;
    world.put(log(2), 1..=3, 3).await;
    world.faults.break_log(log(2));
    assert!(LedgerReader::begin(&world.faulty(), &facts, OWN, None).await.is_err());
    world.faults.mend();
    world.faults.break_method("heads");
    assert!(LedgerReader::begin(&world.faulty(), &facts, OWN, None).await.is_err());
    world.faults.mend();
    assert_eq!(LedgerReader::begin(&world.faulty(), &facts, OWN, None).await.unwrap().1, 6);
}

#[tokio::test]
async fn later_rounds_apply_only_new_entries() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    world.put(log(1), 1..=5, 5).await;
    world.put(log(2), 1..=5, 5).await;
    let mut reader = world.begin(&facts).await;
    applied.take();
    assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    world.put(log(1), 6..=7, 7).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 2);
    assert_eq!(applied.take(), [(1, 6), (1, 7)]);
    for _ in 0..5 {
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    }
    assert_eq!(applied.take(), []);
}

#[tokio::test]
async fn reader_skips_its_own_log() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    let mut reader = world.begin(&facts).await;
    world.put(OWN, 1..=3, 3).await;
    world.put(log(1), 1..=1, 1).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 1);
    // An earlier incarnation of this node is another origin.
    let before = Origin { incarnation: 7, ..OWN };
    world.put(before, 1..=1, 1).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 1);
    assert_eq!(applied.take().len(), 2);
}

#[tokio::test]
async fn unreadable_log_delays_no_other_and_is_read_later() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    for n in 1..=30 {
        world.put(log(n), 1..=1, 1).await;
    }
    let mut reader = world.begin(&facts).await;
    applied.take();
    for n in 1..=31 {
        world.put(log(n), 2..=3, 3).await;
    }
    let broken = [4, 5, 6, 31];
    broken.iter().for_each(|n| world.faults.break_log(log(*n)));
    for _ in 0..3 {
        assert!(reader.go_on(&world.faulty(), &facts).await.is_err());
    }
    for n in 1..=31 {
        let expected: &[u64] = if broken.contains(&n) { &[] } else { &[2, 3] };
        assert_eq!(applied.of(n), expected, "{n}");
    }
    world.faults.mend();
    applied.take();
    assert_eq!(world.go_on(&mut reader, &facts).await, 8);
    let mut all = applied.take();
    all.sort_unstable();
    assert_eq!(all, [(4, 2), (4, 3), (5, 2), (5, 3), (6, 2), (6, 3), (31, 2), (31, 3)]);
}

#[tokio::test]
async fn unreadable_heads_are_read_later() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    let mut reader = world.begin(&facts).await;
    world.put(log(1), 1..=2, 2).await;
    world.faults.break_method("heads");
    assert!(reader.go_on(&world.faulty(), &facts).await.is_err());
    world.faults.mend();
    assert_eq!(world.go_on(&mut reader, &facts).await, 2);
    assert_eq!(applied.of(1), [1, 2]);
}

#[tokio::test]
async fn new_log_is_read_from_its_beginning() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    world.put(log(1), 1..=2, 2).await;
    let mut reader = world.begin(&facts).await;
    world.stores.ledger.append(&[], &[Head { origin: log(2), seq: 0 }]).await.unwrap();
    assert_eq!(world.go_on(&mut reader, &facts).await, 0, "it says that it exists");
    world.put(log(2), 1..=3, 2).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 3);
    assert_eq!(applied.of(2), [1, 2, 3]);
}

#[tokio::test]
async fn head_that_vanishes_and_returns_loses_nothing() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    world.put(log(1), 1..=5, 5).await;
    let mut reader = world.begin(&facts).await;
    // All of its entries have expired.
    let ended = world.clock.now().plus(2 * TTL);
    world.stores.upkeep.sweep(horizon_at(ended).into(), 100).await.unwrap();
    assert_eq!(world.stores.ledger.heads().await.unwrap(), []);
    assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    applied.take();
    world.put(log(1), 6..=7, 7).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 2);
    assert_eq!(applied.take(), [(1, 6), (1, 7)]);
    // The head returns with a lower number.
    lock(&world.faults.hidden).insert(log(1));
    assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    world.put(log(1), 8..=8, 7).await;
    world.faults.mend();
    world.go_on(&mut reader, &facts).await;
    assert_eq!(applied.of(1).last(), Some(&8));
    assert_eq!(world.go_on(&mut reader, &facts).await, 0);
}

#[tokio::test]
async fn tails_are_read_in_turn_and_applied_once() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    for n in 1..=20 {
        world.put(log(n), 1..=2, 2).await;
    }
    let mut reader = world.begin(&facts).await;
    applied.take();
    for n in 1..=20 {
        world.put(log(n), 3..=4, 0).await;
    }
    let mut counts = Vec::new();
    for _ in 0..3 {
        lock(&world.faults.read).clear();
        counts.push(world.go_on(&mut reader, &facts).await);
        let logs: HashSet<_> = lock(&world.faults.read).iter().map(|(log, _)| *log).collect();
        assert_eq!(logs.len(), 8, "not all in one round");
    }
    assert_eq!(counts, [16, 16, 8], "some were read again and not applied again");
    for n in 1..=20 {
        assert_eq!(applied.of(n), [3, 4], "{n}");
    }
    applied.take();
    for _ in 0..6 {
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    }
    // The log continues after the tail.
    world.put(log(20), 5..=5, 0).await;
    for _ in 0..3 {
        world.go_on(&mut reader, &facts).await;
    }
    assert_eq!(applied.take(), [(20, 5)]);
}

#[tokio::test]
async fn entry_in_a_gap_after_the_head_is_applied_with_the_head() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    world.put(log(1), 1..=2, 2).await;
    let mut reader = world.begin(&facts).await;
    applied.take();
    world.put(log(1), 5..=5, 0).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 1);
    world.put(log(1), 3..=4, 0).await;
    assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    assert_eq!(applied.take(), [(1, 5)]);
    // The head has not reached the tail yet.
    world.put(log(1), 3..=3, 3).await;
    world.go_on(&mut reader, &facts).await;
    assert_eq!(applied.take(), [(1, 3), (1, 4), (1, 5)]);
    world.put(log(1), 6..=6, 6).await;
    world.go_on(&mut reader, &facts).await;
    assert_eq!(applied.of(1).last(), Some(&6));
    assert_eq!(world.go_on(&mut reader, &facts).await, 0);
}

#[tokio::test]
async fn gap_at_the_first_read_is_applied_with_the_head() {
    let world = World::new().await;
    let (facts, applied) = world.reader_facts();
    world.put(log(1), 1..=1, 1).await;
    world.put(log(1), 4..=4, 0).await;
    let mut reader = world.begin(&facts).await;
    assert_eq!(applied.take(), [(1, 1), (1, 4)]);
    world.put(log(1), 2..=3, 4).await;
    world.go_on(&mut reader, &facts).await;
    assert_eq!(applied.take(), [(1, 2), (1, 3), (1, 4)]);
}

#[tokio::test]
async fn revoked_key_is_reported_once() {
    let world = World::new().await;
    let (facts, _) = world.reader_facts();
    let retired = |log: u8, number: u8| {
        let kind = FactKind::KeyRetired { key: KeyId::from_bytes([number; 16]) };
        Entry { origin: super::log(log), seq: number.into(), fact: world.fact(kind) }
    };
    world.put(log(1), 1..=1, 1).await;
    let mut reader = world.begin(&facts).await;
    assert!(!reader.keys_changed());
    let head = |seq| [Head { origin: log(1), seq }];
    world.stores.ledger.append(&[retired(1, 2)], &head(2)).await.unwrap();
    world.go_on(&mut reader, &facts).await;
    assert!(reader.keys_changed() && !reader.keys_changed());
    assert_eq!(facts.denials().counts().keys, 1);
    world.go_on(&mut reader, &facts).await;
    assert!(!reader.keys_changed());
    // The round fails for another log.
    world.put(log(2), 1..=1, 1).await;
    world.stores.ledger.append(&[retired(1, 3)], &head(3)).await.unwrap();
    world.faults.break_log(log(2));
    assert!(reader.go_on(&world.faulty(), &facts).await.is_err());
    assert!(reader.keys_changed());
    world.faults.mend();
    assert!(world.begin(&facts).await.keys_changed(), "it was in the ledger before");
}

#[tokio::test]
async fn readers_apply_what_a_writer_has_written() {
    let world = World::new().await;
    let (facts, _) = world.reader_facts();
    let node = world.start_with(1, LARGE, true);
    let mut reader = world.begin(&facts).await;
    for n in 0..10 {
        assert_eq!(node.publish(of_ann(n), StoredSessions::Keep).await, Durability::Store);
        world.go_on(&mut reader, &facts).await;
        assert!(facts.denials().refuses_session(SessionId::from_bytes(n.to_be_bytes())));
    }
}
