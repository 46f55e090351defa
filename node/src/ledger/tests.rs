//! What a log promises to who writes it and to who reads it, on an embedded store behind faults.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actors::{Durability, FactSink, Facts, Lifetimes, Receipt, Rows, SharedCache};
use async_trait::async_trait;
use futures_util::future::join_all;
use schema::{
    Clock, Fact, FactKind, NodeId, SessionId, StoreError, Stores, Subject, Timestamp, UserId,
    email::FoldedEmail,
    id::KeyId,
    ledger::{Entry, Head, Origin},
    page::{Page, PageOf},
    session::{SecretHash, Session},
    store::{Created, LedgerStore, Replaced, Result, Rotated, Sessions, Users},
    time::CLOCK_SKEW,
    user::User,
};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Journal, LedgerReader, LedgerWriter,
    journal::Record,
    writer::{MAX_CONTRADICTIONS, ROWS, Row},
};

const START: Timestamp = Timestamp::from_secs(2_000_000_000);
const TTL: Duration = Duration::from_secs(15 * 60);
/// Nothing that a test waits for takes longer.
const BOUND: Duration = Duration::from_secs(60);
const LARGE: u64 = 64 * 1024 * 1024;
/// Room for some thirty records.
const SMALL: u64 = 8 * 1024;
const ANN: UserId = UserId::from_bytes([0xa; 16]);
const BOB: UserId = UserId::from_bytes([0xb; 16]);
/// Who reads.
const OWN: Origin = log(100);

mod writing {
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
}

mod reading {
    use super::*;

    #[tokio::test]
    async fn at_the_beginning_all_is_read_beyond_heads_too() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        // More than is read at a time.
        world.put(log(1), 1..=10_001, 10_001).await;
        world.put(log(2), 1..=3, 2).await;
        world.put(log(3), 1..=2, 0).await;
        let (_, count) = LedgerReader::begin(&world.faulty(), &facts, OWN, None).await.unwrap();
        assert_eq!(count, 10_006);
        assert_eq!(heard.of(2), [1, 2, 3]);
        assert_eq!(heard.of(3), [1, 2]);
        assert_eq!(heard.of(1), (1..=10_001).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_node_does_not_begin_without_all_logs() {
        let world = World::new().await;
        let (facts, _) = world.listener();
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
    async fn after_that_only_what_is_new_is_heard() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        world.put(log(1), 1..=5, 5).await;
        world.put(log(2), 1..=5, 5).await;
        let mut reader = world.begin(&facts).await;
        heard.take();
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
        world.put(log(1), 6..=7, 7).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 2);
        assert_eq!(heard.take(), [(1, 6), (1, 7)]);
        for _ in 0..5 {
            assert_eq!(world.go_on(&mut reader, &facts).await, 0);
        }
        assert_eq!(heard.take(), []);
    }

