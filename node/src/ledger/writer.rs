//! This node's log of facts: numbered, on disk, in the ledger.
//!
//! ```text
//! publish ─► [thread: number ─┬► peers
//!                             └► journal, one fsync for all who wait] ─► queue ─┬► [task: ledger]
//!                                                                               └► [tasks: rows]
//! ```
//!
//! An answer waits for the ledger and its own rows as long as the store answers; when it does not, what
//! is in the journal is enough. What could not be written keeps its number and its place: the log has
//! no gaps, and the head never runs ahead of the entries. Rows have their own pace: ten thousand
//! sessions of one user hold up nobody else. A fact that found no room in the journal is answered only
//! when the ledger has it.
//!
//! What `k` of `Palisade-Visible: k/n` promises. While the store takes the log, `k` other nodes refuse what
//! was revoked, and the store has it. When it does not ([`Durability::Journal`]), `k` other nodes have it on
//! their disks, so that it outlives the loss of this one. Peers are asked for that
//! ([`Cluster::on_disk`](cluster::Cluster::on_disk)) only then: at once while the store is known to fail,
//! else when it has not answered in time. So an answer with the store up costs no peer's disk, and no
//! interleaving breaks the promise:
//! - *The store fails after peers have acknowledged*: acknowledgements in memory are not what is counted
//!   then; the count begins with the request that follows the failure.
//! - *A peer's journal is full, or it lost the link before it was asked, or it speaks version 1 of the
//!   protocol*: it does not say that it keeps it, and is not counted, though it refuses.
//! - *A peer restarts after it said so*: the record is in its journal, which goes to the ledger first.
//! - *The store takes the log after all*: then both have it; the same entry is written twice.
//!
//! What is kept for others takes at most half of the journal, so that no peer can use up the room for what
//! this node revokes itself.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actors::{Durability, FactSink, Receipt, Rows, end_rows};
use async_trait::async_trait;
use cluster::Cluster;
use schema::{
    Clock, Fact, Stores,
    ledger::{Entry, Head, Origin},
    store::{Result as StoreResult, StoreError},
    time::CLOCK_SKEW,
};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, timeout},
};

use super::journal::{Journal, JournalError, Record};

/// How many callers may wait to be numbered.
const QUEUE: usize = 4_096;
/// How many callers share one write of the journal.
const GROUP: usize = 512;
/// How many facts may wait for the ledger that found no room in the journal.
const MAX_UNKEPT: usize = 10_000;
/// The longest record of the journal, in bytes, as far as counting goes.
const RECORD: u64 = 320;
/// How many entries are written to the ledger at a time, and rows of how many facts are ended at once.
const BATCH: usize = 256;
/// Who has more rows than this to end waits for others.
const MANY: usize = 64;
pub(super) const ROWS: usize = 32;
/// How long an answer waits for a store that has not said that it fails.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for what is in no journal.
const UNKEPT_PATIENCE: Duration = Duration::from_secs(5);
/// Between tries of a store that fails.
const RETRY: Duration = Duration::from_millis(500);
/// How often the store may answer about rows what makes no sense: for ten minutes, about.
pub(super) const MAX_CONTRADICTIONS: u32 = 150;
/// How often a log that stands still says that it exists.
const ANNOUNCE: Duration = Duration::from_secs(3_600);

/// What is to be kept.
enum Waiting {
    /// What this node takes away.
    Own(Vec<Fact>, Rows, oneshot::Sender<Numbered>),
    /// What it heard, as long as others cannot write it to the ledger.
    Heard(Vec<Entry>, oneshot::Sender<bool>),
}

/// What became of facts that were to be numbered.
struct Numbered {
    first: u64,
    last: u64,
    /// The last one's number in this node's log, and when peers were told.
    seq: u64,
    pushed_at: Instant,
    kept: bool,
}

/// Makes facts durable.
pub struct LedgerWriter {
    queue: mpsc::Sender<Waiting>,
    log: Arc<Log>,
}

/// How the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Entries that the ledger does not have.
    pub unwritten: usize,
    /// Whether the store did not take them when it was asked last.
    pub failing: bool,
    /// Whether the journal had no room, or could not be written, when it was used last.
    pub full: bool,
    /// Bytes of the journal in use; some may be released.
    pub used_bytes: u64,
    /// Bytes of the journal.
    pub size_bytes: u64,
}

