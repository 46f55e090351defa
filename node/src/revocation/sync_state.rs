//! Whether this node knows enough to decide: it has read the ledger once, and no other node runs with its
//! identity.
//!
//! Before that, the node answers 503 to every question about tokens and permissions. [`Freshness`] knows the
//! age of the knowledge.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actors::Facts;
use schema::{Timestamp, time::CLOCK_SKEW};
use tokio::sync::Notify;

use crate::revocation::freshness::Freshness;

/// Whether and when this node has read the revocations of other nodes.
pub struct SyncState {
    facts: Arc<Facts>,
    freshness: Arc<Freshness>,
    /// When the ledger was last read to its end, by the wall clock, in ms since the epoch; 0 before the first
    /// time.
    ledger_read_at_ms: AtomicU64,
    is_superseded: AtomicBool,
    end: Arc<Notify>,
}

impl SyncState {
    /// The state of a node that has read nothing yet. `end` is notified when the node must shut down.
    pub fn new(facts: Arc<Facts>, freshness: Arc<Freshness>, end: Arc<Notify>) -> Self {
        Self {
            facts,
            freshness,
            ledger_read_at_ms: AtomicU64::new(0),
            is_superseded: AtomicBool::new(false),
            end,
        }
    }

    /// Records that this node has applied every revocation made anywhere before `at`, by the monotonic clock.
    /// If facts may have been made and expired since the last time, cached permissions are dropped.
    pub fn mark_synced_at(&self, at: Duration) {
        let gap = self.freshness.mark_synced_at(at);
        if gap >= self.facts.lifetimes().access_ttl + CLOCK_SKEW / 2 {
            tracing::warn!(
                gap_s = gap.as_secs(),
                "possible missed invalidations; dropping cached permissions"
            );
            self.facts.invalidate_all_permissions();
        }
    }

    /// Records that the ledger was read to its end. The read began at `wall`, by the wall clock, and `at`, by
    /// the monotonic clock.
    pub fn mark_ledger_read(&self, wall: Timestamp, at: Duration) {
        self.mark_synced_at(at);
        self.ledger_read_at_ms.store(wall.as_millis(), Ordering::Release);
    }

    /// When the ledger was last read to its end; `None` before the first time. A node with a store of its own
    /// reads it once.
    #[must_use]
    pub fn ledger_read_at(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.ledger_read_at_ms.load(Ordering::Acquire)))
            .filter(|at| *at > Timestamp::EPOCH)
    }

    /// Whether the node may decide about tokens and permissions.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.ledger_read_at_ms.load(Ordering::Acquire) > 0 && !self.is_superseded.load(Ordering::Acquire)
    }

    /// Stops deciding and shuts the node down: another node runs with this identity, peers link to that one,
    /// and revocations do not reach this node.
    pub fn step_down(&self) {
        if !self.is_superseded.swap(true, Ordering::AcqRel) {
            tracing::error!("another node runs with a copy of this data directory; shutting down");
            self.end.notify_one();
        }
    }
}
