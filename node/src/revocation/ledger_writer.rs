//! This node's log of facts: numbers them and writes them to the journal and the ledger.
//!
//! ```text
//! publish ─► [thread `journal`: number ─┬► feed (peers)
//!                                       └► journal, one fsync for all waiting callers]
//!              ─► queue ─┬► [task: append to the ledger]
//!                        └► [tasks: delete the rows of revoked sessions]
//! ```
//!
//! | to find | look in |
//! |---|---|
//! | how facts get their numbers and into the journal | `numbering` |
//! | how entries are written to the ledger | `append` |
//! | how rows of revoked sessions are deleted | `row_deletion` |
//!
//! While the store answers, a caller waits for the ledger and for the deletion of its own rows; while it does
//! not, the journal suffices. An entry that could not be written keeps its number and its place: the log has
//! no gaps, and its head in the ledger never runs ahead of the entries. Rows are deleted at their own pace,
//! so that ten thousand sessions of one user delay no other caller. A fact without room in the journal is
//! answered only when the ledger has it.
//!
//! The promise of `k` in `Palisade-Visible: k/n`: while the store accepts the log, `k` other nodes refuse the
//! revoked tokens, and the store has the revocation. While it does not ([`Durability::Journal`]), `k` other
//! nodes have the revocation on disk, so that it survives the loss of this node. Peers are asked for that
//! ([`FactFeed::on_disk`]) only in the second case: at once while the store is known to fail, else when it
//! has not answered in time. So an answer with the store up writes to no peer's disk, and no interleaving
//! breaks the promise:
//! - *The store fails after peers have acknowledged*: acknowledgements in memory do not count then; counting
//!   starts with the request that follows the failure.
//! - *A peer's journal is full, or it lost the link before it was asked, or it speaks version 1 of the
//!   protocol*: it does not confirm that the fact is on disk, and is not counted, although it refuses the
//!   tokens.
//! - *A peer restarts after it confirmed*: the record is in its journal, which it writes to the ledger first.
//! - *The store accepts the log after all*: both nodes write the same entry, which does no harm.
//!
//! Entries of other nodes take at most half of the journal, so that no peer can use up the room for this
//! node's own revocations.

mod append;
mod numbering;
pub(super) mod row_deletion;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actors::{Durability, FactSink, Receipt, StoredSessions};
use async_trait::async_trait;
use schema::{
    Clock, Fact,
    ledger::{Entry, Origin},
};
use store::{Result as StoreResult, StoreError, Stores};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, timeout},
};
use tracing::Instrument as _;

use super::{
    feed::FactFeed,
    journal::{Journal, Record},
};
use crate::clock::runtime_now;
use numbering::{Numbered, ToNumber};
use row_deletion::{PendingRows, ROW_DELETES_MAX};

/// Callers that may wait to be numbered.
const QUEUE_MAX: usize = 4_096;
/// How long a call waits for a store that is not known to fail.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call waits for the store if the fact is not in the journal.
const UNJOURNALED_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between retries while the store fails.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Makes this node's facts durable and sends them to its peers.
pub struct LedgerWriter {
    queue: mpsc::Sender<ToNumber>,
    log: Arc<Log>,
}

/// The state of this node's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Entries that are not in the ledger yet.
    pub unwritten: usize,
    /// Whether the last write to the ledger failed.
    pub failing: bool,
    /// Whether the last write to the journal failed, for want of room or another reason.
    pub full: bool,
    /// Bytes of the journal in use, including records that are already released.
    pub used_bytes: u64,
    /// The size of the journal, in bytes.
    pub size_bytes: u64,
}

/// The state that the thread and the tasks share. Records are numbered from 1 when the node starts; entries
/// of its own log also have sequence numbers.
struct Log {
    origin: Origin,
    clock: Arc<dyn Clock>,
    unwritten: Mutex<VecDeque<Queued>>,
    unwritten_added: Notify,
    /// The record up to which all are in the ledger.
    written: watch::Sender<u64>,
    rows: Mutex<PendingRows>,
    row_added: Notify,
    row_deleted: Notify,
    feed: OnceLock<Arc<dyn FactFeed>>,
    is_failing: AtomicBool,
    is_full: AtomicBool,
    /// Facts that are neither in the journal nor in the ledger.
    unjournaled: AtomicUsize,
    /// Entries of other nodes that are not in the ledger yet.
    of_others: AtomicUsize,
    used_bytes: AtomicU64,
    size_bytes: AtomicU64,
}

/// A record on its way to the ledger.
#[derive(Clone, Copy)]
struct Queued {
    number: u64,
    record: Record,
    is_journaled: bool,
}

