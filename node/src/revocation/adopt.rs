//! Adoption: writing to the ledger what a peer published and cannot write itself.
//!
//! A node that crashes or loses the store may have published facts that are in no ledger. Every node that
//! received them keeps them in memory, and:
//!
//! - while this node cannot read the ledger, it writes them to its own journal, since the publisher and its
//!   disk may be gone before the ledger is readable again ([`Peering::journal_unledgered`]);
//! - when the ledger is readable and a log in it has been behind for `STALLED_AFTER`, a node that has the
//!   rest writes it there ([`Peering::adopt_stalled_logs`]), and once more at shutdown
//!   ([`Peering::flush_adopted_logs`]).
//!
//! Writing an entry twice does no harm: both writers write the same bytes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actors::delete_revoked_rows;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schema::{
    FactKind,
    ledger::{Entry, Head, Origin},
    time::CLOCK_SKEW,
};
use store::{StoreError, Stores};

use crate::revocation::{LedgerWriter, peers::Peering};

/// How long the ledger must be behind a log before a node other than the log's own writes it. The live node
/// with the lowest id goes first; the others wait three times as long.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// How often the ledger is compared with the logs in memory.
const ADOPT_INTERVAL: Duration = Duration::from_secs(1);
/// Entries in one write to the ledger.
const ADOPT_BATCH_MAX: usize = 256;
/// Facts whose rows are deleted concurrently.
const ROW_DELETES_MAX: usize = 16;
/// The largest gap, in entries, that facts may leave that expired before they were in the ledger: five hours
/// at a thousand a second.
const LOG_GAP_MAX: u64 = 1 << 24;
/// Entries of peers in one write to the journal.
const JOURNAL_BATCH_MAX: usize = 2_048;

/// The entries of other nodes' logs that this node has written to its journal.
pub struct PeerJournal {
    log: Arc<LedgerWriter>,
    /// By log, the newest range that is in the journal, or was there and is in the ledger.
    ranges: Mutex<HashMap<Origin, Range>>,
}

/// A range of sequence numbers, both ends included.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
}

impl Range {
    const fn contains(self, seq: u64) -> bool {
        self.first <= seq && seq <= self.last
    }

    /// The union, if the ranges overlap or adjoin; else `other`.
    fn joined(self, other: Self) -> Self {
        let touches =
            self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1);
        if touches {
            Self { first: self.first.min(other.first), last: self.last.max(other.last) }
        } else {
            other
        }
    }
}

impl PeerJournal {
    /// An empty set of ranges. Records in the journal from an earlier start count as not written, and may be
    /// written twice.
    #[must_use]
    pub fn new(log: Arc<LedgerWriter>) -> Self {
        Self { log, ranges: Mutex::default() }
    }

    fn ranges(&self) -> MutexGuard<'_, HashMap<Origin, Range>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes consecutive entries of one log to the journal, except those that it already has. Returns
    /// whether all of them are on disk.
    pub async fn keep(&self, mut entries: Vec<Entry>) -> bool {
        let Some(first) = entries.first() else { return true };
        let origin = first.origin;
        let last = entries.last().map_or(first.seq, |entry| entry.seq);
        let range = Range { first: first.seq, last };
        let kept = self.ranges().get(&origin).copied();
        if let Some(kept) = kept {
            entries.retain(|entry| !kept.contains(entry.seq));
        }
        if !entries.is_empty() && !self.log.keep_for_others(entries).await {
            return false;
        }
        let mut ranges = self.ranges();
        let kept = ranges.entry(origin).or_insert(range);
        *kept = kept.joined(range);
        true
    }

    /// Drops the ranges of logs that are no longer in this node's memory.
    fn retain(&self, logs: &[(Origin, u64)]) {
        self.ranges().retain(|origin, _| logs.iter().any(|(known, _)| known == origin));
    }
}

/// How far a log is in the ledger, and since when it has not advanced.
#[derive(Debug, Clone, Copy)]
struct Stalled {
    head: u64,
    /// When the head last advanced, by the monotonic clock.
    since: Duration,
}

impl Peering {
    /// Writes to this node's journal the facts of peers that the ledger does not have, by its heads as last
    /// read. `kept` records how far each log was written before.
    pub async fn journal_unledgered(&self, ledger: &HashMap<Origin, u64>, kept: &mut HashMap<Origin, u64>) {
        let logs = self.cluster.peer_logs();
        self.journal.retain(&logs);
        for (origin, complete) in logs {
            let last = kept.entry(origin).or_insert_with(|| ledger.get(&origin).copied().unwrap_or(0));
            while *last < complete {
                let Some((first, facts)) = self.cluster.entries(origin, *last + 1, JOURNAL_BATCH_MAX) else {
                    break;
                };
                let entries = (first..).zip(facts).map(|(seq, fact)| Entry { origin, seq, fact });
                let entries: Vec<_> = entries.collect();
                let reached = entries.last().map_or(complete, |entry| entry.seq);
                if !self.journal.keep(entries).await {
                    return;
                }
                *last = reached;
            }
        }
    }

