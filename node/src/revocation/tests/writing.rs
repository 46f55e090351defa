//! Tests of the ledger writer: durability, retries, restarts and row deletion.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]

use super::*;

#[tokio::test]
async fn publish_returns_store_when_the_ledger_has_the_fact() {
    let world = World::new().await;
    let node = world.start(1);
    for n in 0..3 {
        let facts = [world.fact(ended(ANN, 2 * n)), world.fact(ended(ANN, 2 * n + 1))];
        let receipt = node.log.publish(&facts, StoredSessions::Keep).await.unwrap();
        assert_eq!(receipt, Receipt { visible: 0, live: 0, durability: Durability::Store });
        assert_eq!(world.kinds(node.origin).await, (0..2 * n + 2).map(of_ann).collect::<Vec<_>>());
        assert_eq!(world.head(node.origin).await, Some(seq(2 * n + 2)));
    }
    assert_eq!(node.log.publish(&[], StoredSessions::Delete).await.unwrap().durability, Durability::Store);
    assert_eq!(world.head(node.origin).await, Some(6), "an empty publish changes nothing");
    assert_eq!(node.log.state().unwritten, 0);
}

#[tokio::test]
async fn publish_deletes_rows_unless_the_caller_keeps_them() {
    let world = World::new().await;
    let node = world.start(1);
    for n in 1..=3 {
        world.open_session(ANN, n).await;
    }
    world.open_session(BOB, 4).await;
    assert_eq!(node.publish(ended(ANN, 1), StoredSessions::Delete).await, Durability::Store);
    assert!(!world.has_session(ANN, 1).await && world.has_session(ANN, 2).await);
    assert_eq!(node.publish(ended(ANN, 2), StoredSessions::Keep).await, Durability::Store);
    assert!(world.has_session(ANN, 2).await);

    world.add_user(ANN).await;
    let raised = FactKind::UserVersion { user: ANN, at_least: 3 };
    assert_eq!(node.publish(raised, StoredSessions::Delete).await, Durability::Store);
    assert!(!world.has_session(ANN, 2).await && !world.has_session(ANN, 3).await);
    assert!(world.has_session(BOB, 4).await);
    assert_eq!(world.stores.users.get(ANN).await.unwrap().unwrap().version, 3);
}

#[tokio::test]
async fn facts_journaled_while_store_is_down_reach_ledger_in_order() {
    let world = World::new().await;
    let node = world.start(1);
    assert_eq!(node.publish(of_ann(0), StoredSessions::Keep).await, Durability::Store);
    world.faults.break_method("append");
    assert_eq!(node.publish(of_ann(1), StoredSessions::Keep).await, Durability::Journal);
    let began = Instant::now();
    for n in 2..=20 {
        assert_eq!(node.publish(of_ann(n), StoredSessions::Keep).await, Durability::Journal);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "only the first call waits for a second");
    let state = node.log.state();
    assert!(state.failing && !state.full && state.used_bytes > 0, "{state:?}");
    assert_eq!(state.unwritten, 20);
    assert!(!node.log.flush(Duration::from_millis(1)).await);

    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    assert_eq!(world.kinds(node.origin).await, (0..=20).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.head(node.origin).await, Some(21));
    let state = node.log.state();
    assert!(!state.failing && state.unwritten == 0, "{state:?}");
    assert_eq!(node.publish(of_ann(21), StoredSessions::Keep).await, Durability::Store);
}

#[tokio::test]
async fn fact_that_expired_in_the_journal_gets_a_later_expiry() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_method("append");
    assert_eq!(node.publish(of_ann(1), StoredSessions::Keep).await, Durability::Journal);
    world.clock.advance(2 * TTL);
    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    let entries = world.stores.ledger.entries(node.origin, 0, 10).await.unwrap();
    assert_eq!(entries[0].fact.until, world.clock.now().plus(CLOCK_SKEW));
}

