//! The ledger: every node's log of facts, in chunks of 1,024, and the heads.
//!
//! Nothing is removed: rows live until some minutes after their fact's end, but half an hour at least, so that
//! who reads every second hears of a fact that was written late. Times to live are counted from a time that has
//! certainly come ([`Clocks::settled`](schema::Clocks::settled)): a clock that is ahead cuts none short. So a head carries the floor too: below it
//! everything has ended, and who reads from the beginning begins there.
//!
//! An entry that does not parse (of a newer version, or damaged) is skipped: it must not hold up those
//! after it. It is counted, and said once for each log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use schema::{
    NodeId, StoreError, Timestamp,
    ledger::{Entry, Head, Origin},
    store::{LedgerStore, Result},
    time::CLOCK_SKEW,
};
use scylla::{
    DeserializeRow,
    statement::batch::{Batch, BatchType},
    value::CqlValue,
};
use uuid::Uuid;

use crate::{
    cas::Values,
    convert,
    statement::{Cql, Kind},
    store::{At, Store},
};

/// Entries a partition.
const CHUNK: u64 = 1_024;
/// Entries a batch, and batches at once.
const BATCH: usize = 50;
const BATCHES: usize = 8;
/// No log has more entries: nobody numbers so many.
const LONGEST: u64 = 1 << 48;
/// Partitions that are read at once.
const CHUNKS: u64 = 4;
/// A head lives at least so long: its node announces it again every hour.
const HEAD: Duration = Duration::from_secs(3 * 3600);
/// An entry lives at least so long, whatever its fact says: others read every second, and a fact of another
/// node may have more left than the clock of this one says.
const HEARD: Duration = Duration::from_secs(1_800);
/// An entry lives so much longer than its fact: a node that starts with a clock that is behind reads it.
const BEHIND: Duration = Duration::from_secs(600);
/// Entries that do not parse of which a process remembers that it counted them.
const UNREADABLE: usize = 10_000;
/// Logs of which a process remembers what it wrote. What is forgotten is read again.
const LOGS: usize = 1_000;

/// What this process knows of a log that it writes.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// When the last of its entries ends.
    end: Timestamp,
    /// The same for each chunk that has not ended; complete only when `whole`.
    chunks: BTreeMap<u64, Timestamp>,
    /// Below this number everything has ended.
    floor: u64,
    /// Whether this process wrote it from the first entry on.
    whole: bool,
    /// Whether what is stored of its head was read.
    read: bool,
}

#[derive(DeserializeRow)]
struct EntryRow {
    seq: i64,
    fact: String,
}

#[derive(DeserializeRow)]
struct HeadRow {
    node: Uuid,
    incarnation: i64,
    seq: Option<i64>,
}

#[derive(DeserializeRow)]
struct StoredHead {
    seq: Option<i64>,
    floor: Option<i64>,
    left: Option<i32>,
}

#[async_trait]
impl LedgerStore for Store {
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        self.within(async {
            self.put_entries(entries).await?;
            self.remember(entries);
            try_join_all(heads.iter().map(|head| self.move_head(*head))).await.map(drop)
        })
        .await
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        self.within(async {
            let rows = self.read_pages::<HeadRow>(At::Quorum, Cql::Heads, ()).await?;
            let mut heads: Vec<Head> = rows
                .into_iter()
                .filter_map(|row| {
                    let node = NodeId::from_bytes(*row.node.as_bytes());
                    let origin = Origin { node, incarnation: convert::number(row.incarnation) };
                    Some(Head { origin, seq: convert::number(row.seq?) })
                })
                .collect();
            heads.sort_unstable_by_key(|head| head.origin);
            Ok(heads)
        })
        .await
    }

    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>> {
        self.within(self.entries_after(origin, after, limit)).await
    }

    async fn begin_life(&self, origin: Origin) -> Result<()> {
        self.within(self.note_life(origin)).await
    }

    async fn latest_life(&self, node: NodeId) -> Result<Option<u64>> {
        self.within(self.life(node)).await
    }
}

impl Store {
    fn logs(&self) -> MutexGuard<'_, HashMap<Origin, Known>> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes entries.
    async fn put_entries(&self, entries: &[Entry]) -> Result<()> {
        let now = self.settled();
        let mut chunks: BTreeMap<(Origin, u64), Vec<Values>> = BTreeMap::new();
        for entry in entries {
            let end = end_of(entry, now);
            let fact = serde_json::to_string(&entry.fact)
                .map_err(|error| StoreError::Inconsistent(format!("a fact has no JSON form: {error}")))?;
            let chunk = entry.seq / CHUNK;
            chunks.entry((entry.origin, chunk)).or_default().push(vec![
                Some(CqlValue::Uuid(entry.origin.node.uuid())),
                Some(CqlValue::BigInt(convert::bigint(entry.origin.incarnation))),
                Some(CqlValue::BigInt(convert::bigint(chunk))),
                Some(CqlValue::BigInt(convert::bigint(entry.seq))),
                Some(CqlValue::Text(fact)),
                Some(CqlValue::Int(convert::ttl_until(end, now))),
            ]);
        }
        let batches: Vec<Vec<Values>> = chunks
            .into_values()
            .flat_map(|rows| rows.chunks(BATCH).map(<[_]>::to_vec).collect::<Vec<_>>())
            .collect();
        stream::iter(batches).map(|rows| self.put_batch(rows)).buffer_unordered(BATCHES).try_collect().await
    }

