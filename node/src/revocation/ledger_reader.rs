//! Reads the facts of other nodes from the ledger and applies them.
//!
//! At startup the node reads everything. After that, if the store is shared, it reads once a second the
//! heads, the entries between what it has applied and each head, and in turn the tails after the heads: a
//! node may have crashed between writing an entry and its head.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use actors::Facts;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schema::{
    FactKind,
    ledger::{Entry, Head, Origin},
};
use store::{Result as StoreResult, Stores};

use super::feed::FactFeed;

/// The time between two reads of the heads.
pub const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Entries that one query reads.
const READ_BATCH_MAX: usize = 10_000;
/// Tails that are read in one round.
const TAILS_MAX: usize = 8;
/// Logs that are read concurrently.
const READS_MAX: usize = 16;

/// Reads the ledger, and records how far it has applied each log.
pub struct LedgerReader {
    own: Origin,
    applied: HashMap<Origin, Progress>,
    /// The heads as last read.
    heads: HashMap<Origin, u64>,
    turn: usize,
    keys_changed: bool,
    /// Receives the facts that were read, and knows which need not be read.
    feed: Option<Arc<dyn FactFeed>>,
}

/// How far a log was applied.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// All entries up to this sequence number are applied.
    complete: u64,
    /// The last entry that was read. It may be beyond the head, and some between `complete` and it may be
    /// missing.
    last: u64,
}

impl LedgerReader {
    /// Reads and applies every fact in the ledger, except those that their own nodes have sent. Returns the reader and
    /// the number of facts.
    ///
    /// # Errors
    /// If the store does not answer: a node must not decide without knowing the revocations.
    pub async fn begin(
        stores: &Stores,
        facts: &Facts,
        own: Origin,
        feed: Option<Arc<dyn FactFeed>>,
    ) -> StoreResult<(Self, usize)> {
        let heads = stores.ledger.heads().await?;
        let mut reader =
            Self { own, applied: HashMap::new(), heads: by_seq(&heads), turn: 0, keys_changed: false, feed };
        let feed = reader.feed.clone();
        let reading = heads.into_iter().map(|head| {
            let after = feed.as_ref().map_or(0, |feed| feed.proven(head.origin).min(head.seq));
            read(stores.clone(), facts, feed.as_deref(), head, after)
        });
        let read: Vec<Read> = stream::iter(reading).buffer_unordered(READS_MAX).try_collect().await?;
        let count = read.iter().map(|read| read.count).sum();
        read.into_iter().for_each(|read| reader.applied(&read));
        Ok((reader, count))
    }

    /// Reads and applies new entries, and returns their number. A log that cannot be read delays no other.
    ///
    /// # Errors
    /// If the store does not answer, or not for all logs. What was applied stays applied.
    pub async fn go_on(&mut self, stores: &Stores, facts: &Facts) -> StoreResult<usize> {
        let mut heads = stores.ledger.heads().await?;
        self.heads = by_seq(&heads);
        heads.retain(|head| head.origin != self.own);
        self.applied.retain(|origin, _| heads.iter().any(|head| head.origin == *origin));
        let tails = self.next_tails(&heads);
        // Facts that their own nodes have sent need not be read.
        if let Some(feed) = &self.feed {
            for head in &heads {
                let progress = self.applied.entry(head.origin).or_default();
                progress.complete = feed.proven(head.origin).min(head.seq).max(progress.complete);
                progress.last = progress.last.max(progress.complete);
            }
        }
        let ahead = heads.iter().filter(|head| {
            let applied = self.applied.get(&head.origin);
            applied.is_none_or(|progress| progress.complete < head.seq) || tails.contains(&head.origin)
        });
        let feed = self.feed.clone();
        let reading = ahead.map(|head| {
            // Read from the last head on: entries read after it may have had gaps.
            let Progress { complete, last } = self.applied.get(&head.origin).copied().unwrap_or_default();
            let after = if complete < head.seq { complete } else { last.max(complete) };
            read(stores.clone(), facts, feed.as_deref(), *head, after)
        });
        let reading: Vec<_> = reading.collect();
        let all: Vec<StoreResult<Read>> = stream::iter(reading).buffer_unordered(READS_MAX).collect().await;
        let mut count = 0;
        let mut failed = None;
        for read in all {
            match read {
                Ok(read) => {
                    count += read.count;
                    self.applied(&read);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// The head of each log in the ledger, as last read.
    #[must_use]
    pub const fn heads(&self) -> &HashMap<Origin, u64> {
        &self.heads
    }

    /// Whether a key was revoked since the last call.
    pub const fn keys_changed(&mut self) -> bool {
        std::mem::replace(&mut self.keys_changed, false)
    }

    fn applied(&mut self, read: &Read) {
        self.keys_changed |= read.keys_changed;
        let progress = Progress { complete: read.head.seq, last: read.last };
        self.applied.insert(read.head.origin, progress);
    }

    fn next_tails(&mut self, heads: &[Head]) -> HashSet<Origin> {
        let tails = heads.iter().cycle().skip(self.turn).take(TAILS_MAX.min(heads.len()));
        let tails = tails.map(|head| head.origin).collect();
        self.turn = (self.turn + TAILS_MAX).checked_rem(heads.len()).unwrap_or(0);
        tails
    }
}

fn by_seq(heads: &[Head]) -> HashMap<Origin, u64> {
    heads.iter().map(|head| (head.origin, head.seq)).collect()
}

/// The result of reading one log.
struct Read {
    head: Head,
    count: usize,
    last: u64,
    keys_changed: bool,
}

async fn read(
    stores: Stores,
    facts: &Facts,
    feed: Option<&dyn FactFeed>,
    head: Head,
    after: u64,
) -> StoreResult<Read> {
    let mut read = Read { head, count: 0, last: after, keys_changed: false };
    loop {
        let entries = stores.ledger.entries(head.origin, read.last, READ_BATCH_MAX).await?;
        for entry in &entries {
            facts.apply(&entry.fact);
            read.keys_changed |= matches!(entry.fact.kind, FactKind::KeyRetired { .. });
        }
        read.count += entries.len();
        if let Some(feed) = feed {
            tell(feed, &entries);
        }
        match entries.last() {
            Some(last) => read.last = last.seq,
            None => {
                feed.inspect(|feed| feed.ledger_has(head.origin, head.seq));
                return Ok(read);
            }
        }
    }
}

/// Adds entries to the feed, so that peers can request them.
fn tell(feed: &dyn FactFeed, entries: &[Entry]) {
    for run in entries.chunk_by(|a, b| a.origin == b.origin && a.seq.checked_add(1) == Some(b.seq)) {
        if let Some(first) = run.first() {
            let facts: Vec<_> = run.iter().map(|entry| entry.fact).collect();
            feed.learn(first.origin, first.seq, &facts);
        }
    }
}
