use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use schema::horizon::manual::horizon_at;

use super::super::log::{BLOCK_ENTRIES, Log};
use super::*;

const SKEW_MAX: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
enum Act {
    Insert { first: u64, count: u64, until: u64 },
    Skip(u64),
    Forget(u64),
    Shed,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1..1_200_u64, 1..400_u64, 0..100_u64)
            .prop_map(|(first, count, until)| Act::Insert { first, count, until }),
        // Low numbers, so that entries become complete.
        4 => (0..3_u64, 200..300_u64, 0..100_u64)
            .prop_map(|(block, count, until)| Act::Insert { first: block * BLOCK_ENTRIES + 1, count, until }),
        1 => (0..1_000_u64).prop_map(Act::Skip),
        2 => (0..150_u64).prop_map(Act::Forget),
        1 => Just(Act::Shed),
    ]
}

/// What a log must do, written without regard for memory or speed.
#[derive(Debug, Default)]
struct Naive {
    held: BTreeMap<u64, Fact>,
    ever: BTreeSet<u64>,
    skipped: u64,
    complete: u64,
    forgotten: u64,
    forgotten_until: u64,
    latest: u64,
}

const fn block(seq: u64) -> u64 {
    (seq - 1) / BLOCK_ENTRIES
}

impl Naive {
    fn insert(&mut self, seq: u64, fact: Fact) -> bool {
        self.latest = self.latest.max(fact.until.as_millis());
        if seq <= self.forgotten || self.held.contains_key(&seq) {
            return false;
        }
        self.held.insert(seq, fact);
        self.ever.insert(seq);
        self.advance();
        true
    }

    fn skip(&mut self, seq: u64) {
        self.skipped = self.skipped.max(seq);
        self.complete = self.complete.max(seq);
        self.advance();
    }

    fn advance(&mut self) {
        while self.held.contains_key(&(self.complete + 1)) {
            self.complete += 1;
        }
    }

    fn first_block(&self) -> Option<u64> {
        self.held.first_key_value().map(|(seq, _)| block(*seq))
    }

    fn until(&self, of: u64) -> u64 {
        let mine = self.held.iter().filter(|(seq, _)| block(**seq) == of);
        mine.map(|(_, fact)| fact.until.as_millis()).max().unwrap_or(0)
    }

    fn is_done(&self, of: u64) -> bool {
        (of + 1) * BLOCK_ENTRIES <= self.complete
    }

    fn drop_block(&mut self, of: u64) -> usize {
        let before = self.held.len();
        self.held.retain(|seq, _| block(*seq) != of);
        before - self.held.len()
    }

    fn forget_first(&mut self, of: u64) -> usize {
        self.forgotten = self.forgotten.max((of + 1) * BLOCK_ENTRIES);
        self.forgotten_until = self.forgotten_until.max(self.until(of));
        self.drop_block(of)
    }

    fn forget(&mut self, now: u64) -> usize {
        let mut gone = 0;
        let skipped = self.held.keys().next().map_or(self.complete, |held| self.complete.min(held - 1));
        if skipped > self.forgotten {
            self.forgotten = skipped;
            self.forgotten_until = self.forgotten_until.max(now.saturating_sub(10));
        }
        while let Some(of) = self.first_block()
            && self.is_done(of)
            && self.until(of) + 10 < now
        {
            gone += self.forget_first(of);
        }
        gone
    }

    fn shed(&mut self) -> usize {
        let Some(first) = self.first_block() else { return 0 };
        if self.is_done(first) {
            return self.forget_first(first);
        }
        let last = block(*self.held.last_key_value().unwrap().0);
        if last * BLOCK_ENTRIES < self.complete {
            // The only block.
            self.forgotten = self.forgotten.max(self.complete);
            self.forgotten_until = self.forgotten_until.max(self.until(last));
        }
        self.drop_block(last)
    }

    fn run(&self, first: u64, last: u64, most: usize) -> Option<(u64, Vec<Fact>)> {
        let start = *self.held.range(first.max(1)..).next()?.0;
        if start > last {
            return None;
        }
        let unbroken = (start..=last).map_while(|seq| self.held.get(&seq).copied());
        Some((start, unbroken.take(most).collect()))
    }
}

