//! Deletes the rows of revoked sessions.
//!
//! Rows of callers with few facts come first, so that a caller with ten thousand sessions delays no other.
//! Failed deletions are retried; a record stays in the journal until its rows are deleted.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use actors::delete_revoked_rows;
use schema::Fact;
use store::{StoreError, Stores};

use super::{Log, RETRY_INTERVAL};
use crate::revocation::journal::Record;

/// Facts whose rows are deleted concurrently.
pub(in crate::revocation) const ROW_DELETES_MAX: usize = 32;
/// Facts of a call that still counts as small. Larger calls yield to small ones.
const FEW_FACTS_MAX: usize = 64;
/// Inconsistent answers of the store about the rows of one fact before the node gives them up: for some ten
/// minutes.
pub(in crate::revocation) const CONTRADICTIONS_MAX: u32 = 150;
/// Each retry doubles the wait, at most this many times.
const BACKOFF_DOUBLINGS_MAX: u32 = 3;

/// Records whose rows are not deleted yet.
#[derive(Default)]
pub(super) struct PendingRows {
    numbers: BTreeSet<u64>,
    /// Rows that no task works on, of calls with few facts and of calls with many.
    few: VecDeque<Row>,
    many: VecDeque<Row>,
}

impl PendingRows {
    /// Whether the rows of any of these records are pending.
    pub(super) fn has_any(&self, numbers: RangeInclusive<u64>) -> bool {
        self.numbers.range(numbers).next().is_some()
    }

    /// The lowest number of a pending record.
    pub(super) fn first(&self) -> Option<u64> {
        self.numbers.first().copied()
    }
}

/// The rows of one fact, and how often their deletion failed.
#[derive(Clone, Copy)]
pub(in crate::revocation) struct Row {
    number: u64,
    fact: Fact,
    tries: u32,
    contradictions: u32,
}

impl Row {
    pub(in crate::revocation) const fn new(number: u64, fact: Fact) -> Self {
        Self { number, fact, tries: 0, contradictions: 0 }
    }

    /// The wait before the next retry, from 0.5 s to 4 s; `None` to give up. An inconsistent answer may be a
    /// fault on the way to the store, but permanently inconsistent rows must not occupy the journal for ever.
    pub(in crate::revocation) fn failed(&mut self, error: &StoreError) -> Option<Duration> {
        if let StoreError::Inconsistent(_) = error {
            self.contradictions += 1;
            if self.contradictions > CONTRADICTIONS_MAX {
                return None;
            }
        }
        let pause = RETRY_INTERVAL * (1 << self.tries.min(BACKOFF_DOUBLINGS_MAX));
        self.tries += 1;
        Some(pause)
    }
}

impl Log {
    pub(super) fn rows(&self) -> MutexGuard<'_, PendingRows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the rows of one call's records, which are numbered from `first`.
    pub(super) fn add_rows(&self, first: u64, records: &[Record]) {
        let mut rows = self.rows();
        let has_many = records.len() > FEW_FACTS_MAX;
        for (number, record) in (first..).zip(records).filter(|(_, record)| record.ends_rows) {
            let row = Row::new(number, record.entry.fact);
            rows.numbers.insert(number);
            if has_many {
                rows.many.push_back(row);
            } else {
                rows.few.push_back(row);
            }
            self.row_added.notify_one();
        }
    }

    /// Deletes the rows of one fact after another while the node runs.
    pub(super) async fn delete_rows(self: Arc<Self>, stores: Stores) {
        loop {
            let next = {
                let mut rows = self.rows();
                rows.few.pop_front().or_else(|| rows.many.pop_front())
            };
            let Some(mut row) = next else {
                self.row_added.notified().await;
                continue;
            };
            if let Err(error) = delete_revoked_rows(&stores, &row.fact.kind).await {
                if let Some(pause) = row.failed(&error) {
                    tokio::spawn(self.clone().delete_later(row, pause));
                    continue;
                }
                tracing::error!(%error, kind = ?row.fact.kind, "gave up deleting rows of revoked sessions");
            }
            self.rows().numbers.remove(&row.number);
            self.row_deleted.notify_waiters();
        }
    }

    async fn delete_later(self: Arc<Self>, row: Row, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.rows().many.push_back(row);
        self.row_added.notify_one();
    }
}
