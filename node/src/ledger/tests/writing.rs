//! What a log promises to who writes it.

use super::*;

#[tokio::test]
async fn a_fact_is_in_the_store_when_publish_says_so() {
    let world = World::new().await;
    let node = world.start(1);
    for n in 0..3 {
        let facts = [world.fact(ended(ANN, 2 * n)), world.fact(ended(ANN, 2 * n + 1))];
        let receipt = node.log.publish(&facts, Rows::Keep).await.unwrap();
        assert_eq!(receipt, Receipt { visible: 0, live: 0, durability: Durability::Store });
        assert_eq!(world.kinds(node.origin).await, (0..2 * n + 2).map(of_ann).collect::<Vec<_>>());
        assert_eq!(world.head(node.origin).await, Some(seq(2 * n + 2)));
    }
    assert_eq!(node.log.publish(&[], Rows::End).await.unwrap().durability, Durability::Store);
    assert_eq!(world.head(node.origin).await, Some(6), "nothing is nothing");
    assert_eq!(node.log.state().unwritten, 0);
}

#[tokio::test]
async fn rows_are_gone_when_publish_says_store_and_stay_when_they_are_the_callers() {
    let world = World::new().await;
    let node = world.start(1);
    for n in 1..=3 {
        world.open_session(ANN, n).await;
    }
    world.open_session(BOB, 4).await;
    assert_eq!(node.publish(ended(ANN, 1), Rows::End).await, Durability::Store);
    assert!(!world.has_session(ANN, 1).await && world.has_session(ANN, 2).await);
    assert_eq!(node.publish(ended(ANN, 2), Rows::Keep).await, Durability::Store);
    assert!(world.has_session(ANN, 2).await);

    world.add_user(ANN).await;
    let raised = FactKind::UserVersion { user: ANN, at_least: 3 };
    assert_eq!(node.publish(raised, Rows::End).await, Durability::Store);
    assert!(!world.has_session(ANN, 2).await && !world.has_session(ANN, 3).await);
    assert!(world.has_session(BOB, 4).await);
    assert_eq!(world.stores.users.get(ANN).await.unwrap().unwrap().version, 3);
}

#[tokio::test]
async fn while_the_store_fails_the_journal_answers_and_all_gets_there_in_order_after() {
    let world = World::new().await;
    let node = world.start(1);
    assert_eq!(node.publish(of_ann(0), Rows::Keep).await, Durability::Store);
    world.faults.break_method("append");
    assert_eq!(node.publish(of_ann(1), Rows::Keep).await, Durability::Journal);
    let began = Instant::now();
    for n in 2..=20 {
        assert_eq!(node.publish(of_ann(n), Rows::Keep).await, Durability::Journal);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "only the first waits for its second");
    let state = node.log.state();
    assert!(state.failing && !state.full && state.used_bytes > 0, "{state:?}");
    assert_eq!(state.unwritten, 20);
    assert!(!node.log.flush(Duration::from_millis(1)).await);

    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    assert_eq!(world.kinds(node.origin).await, (0..=20).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.head(node.origin).await, Some(21));
    let state = node.log.state();
    assert!(!state.failing && state.unwritten == 0, "{state:?}");
    assert_eq!(node.publish(of_ann(21), Rows::Keep).await, Durability::Store);
}

#[tokio::test]
async fn a_fact_that_waited_beyond_its_end_is_heard_from_when_it_is_written_on() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_method("append");
    assert_eq!(node.publish(of_ann(1), Rows::Keep).await, Durability::Journal);
    world.clock.advance(2 * TTL);
    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    let entries = world.stores.ledger.entries(node.origin, 0, 10).await.unwrap();
    assert_eq!(entries[0].fact.until, world.clock.now().plus(CLOCK_SKEW));
}