    /// Writes stalled logs to the ledger while the node runs.
    pub async fn adopt_stalled_logs(self) {
        let mut rounds = self.background.rounds("log_adoption", ADOPT_INTERVAL);
        let mut heads: HashMap<Origin, u64> = HashMap::new();
        let mut behind: HashMap<Origin, Stalled> = HashMap::new();
        loop {
            rounds.next().await;
            let logs = self.cluster.peer_logs();
            let head = |heads: &HashMap<Origin, u64>, origin| heads.get(&origin).copied().unwrap_or(0);
            if logs.iter().all(|(origin, complete)| *complete <= head(&heads, *origin)) {
                behind.clear();
                rounds.done();
                continue;
            }
            let read = match self.stores.ledger.heads().await {
                Ok(read) => read,
                Err(error) => {
                    rounds.finished(&Err::<(), _>(error));
                    continue;
                }
            };
            heads = read.into_iter().map(|head| (head.origin, head.seq)).collect();
            behind.retain(|origin, stalled| head(&heads, *origin) == stalled.head);
            for (origin, complete) in logs {
                let head = head(&heads, origin);
                if complete > head {
                    behind.entry(origin).or_insert(Stalled { head, since: self.clocks.monotonic() });
                } else {
                    behind.remove(&origin);
                }
            }
            let wait = if self.cluster.is_lowest_live_id() { STALLED_AFTER } else { 3 * STALLED_AFTER };
            let now = self.clocks.monotonic();
            let due = behind.iter().filter(|(_, stalled)| now.saturating_sub(stalled.since) >= wait);
            let due: Vec<_> = due.map(|(origin, _)| *origin).collect();
            rounds.finished(&self.write_all(&due).await);
        }
    }

    /// Writes the rest of all logs to the ledger at shutdown: this node may be the last one to have it.
    pub async fn flush_adopted_logs(&self) {
        let origins: Vec<_> = self.cluster.peer_logs().into_iter().map(|(origin, _)| origin).collect();
        let _ = self.write_all(&origins).await;
    }

    /// Writes as many of these logs as it can.
    ///
    /// # Errors
    /// The last error of the store.
    async fn write_all(&self, origins: &[Origin]) -> Result<(), StoreError> {
        if origins.is_empty() {
            return Ok(());
        }
        let heads = self.stores.ledger.heads().await?;
        let mut written = Ok(());
        for origin in origins.iter().copied() {
            let head = heads.iter().find(|head| head.origin == origin).map_or(0, |head| head.seq);
            match self.write(origin, head).await {
                Ok(0) => {}
                Ok(entries) => {
                    tracing::info!(node = %origin.node, entries, "wrote adopted entries to the ledger");
                }
                Err(error) => written = Err(error),
            }
        }
        written
    }

    /// Writes the entries of a log beyond `head` and returns their number. Entries come first, then row
    /// deletions, then the head: until the head has advanced, everything is retried. The log does not record
    /// which rows to delete, so all rows that a fact revokes are deleted.
    async fn write(&self, origin: Origin, head: u64) -> Result<usize, StoreError> {
        let complete = self.cluster.complete(origin);
        let horizon = self.clocks.horizon();
        let mut next = head + 1;
        let mut written = 0;
        while next <= complete {
            let Some((first, facts)) = self.cluster.entries(origin, next, ADOPT_BATCH_MAX) else { break };
            let forgotten = self.cluster.forgotten(origin);
            let had_ended = first - 1 <= forgotten.seq && horizon.is_past(forgotten.until, CLOCK_SKEW);
            // A member can make up a sequence number; readers of the ledger would look for every entry before
            // it.
            if first != next && (!had_ended || first - next > LOG_GAP_MAX) {
                tracing::warn!(node = %origin.node, next, first, "adopted log has a gap and is not written to the ledger");
                break;
            }
            let entries = (first..).zip(&facts).map(|(seq, fact)| Entry { origin, seq, fact: *fact });
            let entries: Vec<_> = entries.collect();
            self.stores.ledger.append(&entries, &[]).await?;
            let deletes: Vec<_> =
                facts.iter().map(|fact| delete_rows(self.stores.clone(), fact.kind)).collect();
            stream::iter(deletes).buffer_unordered(ROW_DELETES_MAX).try_collect::<()>().await?;
            let seq = entries.last().map_or(next, |entry| entry.seq);
            self.stores.ledger.append(&[], &[Head { origin, seq }]).await?;
            written += entries.len();
            next = seq + 1;
        }
        Ok(written)
    }
}

async fn delete_rows(stores: Stores, kind: FactKind) -> Result<(), StoreError> {
    delete_revoked_rows(&stores, &kind).await
}