    #[tokio::test]
    async fn its_own_log_is_not_heard() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        let mut reader = world.begin(&facts).await;
        world.put(OWN, 1..=3, 3).await;
        world.put(log(1), 1..=1, 1).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 1);
        // The same node before its start is somebody else.
        let before = Origin { incarnation: 7, ..OWN };
        world.put(before, 1..=1, 1).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 1);
        assert_eq!(heard.take().len(), 2);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_holds_up_no_other_and_is_read_later() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        for n in 1..=30 {
            world.put(log(n), 1..=1, 1).await;
        }
        let mut reader = world.begin(&facts).await;
        heard.take();
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
            assert_eq!(heard.of(n), expected, "{n}");
        }
        world.faults.mend();
        heard.take();
        assert_eq!(world.go_on(&mut reader, &facts).await, 8);
        let mut all = heard.take();
        all.sort_unstable();
        assert_eq!(all, [(4, 2), (4, 3), (5, 2), (5, 3), (6, 2), (6, 3), (31, 2), (31, 3)]);
    }

    #[tokio::test]
    async fn heads_that_cannot_be_read_are_read_later() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        let mut reader = world.begin(&facts).await;
        world.put(log(1), 1..=2, 2).await;
        world.faults.break_method("heads");
        assert!(reader.go_on(&world.faulty(), &facts).await.is_err());
        world.faults.mend();
        assert_eq!(world.go_on(&mut reader, &facts).await, 2);
        assert_eq!(heard.of(1), [1, 2]);
    }

    #[tokio::test]
    async fn a_log_that_appears_later_is_heard_from_its_beginning() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        world.put(log(1), 1..=2, 2).await;
        let mut reader = world.begin(&facts).await;
        world.stores.ledger.append(&[], &[Head { origin: log(2), seq: 0 }]).await.unwrap();
        assert_eq!(world.go_on(&mut reader, &facts).await, 0, "it says that it exists");
        world.put(log(2), 1..=3, 2).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 3);
        assert_eq!(heard.of(2), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_head_that_vanishes_and_comes_back_loses_nothing() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        world.put(log(1), 1..=5, 5).await;
        let mut reader = world.begin(&facts).await;
        // All of it ended.
        let ended = world.clock.now().plus(2 * TTL);
        world.stores.upkeep.sweep(ended, 100).await.unwrap();
        assert_eq!(world.stores.ledger.heads().await.unwrap(), []);
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
        heard.take();
        world.put(log(1), 6..=7, 7).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 2);
        assert_eq!(heard.take(), [(1, 6), (1, 7)]);
        // And at a lower number than it had.
        lock(&world.faults.hidden).insert(log(1));
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
        world.put(log(1), 8..=8, 7).await;
        world.faults.mend();
        world.go_on(&mut reader, &facts).await;
        assert_eq!(heard.of(1).last(), Some(&8));
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    }

    #[tokio::test]
    async fn tails_are_read_in_turn_and_heard_once() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        for n in 1..=20 {
            world.put(log(n), 1..=2, 2).await;
        }
        let mut reader = world.begin(&facts).await;
        heard.take();
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
        assert_eq!(counts, [16, 16, 8], "some were looked at again and not heard again");
        for n in 1..=20 {
            assert_eq!(heard.of(n), [3, 4], "{n}");
        }
        heard.take();
        for _ in 0..6 {
            assert_eq!(world.go_on(&mut reader, &facts).await, 0);
        }
        // It goes on behind the tail.
        world.put(log(20), 5..=5, 0).await;
        for _ in 0..3 {
            world.go_on(&mut reader, &facts).await;
        }
        assert_eq!(heard.take(), [(20, 5)]);
    }

    #[tokio::test]
    async fn an_entry_that_fills_a_gap_behind_the_head_is_heard_when_the_head_moves() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        world.put(log(1), 1..=2, 2).await;
        let mut reader = world.begin(&facts).await;
        heard.take();
        world.put(log(1), 5..=5, 0).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 1);
        world.put(log(1), 3..=4, 0).await;
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
        assert_eq!(heard.take(), [(1, 5)]);
        // Not yet up to the tail.
        world.put(log(1), 3..=3, 3).await;
        world.go_on(&mut reader, &facts).await;
        assert_eq!(heard.take(), [(1, 3), (1, 4), (1, 5)]);
        world.put(log(1), 6..=6, 6).await;
        world.go_on(&mut reader, &facts).await;
        assert_eq!(heard.of(1).last(), Some(&6));
        assert_eq!(world.go_on(&mut reader, &facts).await, 0);
    }

    #[tokio::test]
    async fn a_gap_that_the_first_reading_met_is_heard_when_the_head_moves() {
        let world = World::new().await;
        let (facts, heard) = world.listener();
        world.put(log(1), 1..=1, 1).await;
        world.put(log(1), 4..=4, 0).await;
        let mut reader = world.begin(&facts).await;
        assert_eq!(heard.take(), [(1, 1), (1, 4)]);
        world.put(log(1), 2..=3, 4).await;
        world.go_on(&mut reader, &facts).await;
        assert_eq!(heard.take(), [(1, 2), (1, 3), (1, 4)]);
    }

    #[tokio::test]
    async fn a_retired_key_is_said_once() {
        let world = World::new().await;
        let (facts, _) = world.listener();
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
        // In a round in which another log fails.
        world.put(log(2), 1..=1, 1).await;
        world.stores.ledger.append(&[retired(1, 3)], &head(3)).await.unwrap();
        world.faults.break_log(log(2));
        assert!(reader.go_on(&world.faulty(), &facts).await.is_err());
        assert!(reader.keys_changed());
        world.faults.mend();
        assert!(world.begin(&facts).await.keys_changed(), "it was in the ledger before");
    }

    #[tokio::test]
    async fn what_a_log_writes_the_readers_of_others_hear() {
        let world = World::new().await;
        let (facts, _) = world.listener();
        let node = world.start_with(1, LARGE, true);
        let mut reader = world.begin(&facts).await;
        for n in 0..10 {
            assert_eq!(node.publish(of_ann(n), Rows::Keep).await, Durability::Store);
            world.go_on(&mut reader, &facts).await;
            assert!(facts.denials().refuses_session(SessionId::from_bytes(n.to_be_bytes())));
        }
    }
}

