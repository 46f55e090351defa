//! What a cache did, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the start. Read them with any ordering.
#[derive(Debug, Default)]
pub struct Stats {
    /// Reads of what a user may do that Redis answered.
    pub hits: AtomicU64,
    /// Such reads that it could not answer, or not usably.
    pub misses: AtomicU64,
    /// Such reads for which it was not asked, or not believed, because of an invalidation.
    pub bypassed: AtomicU64,
    /// Values of any kind that did not verify or could not have been written by a node.
    pub refused: AtomicU64,
    /// Commands that failed, were answered with an error, or took too long.
    pub errors: AtomicU64,
    /// Whether commands are sent at all now.
    pub up: AtomicBool,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