/// What the thread and the task share.
struct Log {
    origin: Origin,
    clock: Arc<dyn Clock>,
    unwritten: Mutex<VecDeque<Queued>>,
    arrived: Notify,
    /// The number up to which everything is in the ledger.
    written: watch::Sender<u64>,
    rows: Mutex<LeftRows>,
    row_came: Notify,
    row_gone: Notify,
    peers: OnceLock<Arc<Cluster>>,
    failing: AtomicBool,
    full: AtomicBool,
    unkept: AtomicUsize,
    /// Entries of others that are not in the ledger yet.
    of_others: AtomicUsize,
    used_bytes: AtomicU64,
    size_bytes: AtomicU64,
}

/// Rows that are to go.
#[derive(Default)]
struct LeftRows {
    /// The numbers of their facts.
    left: BTreeSet<u64>,
    /// Those that nobody is at: of callers with few, and of those with many, who come second.
    few: VecDeque<Row>,
    many: VecDeque<Row>,
}

/// The rows of one fact, and how often they did not go.
#[derive(Clone, Copy)]
pub(super) struct Row {
    number: u64,
    fact: Fact,
    tries: u32,
    contradictions: u32,
}

impl Row {
    pub(super) const fn new(number: u64, fact: Fact) -> Self {
        Self { number, fact, tries: 0, contradictions: 0 }
    }

    /// How long until it is tried again after this error, each time twice as long, up to 4 s; `None` when
    /// that is of no use. One answer that makes no sense may be a fault of the way to the store; a row that
    /// never makes sense must not keep its place in the journal for ever.
    pub(super) fn failed(&mut self, error: &StoreError) -> Option<Duration> {
        if let StoreError::Inconsistent(_) = error {
            self.contradictions += 1;
            if self.contradictions > MAX_CONTRADICTIONS {
                return None;
            }
        }
        let pause = RETRY * (1 << self.tries.min(3));
        self.tries += 1;
        Some(pause)
    }
}

#[derive(Clone, Copy)]
struct Queued {
    number: u64,
    record: Record,
    kept: bool,
}

impl LedgerWriter {
    /// Starts the thread and the task. What is in the journal already goes first. On a `shared` store
    /// others are told that this log exists before it has entries.
    ///
    /// # Errors
    /// When the thread does not start.
    pub fn start(
        stores: Stores,
        clock: Arc<dyn Clock>,
        origin: Origin,
        journal: Journal,
        left: &[Record],
        shared: bool,
    ) -> std::io::Result<Self> {
        let queued = (1..).zip(left).map(|(number, record)| Queued { number, record: *record, kept: true });
        let (used, size) = journal.used();
        let log = Arc::new(Log {
            origin,
            clock,
            unwritten: Mutex::new(queued.collect()),
            arrived: Notify::new(),
            written: watch::Sender::new(0),
            rows: Mutex::default(),
            row_came: Notify::new(),
            row_gone: Notify::new(),
            peers: OnceLock::new(),
            failing: AtomicBool::new(false),
            full: AtomicBool::new(false),
            unkept: AtomicUsize::new(0),
            of_others: AtomicUsize::new(left.iter().filter(|record| record.entry.origin != origin).count()),
            used_bytes: AtomicU64::new(used),
            size_bytes: AtomicU64::new(size),
        });
        log.add_rows(1, left);
        let (queue, waiting) = mpsc::channel(QUEUE);
        let last = u64::try_from(left.len()).unwrap_or(u64::MAX);
        let of_thread = log.clone();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || of_thread.number(waiting, journal, last))?;
        for _ in 0..ROWS {
            tokio::spawn(log.clone().end_rows(stores.clone()));
        }
        tokio::spawn(log.clone().write(stores, shared));
        Ok(Self { queue, log })
    }

    /// Keeps what was heard of others, who cannot write it to the ledger now: it goes there from here, with
    /// its rows, when the store is back. Returns when it is on the disk; says whether it is: there may be no
    /// room.
    pub async fn keep_for_others(&self, entries: Vec<Entry>) -> bool {
        let (reply, kept) = oneshot::channel();
        self.queue.try_send(Waiting::Heard(entries, reply)).is_ok() && kept.await.unwrap_or(false)
    }

    /// From now on peers hear what is kept, and answers wait for them. To be called once, before anything is
    /// published.
    pub fn push_to(&self, peers: Arc<Cluster>) {
        let _ = self.log.peers.set(peers);
    }

    /// How the log stands.
    #[must_use]
    pub fn state(&self) -> LogState {
        LogState {
            unwritten: self.log.unwritten().len(),
            failing: self.log.failing.load(Ordering::Relaxed),
            full: self.log.full.load(Ordering::Relaxed),
            used_bytes: self.log.used_bytes.load(Ordering::Relaxed),
            size_bytes: self.log.size_bytes.load(Ordering::Relaxed),
        }
    }

    /// Waits until the ledger has everything, at most so long; says whether it does.
    pub async fn flush(&self, patience: Duration) -> bool {
        let last = self.log.unwritten().back().map_or(0, |queued| queued.number);
        // Not in the expression that waits: nobody could say that more is written meanwhile.
        let last = last.max(*self.log.written.borrow());
        timeout(patience, self.log.settled(0, last)).await.is_ok()
    }
}