/// One store, its faults, and a place for a journal.
struct World {
    directory: TempDir,
    /// Without faults, to look and to prepare.
    stores: Stores,
    faults: Arc<Faults>,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let stores = store_redb::open(&directory.path().join("store.redb")).await.unwrap().stores;
        let clock = Arc::new(ManualClock(AtomicU64::new(START.as_millis())));
        Self { directory, stores, faults: Arc::default(), clock }
    }

    fn faulty(&self) -> Stores {
        let faulty = Arc::new(Faulty { inner: self.stores.clone(), faults: self.faults.clone() });
        Stores { users: faulty.clone(), sessions: faulty.clone(), ledger: faulty, ..self.stores.clone() }
    }

    fn start(&self, incarnation: u64) -> Node {
        self.start_with(incarnation, LARGE, false)
    }

    /// On what the journal has. Its tasks are its own, so that it can be killed.
    fn start_with(&self, incarnation: u64, journal: u64, shared: bool) -> Node {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let origin = Origin { node: NodeId::from_bytes([9; 16]), incarnation };
        let (journal, left) = Journal::open(self.directory.path(), journal).unwrap();
        let entered = runtime.enter();
        let log =
            LedgerWriter::start(self.faulty(), self.clock.clone(), origin, journal, &left, shared).unwrap();
        drop(entered);
        Node { log: Arc::new(log), origin, left, until: self.until(), runtime: Some(runtime) }
    }

    fn until(&self) -> Timestamp {
        self.clock.now().plus(TTL)
    }

    fn fact(&self, kind: FactKind) -> Fact {
        Fact { kind, until: self.until() }
    }

    fn facts(&self, kinds: &[FactKind]) -> Vec<Fact> {
        kinds.iter().map(|kind| self.fact(*kind)).collect()
    }

    /// What the ledger has of a log. Fails when there are gaps.
    async fn kinds(&self, origin: Origin) -> Vec<FactKind> {
        let entries = self.stores.ledger.entries(origin, 0, usize::MAX).await.unwrap();
        for (number, entry) in (1..).zip(&entries) {
            assert_eq!(entry.seq, number);
        }
        entries.into_iter().map(|entry| entry.fact.kind).collect()
    }

    async fn head(&self, origin: Origin) -> Option<u64> {
        let heads = self.stores.ledger.heads().await.unwrap();
        heads.into_iter().find(|head| head.origin == origin).map(|head| head.seq)
    }

    async fn assert_heads_hold(&self) {
        for head in self.stores.ledger.heads().await.unwrap() {
            let entries = self.stores.ledger.entries(head.origin, 0, usize::MAX).await.unwrap();
            assert!(is_complete(&entries, head.seq), "{head:?}");
        }
    }

    async fn open_session(&self, user: UserId, n: u128) {
        let session = Session {
            id: SessionId::from_bytes(n.to_be_bytes()),
            user,
            user_version: 0,
            device: None,
            ip_address: [192, 0, 2, 1].into(),
            user_agent: None,
            created_at: START,
            last_used_at: START,
            expires_at: START.plus(Duration::from_secs(30 * 24 * 3600)),
            live: SecretHash::new([1; 32]),
            spent: Vec::new(),
        };
        assert_eq!(self.stores.sessions.open(&session, 100).await.unwrap(), []);
    }

    async fn has_session(&self, user: UserId, n: u128) -> bool {
        self.stores.sessions.get(user, SessionId::from_bytes(n.to_be_bytes())).await.unwrap().is_some()
    }

    async fn add_user(&self, id: UserId) {
        let user = User {
            id,
            email: "ann@example.org".parse().unwrap(),
            email_confirmed: false,
            password: None,
            first_name: None,
            last_name: None,
            active: true,
            version: 0,
            revision: 0,
            created_at: START,
        };
        assert_eq!(self.stores.users.create(&user).await.unwrap(), Created::Done);
    }

    /// Entries of a log, and then its head, which never goes back.
    async fn put(&self, origin: Origin, numbers: std::ops::RangeInclusive<u64>, head: u64) {
        let entries: Vec<_> = numbers
            .map(|number| {
                let user = UserId::from_bytes(said(origin, number).to_be_bytes());
                let kind = FactKind::PermissionsChanged { subject: Subject::User(user) };
                Entry { origin, seq: number, fact: self.fact(kind) }
            })
            .collect();
        self.stores.ledger.append(&entries, &[Head { origin, seq: head }]).await.unwrap();
    }

    /// Somebody who hears, and remembers what.
    fn listener(&self) -> (Facts, Arc<Heard>) {
        let lifetimes = Lifetimes { access_ttl: TTL, access_horizon: Timestamp::EPOCH };
        let heard = Arc::<Heard>::default();
        let facts = Facts::new(Arc::new(Nowhere), self.clock.clone(), lifetimes);
        (facts.with_shared_cache(heard.clone()), heard)
    }

    async fn begin(&self, facts: &Facts) -> LedgerReader {
        LedgerReader::begin(&self.faulty(), facts, OWN, None).await.unwrap().0
    }

    async fn go_on(&self, reader: &mut LedgerReader, facts: &Facts) -> usize {
        reader.go_on(&self.faulty(), facts).await.unwrap()
    }
}