#[tokio::test]
async fn restart_writes_journaled_facts_and_deletes_their_rows() {
    let world = World::new().await;
    let first = world.start(1);
    for n in 1..=4 {
        world.open_session(ANN, n).await;
    }
    assert_eq!(first.publish(of_ann(0), StoredSessions::Keep).await, Durability::Store);
    world.faults.break_method("append");
    world.faults.break_rows_of(ANN);
    for n in 1..=3 {
        assert_eq!(first.publish(of_ann(n), StoredSessions::Delete).await, Durability::Journal);
    }
    assert_eq!(first.publish(of_ann(4), StoredSessions::Keep).await, Durability::Journal);
    let old = first.origin;
    first.kill().await;
    assert_eq!(world.head(old).await, Some(1));

    // The store is still down: no fact of the new incarnation overtakes recovered ones.
    let second = world.start(2);
    let recovered: Vec<_> = second.recovered.iter().filter(|record| record.entry.seq > 1).collect();
    assert_eq!(recovered.iter().map(|record| record.entry.seq).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(recovered.iter().all(|record| record.entry.origin == old));
    assert_eq!(second.publish(of_ann(5), StoredSessions::Keep).await, Durability::Journal);
    world.faults.mend();
    assert!(second.log.flush(WAIT_MAX).await);
    assert_eq!(world.kinds(old).await, (0..=4).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.head(old).await, Some(5));
    assert_eq!(world.kinds(second.origin).await, [of_ann(5)]);
    assert_eq!(world.head(second.origin).await, Some(1));
    for n in 1..=3 {
        assert!(!world.has_session(ANN, n).await, "{n}");
    }
    assert!(world.has_session(ANN, 4).await, "its caller deletes that row");
    let in_order = |entries: &Vec<Entry>| entries.is_sorted_by_key(|entry| entry.origin.incarnation);
    assert!(world.faults.appended().iter().all(|(entries, _)| in_order(entries)));
}

#[tokio::test]
async fn repeated_kills_lose_no_journaled_fact() {
    let world = World::new().await;
    world.faults.break_method("append");
    let mut origins = Vec::new();
    for incarnation in 1..=3 {
        let node = world.start(incarnation);
        assert_eq!(node.recovered.len(), origins.len());
        let n = u128::from(incarnation);
        assert_eq!(node.publish(of_ann(n), StoredSessions::Delete).await, Durability::Journal);
        origins.push(node.origin);
        node.kill().await;
    }
    world.faults.mend();
    let node = world.start(4);
    assert!(node.log.flush(WAIT_MAX).await);
    for (n, origin) in (1..).zip(origins) {
        assert_eq!(world.kinds(origin).await, [of_ann(n)]);
        assert_eq!(world.head(origin).await, Some(1));
    }
}

#[tokio::test]
async fn failing_row_deletions_delay_no_entry_and_no_other_caller() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_rows_of(ANN);
    for n in 0..20 {
        world.open_session(ANN, n).await;
        world.open_session(BOB, n).await;
    }
    let facts: Vec<_> = (0..20).map(|n| world.fact(of_ann(n))).collect();
    let failing = node.publishing(facts, StoredSessions::Delete);
    eventually("row deletions fail", || world.faults.calls("end") > 0).await;
    for n in 0..20 {
        assert_eq!(node.publish(ended(BOB, n), StoredSessions::Delete).await, Durability::Store);
        assert!(!world.has_session(BOB, n).await);
    }
    assert_eq!(failing.await.unwrap().unwrap().durability, Durability::Journal);
    assert_eq!(node.publish(ended(BOB, 99), StoredSessions::Keep).await, Durability::Store);
    assert_eq!(world.head(node.origin).await, Some(41), "its entries are in the ledger");
    assert!(!node.log.state().failing, "ledger writes succeed");
    assert!(!node.log.flush(Duration::from_millis(1)).await, "row deletions are pending");
    assert!(world.has_session(ANN, 0).await);

    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    for n in 0..20 {
        assert!(!world.has_session(ANN, n).await);
    }
}

#[tokio::test]
async fn many_failing_row_deletions_delay_no_other_caller() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_rows_of(ANN);
    let facts: Vec<_> = (0..1_000).map(|n| world.fact(of_ann(n))).collect();
    assert_eq!(
        node.log.publish(&facts, StoredSessions::Delete).await.unwrap().durability,
        Durability::Journal,
        "its rows fail"
    );
    world.open_session(BOB, 1).await;
    assert_eq!(node.publish(ended(BOB, 1), StoredSessions::Delete).await, Durability::Store);
    assert!(!world.has_session(BOB, 1).await);
}