#[tokio::test]
async fn a_restart_brings_what_was_left_under_its_old_numbers_and_ends_its_rows() {
    let world = World::new().await;
    let first = world.start(1);
    for n in 1..=4 {
        world.open_session(ANN, n).await;
    }
    assert_eq!(first.publish(of_ann(0), Rows::Keep).await, Durability::Store);
    world.faults.break_method("append");
    world.faults.break_rows_of(ANN);
    for n in 1..=3 {
        assert_eq!(first.publish(of_ann(n), Rows::End).await, Durability::Journal);
    }
    assert_eq!(first.publish(of_ann(4), Rows::Keep).await, Durability::Journal);
    let old = first.origin;
    first.kill().await;
    assert_eq!(world.head(old).await, Some(1));

    // The store is still down: nothing of the new life overtakes what was left.
    let second = world.start(2);
    let left: Vec<_> = second.left.iter().filter(|record| record.entry.seq > 1).collect();
    assert_eq!(left.iter().map(|record| record.entry.seq).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(left.iter().all(|record| record.entry.origin == old));
    assert_eq!(second.publish(of_ann(5), Rows::Keep).await, Durability::Journal);
    world.faults.mend();
    assert!(second.log.flush(BOUND).await);
    assert_eq!(world.kinds(old).await, (0..=4).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.head(old).await, Some(5));
    assert_eq!(world.kinds(second.origin).await, [of_ann(5)]);
    assert_eq!(world.head(second.origin).await, Some(1));
    for n in 1..=3 {
        assert!(!world.has_session(ANN, n).await, "{n}");
    }
    assert!(world.has_session(ANN, 4).await, "that one was its caller's");
    let in_order = |entries: &Vec<Entry>| entries.is_sorted_by_key(|entry| entry.origin.incarnation);
    assert!(world.faults.appended().iter().all(|(entries, _)| in_order(entries)));
}

#[tokio::test]
async fn a_restart_that_is_killed_too_loses_nothing() {
    let world = World::new().await;
    world.faults.break_method("append");
    let mut origins = Vec::new();
    for incarnation in 1..=3 {
        let node = world.start(incarnation);
        assert_eq!(node.left.len(), origins.len());
        let n = u128::from(incarnation);
        assert_eq!(node.publish(of_ann(n), Rows::End).await, Durability::Journal);
        origins.push(node.origin);
        node.kill().await;
    }
    world.faults.mend();
    let node = world.start(4);
    assert!(node.log.flush(BOUND).await);
    for (n, origin) in (1..).zip(origins) {
        assert_eq!(world.kinds(origin).await, [of_ann(n)]);
        assert_eq!(world.head(origin).await, Some(1));
    }
}

#[tokio::test]
async fn rows_that_fail_hold_up_neither_entries_nor_other_callers() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_rows_of(ANN);
    for n in 0..20 {
        world.open_session(ANN, n).await;
        world.open_session(BOB, n).await;
    }
    let facts: Vec<_> = (0..20).map(|n| world.fact(of_ann(n))).collect();
    let failing = node.publishing(facts, Rows::End);
    eventually("rows fail", || world.faults.calls("end") > 0).await;
    for n in 0..20 {
        assert_eq!(node.publish(ended(BOB, n), Rows::End).await, Durability::Store);
        assert!(!world.has_session(BOB, n).await);
    }
    assert_eq!(failing.await.unwrap().unwrap().durability, Durability::Journal);
    assert_eq!(node.publish(ended(BOB, 99), Rows::Keep).await, Durability::Store);
    assert_eq!(world.head(node.origin).await, Some(41), "its entries are there");
    assert!(!node.log.state().failing, "the ledger is written");
    assert!(!node.log.flush(Duration::from_millis(1)).await, "rows are to go still");
    assert!(world.has_session(ANN, 0).await);

    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    for n in 0..20 {
        assert!(!world.has_session(ANN, n).await);
    }
}

#[tokio::test]
async fn many_rows_that_fail_hold_up_no_other_caller() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_rows_of(ANN);
    let facts: Vec<_> = (0..1_000).map(|n| world.fact(of_ann(n))).collect();
    assert_eq!(
        node.log.publish(&facts, Rows::End).await.unwrap().durability,
        Durability::Journal,
        "its rows fail"
    );
    world.open_session(BOB, 1).await;
    assert_eq!(node.publish(ended(BOB, 1), Rows::End).await, Durability::Store);
    assert!(!world.has_session(BOB, 1).await);
}

#[tokio::test]
async fn few_rows_of_one_caller_go_before_the_many_of_another() {
    let world = World::new().await;
    let node = world.start(1);
    // Whoever ends rows is at one of Ann's when Bob comes.
    let hold = Hold::default();
    for _ in 0..ROWS {
        world.faults.next("end", Turn::HoldCall(hold.clone()));
    }
    let facts: Vec<_> = (0..1_000).map(|n| world.fact(of_ann(n))).collect();
    let many = node.publishing(facts, Rows::End);
    hold.reached(ROWS).await;
    world.open_session(BOB, 1).await;
    let bobs = node.publishing(vec![world.fact(ended(BOB, 1))], Rows::End);
    while world.head(node.origin).await != Some(1_001) {
        sleep(Duration::from_millis(2)).await;
    }
    hold.release();
    bobs.await.unwrap().unwrap();
    many.await.unwrap().unwrap();
    assert!(node.log.flush(BOUND).await);
    assert!(!world.has_session(BOB, 1).await);
    let order = lock(&world.faults.rows_of).clone();
    let place = order.iter().position(|user| *user == BOB).unwrap();
    assert!(place <= 2 * ROWS, "after {place} of Ann's");
}