/// A log that is written.
struct Node {
    log: Arc<LedgerWriter>,
    origin: Origin,
    /// What it found in the journal.
    left: Vec<Record>,
    until: Timestamp,
    runtime: Option<Runtime>,
}

impl Node {
    async fn publish(&self, kind: FactKind, rows: Rows) -> Durability {
        let facts = [Fact { kind, until: self.until }];
        timeout(BOUND, self.log.publish(&facts, rows)).await.unwrap().unwrap().durability
    }

    fn publishing(&self, facts: Vec<Fact>, rows: Rows) -> JoinHandle<Result<Receipt>> {
        let log = self.log.clone();
        tokio::spawn(async move { log.publish(&facts, rows).await })
    }

    /// Breaks the ledger and publishes until the journal has no room; says how many it has, and gives
    /// who waits without a place.
    async fn fill(&self, world: &World) -> (u128, JoinHandle<Result<Receipt>>) {
        world.faults.break_method("append");
        for n in 0..100 {
            let caller = self.publishing(vec![world.fact(of_ann(n))], Rows::Keep);
            eventually("it has an answer", || caller.is_finished() || self.log.state().full).await;
            if self.log.state().full {
                return (n, caller);
            }
            assert_eq!(caller.await.unwrap().unwrap().durability, Durability::Journal);
        }
        panic!("the journal is not full")
    }

