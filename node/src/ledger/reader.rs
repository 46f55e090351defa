//! What others took away, from the ledger.
//!
//! At start everything is read. Then, when the store is shared, the heads once a second, what lies
//! between a head and what was applied, and in turn the tails behind heads: an origin may have died
//! between an entry and its head.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use actors::Facts;
use cluster::Cluster;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schema::{
    FactKind, Stores,
    ledger::{Entry, Head, Origin},
    store::Result as StoreResult,
};

/// How often the heads are read.
pub const EVERY: Duration = Duration::from_secs(1);
/// How many entries are read at a time.
const READ: usize = 10_000;
/// How many tails are looked at in one round, and logs read at the same time.
const TAILS: usize = 8;
const AT_ONCE: usize = 16;

/// How far each origin's log was applied.
pub struct LedgerReader {
    own: Origin,
    /// Complete up to here, and the last number that was read, which may lie behind the head.
    applied: HashMap<Origin, (u64, u64)>,
    /// The heads as they were read last.
    heads: HashMap<Origin, u64>,
    turn: usize,
    keys_changed: bool,
    /// Who hears what is read, and knows what need not be.
    peers: Option<Arc<Cluster>>,
}

impl LedgerReader {
    /// Reads every fact that is in the ledger, but those that peers have said, and applies it; gives how many
    /// there were.
    ///
    /// # Errors
    /// When the store does not answer: a node must not decide without knowing what was taken away.
    pub async fn begin(
        stores: &Stores,
        facts: &Facts,
        own: Origin,
        peers: Option<Arc<Cluster>>,
    ) -> StoreResult<(Self, usize)> {
        let (applied, turn, keys_changed) = (HashMap::new(), 0, false);
        let heads = stores.ledger.heads().await?;
        let mut reader = Self { own, applied, heads: by_seq(&heads), turn, keys_changed, peers };
        let peers = reader.peers.clone();
        let reading = heads.into_iter().map(|head| {
            let after = peers.as_ref().map_or(0, |peers| peers.proven(head.origin).min(head.seq));
            read(stores.clone(), facts, peers.as_deref(), head, after)
        });
        let read: Vec<Read> = stream::iter(reading).buffer_unordered(AT_ONCE).try_collect().await?;
        let count = read.iter().map(|read| read.count).sum();
        read.into_iter().for_each(|read| reader.applied(&read));
        Ok((reader, count))
    }

    /// Reads what is new; gives how many entries were read. A log that cannot be read holds up no other.
    ///
    /// # Errors
    /// When the store does not answer, or not for all logs; what was applied stays so.
    pub async fn go_on(&mut self, stores: &Stores, facts: &Facts) -> StoreResult<usize> {
        let mut heads = stores.ledger.heads().await?;
        self.heads = by_seq(&heads);
        heads.retain(|head| head.origin != self.own);
        self.applied.retain(|origin, _| heads.iter().any(|head| head.origin == *origin));
        let tails = self.next_tails(&heads);
        // What peers have said need not be read.
        if let Some(peers) = &self.peers {
            for head in &heads {
                let (complete, last) = self.applied.entry(head.origin).or_default();
                *complete = peers.proven(head.origin).min(head.seq).max(*complete);
                *last = (*last).max(*complete);
            }
        }
        let ahead = heads.iter().filter(|head| {
            let applied = self.applied.get(&head.origin);
            applied.is_none_or(|(complete, _)| *complete < head.seq) || tails.contains(&head.origin)
        });
        let peers = self.peers.clone();
        let reading = ahead.map(|head| {
            // From the last head on: what was read behind it may have had gaps.
            let (complete, last) = self.applied.get(&head.origin).copied().unwrap_or_default();
            let after = if complete < head.seq { complete } else { last.max(complete) };
            read(stores.clone(), facts, peers.as_deref(), *head, after)
        });
        let reading: Vec<_> = reading.collect();
        let all: Vec<StoreResult<Read>> = stream::iter(reading).buffer_unordered(AT_ONCE).collect().await;
        let (mut count, mut failed) = (0, None);
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

    /// How far each log is in the ledger, as it was read last.
    #[must_use]
    pub const fn heads(&self) -> &HashMap<Origin, u64> {
        &self.heads
    }

    /// Whether a key was retired since this was asked last.
    pub const fn keys_changed(&mut self) -> bool {
        std::mem::replace(&mut self.keys_changed, false)
    }

    fn applied(&mut self, read: &Read) {
        self.keys_changed |= read.keys_changed;
        self.applied.insert(read.head.origin, (read.head.seq, read.last));
    }

    fn next_tails(&mut self, heads: &[Head]) -> HashSet<Origin> {
        let tails = heads.iter().cycle().skip(self.turn).take(TAILS.min(heads.len()));
        let tails = tails.map(|head| head.origin).collect();
        self.turn = (self.turn + TAILS).checked_rem(heads.len()).unwrap_or(0);
        tails
    }
}

fn by_seq(heads: &[Head]) -> HashMap<Origin, u64> {
    heads.iter().map(|head| (head.origin, head.seq)).collect()
}

/// What was read of one log.
struct Read {
    head: Head,
    count: usize,
    last: u64,
    keys_changed: bool,
}

async fn read(
    stores: Stores,
    facts: &Facts,
    peers: Option<&Cluster>,
    head: Head,
    after: u64,
) -> StoreResult<Read> {
    let mut read = Read { head, count: 0, last: after, keys_changed: false };
    loop {
        let entries = stores.ledger.entries(head.origin, read.last, READ).await?;
        for entry in &entries {
            facts.hear(&entry.fact);
            read.keys_changed |= matches!(entry.fact.kind, FactKind::KeyRetired { .. });
        }
        read.count += entries.len();
        if let Some(peers) = peers {
            tell(peers, &entries);
        }
        match entries.last() {
            Some(last) => read.last = last.seq,
            None => {
                peers.inspect(|peers| peers.ledger_has(head.origin, head.seq));
                return Ok(read);
            }
        }
    }
}

/// Peers may ask for it.
fn tell(peers: &Cluster, entries: &[Entry]) {
    for run in entries.chunk_by(|a, b| a.origin == b.origin && a.seq.checked_add(1) == Some(b.seq)) {
        if let Some(first) = run.first() {
            let facts: Vec<_> = run.iter().map(|entry| entry.fact).collect();
            peers.learn(first.origin, first.seq, &facts);
        }
    }
}