#[tokio::test]
async fn small_call_deletes_rows_before_a_large_one() {
    let world = World::new().await;
    let node = world.start(1);
    // Every row deletion task holds one of Ann's rows when Bob's call arrives.
    let hold = Hold::default();
    for _ in 0..ROW_DELETES_MAX {
        world.faults.next("end", Turn::HoldCall(hold.clone()));
    }
    let facts: Vec<_> = (0..1_000).map(|n| world.fact(of_ann(n))).collect();
    let many = node.publishing(facts, StoredSessions::Delete);
    hold.reached(ROW_DELETES_MAX).await;
    world.open_session(BOB, 1).await;
    let bobs = node.publishing(vec![world.fact(ended(BOB, 1))], StoredSessions::Delete);
    while world.head(node.origin).await != Some(1_001) {
        sleep(Duration::from_millis(2)).await;
    }
    hold.release();
    bobs.await.unwrap().unwrap();
    many.await.unwrap().unwrap();
    assert!(node.log.flush(WAIT_MAX).await);
    assert!(!world.has_session(BOB, 1).await);
    let order = lock(&world.faults.rows_of).clone();
    let place = order.iter().position(|user| *user == BOB).unwrap();
    assert!(place <= 2 * ROW_DELETES_MAX, "after {place} of Ann's");
}

#[tokio::test]
async fn row_deletion_is_retried_after_inconsistent_answers() {
    let world = World::new().await;
    let node = world.start(1);
    world.open_session(ANN, 1).await;
    world.faults.next("end", Turn::Contradict);
    world.faults.next("end", Turn::Contradict);
    assert_eq!(node.publish(of_ann(1), StoredSessions::Delete).await, Durability::Journal);
    assert!(node.log.flush(WAIT_MAX).await);
    assert!(!world.has_session(ANN, 1).await);
}

#[test]
fn inconsistent_rows_are_given_up_and_unavailable_ones_are_not() {
    let contradicts = StoreError::Inconsistent("as the test says".into());
    let mut row = Row::new(1, Fact { kind: of_ann(1), until: START });
    let mut waited = Duration::ZERO;
    for n in 0..10_000 {
        let pause = row.failed(&lost()).unwrap();
        assert!(pause <= Duration::from_secs(4), "{pause:?} after {n} tries");
    }
    for _ in 0..CONTRADICTIONS_MAX {
        waited += row.failed(&contradicts).unwrap();
        row.failed(&lost()).unwrap();
    }
    assert_eq!(waited, Duration::from_secs(600));
    assert_eq!(row.failed(&contradicts), None);
}

/// The store writes entry by entry, then the heads, and may fail after each write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_never_ahead_of_the_entries() {
    let world = Arc::new(World::new().await);
    world.faults.piecewise.store(true, Ordering::SeqCst);
    let (over, mut is_over) = watch::channel(false);
    let watching = tokio::spawn({
        let world = world.clone();
        async move {
            let mut looks = 0;
            while !*is_over.borrow_and_update() {
                world.assert_heads_hold().await;
                looks += 1;
                sleep(Duration::from_millis(2)).await;
            }
            looks
        }
    });
    let mut expected = Vec::new();
    let mut n = 0;
    for incarnation in 1..=3 {
        let node = world.start_with(incarnation, LARGE, true);
        let mut kinds = Vec::new();
        let turns = match incarnation {
            1 => [Turn::Fail, Turn::Tear(1), Turn::Lose],
            2 => [Turn::Tear(0), Turn::Lose, Turn::Tear(2)],
            _ => [Turn::Lose, Turn::Tear(3), Turn::Fail],
        };
        for (facts, turn) in [2, 3, 1].into_iter().zip(turns) {
            let some: Vec<_> = (n..n + facts).map(of_ann).collect();
            n += facts;
            world.faults.next("append", turn);
            node.log.publish(&world.facts(&some), StoredSessions::Keep).await.unwrap();
            kinds.extend(some);
        }
        assert!(node.log.flush(WAIT_MAX).await);
        lock(&world.faults.turns).clear();
        // The node is killed before the write, after it, and in the middle.
        let hold = Hold::default();
        match incarnation {
            1 => world.faults.next("append", Turn::HoldCall(hold.clone())),
            2 => world.faults.next("append", Turn::HoldAnswer(hold.clone())),
            _ => world.faults.next("append", Turn::TearAndHold(1, hold.clone())),
        }
        let some: Vec<_> = (n..n + 3).map(of_ann).collect();
        n += 3;
        let last = node.log.publish(&world.facts(&some), StoredSessions::Keep).await.unwrap();
        assert_eq!(last.durability, Durability::Journal);
        kinds.extend(some);
        hold.reached(1).await;
        expected.push((node.origin, kinds));
        node.kill().await;
    }
    let node = world.start(9);
    assert!(node.log.flush(WAIT_MAX).await);
    over.send_replace(true);
    assert!(watching.await.unwrap() > 0);
    assert_eq!(*lock(&world.faults.ahead), []);
    for (origin, kinds) in expected {
        assert_eq!(world.kinds(origin).await, kinds);
        assert_eq!(world.head(origin).await, Some(kinds.len() as u64));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishers_lose_no_fact_and_leave_no_gap() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.next("append", Turn::Fail);
    world.faults.next("append", Turn::Lose);
    let callers: Vec<_> = (0..500)
        .map(|caller| {
            let kinds: Vec<_> = (0..1 + caller % 3).map(|n| of_ann(10 * caller + n)).collect();
            let rows = if caller % 2 == 0 { StoredSessions::Keep } else { StoredSessions::Delete };
            (kinds.clone(), node.publishing(world.facts(&kinds), rows))
        })
        .collect();
    let mut groups = HashMap::new();
    for (kinds, caller) in callers {
        caller.await.unwrap().unwrap();
        groups.insert(kinds[0], kinds);
    }
    assert!(node.log.flush(WAIT_MAX).await);
    let entries = world.stores.ledger.entries(node.origin, 0, usize::MAX).await.unwrap();
    assert!((1..).zip(&entries).all(|(number, entry)| entry.seq == number));
    assert_eq!(world.head(node.origin).await, Some(entries.len() as u64));
    let mut kinds = entries.iter().map(|entry| entry.fact.kind);
    while let Some(first) = kinds.next() {
        // The facts of one caller are consecutive and in order.
        let group = groups.remove(&first).unwrap();
        group[1..].iter().for_each(|kind| assert_eq!(kinds.next(), Some(*kind)));
    }
    assert!(groups.is_empty(), "{groups:?}");
}

