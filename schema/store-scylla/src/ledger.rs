//! The ledger: every node's log of facts, in chunks of 1,024 entries, and the heads of the logs.
//!
//! The store deletes no entry: a row expires some minutes after its fact ends, but lives for half an
//! hour at least, so that nodes, which read every second, see a fact that was written late. TTLs count
//! from a time that has certainly passed ([`Clocks::settled`](schema::Clocks::settled)), so that a clock
//! that is ahead shortens none. A head therefore carries the floor too: below it every entry has
//! expired, and a reader of the whole log starts there.
//!
//! An entry that does not parse (of a newer version, or damaged) is skipped, because it must not block
//! the entries after it. Each is counted, and the first of each log is logged.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use schema::{
    NodeId, Timestamp,
    ledger::{Entry, Head, Origin},
    time::CLOCK_SKEW,
};
use scylla::{
    DeserializeRow,
    statement::batch::{Batch, BatchType},
    value::CqlValue,
};
use store::{LedgerStore, Result, StoreError};
use uuid::Uuid;

use crate::{
    cas::Values,
    convert,
    statement::{Cql, Kind, traced},
    store::{At, Store},
};

/// Number of entries of a partition (a chunk) of a log. Part of the stored form.
const CHUNK_ENTRIES: u64 = 1_024;
/// Limit of entries per batch.
const BATCH_ENTRIES_MAX: usize = 50;
/// Limit of concurrent batches of one call.
const CONCURRENT_BATCHES_MAX: usize = 8;
/// Limit of a plausible head: no log has more entries.
const LOG_ENTRIES_MAX: u64 = 1 << 48;
/// Limit of concurrent reads of chunks of one call.
const CONCURRENT_CHUNKS_MAX: u64 = 4;
/// Least TTL of a head. Its node announces it again every hour.
const HEAD_TTL_MIN: Duration = Duration::from_secs(3 * 3600);
/// Least TTL of an entry, whatever its fact says: other nodes read every second, and a fact of another
/// node may have more time left than this node's clock shows.
const ENTRY_TTL_MIN: Duration = Duration::from_secs(1_800);
/// How much longer an entry lives than its fact, so that a node that starts with a clock that is behind
/// by at most this much reads it.
const CLOCK_LAG_MAX: Duration = Duration::from_secs(600);
/// Limit of unreadable entries that a process remembers as counted.
const UNREADABLE_TRACKED_MAX: usize = 10_000;
/// Limit of logs of which a process remembers what it wrote. An evicted one is read again.
const LOGS_TRACKED_MAX: usize = 1_000;

/// What this process knows of a log that it writes.
#[derive(Debug, Default)]
pub(crate) struct WrittenLog {
    /// When the last of its entries expires.
    end: Timestamp,
    /// When the last entry of each unexpired chunk expires; complete only if `is_whole`.
    chunks: BTreeMap<u64, Timestamp>,
    /// Every entry with a lower number has expired.
    floor: u64,
    /// Whether this process wrote the log from the first entry on.
    is_whole: bool,
    /// Whether the stored head was read.
    head_read: bool,
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
    /// The remaining TTL, in seconds.
    #[scylla(rename = "left")]
    remaining_ttl: Option<i32>,
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
    fn logs(&self) -> MutexGuard<'_, HashMap<Origin, WrittenLog>> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes entries, in batches of one partition each.
    async fn put_entries(&self, entries: &[Entry]) -> Result<()> {
        let now = self.settled();
        let mut chunks: BTreeMap<(Origin, u64), Vec<Values>> = BTreeMap::new();
        for entry in entries {
            let end = end_of(entry, now);
            let fact = serde_json::to_string(&entry.fact)
                .map_err(|error| StoreError::Inconsistent(format!("a fact has no JSON form: {error}")))?;
            let chunk = entry.seq / CHUNK_ENTRIES;
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
            .flat_map(|rows| rows.chunks(BATCH_ENTRIES_MAX).map(<[_]>::to_vec).collect::<Vec<_>>())
            .collect();
        stream::iter(batches)
            .map(|rows| self.put_batch(rows))
            .buffer_unordered(CONCURRENT_BATCHES_MAX)
            .try_collect()
            .await
    }

    /// Writes entries of one partition as one batch.
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
        let result = traced(prepared.get_statement(), Box::pin(link.session.batch(&batch, rows))).await;
        self.note(&result);
        result.map(drop).map_err(StoreError::unavailable)
    }

