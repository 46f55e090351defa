//! Counters of commits and changes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the store was opened, which show how many changes share a commit.
#[derive(Debug, Default)]
pub struct Stats {
    commits: AtomicU64,
    changes: AtomicU64,
}

impl Stats {
    /// The number of durable commits, each with one `fsync`.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    /// The number of changes in those commits. A call that found nothing to change does not count.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    pub(crate) fn committed(&self, changes: u64) {
        self.commits.fetch_add(1, Relaxed);
        self.changes.fetch_add(changes, Relaxed);
    }
}
