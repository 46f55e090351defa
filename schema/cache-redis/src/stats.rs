//! Counters of a cache, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters since the cache was opened. They may be read with any ordering.
#[derive(Debug, Default)]
pub struct Stats {
    /// Reads of permissions that Redis answered.
    pub hits: AtomicU64,
    /// Reads of permissions without a usable answer of Redis.
    pub misses: AtomicU64,
    /// Reads of permissions that skipped Redis, or rejected its answer, because of an invalidation.
    pub bypassed: AtomicU64,
    /// Values of any kind that did not verify, or that no correct node could have written.
    pub refused: AtomicU64,
    /// Commands that failed, returned an error, or exceeded the deadline.
    pub errors: AtomicU64,
    /// Whether Redis is connected, so that commands are sent.
    pub up: AtomicBool,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