#[tokio::test]
async fn an_answer_about_rows_that_makes_no_sense_is_not_the_last_word() {
    let world = World::new().await;
    let node = world.start(1);
    world.open_session(ANN, 1).await;
    world.faults.next("end", Turn::Contradict);
    world.faults.next("end", Turn::Contradict);
    assert_eq!(node.publish(of_ann(1), Rows::End).await, Durability::Journal);
    assert!(node.log.flush(BOUND).await);
    assert!(!world.has_session(ANN, 1).await);
}

#[test]
fn rows_that_contradict_themselves_are_not_tried_for_ever_and_those_that_fail_are() {
    let contradicts = StoreError::Inconsistent("as the test says".into());
    let mut row = Row::new(1, Fact { kind: of_ann(1), until: START });
    let mut waited = Duration::ZERO;
    for n in 0..10_000 {
        let pause = row.failed(&lost()).unwrap();
        assert!(pause <= Duration::from_secs(4), "{pause:?} after {n} tries");
    }
    for _ in 0..MAX_CONTRADICTIONS {
        waited += row.failed(&contradicts).unwrap();
        row.failed(&lost()).unwrap();
    }
    assert_eq!(waited, Duration::from_secs(600));
    assert_eq!(row.failed(&contradicts), None);
}

/// The store writes entry by entry, then the heads, and may stop after each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_head_is_ever_ahead_of_the_entries() {
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
            node.log.publish(&world.facts(&some), Rows::Keep).await.unwrap();
            kinds.extend(some);
        }
        assert!(node.log.flush(BOUND).await);
        lock(&world.faults.turns).clear();
        // Dropped before it is done, after, and between.
        let hold = Hold::default();
        match incarnation {
            1 => world.faults.next("append", Turn::HoldCall(hold.clone())),
            2 => world.faults.next("append", Turn::HoldAnswer(hold.clone())),
            _ => world.faults.next("append", Turn::TearAndHold(1, hold.clone())),
        }
        let some: Vec<_> = (n..n + 3).map(of_ann).collect();
        n += 3;
        let last = node.log.publish(&world.facts(&some), Rows::Keep).await.unwrap();
        assert_eq!(last.durability, Durability::Journal);
        kinds.extend(some);
        hold.reached(1).await;
        expected.push((node.origin, kinds));
        node.kill().await;
    }
    let node = world.start(9);
    assert!(node.log.flush(BOUND).await);
    over.send_replace(true);
    assert!(watching.await.unwrap() > 0);
    assert_eq!(*lock(&world.faults.ahead), []);
    for (origin, kinds) in expected {
        assert_eq!(world.kinds(origin).await, kinds);
        assert_eq!(world.head(origin).await, Some(kinds.len() as u64));
    }
}

#[tokio::test]
async fn what_finds_no_room_in_the_journal_is_answered_when_the_ledger_has_it() {
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
    assert_eq!(node.publish(of_ann(kept + 1), Rows::Keep).await, Durability::Store);
    assert!(!node.log.state().full);
}

#[tokio::test]
async fn what_neither_the_journal_nor_the_ledger_has_is_refused() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let (kept, without) = node.fill(&world).await;
    assert!(matches!(without.await.unwrap(), Err(StoreError::Unavailable(_))));
    // It refuses here and may get there: it has a number.
    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    assert_eq!(world.kinds(node.origin).await, (0..=kept).map(of_ann).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restart_with_a_full_journal_brings_all_that_was_answered() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let (kept, without) = node.fill(&world).await;
    without.abort();
    let old = node.origin;
    node.kill().await;
    let node = world.start_with(2, SMALL, false);
    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    assert_eq!(world.kinds(old).await, (0..kept).map(of_ann).collect::<Vec<_>>());
    assert_eq!(node.publish(of_ann(0), Rows::Keep).await, Durability::Store);
    assert!(!node.log.state().full);
}

