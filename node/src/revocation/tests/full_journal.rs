//! Tests of the ledger writer with a small or full journal, and with entries of other nodes.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]

use super::*;

#[tokio::test]
async fn fact_without_journal_room_is_answered_by_the_ledger() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let (kept, without) = node.fill(&world).await;
    let state = node.log.state();
    assert!(state.full && state.failing, "{state:?}");
    assert!(state.used_bytes > SMALL - 1_024 && state.size_bytes == SMALL, "{state:?}");
    assert!(!without.is_finished());
    world.faults.mend();
    assert_eq!(without.await.unwrap().unwrap().durability, Durability::Store);
    assert_eq!(world.kinds(node.origin).await, (0..=kept).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.head(node.origin).await, Some(seq(kept + 1)));
    assert_eq!(node.publish(of_ann(kept + 1), StoredSessions::Keep).await, Durability::Store);
    assert!(!node.log.state().full);
}

#[tokio::test]
async fn fact_in_neither_journal_nor_ledger_is_refused() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let (kept, without) = node.fill(&world).await;
    assert!(matches!(without.await.unwrap(), Err(StoreError::Unavailable(_))));
    // The caller got an error, but the fact has a number and still reaches the ledger.
    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    assert_eq!(world.kinds(node.origin).await, (0..=kept).map(of_ann).collect::<Vec<_>>());
}

#[tokio::test]
async fn restart_with_a_full_journal_recovers_answered_facts() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let (kept, without) = node.fill(&world).await;
    without.abort();
    let old = node.origin;
    node.kill().await;
    let node = world.start_with(2, SMALL, false);
    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    assert_eq!(world.kinds(old).await, (0..kept).map(of_ann).collect::<Vec<_>>());
    assert_eq!(node.publish(of_ann(0), StoredSessions::Keep).await, Durability::Store);
    assert!(!node.log.state().full);
}

#[tokio::test]
async fn unjournaled_facts_are_bounded_and_refused_ones_get_no_number() {
    const MOST: u128 = 10_000;
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let mut numbered = 0;
    for round in 0..2 {
        world.faults.break_method("append");
        let many: Vec<_> = (numbered..numbered + MOST).map(|n| world.fact(of_ann(n))).collect();
        let many = node.publishing(many, StoredSessions::Keep);
        eventually("all are numbered", || node.log.state().unwritten == 10_000).await;
        assert!(node.log.state().full);
        let one = node.publishing(vec![world.fact(of_ann(numbered + MOST))], StoredSessions::Keep);
        eventually("one more is numbered", || node.log.state().unwritten == 10_001).await;
        let began = Instant::now();
        for n in 0..3 {
            let refused = node.log.publish(&[world.fact(ended(BOB, n))], StoredSessions::Delete).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "round {round}: {refused:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(4), "at once");
        assert_eq!(node.log.state().unwritten, 10_001);
        numbered += MOST + 1;
        world.faults.mend();
        assert!(node.log.flush(WAIT_MAX).await);
        // The result depends on the speed of the disk.
        let _ = many.await.unwrap();
        let _ = one.await.unwrap();
    }
    assert_eq!(node.publish(of_ann(numbered), StoredSessions::Keep).await, Durability::Store);
    assert!(!node.log.state().full);
    assert_eq!(world.kinds(node.origin).await, (0..=numbered).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.faults.calls("end"), 0, "refused calls delete no rows");
}

#[tokio::test]
async fn no_call_is_refused_while_the_journal_has_room() {
    let world = World::new().await;
    let node = world.start(1);
    let callers = (0..40).map(|caller| {
        let kinds: Vec<_> = (0..1_000).map(|n| of_ann(1_000 * caller + n)).collect();
        let log = node.log.clone();
        let facts = world.facts(&kinds);
        async move { log.publish(&facts, StoredSessions::Keep).await }
    });
    let refused = join_all(callers).await.into_iter().filter(std::result::Result::is_err).count();
    assert_eq!((refused, node.log.state().full), (0, false));
}

#[tokio::test]
async fn small_journal_is_never_full_while_the_store_works() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    for round in 0..150 {
        let kinds: Vec<_> = (0..1 + round % 3).map(|n| of_ann(10 * round + n)).collect();
        let receipt = node.log.publish(&world.facts(&kinds), StoredSessions::Delete).await.unwrap();
        assert_eq!(receipt.durability, Durability::Store);
        let state = node.log.state();
        assert!(!state.full && state.used_bytes <= SMALL, "{round}: {state:?}");
    }
}

#[tokio::test]
async fn journal_keeps_records_whose_rows_are_not_deleted() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    world.open_session(BOB, 1).await;
    world.faults.break_rows_of(BOB);
    assert_eq!(node.publish(ended(BOB, 1), StoredSessions::Delete).await, Durability::Journal);
    // The ledger has all facts, and yet the journal fills up. Then the ledger alone suffices.
    let mut n = 0;
    while !node.log.state().full {
        assert_eq!(node.publish(of_ann(n), StoredSessions::Delete).await, Durability::Store);
        n += 1;
        assert!(n < 100);
    }
    let old = node.origin;
    node.kill().await;
    assert!(world.has_session(BOB, 1).await);

    let node = world.start_with(2, SMALL, false);
    let record = &node.recovered[0];
    assert_eq!((record.entry.origin, record.entry.fact.kind), (old, ended(BOB, 1)));
    assert!(record.ends_rows);
    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    assert!(!world.has_session(BOB, 1).await);
    assert_eq!(node.publish(of_ann(n), StoredSessions::Delete).await, Durability::Store);
    assert!(!node.log.state().full, "it has room again");
}

fn of_others(count: u64) -> Vec<Entry> {
    let fact = Fact { kind: of_ann(7), until: START.plus(TTL) };
    (1..=count).map(|seq| Entry { origin: log(3), seq, fact }).collect()
}

#[tokio::test]
async fn kept_entries_of_others_are_on_disk_and_written_once() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_method("append");
    let others = PeerJournal::new(node.log.clone());
    let entries = of_others(20);
    assert!(others.keep(entries[..10].to_vec()).await);
    assert_eq!(node.log.state().unwritten, 10);
    // Some entries again, and some new ones.
    assert!(others.keep(entries[5..15].to_vec()).await);
    assert!(others.keep(entries[..15].to_vec()).await);
    assert_eq!(node.log.state().unwritten, 15, "no entry twice");
    assert!(others.keep(Vec::new()).await);
    // A separate range, and then the entries between.
    assert!(others.keep(entries[18..].to_vec()).await);
    assert!(others.keep(entries[15..18].to_vec()).await);
    assert_eq!(node.log.state().unwritten, 20);
    drop(others);
    node.kill().await;
    let node = world.start(2);
    let kept =
        node.recovered.iter().map(|record| record.entry.seq).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_of_others_fill_at_most_half_of_the_journal() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    world.faults.break_method("append");
    let mut kept = 0;
    while node.log.keep_for_others(of_others(kept + 1).split_off(usize::try_from(kept).unwrap())).await {
        kept += 1;
    }
    assert!((5..=SMALL / 2 / 256).contains(&kept), "{kept}");
    assert!(!node.log.state().full);
    for n in 0..10 {
        assert_eq!(node.publish(of_ann(n), StoredSessions::Keep).await, Durability::Journal, "{n}");
    }
    // Entries in the ledger free their room.
    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    assert!(node.log.keep_for_others(of_others(1)).await);
}