    /// Remembers when these entries expire.
    fn remember(&self, entries: &[Entry]) {
        let now = self.settled();
        let mut logs = self.logs();
        if logs.len() > LOGS_TRACKED_MAX {
            logs.retain(|_, log| log.end > now);
        }
        for entry in entries {
            let log = logs.entry(entry.origin).or_default();
            let end = end_of(entry, now);
            // Only the process that starts a log writes entry 1, the first of the first chunk.
            log.is_whole |= entry.seq == 1 && log.chunks.is_empty();
            log.end = log.end.max(end);
            let chunk = log.chunks.entry(entry.seq / CHUNK_ENTRIES).or_default();
            *chunk = end.max(*chunk);
        }
    }

    /// Moves a head forward. Its number is the write's timestamp, so a head never goes back. It lives at
    /// least as long as every entry.
    async fn move_head(&self, head: Head) -> Result<()> {
        let now = self.settled();
        let key = (head.origin.node.uuid(), convert::bigint(head.origin.incarnation));
        let is_head_read = self.logs().get(&head.origin).is_some_and(|log| log.head_read);
        if !is_head_read {
            // A previous process may have written entries that live longer.
            let stored = self.row::<StoredHead>(At::Quorum, Cql::HeadOne, key).await?;
            let mut logs = self.logs();
            let log = logs.entry(head.origin).or_default();
            log.head_read = true;
            if let Some(stored) = stored {
                let remaining_secs = stored.remaining_ttl.and_then(|ttl| ttl.try_into().ok()).unwrap_or(0);
                log.end = log.end.max(now.plus(Duration::from_secs(remaining_secs)));
                log.floor = log.floor.max(stored.floor.map_or(0, convert::number));
            }
        }
        let (end, floor) = {
            let mut logs = self.logs();
            let log = logs.entry(head.origin).or_default();
            log.raise_floor(head.seq, now);
            (log.end, log.floor)
        };
        let seq = convert::bigint(head.seq);
        let ttl = convert::ttl(end.since(now).max(HEAD_TTL_MIN), now);
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
        // An implausible head is ignored: no reader could ever read up to it.
        let head = if head > LOG_ENTRIES_MAX { 0 } else { head };
        let mut from = after.saturating_add(1).max(floor);
        let last = head / CHUNK_ENTRIES;
        let mut chunk = from / CHUNK_ENTRIES;
        let mut entries = Vec::new();
        loop {
            // Up to the head there may be empty chunks; beyond it the log ends with the first empty one.
            let until =
                if chunk < last { last.min(chunk.saturating_add(CONCURRENT_CHUNKS_MAX - 1)) } else { chunk };
            let reads = (chunk..=until).map(|chunk| self.chunk(origin, chunk, from, limit));
            let (rows, more) = in_order(try_join_all(reads).await?, limit);
            let empty = rows.is_empty();
            entries.extend(rows.into_iter().filter_map(|row| self.entry(origin, &row)));
            if entries.len() >= limit || (until >= last && empty) || until == u64::MAX {
                entries.truncate(limit);
                return Ok(entries);
            }
            match more {
                // A chunk was cut off: continue there.
                Some(next) => {
                    from = next;
                    chunk = next / CHUNK_ENTRIES;
                }
                None => chunk = until + 1,
            }
        }
    }