proptest! {
    #[test]
    fn log_behaves_as_its_model(
        acts in prop::collection::vec(act(), 1..25),
        asked in prop::collection::vec((1..1_700_u64, 0..600_u64, 1..600_usize), 8),
    ) {
        let mut log = Log::default();
        let mut model = Naive::default();
        let mut n = 0;
        for act in acts {
            match act {
                Act::Insert { first, count, until } => for seq in first..first + count {
                    n += 1;
                    let fact = fact(n, Timestamp::from_millis(until));
                    prop_assert_eq!(log.insert(seq, fact), model.insert(seq, fact));
                },
                Act::Skip(seq) => {
                    log.skip_to(seq);
                    model.skip(seq);
                }
                Act::Forget(now) => {
                    prop_assert_eq!(log.forget(horizon_at(Timestamp::from_millis(now)), SKEW_MAX), model.forget(now));
                }
                Act::Shed => prop_assert_eq!(log.shed(), model.shed()),
            }
            prop_assert_eq!(log.kept(), model.held.len());
            let held = model.held.len() * size_of::<Fact>();
            let blocks: BTreeSet<_> = model.held.keys().map(|seq| block(*seq)).collect();
            prop_assert!(held <= log.bytes() && log.bytes() <= 2 * held + 600 * blocks.len());
            prop_assert_eq!(log.complete(), model.complete);
            prop_assert_eq!(log.forgotten().seq, model.forgotten);
            prop_assert_eq!(log.forgotten().until.as_millis(), model.forgotten_until);
            prop_assert_eq!(log.until().as_millis(), model.latest);
            prop_assert!(log.highest() >= log.complete());
            prop_assert!(log.forgotten().seq <= log.complete());
            let applied = log.applied();
            prop_assert_eq!(applied.complete, model.complete);
            let (from, to) = applied.newest;
            prop_assert!((from == 0) == (to == 0) && from <= to);
            prop_assert!((from..=to).all(|seq| seq == 0 || model.ever.contains(&seq)), "{:?}", applied);
            prop_assert!((1..=model.complete).all(|seq| seq <= model.skipped || model.ever.contains(&seq)));
        }
        for (first, length, most) in asked {
            let last = first + length;
            prop_assert_eq!(log.run(first, last, most), model.run(first, last, most));
            prop_assert_eq!(log.holds(first), model.held.contains_key(&first));
            let missing = (first..).find(|seq| !model.held.contains_key(seq)).unwrap();
            prop_assert_eq!(log.next_missing(first), missing);
        }
        let blocks = model.first_block().map(|first| first..=block(*model.held.last_key_value().unwrap().0));
        prop_assert_eq!(log.blocks(), blocks);
    }

    #[test]
    fn insertion_order_does_not_change_log_and_checksums(
        order in Just((1..=3 * BLOCK_ENTRIES).collect::<Vec<_>>()).prop_shuffle(),
        lives in 0..1_000_u64,
    ) {
        let mut log = Log::default();
        let mut other = Log::default();
        for seq in &order {
            prop_assert!(log.insert(*seq, fact(*seq, Timestamp::from_millis(lives))));
            prop_assert!(!log.insert(*seq, fact(*seq, Timestamp::from_millis(lives))));
            prop_assert!(log.applied().covers(*seq, *seq) || *seq < log.highest());
        }
        // The expiry of a fact is not part of the checksum.
        (1..=3 * BLOCK_ENTRIES).for_each(|seq| assert!(other.insert(seq, fact(seq, Timestamp::MAX))));
        prop_assert_eq!(log.applied(), other.applied());
        prop_assert_eq!(log.sums(0, 4), other.sums(0, 4));
        prop_assert!(log.sums(0, 3).iter().all(|sum| *sum != 0));
        prop_assert_eq!(log.sums(3, 2), vec![0, 0]);
    }
}

#[test]
fn newest_run_is_known_above_a_gap() {
    let mut log = Log::default();
    for seq in [1, 2, 10, 11, 12] {
        log.insert(seq, fact(seq, Timestamp::MAX));
    }
    let applied = log.applied();
    assert_eq!((applied.complete, applied.newest), (2, (10, 12)));
    (3..10).for_each(|seq| assert!(log.insert(seq, fact(seq, Timestamp::MAX))));
    let applied = log.applied();
    assert_eq!((applied.complete, applied.newest), (12, (0, 0)));
}

#[test]
fn different_entry_has_a_different_checksum() {
    let mut log = Log::default();
    let mut other = Log::default();
    for seq in 1..=BLOCK_ENTRIES {
        log.insert(seq, fact(seq, Timestamp::MAX));
        other.insert(seq, fact(if seq == 77 { 1_000 } else { seq }, Timestamp::MAX));
    }
    assert_ne!(log.sums(0, 1), other.sums(0, 1));
}

#[test]
fn block_with_a_gap_is_not_forgotten_nor_summed() {
    let mut log = Log::default();
    let ended = Timestamp::from_millis(1);
    for seq in (1..=BLOCK_ENTRIES).filter(|seq| *seq != 100) {
        log.insert(seq, fact(seq, ended));
    }
    assert_eq!(log.sums(0, 1), [0]);
    assert_eq!(log.forget(horizon_at(Timestamp::MAX), SKEW_MAX), 0);
    log.insert(100, fact(100, Timestamp::from_millis(500)));
    assert_eq!(
        log.forget(horizon_at(Timestamp::from_millis(510)), SKEW_MAX),
        0,
        "the last of them matters still"
    );
    assert_eq!(log.forget(horizon_at(Timestamp::from_millis(511)), SKEW_MAX), 256);
    assert_eq!(log.forgotten().seq, BLOCK_ENTRIES);
    assert_eq!(log.forgotten().until.as_millis(), 500);
}