    /// Writes entries of one partition at once.
    async fn put_batch(&self, rows: Vec<Values>) -> Result<()> {
        let link = self.link()?;
        let prepared = link.prepared.get(Cql::EntryAdd);
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        batch.set_execution_profile_handle(prepared.get_execution_profile_handle().cloned());
        for _ in &rows {
            batch.append_statement(prepared.clone());
        }
        self.count(Kind::Write);
        let result = Box::pin(link.session.batch(&batch, rows)).await;
        self.note(&result);
        result.map(drop).map_err(StoreError::unavailable)
    }

    /// Notes when these entries end.
    fn remember(&self, entries: &[Entry]) {
        let now = self.settled();
        let mut logs = self.logs();
        if logs.len() > LOGS {
            logs.retain(|_, known| known.end > now);
        }
        for entry in entries {
            let known = logs.entry(entry.origin).or_default();
            let end = end_of(entry, now);
            // Its first chunk begins with the first entry, and nobody else begins it.
            known.whole |= entry.seq == 1 && known.chunks.is_empty();
            known.end = known.end.max(end);
            let chunk = known.chunks.entry(entry.seq / CHUNK).or_default();
            *chunk = end.max(*chunk);
        }
    }

    /// Moves a head forward: its number is the time of the write, so it never goes back. It lives as
    /// long as any of the entries.
    async fn move_head(&self, head: Head) -> Result<()> {
        let now = self.settled();
        let key = (head.origin.node.uuid(), convert::bigint(head.origin.incarnation));
        let is_read = self.logs().get(&head.origin).is_some_and(|known| known.read);
        if !is_read {
            // Perhaps a process before us wrote entries that live longer.
            let stored = self.row::<StoredHead>(At::Quorum, Cql::HeadOne, key).await?;
            let mut logs = self.logs();
            let known = logs.entry(head.origin).or_default();
            known.read = true;
            if let Some(stored) = stored {
                let left =
                    Duration::from_secs(stored.left.and_then(|left| left.try_into().ok()).unwrap_or(0));
                known.end = known.end.max(now.plus(left));
                known.floor = known.floor.max(stored.floor.map_or(0, convert::number));
            }
        }
        let (end, floor) = {
            let mut logs = self.logs();
            let known = logs.entry(head.origin).or_default();
            known.rise(head.seq, now);
            (known.end, known.floor)
        };
        let seq = convert::bigint(head.seq);
        let ttl = convert::ttl(end.since(now).max(HEAD), now);
        let values = (key.0, key.1, seq, convert::bigint(floor), seq.saturating_add(1), ttl);
        self.write(Cql::HeadMove, values).await
    }

    async fn entries_after(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let key = (origin.node.uuid(), convert::bigint(origin.incarnation));
        let stored = self.row::<StoredHead>(At::Quorum, Cql::HeadOne, key).await?;
        let (head, floor) = stored.map_or((0, 0), |head| {
            (head.seq.map_or(0, convert::number), head.floor.map_or(0, convert::number))
        });
        // No log is so long: such a head says nothing, and nobody could read up to it.
        let head = if head > LONGEST { 0 } else { head };
        let mut from = after.saturating_add(1).max(floor);
        let last = head / CHUNK;
        let mut chunk = from / CHUNK;
        let mut entries = Vec::new();
        loop {
            // Up to the head there may be gaps; beyond it the log ends with the first empty chunk.
            let until = if chunk < last { last.min(chunk.saturating_add(CHUNKS - 1)) } else { chunk };
            let reads = (chunk..=until).map(|chunk| self.chunk(origin, chunk, from, limit));
            let (rows, more) = in_order(try_join_all(reads).await?, limit);
            let empty = rows.is_empty();
            entries.extend(rows.into_iter().filter_map(|row| self.entry(origin, &row)));
            if entries.len() >= limit || (until >= last && empty) || until == u64::MAX {
                entries.truncate(limit);
                return Ok(entries);
            }
            match more {
                // Some of them were skipped.
                Some(next) => (from, chunk) = (next, next / CHUNK),
                None => chunk = until + 1,
            }
        }
    }

    /// The entry of a row; `None` when its fact does not parse.
    fn entry(&self, origin: Origin, row: &EntryRow) -> Option<Entry> {
        let seq = convert::number(row.seq);
        match serde_json::from_str(&row.fact) {
            Ok(fact) => Some(Entry { origin, seq, fact }),
            Err(_) => {
                self.skipped(origin, seq);
                None
            }
        }
    }