    /// The entry of a row; `None` if its fact does not parse.
    fn entry(&self, origin: Origin, row: &EntryRow) -> Option<Entry> {
        let seq = convert::number(row.seq);
        match serde_json::from_str(&row.fact) {
            Ok(fact) => Some(Entry { origin, seq, fact }),
            Err(_) => {
                self.report_unreadable(origin, seq);
                None
            }
        }
    }

    /// Counts an unreadable entry, once, and logs the first of each log.
    fn report_unreadable(&self, origin: Origin, seq: u64) {
        let mut counted = self.0.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= UNREADABLE_TRACKED_MAX {
            counted.clear();
        }
        let is_first_of_log = counted.range((origin, 0)..=(origin, u64::MAX)).next().is_none();
        if counted.insert((origin, seq)) {
            self.0.status.count.unreadable.fetch_add(1, Relaxed);
        }
        if is_first_of_log {
            tracing::error!(
                node = %origin.node,
                incarnation = origin.incarnation,
                seq,
                "skipped a ledger entry that does not parse: it is of a newer version, or damaged"
            );
        }
    }

    /// At most `limit` rows of a chunk, from number `from` on.
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

impl WrittenLog {
    /// Raises the floor over the chunks below the head that have expired.
    fn raise_floor(&mut self, head: u64, now: Timestamp) {
        while self.is_whole {
            let Some(first) = self.chunks.first_entry() else { break };
            let next = (*first.key() + 1) * CHUNK_ENTRIES;
            if next > head || *first.get() > now {
                break;
            }
            self.floor = self.floor.max(next);
            first.remove();
        }
    }
}

/// When an entry that is written now may expire: by then its fact has ended by every node's clock, and
/// every node has read it.
fn end_of(entry: &Entry, now: Timestamp) -> Timestamp {
    entry.fact.until.plus(CLOCK_SKEW + CLOCK_LAG_MAX).max(now.plus(ENTRY_TTL_MIN))
}

/// Joins the rows of consecutive chunks, each read with this limit, up to the first chunk that was cut
/// off by it. Returns also the number to continue with if there was one.
fn in_order(chunks: Vec<Vec<EntryRow>>, limit: usize) -> (Vec<EntryRow>, Option<u64>) {
    let mut rows = Vec::new();
    for chunk in chunks {
        let cut = chunk.len() >= limit;
        rows.extend(chunk);
        if cut {
            let next: Option<u64> = rows.last().map(|row| convert::number(row.seq).saturating_add(1));
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
    fn rows_after_a_cut_off_chunk_are_read_again() {
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
    fn entry_outlives_its_fact_and_the_read_interval() {
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

    /// A log whose chunks expire at these seconds.
    fn log(ends: &[(u64, u64)], is_whole: bool) -> WrittenLog {
        let chunks = ends.iter().map(|(chunk, end)| (*chunk, Timestamp::from_secs(*end))).collect();
        WrittenLog { chunks, is_whole, ..WrittenLog::default() }
    }

    #[test]
    fn floor_rises_over_whole_chunks_that_have_expired() {
        let at = Timestamp::from_secs;
        let mut log = log(&[(0, 10), (1, 30), (2, 20)], true);
        log.raise_floor(5_000, at(9));
        assert_eq!(log.floor, 0);
        log.raise_floor(1_000, at(10));
        assert_eq!(log.floor, 0, "the head is in it");
        log.raise_floor(5_000, at(10));
        assert_eq!(log.floor, CHUNK_ENTRIES);
        log.raise_floor(5_000, at(25));
        assert_eq!(log.floor, CHUNK_ENTRIES, "chunk 1 matters");
        log.raise_floor(5_000, at(30));
        assert_eq!(log.floor, 3 * CHUNK_ENTRIES);
        log.raise_floor(5_000, at(40));
        assert_eq!(log.floor, 3 * CHUNK_ENTRIES);
    }

    #[test]
    fn floor_of_a_log_that_another_process_started_stays() {
        let mut log = log(&[(0, 10)], false);
        log.raise_floor(5_000, Timestamp::from_secs(99));
        assert_eq!(log.floor, 0);
    }
}