#[async_trait]
impl FactSink for LedgerWriter {
    async fn publish(&self, facts: &[Fact], rows: Rows) -> StoreResult<Receipt> {
        if facts.is_empty() {
            let (visible, live) = self.log.visible(0, 0, Instant::now()).await;
            return Ok(Receipt { visible, live, durability: Durability::Store });
        }
        let (reply, numbered) = oneshot::channel();
        self.queue.try_send(Waiting::Own(facts.to_vec(), rows, reply)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::unavailable("too many revocations wait for the journal"),
            TrySendError::Closed(_) => {
                StoreError::unavailable("the journal's thread has ended; restart the node")
            }
        })?;
        let refused = || StoreError::unavailable("neither the journal nor the ledger has room");
        let Numbered { first, last, seq, pushed_at, kept } = numbered.await.map_err(|_| refused())?;
        let patience = match (kept, self.log.failing.load(Ordering::Relaxed)) {
            (true, true) => Duration::ZERO,
            (true, false) => PATIENCE,
            (false, _) => UNKEPT_PATIENCE,
        };
        let first_seq = seq - (last - first);
        let durable = async {
            match timeout(patience, self.log.settled(first, last)).await {
                Ok(()) => Ok(None),
                Err(_) if kept => Ok(Some(self.log.on_disk(first_seq, seq).await)),
                Err(_) => Err(refused()),
            }
        };
        let (durable, visible) = tokio::join!(durable, self.log.visible(first_seq, seq, pushed_at));
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

    fn rows(&self) -> MutexGuard<'_, LeftRows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of how many live nodes have these entries of this node's log, when all have or the time
    /// for that is over.
    async fn visible(&self, first: u64, last: u64, pushed_at: Instant) -> (u32, u32) {
        match self.peers.get() {
            Some(peers) => peers.visible(first, last, pushed_at).await,
            None => (0, 0),
        }
    }

    /// How many of how many live nodes have these entries on their disks, when all have or the time for that
    /// is over.
    async fn on_disk(&self, first: u64, last: u64) -> (u32, u32) {
        match self.peers.get() {
            Some(peers) => peers.on_disk(first, last).await,
            None => (0, 0),
        }
    }

    /// Whether there is room for so many more entries of others: half of the journal is this node's own.
    fn has_room_for_others(&self, count: usize) -> bool {
        let most = self.size_bytes.load(Ordering::Relaxed) / 2 / RECORD;
        let kept = self.of_others.load(Ordering::Relaxed).saturating_add(count);
        !self.full.load(Ordering::Relaxed) && u64::try_from(kept).is_ok_and(|kept| kept <= most)
    }

    fn add_rows(&self, first: u64, records: &[Record]) {
        let mut rows = self.rows();
        let many = records.len() > MANY;
        for (number, record) in (first..).zip(records).filter(|(_, record)| record.ends_rows) {
            let row = Row::new(number, record.entry.fact);
            rows.left.insert(number);
            if many {
                rows.many.push_back(row);
            } else {
                rows.few.push_back(row);
            }
            self.row_came.notify_one();
        }
    }