#[tokio::test]
async fn only_so_much_waits_without_a_place_and_who_is_refused_takes_no_number() {
    const MOST: u128 = 10_000;
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    let mut numbered = 0;
    for round in 0..2 {
        world.faults.break_method("append");
        let many: Vec<_> = (numbered..numbered + MOST).map(|n| world.fact(of_ann(n))).collect();
        let many = node.publishing(many, Rows::Keep);
        eventually("they are numbered", || node.log.state().unwritten == 10_000).await;
        assert!(node.log.state().full);
        let one = node.publishing(vec![world.fact(of_ann(numbered + MOST))], Rows::Keep);
        eventually("one more is", || node.log.state().unwritten == 10_001).await;
        let began = Instant::now();
        for n in 0..3 {
            let refused = node.log.publish(&[world.fact(ended(BOB, n))], Rows::End).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "round {round}: {refused:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(4), "at once");
        assert_eq!(node.log.state().unwritten, 10_001);
        numbered += MOST + 1;
        world.faults.mend();
        assert!(node.log.flush(BOUND).await);
        // How long that took is the disk's.
        let _ = (many.await.unwrap(), one.await.unwrap());
    }
    assert_eq!(node.publish(of_ann(numbered), Rows::Keep).await, Durability::Store);
    assert!(!node.log.state().full);
    assert_eq!(world.kinds(node.origin).await, (0..=numbered).map(of_ann).collect::<Vec<_>>());
    assert_eq!(world.faults.calls("end"), 0, "who was refused has no rows that go");
}

#[tokio::test]
async fn nobody_is_refused_while_the_journal_has_room() {
    let world = World::new().await;
    let node = world.start(1);
    let callers = (0..40).map(|caller| {
        let kinds: Vec<_> = (0..1_000).map(|n| of_ann(1_000 * caller + n)).collect();
        let (log, facts) = (node.log.clone(), world.facts(&kinds));
        async move { log.publish(&facts, Rows::Keep).await }
    });
    let refused = join_all(callers).await.into_iter().filter(std::result::Result::is_err).count();
    assert_eq!((refused, node.log.state().full), (0, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_publishers_lose_nothing_and_leave_no_gap() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.next("append", Turn::Fail);
    world.faults.next("append", Turn::Lose);
    let callers: Vec<_> = (0..500)
        .map(|caller| {
            let kinds: Vec<_> = (0..1 + caller % 3).map(|n| of_ann(10 * caller + n)).collect();
            let rows = if caller % 2 == 0 { Rows::Keep } else { Rows::End };
            (kinds.clone(), node.publishing(world.facts(&kinds), rows))
        })
        .collect();
    let mut groups = HashMap::new();
    for (kinds, caller) in callers {
        caller.await.unwrap().unwrap();
        groups.insert(kinds[0], kinds);
    }
    assert!(node.log.flush(BOUND).await);
    let entries = world.stores.ledger.entries(node.origin, 0, usize::MAX).await.unwrap();
    assert!((1..).zip(&entries).all(|(number, entry)| entry.seq == number));
    assert_eq!(world.head(node.origin).await, Some(entries.len() as u64));
    let mut kinds = entries.iter().map(|entry| entry.fact.kind);
    while let Some(first) = kinds.next() {
        // Those of one caller come together, in their order.
        let group = groups.remove(&first).unwrap();
        group[1..].iter().for_each(|kind| assert_eq!(kinds.next(), Some(*kind)));
    }
    assert!(groups.is_empty(), "{groups:?}");
}

#[tokio::test]
async fn a_small_journal_is_never_full_while_the_store_works() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    for round in 0..150 {
        let kinds: Vec<_> = (0..1 + round % 3).map(|n| of_ann(10 * round + n)).collect();
        let receipt = node.log.publish(&world.facts(&kinds), Rows::End).await.unwrap();
        assert_eq!(receipt.durability, Durability::Store);
        let state = node.log.state();
        assert!(!state.full && state.used_bytes <= SMALL, "{round}: {state:?}");
    }
}

#[tokio::test]
async fn the_journal_keeps_what_has_rows_that_did_not_go() {
    let world = World::new().await;
    let node = world.start_with(1, SMALL, false);
    world.open_session(BOB, 1).await;
    world.faults.break_rows_of(BOB);
    assert_eq!(node.publish(ended(BOB, 1), Rows::End).await, Durability::Journal);
    // The ledger has all, and yet there is no room in the end. Then the ledger is enough.
    let mut n = 0;
    while !node.log.state().full {
        assert_eq!(node.publish(of_ann(n), Rows::End).await, Durability::Store);
        n += 1;
        assert!(n < 100);
    }
    let old = node.origin;
    node.kill().await;
    assert!(world.has_session(BOB, 1).await);

    let node = world.start_with(2, SMALL, false);
    let record = &node.left[0];
    assert_eq!((record.entry.origin, record.entry.fact.kind), (old, ended(BOB, 1)));
    assert!(record.ends_rows);
    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    assert!(!world.has_session(BOB, 1).await);
    assert_eq!(node.publish(of_ann(n), Rows::End).await, Durability::Store);
    assert!(!node.log.state().full, "it has room again");
}

#[tokio::test]
async fn a_log_on_a_shared_store_says_first_that_it_exists() {
    let world = World::new().await;
    let node = world.start_with(1, LARGE, true);
    eventually("it is there", || !world.faults.appended().is_empty()).await;
    assert_eq!(world.faults.appended(), [(vec![], vec![Head { origin: node.origin, seq: 0 }])]);
    assert_eq!(node.publish(of_ann(1), Rows::Keep).await, Durability::Store);
    assert_eq!(world.head(node.origin).await, Some(1));
}

#[tokio::test]
async fn a_log_on_a_shared_store_says_first_that_it_exists_though_the_store_was_down() {
    let world = World::new().await;
    world.faults.break_method("append");
    let first = world.start_with(1, LARGE, true);
    let old = first.origin;
    assert_eq!(first.publish(of_ann(1), Rows::Keep).await, Durability::Journal);
    first.kill().await;
    let node = world.start_with(2, LARGE, true);
    assert_eq!(node.publish(of_ann(2), Rows::Keep).await, Durability::Journal);
    let before = world.faults.appended().len();
    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    let appended = &world.faults.appended()[before..];
    let of_own = |entries: &[Entry]| entries.iter().any(|entry| entry.origin == node.origin);
    let says = |heads: &[Head]| heads.iter().any(|head| head.origin == node.origin);
    let said = appended.iter().position(|(entries, heads)| says(heads) && !of_own(entries)).unwrap();
    assert!(appended[..=said].iter().all(|(entries, _)| !of_own(entries)));
    assert_eq!((world.head(old).await, world.head(node.origin).await), (Some(1), Some(1)));
}

#[tokio::test]
async fn a_log_on_an_embedded_store_says_nothing_before_its_first_entry() {
    let world = World::new().await;
    let node = world.start(1);
    assert_eq!(node.publish(of_ann(1), Rows::Keep).await, Durability::Store);
    let appended = world.faults.appended();
    assert_eq!(appended.len(), 1);
    assert_eq!(appended[0].0.len(), 1);
}

#[tokio::test]
async fn flush_waits_for_entries_and_rows() {
    let world = World::new().await;
    let node = world.start(1);
    assert!(node.log.flush(Duration::from_millis(1)).await, "there is nothing");
    let (entries, rows) = (Hold::default(), Hold::default());
    world.faults.next("append", Turn::HoldCall(entries.clone()));
    world.faults.next("end", Turn::HoldCall(rows.clone()));
    let publishing = node.publishing(vec![world.fact(of_ann(1))], Rows::End);
    entries.reached(1).await;
    rows.reached(1).await;
    assert!(!node.log.flush(Duration::from_millis(5)).await);
    entries.release();
    eventually("the entry is there", || node.log.state().unwritten == 0).await;
    assert!(!node.log.flush(Duration::from_millis(5)).await);
    rows.release();
    assert!(node.log.flush(BOUND).await);
    publishing.await.unwrap().unwrap();
}

fn of_others(count: u64) -> Vec<Entry> {
    let fact = Fact { kind: of_ann(7), until: START.plus(TTL) };
    (1..=count).map(|seq| Entry { origin: log(3), seq, fact }).collect()
}

#[tokio::test]
async fn entries_of_others_are_on_the_disk_when_it_is_said_and_written_once() {
    let world = World::new().await;
    let node = world.start(1);
    world.faults.break_method("append");
    let others = KeptForOthers::new(node.log.clone());
    let entries = of_others(20);
    assert!(others.keep(entries[..10].to_vec()).await);
    assert_eq!(node.log.state().unwritten, 10);
    // Some of them again, and some more.
    assert!(others.keep(entries[5..15].to_vec()).await);
    assert!(others.keep(entries[..15].to_vec()).await);
    assert_eq!(node.log.state().unwritten, 15, "no entry twice");
    assert!(others.keep(Vec::new()).await);
    // A range apart, and what lies between.
    assert!(others.keep(entries[18..].to_vec()).await);
    assert!(others.keep(entries[15..18].to_vec()).await);
    assert_eq!(node.log.state().unwritten, 20);
    drop(others);
    node.kill().await;
    let node = world.start(2);
    let kept = node.left.iter().map(|record| record.entry.seq).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_of_others_leave_half_of_the_journal_to_the_node() {
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
        assert_eq!(node.publish(of_ann(n), Rows::Keep).await, Durability::Journal, "{n}");
    }
    // Written, they take no room any more.
    world.faults.mend();
    assert!(node.log.flush(BOUND).await);
    assert!(node.log.keep_for_others(of_others(1)).await);
}
