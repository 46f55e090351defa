//! The task that appends this node's records to the ledger, in order, and retries until the store accepts
//! them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use schema::{
    ledger::{Head, Origin},
    time::CLOCK_SKEW,
};
use store::{Result as StoreResult, StoreError, Stores};
use tokio::time::timeout;

use super::{Log, Queued, RETRY_INTERVAL};

/// Entries in one write to the ledger.
const APPEND_BATCH_MAX: usize = 256;
/// The time between two announcements of a log without new entries, so that the ledger does not expire it.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(3_600);

impl Log {
    /// Appends numbered records while the node runs.
    pub(super) async fn append_all(self: Arc<Self>, stores: Stores, is_shared: bool) {
        let mut seq = 0;
        let mut is_announced = !is_shared;
        let mut adopted = AdoptedHeads::default();
        loop {
            // Other nodes must know that the log exists before it has entries.
            let most = if is_announced { APPEND_BATCH_MAX } else { 0 };
            let batch: Vec<_> = self.unwritten().iter().take(most).copied().collect();
            if is_announced && batch.is_empty() {
                let is_idle = timeout(ANNOUNCE_INTERVAL, self.unwritten_added.notified()).await.is_err();
                is_announced = !(is_idle && is_shared);
                continue;
            }
            let announcement = (!is_announced).then_some(Head { origin: self.origin, seq });
            match self.append(&stores, &batch, announcement, &mut adopted).await {
                Ok(()) => {
                    is_announced = true;
                    if let Some(last) = batch.last().filter(|last| last.record.entry.origin == self.origin) {
                        seq = last.record.entry.seq;
                    }
                    self.appended(&batch);
                }
                Err(error) => {
                    self.failed(&error);
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Appends a batch: entries first, then heads. A permission change that waited in the journal beyond its
    /// expiry must still reach nodes that cache permissions, so its expiry is extended.
    async fn append(
        &self,
        stores: &Stores,
        batch: &[Queued],
        announcement: Option<Head>,
        adopted: &mut AdoptedHeads,
    ) -> StoreResult<()> {
        let until_min = self.clock.now().plus(CLOCK_SKEW);
        let entries = batch.iter().map(|queued| {
            let mut entry = queued.record.entry;
            entry.fact.until = entry.fact.until.max(until_min);
            entry
        });
        let entries: Vec<_> = entries.collect();
        let mut heads: BTreeMap<_, u64> =
            announcement.into_iter().map(|head| (head.origin, head.seq)).collect();
        for entry in &entries {
            let seq = entry.seq;
            if entry.origin == self.origin {
                heads.insert(entry.origin, seq);
            } else if adopted.head(stores, entry.origin).await? + 1 == seq {
                adopted.heads.insert(entry.origin, seq);
                heads.insert(entry.origin, seq);
            }
        }
        let heads: Vec<_> = heads.into_iter().map(|(origin, seq)| Head { origin, seq }).collect();
        let appended = stores.ledger.append(&entries, &heads).await;
        if appended.is_err() {
            // It is unknown which heads have advanced.
            *adopted = AdoptedHeads::default();
        }
        appended
    }

    fn appended(&self, batch: &[Queued]) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("ledger writes succeed again");
        }
        let Some(last) = batch.last() else { return };
        self.unwritten().drain(..batch.len());
        let unjournaled = batch.iter().filter(|queued| !queued.is_journaled).count();
        self.unjournaled.fetch_sub(unjournaled, Ordering::Relaxed);
        let of_others = batch.iter().filter(|queued| queued.record.entry.origin != self.origin).count();
        self.of_others.fetch_sub(of_others, Ordering::Relaxed);
        self.written.send_replace(last.number);
        if self.unwritten().is_empty() && self.is_full.swap(false, Ordering::Relaxed) {
            tracing::info!("journal has room again");
        }
    }

    fn failed(&self, error: &StoreError) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "ledger write failed; buffering revocations in the local journal");
        }
    }
}

/// The heads in the ledger of logs that this node writes for others and for its own earlier incarnations.
/// Their entries in the journal may have gaps where the disk was damaged. A head stays before a gap, so that
/// a node that has the missing entries can write them.
#[derive(Default)]
struct AdoptedHeads {
    heads: BTreeMap<Origin, u64>,
}

impl AdoptedHeads {
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