    /// Returns when the ledger has everything up to `last`, and the rows of `first` to `last` are gone.
    async fn settled(&self, first: u64, last: u64) {
        // The sender is ours, so it is not closed while we wait.
        let _ = self.written.subscribe().wait_for(|written| *written >= last).await;
        loop {
            let gone = self.row_gone.notified();
            let mut gone = std::pin::pin!(gone);
            gone.as_mut().enable();
            if self.rows().left.range(first..=last).next().is_none() {
                return;
            }
            gone.await;
        }
    }

    /// The number up to which nothing is needed any more.
    fn released(&self) -> u64 {
        let written = *self.written.borrow();
        self.rows().left.first().map_or(written, |left| written.min(left - 1))
    }

    /// Ends the rows of one fact after another; what does not go is tried again later.
    async fn end_rows(self: Arc<Self>, stores: Stores) {
        loop {
            let next = {
                let mut rows = self.rows();
                rows.few.pop_front().or_else(|| rows.many.pop_front())
            };
            let Some(mut row) = next else {
                self.row_came.notified().await;
                continue;
            };
            if let Err(error) = end_rows(&stores, &row.fact.kind).await {
                if let Some(pause) = row.failed(&error) {
                    tokio::spawn(self.clone().later(row, pause));
                    continue;
                }
                tracing::error!(%error, kind = ?row.fact.kind, "rows of what was revoked could not be ended");
            }
            self.rows().left.remove(&row.number);
            self.row_gone.notify_waiters();
        }
    }

    async fn later(self: Arc<Self>, row: Row, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.rows().many.push_back(row);
        self.row_came.notify_one();
    }