    /// Counts an entry that does not parse, once, and says so for the first of a log.
    fn skipped(&self, origin: Origin, seq: u64) {
        let mut known = self.0.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= UNREADABLE {
            known.clear();
        }
        let first = known.range((origin, 0)..=(origin, u64::MAX)).next().is_none();
        if known.insert((origin, seq)) {
            self.0.status.count.unreadable.fetch_add(1, Relaxed);
        }
        if first {
            tracing::error!(
                node = %origin.node,
                incarnation = origin.incarnation,
                seq,
                "an entry of the ledger does not parse and is skipped: it is of a newer version, or damaged"
            );
        }
    }

    /// The rows of a chunk, from this number on.
    async fn chunk(&self, origin: Origin, chunk: u64, from: u64, limit: usize) -> Result<Vec<EntryRow>> {
        let values = (
            origin.node.uuid(),
            convert::bigint(origin.incarnation),
            convert::bigint(chunk),
            convert::bigint(from),
            convert::limit(limit),
        );
        self.read(At::Quorum, Cql::EntriesFrom, values).await
    }
}

impl Known {
    /// Raises the floor over chunks below the head that have ended.
    fn rise(&mut self, head: u64, now: Timestamp) {
        while self.whole {
            let Some(first) = self.chunks.first_entry() else { break };
            let next = (*first.key() + 1) * CHUNK;
            if next > head || *first.get() > now {
                break;
            }
            self.floor = self.floor.max(next);
            first.remove();
        }
    }
}

/// When an entry that is written now matters no more, for any clock, and was heard.
fn end_of(entry: &Entry, now: Timestamp) -> Timestamp {
    entry.fact.until.plus(CLOCK_SKEW + BEHIND).max(now.plus(HEARD))
}

/// Rows of chunks, in order, that were read with this limit each: those after a chunk that was cut
/// off are left out. Says where to go on when one was.
fn in_order(chunks: Vec<Vec<EntryRow>>, limit: usize) -> (Vec<EntryRow>, Option<u64>) {
    let mut rows = Vec::new();
    for chunk in chunks {
        let cut = chunk.len() >= limit;
        rows.extend(chunk);
        if cut {
            let next = rows.last().map(|row| convert::number(row.seq).saturating_add(1));
            return (rows, next);
        }
    }
    (rows, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(seqs: &[i64]) -> Vec<EntryRow> {
        seqs.iter().map(|seq| EntryRow { seq: *seq, fact: String::new() }).collect()
    }

    #[test]
    fn what_is_behind_a_chunk_that_was_cut_off_is_read_again() {
        let seqs = |chunks: &[&[i64]], limit| {
            let (read, more) = in_order(chunks.iter().map(|seqs| rows(seqs)).collect(), limit);
            (read.iter().map(|row| row.seq).collect::<Vec<_>>(), more)
        };
        assert_eq!(seqs(&[&[1, 2], &[], &[3_000]], 3), (vec![1, 2, 3_000], None));
        assert_eq!(
            seqs(&[&[1], &[1_024, 1_030, 1_031], &[3_000]], 3),
            (vec![1, 1_024, 1_030, 1_031], Some(1_032))
        );
        assert_eq!(seqs(&[], 3), (vec![], None));
    }

    #[test]
    fn an_entry_lives_until_it_was_heard() {
        let now = Timestamp::from_secs(1_000);
        let entry = |until| Entry {
            origin: Origin { node: NodeId::from_bytes([1; 16]), incarnation: 1 },
            seq: 1,
            fact: schema::fact::Fact {
                kind: schema::fact::FactKind::KeyRetired { key: schema::KeyId::from_bytes([1; 16]) },
                until: Timestamp::from_secs(until),
            },
        };
        for (until, end) in [(0, 2_800), (2_139, 2_800), (2_141, 2_801), (9_000, 9_660)] {
            assert_eq!(end_of(&entry(until), now), Timestamp::from_secs(end), "{until}");
        }
    }

    fn known(ends: &[(u64, u64)], whole: bool) -> Known {
        let chunks = ends.iter().map(|(chunk, end)| (*chunk, Timestamp::from_secs(*end))).collect();
        Known { chunks, whole, ..Known::default() }
    }

    #[test]
    fn the_floor_rises_over_whole_chunks_that_have_ended() {
        let at = Timestamp::from_secs;
        let mut log = known(&[(0, 10), (1, 30), (2, 20)], true);
        log.rise(5_000, at(9));
        assert_eq!(log.floor, 0);
        log.rise(1_000, at(10));
        assert_eq!(log.floor, 0, "the head is in it");
        log.rise(5_000, at(10));
        assert_eq!(log.floor, CHUNK);
        log.rise(5_000, at(25));
        assert_eq!(log.floor, CHUNK, "chunk 1 matters");
        log.rise(5_000, at(30));
        assert_eq!(log.floor, 3 * CHUNK);
        log.rise(5_000, at(40));
        assert_eq!(log.floor, 3 * CHUNK);
    }

    #[test]
    fn the_floor_of_a_log_that_others_began_stays() {
        let mut log = known(&[(0, 10)], false);
        log.rise(5_000, Timestamp::from_secs(99));
        assert_eq!(log.floor, 0);
    }
}