impl LedgerWriter {
    /// Starts the thread and the tasks. The records `recovered` from the journal are written to the ledger
    /// first. With `is_shared`, the ledger announces this log to other nodes before it has entries.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        stores: Stores,
        clock: Arc<dyn Clock>,
        origin: Origin,
        journal: Journal,
        recovered: &[Record],
        is_shared: bool,
    ) -> std::io::Result<Self> {
        let queued = (1..).zip(recovered).map(|(number, record)| Queued {
            number,
            record: *record,
            is_journaled: true,
        });
        let of_others = recovered.iter().filter(|record| record.entry.origin != origin).count();
        let (used, size) = journal.used();
        let log = Arc::new(Log {
            origin,
            clock,
            unwritten: Mutex::new(queued.collect()),
            unwritten_added: Notify::new(),
            written: watch::Sender::new(0),
            rows: Mutex::default(),
            row_added: Notify::new(),
            row_deleted: Notify::new(),
            feed: OnceLock::new(),
            is_failing: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            unjournaled: AtomicUsize::new(0),
            of_others: AtomicUsize::new(of_others),
            used_bytes: AtomicU64::new(used),
            size_bytes: AtomicU64::new(size),
        });
        log.add_rows(1, recovered);
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let last = u64::try_from(recovered.len()).unwrap_or(u64::MAX);
        let numbering = log.clone();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || numbering.number_all(waiting, journal, last))?;
        for _ in 0..ROW_DELETES_MAX {
            tokio::spawn(log.clone().delete_rows(stores.clone()));
        }
        tokio::spawn(log.clone().append_all(stores, is_shared));
        Ok(Self { queue, log })
    }

    /// Writes entries of another node's log to the journal, since that node cannot write them to the ledger.
    /// When the store is back, this node writes them to the ledger and deletes their rows. Returns whether
    /// they are on disk: there may be no room.
    pub async fn keep_for_others(&self, entries: Vec<Entry>) -> bool {
        let (reply, kept) = oneshot::channel();
        self.queue.try_send(ToNumber::OfOthers(entries, reply)).is_ok() && kept.await.unwrap_or(false)
    }

    /// Sets the feed that receives numbered facts and whose acknowledgements calls wait for. Call it once,
    /// before the first publish.
    pub fn feed(&self, feed: Arc<dyn FactFeed>) {
        let _ = self.log.feed.set(feed);
    }

    /// The state of this node's log.
    #[must_use]
    pub fn state(&self) -> LogState {
        LogState {
            unwritten: self.log.unwritten().len(),
            failing: self.log.is_failing.load(Ordering::Relaxed),
            full: self.log.is_full.load(Ordering::Relaxed),
            used_bytes: self.log.used_bytes.load(Ordering::Relaxed),
            size_bytes: self.log.size_bytes.load(Ordering::Relaxed),
        }
    }

    /// Waits up to `wait` until the ledger has everything published so far. Returns whether it has.
    pub async fn flush(&self, wait: Duration) -> bool {
        let last = self.log.unwritten().back().map_or(0, |queued| queued.number);
        // The borrow must end before the wait: it blocks the sender.
        let last = last.max(*self.log.written.borrow());
        timeout(wait, self.log.settled(0, last)).await.is_ok()
    }
}

#[async_trait]
impl FactSink for LedgerWriter {
    async fn publish(&self, facts: &[Fact], rows: StoredSessions) -> StoreResult<Receipt> {
        if facts.is_empty() {
            let (visible, live) = self.log.visible(0, 0, runtime_now()).await;
            return Ok(Receipt { visible, live, durability: Durability::Store });
        }
        let (reply, numbered) = oneshot::channel();
        self.queue.try_send(ToNumber::Own(facts.to_vec(), rows, reply)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::unavailable("too many revocations wait for the journal"),
            TrySendError::Closed(_) => {
                StoreError::unavailable("the journal's thread has ended; restart the node")
            }
        })?;
        let refused = || StoreError::unavailable("neither the journal nor the ledger has room");
        let Numbered { first, last, seq, published_at, is_journaled } =
            numbered.instrument(tracing::info_span!("journal")).await.map_err(|_| refused())?;
        let wait = match (is_journaled, self.log.is_failing.load(Ordering::Relaxed)) {
            (true, true) => Duration::ZERO,
            (true, false) => STORE_TIMEOUT,
            (false, _) => UNJOURNALED_TIMEOUT,
        };
        let first_seq = seq - (last - first);
        let durable = async {
            let settled = self.log.settled(first, last).instrument(tracing::info_span!("ledger"));
            match timeout(wait, settled).await {
                Ok(()) => Ok(None),
                Err(_) if is_journaled => Ok(Some(self.log.on_disk(first_seq, seq).await)),
                Err(_) => Err(refused()),
            }
        };
        let (durable, visible) = tokio::join!(durable, self.log.visible(first_seq, seq, published_at));
        let (durability, (visible, live)) = match durable? {
            None => (Durability::Store, visible),
            Some(on_disk) => (Durability::Journal, on_disk),
        };
        Ok(Receipt { visible, live, durability })
    }
}

impl Log {
    fn unwritten(&self) -> MutexGuard<'_, VecDeque<Queued>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`FactFeed::visible`]; `(0, 0)` without a feed.
    async fn visible(&self, first: u64, last: u64, published_at: Instant) -> (u32, u32) {
        match self.feed.get() {
            Some(feed) => feed.visible(first, last, published_at).await,
            None => (0, 0),
        }
    }

    /// [`FactFeed::on_disk`]; `(0, 0)` without a feed.
    async fn on_disk(&self, first: u64, last: u64) -> (u32, u32) {
        match self.feed.get() {
            Some(feed) => feed.on_disk(first, last).await,
            None => (0, 0),
        }
    }

    /// Waits until the ledger has all records up to `last`, and the rows of records `first` to `last` are
    /// deleted.
    async fn settled(&self, first: u64, last: u64) {
        // This object owns the sender, so it stays open during the wait.
        let _ = self.written.subscribe().wait_for(|written| *written >= last).await;
        loop {
            let mut deleted = std::pin::pin!(self.row_deleted.notified());
            deleted.as_mut().enable();
            if !self.rows().has_any(first..=last) {
                return;
            }
            deleted.await;
        }
    }

    /// The record up to which the journal is released.
    fn released(&self) -> u64 {
        let written = *self.written.borrow();
        self.rows().first().map_or(written, |pending| written.min(pending - 1))
    }
}