#[tokio::test]
async fn log_on_a_shared_store_is_announced_first() {
    let world = World::new().await;
    let node = world.start_with(1, LARGE, true);
    eventually("it is announced", || !world.faults.appended().is_empty()).await;
    assert_eq!(world.faults.appended(), [(vec![], vec![Head { origin: node.origin, seq: 0 }])]);
    assert_eq!(node.publish(of_ann(1), StoredSessions::Keep).await, Durability::Store);
    assert_eq!(world.head(node.origin).await, Some(1));
}

#[tokio::test]
async fn log_is_announced_first_after_the_store_was_down() {
    let world = World::new().await;
    world.faults.break_method("append");
    let first = world.start_with(1, LARGE, true);
    let old = first.origin;
    assert_eq!(first.publish(of_ann(1), StoredSessions::Keep).await, Durability::Journal);
    first.kill().await;
    let node = world.start_with(2, LARGE, true);
    assert_eq!(node.publish(of_ann(2), StoredSessions::Keep).await, Durability::Journal);
    let before = world.faults.appended().len();
    world.faults.mend();
    assert!(node.log.flush(WAIT_MAX).await);
    let appended = &world.faults.appended()[before..];
    let of_own = |entries: &[Entry]| entries.iter().any(|entry| entry.origin == node.origin);
    let announces = |heads: &[Head]| heads.iter().any(|head| head.origin == node.origin);
    let announced =
        appended.iter().position(|(entries, heads)| announces(heads) && !of_own(entries)).unwrap();
    assert!(appended[..=announced].iter().all(|(entries, _)| !of_own(entries)));
    assert_eq!((world.head(old).await, world.head(node.origin).await), (Some(1), Some(1)));
}

#[tokio::test]
async fn log_on_an_embedded_store_is_not_announced() {
    let world = World::new().await;
    let node = world.start(1);
    assert_eq!(node.publish(of_ann(1), StoredSessions::Keep).await, Durability::Store);
    let appended = world.faults.appended();
    assert_eq!(appended.len(), 1);
    assert_eq!(appended[0].0.len(), 1);
}

#[tokio::test]
async fn flush_waits_for_entries_and_rows() {
    let world = World::new().await;
    let node = world.start(1);
    assert!(node.log.flush(Duration::from_millis(1)).await, "nothing is pending");
    let entries = Hold::default();
    let rows = Hold::default();
    world.faults.next("append", Turn::HoldCall(entries.clone()));
    world.faults.next("end", Turn::HoldCall(rows.clone()));
    let publishing = node.publishing(vec![world.fact(of_ann(1))], StoredSessions::Delete);
    entries.reached(1).await;
    rows.reached(1).await;
    assert!(!node.log.flush(Duration::from_millis(5)).await);
    entries.release();
    eventually("the entry is there", || node.log.state().unwritten == 0).await;
    assert!(!node.log.flush(Duration::from_millis(5)).await);
    rows.release();
    assert!(node.log.flush(WAIT_MAX).await);
    publishing.await.unwrap().unwrap();
}
