use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::AtomicUsize},
};

use schema::{Entropy, Timestamp, horizon::manual::ManualClocks};

use super::*;

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// The result of the next write.
#[derive(Clone, Copy)]
enum Write {
    Applied,
    Rejected,
    Unanswered,
    NotSent,
    /// Never returns.
    Hangs,
}

/// The result of the next read of the current row.
#[derive(Clone, Copy)]
enum Read {
    Shows(Reconciled),
    Fails,
    Malformed,
}

/// A script of results of writes and reads; the last of each repeats for ever.
struct Script {
    store: Store,
    writes: Mutex<VecDeque<Write>>,
    reads: Mutex<VecDeque<Read>>,
    writes_done: AtomicUsize,
    reads_done: AtomicUsize,
}

fn next<T: Copy>(queue: &Mutex<VecDeque<T>>) -> T {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.len() > 1 { queue.pop_front().unwrap() } else { *queue.front().unwrap() }
}

impl Script {
    fn of(writes: &[Write], reads: &[Read]) -> Self {
        let status = Arc::new(Status::new());
        Self {
            store: Store::new(status, ManualClocks::at(Timestamp::from_secs(1)).clocks(), Arc::new(Fixed)),
            writes: Mutex::new(writes.iter().copied().collect()),
            reads: Mutex::new(reads.iter().copied().collect()),
            writes_done: AtomicUsize::new(0),
            reads_done: AtomicUsize::new(0),
        }
    }

    async fn write(&self) -> std::result::Result<bool, CasFailure> {
        self.writes_done.fetch_add(1, Relaxed);
        match next(&self.writes) {
            Write::Applied => Ok(true),
            Write::Rejected => Ok(false),
            Write::Unanswered => {
                Err(CasFailure::Ambiguous(Box::new(ExecutionError::RequestTimeout(Duration::from_secs(2)))))
            }
            Write::NotSent => Err(CasFailure::NotSent(StoreError::unavailable_because("not sent"))),
            Write::Hangs => std::future::pending().await,
        }
    }

    async fn read(&self) -> Result<Reconciled> {
        self.reads_done.fetch_add(1, Relaxed);
        match next(&self.reads) {
            Read::Shows(shown) => Ok(shown),
            Read::Fails => Err(StoreError::unavailable_because("no answer")),
            Read::Malformed => Err(StoreError::Inconsistent("a row".to_owned())),
        }
    }

    async fn run(&self) -> Result<CasOutcome<Reconciled>> {
        self.store.apply_or_reconcile(|| self.write(), || self.read(), |shown| *shown).await
    }

    fn counts(&self) -> Counts {
        Counts {
            writes: self.writes_done.load(Relaxed),
            reads: self.reads_done.load(Relaxed),
            unknown: self.store.0.status.counters().unknown,
        }
    }
}

use Read::{Fails, Malformed, Shows};
use Reconciled::{NotApplied, Superseded, Unknown};

const DONE: Read = Shows(Reconciled::Applied);

/// What a call did: writes, reads of the current row, outcomes that stayed unknown.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    writes: usize,
    reads: usize,
    unknown: u64,
}

const fn counts(writes: usize, reads: usize, unknown: u64) -> Counts {
    Counts { writes, reads, unknown }
}

#[tokio::test(start_paused = true)]
async fn answered_write_is_final() {
    let applied = Script::of(&[Write::Applied], &[Shows(Superseded)]);
    assert_eq!(applied.run().await.unwrap(), CasOutcome::Applied);
    assert_eq!(applied.counts(), counts(1, 0, 0));
    for current in [Reconciled::Applied, Superseded, NotApplied, Unknown] {
        let rejected = Script::of(&[Write::Rejected], &[Shows(current)]);
        assert_eq!(rejected.run().await.unwrap(), CasOutcome::Rejected(current), "it was never ours");
        assert_eq!(rejected.counts(), counts(1, 1, 0));
    }
    let not_sent = Script::of(&[Write::NotSent], &[DONE]);
    assert!(matches!(not_sent.run().await, Err(StoreError::Unavailable(_))));
    assert_eq!(not_sent.counts(), counts(1, 0, 0));
    let rejected = Script::of(&[Write::Rejected], &[Fails]);
    assert!(matches!(rejected.run().await, Err(StoreError::Unavailable(_))));
    assert_eq!(rejected.counts(), counts(1, 2, 0), "it was not applied, so its outcome is known");
}

#[tokio::test(start_paused = true)]
async fn unanswered_write_is_reconciled_with_the_current_row() {
    for (reads, outcome, expected) in [
        (&[DONE][..], CasOutcome::Applied, counts(1, 1, 0)),
        (&[Shows(Superseded)], CasOutcome::Rejected(Superseded), counts(1, 1, 0)),
        (&[Fails, Fails, DONE], CasOutcome::Applied, counts(1, 3, 0)),
        (&[Shows(NotApplied), DONE], CasOutcome::Applied, counts(2, 2, 0)),
        (
            &[Shows(NotApplied), Shows(NotApplied), Shows(Superseded)],
            CasOutcome::Rejected(Superseded),
            counts(3, 3, 0),
        ),
    ] {
        let script = Script::of(&[Write::Unanswered], reads);
        assert_eq!(script.run().await.unwrap(), outcome);
        assert_eq!(script.counts(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn write_that_was_not_applied_is_repeated() {
    let again = Script::of(&[Write::Unanswered, Write::Applied], &[Shows(NotApplied)]);
    assert_eq!(again.run().await.unwrap(), CasOutcome::Applied);
    assert_eq!(again.counts(), counts(2, 1, 0));
    // The first write lands after the read: it makes the second one fail, and the row is as wanted.
    let late = Script::of(&[Write::Unanswered, Write::Rejected], &[Shows(NotApplied), DONE]);
    assert_eq!(late.run().await.unwrap(), CasOutcome::Applied);
    assert_eq!(late.counts(), counts(2, 2, 0));
    let other = Script::of(&[Write::Unanswered, Write::Rejected], &[Shows(NotApplied), Shows(Superseded)]);
    assert_eq!(other.run().await.unwrap(), CasOutcome::Rejected(Superseded));
}

#[tokio::test(start_paused = true)]
async fn unknown_outcome_is_unavailable_and_counted() {
    let unanswered = Write::Unanswered;
    for (writes, reads, written, unknown) in [
        (&[unanswered][..], &[Shows(NotApplied)][..], 3, 1),
        (&[unanswered], &[Shows(Unknown)], 1, 1),
        (&[unanswered], &[Fails], 1, 1),
        (&[unanswered], &[Malformed], 1, 1),
        (&[unanswered, Write::NotSent], &[Shows(NotApplied)], 2, 1),
        (&[unanswered, Write::Rejected], &[Shows(NotApplied), Fails], 2, 1),
    ] {
        let script = Script::of(writes, reads);
        assert!(matches!(script.run().await, Err(StoreError::Unavailable(_))));
        assert_eq!(script.counts().writes, written);
        assert_eq!(script.counts().unknown, unknown);
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_is_dropped_counts_as_unknown() {
    let hangs = Script::of(&[Write::Hangs], &[Fails]);
    assert!(matches!(hangs.store.within(hangs.run()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(hangs.counts(), counts(1, 0, 1));
    let reads = Script::of(&[Write::Unanswered, Write::Hangs], &[Shows(NotApplied)]);
    assert!(matches!(reads.store.within(reads.run()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(reads.counts(), counts(2, 1, 1));
}