    /// Numbers and keeps what comes, until nobody can come any more. A fact whose caller is refused
    /// has no number.
    fn number(&self, mut waiting: mpsc::Receiver<Waiting>, mut journal: Journal, last: u64) {
        let (mut last, mut seq) = (last, 0);
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            let begin = last;
            let (mut records, mut callers, mut replies) = (Vec::new(), Vec::new(), Vec::new());
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for one in group {
                let (facts, rows, reply) = match one {
                    Waiting::Own(facts, rows, reply) => (facts, rows, reply),
                    // Where there is no room, it stays in memory only: that is where it came from.
                    Waiting::Heard(entries, _) if !self.has_room_for_others(entries.len()) => continue,
                    Waiting::Heard(entries, reply) => {
                        self.of_others.fetch_add(entries.len(), Ordering::Relaxed);
                        others.push(reply);
                        let begin = records.len();
                        callers.push((last + 1, begin..begin + entries.len()));
                        last += u64::try_from(entries.len()).unwrap_or(0);
                        records.extend(entries.into_iter().map(|entry| Record::new(entry, Rows::End)));
                        continue;
                    }
                };
                let full = self.full.load(Ordering::Relaxed);
                if full && self.unkept.load(Ordering::Relaxed) + records.len() > MAX_UNKEPT {
                    continue;
                }
                let first = last + 1;
                let begin = records.len();
                own.extend_from_slice(&facts);
                for fact in facts {
                    (seq, last) = (seq + 1, last + 1);
                    records.push(Record::new(Entry { origin: self.origin, seq, fact }, rows));
                }
                callers.push((first, begin..records.len()));
                replies.push((reply, first, last, seq));
            }
            if records.is_empty() {
                continue;
            }
            // Before anybody can wait for them.
            callers.into_iter().for_each(|(first, range)| self.add_rows(first, &records[range]));
            // Side by side with the disk. Should this node end before it is on the disk, nobody was answered,
            // and whoever heard it refuses what was to be refused.
            let pushed_at = Instant::now();
            if let Some(peers) = self.peers.get()
                && !own.is_empty()
            {
                let count = u64::try_from(own.len()).unwrap_or(0);
                peers.publish(seq + 1 - count, &own);
            }
            let kept = self.keep(&mut journal, &records, begin + 1);
            if !kept {
                self.unkept.fetch_add(records.len(), Ordering::Relaxed);
            }
            let queued = (begin + 1..).zip(records).map(|(number, record)| Queued { number, record, kept });
            self.unwritten().extend(queued);
            self.arrived.notify_one();
            for reply in others {
                let _ = reply.send(kept);
            }
            for (reply, first, last, seq) in replies {
                let _ = reply.send(Numbered { first, last, seq, pushed_at, kept });
            }
        }
    }

    fn keep(&self, journal: &mut Journal, records: &[Record], first: u64) -> bool {
        let kept = journal.append(records, first, self.released());
        self.used_bytes.store(journal.used().0, Ordering::Relaxed);
        let was_full = self.full.swap(kept.is_err(), Ordering::Relaxed);
        match &kept {
            Ok(()) if was_full => tracing::info!("the journal has room again"),
            Ok(()) => {}
            Err(_) if was_full => {}
            Err(error @ JournalError::Full) => {
                tracing::error!("{error}: revocations are refused until the store is back");
            }
            Err(error) => tracing::error!(%error, "revocations rest on the store alone"),
        }
        kept.is_ok()
    }

    /// Writes to the ledger what was kept, in order, again and again until it is there.
    async fn write(self: Arc<Self>, stores: Stores, shared: bool) {
        let mut seq = 0;
        let mut announced = !shared;
        let mut former = Former::default();
        loop {
            let most = if announced { BATCH } else { 0 };
            let batch: Vec<_> = self.unwritten().iter().take(most).copied().collect();
            if announced && batch.is_empty() {
                let idle = timeout(ANNOUNCE, self.arrived.notified()).await.is_err();
                announced = !(idle && shared);
                continue;
            }
            let announcement = Head { origin: self.origin, seq };
            match self.append(&stores, &batch, (!announced).then_some(announcement), &mut former).await {
                Ok(()) => {
                    if self.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("the ledger is written again");
                    }
                    announced = true;
                    let Some(last) = batch.last() else { continue };
                    if last.record.entry.origin == self.origin {
                        seq = last.record.entry.seq;
                    }
                    self.unwritten().drain(..batch.len());
                    let unkept = batch.iter().filter(|queued| !queued.kept).count();
                    self.unkept.fetch_sub(unkept, Ordering::Relaxed);
                    let of_others = |queued: &&Queued| queued.record.entry.origin != self.origin;
                    self.of_others.fetch_sub(batch.iter().filter(of_others).count(), Ordering::Relaxed);
                    self.written.send_replace(last.number);
                    if self.unwritten().is_empty() && self.full.swap(false, Ordering::Relaxed) {
                        tracing::info!("the journal has room again");
                    }
                }
                Err(error) => {
                    if !self.failing.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the ledger cannot be written; what is taken away goes to the journal");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Entries, then heads. What may have waited in the journal longer than its fact was to live is not
    /// old to those who have a snapshot of what users may do: they hear it from now on.
    async fn append(
        &self,
        stores: &Stores,
        batch: &[Queued],
        announcement: Option<Head>,
        former: &mut Former,
    ) -> StoreResult<()> {
        let least = self.clock.now().plus(CLOCK_SKEW);
        let entries = batch.iter().map(|queued| {
            let mut entry = queued.record.entry;
            entry.fact.until = entry.fact.until.max(least);
            entry
        });
        let entries: Vec<_> = entries.collect();
        let mut heads: BTreeMap<_, u64> =
            announcement.into_iter().map(|head| (head.origin, head.seq)).collect();
        for entry in &entries {
            let seq = entry.seq;
            if entry.origin == self.origin {
                heads.insert(entry.origin, seq);
            } else if former.head(stores, entry.origin).await? + 1 == seq {
                former.heads.insert(entry.origin, seq);
                heads.insert(entry.origin, seq);
            }
        }
        let heads: Vec<_> = heads.into_iter().map(|(origin, seq)| Head { origin, seq }).collect();
        let appended = stores.ledger.append(&entries, &heads).await;
        if appended.is_err() {
            // How far they are is to be asked again.
            *former = Former::default();
        }
        appended
    }
}

/// How far the logs of this node's former lives are in the ledger. What is left of them in the journal may
/// have holes, where the disk was damaged: a head stays before a hole, so that who has what is missing
/// can write it.
#[derive(Default)]
struct Former {
    heads: BTreeMap<Origin, u64>,
}

impl Former {
    async fn head(&mut self, stores: &Stores, origin: Origin) -> StoreResult<u64> {
        if let Some(head) = self.heads.get(&origin) {
            return Ok(*head);
        }
        let heads = stores.ledger.heads().await?;
        let head = heads.iter().find(|head| head.origin == origin).map_or(0, |head| head.seq);
        self.heads.insert(origin, head);
        Ok(head)
    }
}
