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

/// What the next write comes to.
#[derive(Clone, Copy)]
enum Write {
    Applied,
    NotApplied,
    Unanswered,
    NeverSent,
    /// Not answered, ever.
    Hangs,
}

/// What the next look shows.
#[derive(Clone, Copy)]
enum Look {
    Shows(Verdict),
    Fails,
    Strange,
}

/// A script of writes and looks; the last of each goes on for ever.
struct Script {
    store: Store,
    writes: Mutex<VecDeque<Write>>,
    looks: Mutex<VecDeque<Look>>,
    written: AtomicUsize,
    looked: AtomicUsize,
}

fn next<T: Copy>(queue: &Mutex<VecDeque<T>>) -> T {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.len() > 1 { queue.pop_front().unwrap() } else { *queue.front().unwrap() }
}

impl Script {
    fn of(writes: &[Write], looks: &[Look]) -> Self {
        let status = Arc::new(Status::new());
        Self {
            store: Store::new(status, ManualClocks::at(Timestamp::from_secs(1)).clocks(), Arc::new(Fixed)),
            writes: Mutex::new(writes.iter().copied().collect()),
            looks: Mutex::new(looks.iter().copied().collect()),
            written: AtomicUsize::new(0),
            looked: AtomicUsize::new(0),
        }
    }

    async fn write(&self) -> std::result::Result<bool, Unanswered> {
        self.written.fetch_add(1, Relaxed);
        match next(&self.writes) {
            Write::Applied => Ok(true),
            Write::NotApplied => Ok(false),
            Write::Unanswered => {
                Err(Unanswered::Perhaps(Box::new(ExecutionError::RequestTimeout(Duration::from_secs(2)))))
            }
            Write::NeverSent => Err(Unanswered::Never(StoreError::unavailable_because("not sent"))),
            Write::Hangs => std::future::pending().await,
        }
    }

    async fn look(&self) -> Result<Verdict> {
        self.looked.fetch_add(1, Relaxed);
        match next(&self.looks) {
            Look::Shows(verdict) => Ok(verdict),
            Look::Fails => Err(StoreError::unavailable_because("no answer")),
            Look::Strange => Err(StoreError::Inconsistent("a row".to_owned())),
        }
    }

    async fn run(&self) -> Result<Settled<Verdict>> {
        self.store.settle(|| self.write(), || self.look(), |verdict| *verdict).await
    }

    /// Writes, looks, and outcomes that are not known.
    fn counts(&self) -> (usize, usize, u64) {
        let unknown = self.store.0.status.counters().unknown;
        (self.written.load(Relaxed), self.looked.load(Relaxed), unknown)
    }
}

use Look::{Fails, Shows, Strange};
use Verdict::{Before, Done, Otherwise, Unsure};
use Write::{Applied, Hangs, NeverSent, NotApplied, Unanswered as Lost};

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_believed() {
    let yes = Script::of(&[Applied], &[Shows(Otherwise)]);
    assert_eq!(yes.run().await.unwrap(), Settled::Done);
    assert_eq!(yes.counts(), (1, 0, 0));
    for there in [Done, Otherwise, Before, Unsure] {
        let no = Script::of(&[NotApplied], &[Shows(there)]);
        assert_eq!(no.run().await.unwrap(), Settled::Not(there), "it was never ours");
        assert_eq!(no.counts(), (1, 1, 0));
    }
    let never = Script::of(&[NeverSent], &[Shows(Done)]);
    assert!(matches!(never.run().await, Err(StoreError::Unavailable(_))));
    assert_eq!(never.counts(), (1, 0, 0));
    let refused = Script::of(&[NotApplied], &[Fails]);
    assert!(matches!(refused.run().await, Err(StoreError::Unavailable(_))));
    assert_eq!(refused.counts(), (1, 2, 0), "it did not happen, so its outcome is known");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_answered_is_asked() {
    for (looks, settled, counts) in [
        (&[Shows(Done)][..], Settled::Done, (1, 1, 0)),
        (&[Shows(Otherwise)], Settled::Not(Otherwise), (1, 1, 0)),
        (&[Fails, Fails, Shows(Done)], Settled::Done, (1, 3, 0)),
        (&[Shows(Before), Shows(Done)], Settled::Done, (2, 2, 0)),
        (&[Shows(Before), Shows(Before), Shows(Otherwise)], Settled::Not(Otherwise), (3, 3, 0)),
    ] {
        let lost = Script::of(&[Lost], looks);
        assert_eq!(lost.run().await.unwrap(), settled);
        assert_eq!(lost.counts(), counts);
    }
}

#[tokio::test(start_paused = true)]
async fn what_did_not_happen_yet_is_tried_again() {
    let again = Script::of(&[Lost, Applied], &[Shows(Before)]);
    assert_eq!(again.run().await.unwrap(), Settled::Done);
    assert_eq!(again.counts(), (2, 1, 0));
    // The first write lands after we looked: the second is refused by it, and it is as we wanted.
    let late = Script::of(&[Lost, NotApplied], &[Shows(Before), Shows(Done)]);
    assert_eq!(late.run().await.unwrap(), Settled::Done);
    assert_eq!(late.counts(), (2, 2, 0));
    let other = Script::of(&[Lost, NotApplied], &[Shows(Before), Shows(Otherwise)]);
    assert_eq!(other.run().await.unwrap(), Settled::Not(Otherwise));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_learned_is_unavailable_and_counted() {
    for (writes, looks, (written, unknown)) in [
        (&[Lost][..], &[Shows(Before)][..], (3, 1)),
        (&[Lost], &[Shows(Unsure)], (1, 1)),
        (&[Lost], &[Fails], (1, 1)),
        (&[Lost], &[Strange], (1, 1)),
        (&[Lost, NeverSent], &[Shows(Before)], (2, 1)),
        (&[Lost, NotApplied], &[Shows(Before), Fails], (2, 1)),
    ] {
        let lost = Script::of(writes, looks);
        assert!(matches!(lost.run().await, Err(StoreError::Unavailable(_))));
        let (w, _, u) = lost.counts();
        assert_eq!((w, u), (written, unknown));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_is_counted() {
    let hangs = Script::of(&[Hangs], &[Fails]);
    assert!(matches!(hangs.store.within(hangs.run()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(hangs.counts(), (1, 0, 1));
    let asks = Script::of(&[Lost, Hangs], &[Shows(Before)]);
    assert!(matches!(asks.store.within(asks.run()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(asks.counts(), (2, 1, 1));
}