    /// Ends all of its tasks where they are.
    async fn kill(mut self) {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What becomes of a call.
enum Turn {
    /// It happens.
    Go,
    /// Nothing happens, and nobody knows.
    Fail,
    /// It happens, and nobody knows.
    Lose,
    /// So many entries are written, and nobody knows.
    Tear(usize),
    /// The same, and there is no answer before it is released.
    TearAndHold(usize, Hold),
    /// It happens when it is released.
    HoldCall(Hold),
    /// It happens, and the answer comes when it is released.
    HoldAnswer(Hold),
    /// What is stored contradicts itself.
    Contradict,
}

/// Calls that wait until they are released.
#[derive(Clone, Default)]
struct Hold(Arc<(watch::Sender<usize>, watch::Sender<bool>)>);

impl Hold {
    async fn reached(&self, calls: usize) {
        let mut reached = self.0.0.subscribe();
        timeout(BOUND, reached.wait_for(|reached| *reached >= calls)).await.unwrap().unwrap();
    }

    fn release(&self) {
        self.0.1.send_replace(true);
    }

    async fn pass(&self) {
        self.0.0.send_modify(|reached| *reached += 1);
        self.0.1.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// What becomes of calls, and what they were.
#[derive(Default)]
struct Faults {
    turns: Mutex<HashMap<&'static str, VecDeque<Turn>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
    broken: Mutex<HashSet<&'static str>>,
    broken_rows: Mutex<HashSet<UserId>>,
    broken_logs: Mutex<HashSet<Origin>>,
    /// Logs whose heads are not shown.
    hidden: Mutex<HashSet<Origin>>,
    /// Whether an append is many writes, entries first.
    piecewise: AtomicBool,
    appended: Mutex<Vec<(Vec<Entry>, Vec<Head>)>>,
    /// Heads that were to move beyond the entries.
    ahead: Mutex<Vec<Head>>,
    /// Whose rows were asked about, in order.
    rows_of: Mutex<Vec<UserId>>,
    /// Which logs were read from where.
    read: Mutex<Vec<(Origin, u64)>>,
}

impl Faults {
    fn next(&self, method: &'static str, turn: Turn) {
        lock(&self.turns).entry(method).or_default().push_back(turn);
    }

    /// From now on it fails.
    fn break_method(&self, method: &'static str) {
        lock(&self.broken).insert(method);
    }

    fn break_rows_of(&self, user: UserId) {
        lock(&self.broken_rows).insert(user);
    }

    fn break_log(&self, origin: Origin) {
        lock(&self.broken_logs).insert(origin);
    }

    /// All works again.
    fn mend(&self) {
        lock(&self.broken).clear();
        lock(&self.broken_rows).clear();
        lock(&self.broken_logs).clear();
        lock(&self.hidden).clear();
    }

    fn calls(&self, method: &'static str) -> usize {
        lock(&self.calls).get(method).copied().unwrap_or(0)
    }

    fn appended(&self) -> Vec<(Vec<Entry>, Vec<Head>)> {
        lock(&self.appended).clone()
    }

    fn turn(&self, method: &'static str) -> Turn {
        *lock(&self.calls).entry(method).or_default() += 1;
        if lock(&self.broken).contains(method) {
            return Turn::Fail;
        }
        lock(&self.turns).get_mut(method).and_then(VecDeque::pop_front).unwrap_or(Turn::Go)
    }

    /// A call about the rows of a user.
    async fn rows<T>(
        &self,
        method: &'static str,
        user: UserId,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let turn = self.turn(method);
        lock(&self.rows_of).push(user);
        if lock(&self.broken_rows).contains(&user) {
            return Err(lost());
        }
        match turn {
            Turn::Go => call.await,
            Turn::Lose => call.await.and(Err(lost())),
            Turn::HoldCall(hold) => {
                hold.pass().await;
                call.await
            }
            Turn::HoldAnswer(hold) => {
                let answer = call.await;
                hold.pass().await;
                answer
            }
            Turn::Contradict => Err(StoreError::Inconsistent("as the test asked".into())),
            Turn::Fail | Turn::Tear(_) | Turn::TearAndHold(..) => Err(lost()),
        }
    }
}

fn lost() -> StoreError {
    StoreError::unavailable_because("as the test asked")
}

struct Faulty {
    inner: Stores,
    faults: Arc<Faults>,
}

impl Faulty {
    async fn put(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let ledger = &self.inner.ledger;
        if !self.faults.piecewise.load(Ordering::SeqCst) {
            return ledger.append(entries, heads).await;
        }
        for entry in entries {
            ledger.append(&[*entry], &[]).await?;
        }
        for head in heads {
            if !is_complete(&ledger.entries(head.origin, 0, usize::MAX).await?, head.seq) {
                lock(&self.faults.ahead).push(*head);
            }
            ledger.append(&[], &[*head]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for Faulty {
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let turn = self.faults.turn("append");
        lock(&self.faults.appended).push((entries.to_vec(), heads.to_vec()));
        match turn {
            Turn::Go => self.put(entries, heads).await,
            Turn::Fail | Turn::Contradict => Err(lost()),
            Turn::Lose => self.put(entries, heads).await.and(Err(lost())),
            Turn::Tear(most) => self.put(&entries[..most.min(entries.len())], &[]).await.and(Err(lost())),
            Turn::TearAndHold(most, hold) => {
                self.put(&entries[..most.min(entries.len())], &[]).await?;
                hold.pass().await;
                Err(lost())
            }
            Turn::HoldCall(hold) => {
                hold.pass().await;
                self.put(entries, heads).await
            }
            Turn::HoldAnswer(hold) => {
                let answer = self.put(entries, heads).await;
                hold.pass().await;
                answer
            }
        }
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        if matches!(self.faults.turn("heads"), Turn::Fail) {
            return Err(lost());
        }
        let mut heads = self.inner.ledger.heads().await?;
        heads.retain(|head| !lock(&self.faults.hidden).contains(&head.origin));
        Ok(heads)
    }

    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>> {
        lock(&self.faults.read).push((origin, after));
        if lock(&self.faults.broken_logs).contains(&origin) {
            return Err(lost());
        }
        self.inner.ledger.entries(origin, after, limit).await
    }
}

macro_rules! behind_faults {
    ($noun:ident: $store:ident { $($verb:ident($($name:ident: $kind:ty),*) of $user:expr => $answer:ty;)* }) => {
        #[async_trait]
        impl $store for Faulty {
            $(async fn $verb(&self, $($name: $kind),*) -> Result<$answer> {
                let user: UserId = $user;
                self.faults.rows(stringify!($verb), user, self.inner.$noun.$verb($($name),*)).await
            })*
        }
    };
}

behind_faults!(sessions: Sessions {
    open(session: &Session, max: usize) of session.user => Vec<SessionId>;
    get(user: UserId, id: SessionId) of user => Option<Session>;
    latest(user: UserId, id: SessionId) of user => Option<Session>;
    rotate(previous: &Session, next: &Session) of next.user => Rotated;
    end(user: UserId, id: SessionId) of user => bool;
    end_older(user: UserId, version: u64) of user => ();
    list(user: UserId, page: PageOf<SessionId>) of user => Page<Session, SessionId>;
});

behind_faults!(users: Users {
    create(user: &User) of user.id => Created;
    get(id: UserId) of id => Option<User>;
    by_email(email: &FoldedEmail) of UserId::from_bytes([0; 16]) => Option<User>;
    replace(next: &User) of next.id => Replaced;
    delete(id: UserId) of id => ();
    list(page: PageOf<UserId>) of UserId::from_bytes([0; 16]) => Page<User, UserId>;
});

/// Time goes on when the test says so.
struct ManualClock(AtomicU64);

impl ManualClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(schema::time::millis(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Who only listens publishes nothing.
struct Nowhere;

#[async_trait]
impl FactSink for Nowhere {
    async fn publish(&self, _: &[Fact], _: Rows) -> Result<Receipt> {
        Err(lost())
    }
}

/// Every fact that was heard, each time.
#[derive(Default)]
struct Heard(Mutex<Vec<(u8, u64)>>);

impl Heard {
    /// Since this was asked last.
    fn take(&self) -> Vec<(u8, u64)> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// Of one log.
    fn of(&self, log: u8) -> Vec<u64> {
        lock(&self.0).iter().filter(|(of, _)| *of == log).map(|(_, number)| *number).collect()
    }
}

impl SharedCache for Heard {
    fn invalidate(&self, subject: Subject) {
        let Subject::User(user) = subject else { return };
        let said = u128::from_be_bytes(*user.as_bytes());
        let (log, number) = (u8::try_from(said >> 64).unwrap(), said & u128::from(u64::MAX));
        lock(&self.0).push((log, u64::try_from(number).unwrap()));
    }

    fn forget_everything(&self) {}
}

/// The log and the number, as the user of whom an entry speaks.
fn said(origin: Origin, number: u64) -> u128 {
    (u128::from(origin.node.as_bytes()[0]) << 64) | u128::from(number)
}

const fn log(n: u8) -> Origin {
    Origin { node: NodeId::from_bytes([n; 16]), incarnation: 8 }
}

const fn ended(user: UserId, n: u128) -> FactKind {
    FactKind::SessionRevoked { user, session: SessionId::from_bytes(n.to_be_bytes()) }
}

const fn of_ann(n: u128) -> FactKind {
    ended(ANN, n)
}

fn seq(n: u128) -> u64 {
    u64::try_from(n).unwrap()
}

/// Whether all up to there are there.
fn is_complete(entries: &[Entry], seq: u64) -> bool {
    let gapless = (1..).zip(entries).take_while(|(number, entry)| entry.seq == *number).count();
    gapless as u64 >= seq
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again: what is waited for says nothing when it happens.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(BOUND, looking).await.is_ok(), "not in time: {what}");
}
