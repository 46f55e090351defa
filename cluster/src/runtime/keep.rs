//! Entries that a peer asks this node to write to its disk, because the store does not accept the peer's
//! writes.

use std::sync::PoisonError;

use schema::ledger::Entry;

use super::link_task::{LinkEnd, LinkTask};
use crate::protocol::SeqRange;

/// The maximum number of entries that are written at a time.
const KEEP_BATCH_MAX: usize = 256;

impl LinkTask<'_> {
    /// Takes a request of the peer. Requests that were not begun yet merge into one range.
    pub(super) fn request_keep(&self, first: u64, last: u64) {
        let Some(range) = SeqRange::new(first, last) else { return };
        let mut requested = self.keep_requested.lock().unwrap_or_else(PoisonError::into_inner);
        *requested = Some(requested.map_or(range, |before| before.span(range)));
        self.keep_wake.notify_one();
    }

    /// Writes what the peer asks for, one range after the other, and confirms each. Runs until the link is
    /// replaced.
    pub(super) async fn keep(&self) -> LinkEnd {
        loop {
            self.keep_wake.notified().await;
            let range = self.keep_requested.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(range) = range else { continue };
            if !self.keep_range(range).await {
                continue;
            }
            let mut state = self.shared.state();
            if !state.is_current(self.origin, self.number) {
                return LinkEnd::Replaced;
            }
            state.replicator.confirm_kept(self.origin, range);
            state.wake(self.origin.node);
        }
    }

    /// Writes these entries of the peer's log. Returns whether all of them are on the disk.
    async fn keep_range(&self, SeqRange { first, last }: SeqRange) -> bool {
        let mut next = first;
        while next <= last {
            let held = self.shared.state().replicator.entries(self.origin, next, KEEP_BATCH_MAX);
            // Entries that are not held cannot be written.
            let Some((_, facts)) = held.filter(|(begin, _)| *begin == next) else { return false };
            let numbered = (next..=last).zip(facts);
            let entries = numbered.map(|(seq, fact)| Entry { origin: self.origin, seq, fact });
            let entries: Vec<_> = entries.collect();
            let reached = entries.last().map_or(last, |entry| entry.seq);
            if !self.shared.handler.keep(entries).await {
                return false;
            }
            next = reached + 1;
        }
        true
    }
}
