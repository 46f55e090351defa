//! Why datagrams are refused: counted always, named in the log not more often than people can read.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, warn};

/// Between two lines in the log for one reason.
const QUIET: Duration = Duration::from_secs(10);

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// It is of another format: another version of this program, or not ours at all.
    OtherVersion,
    /// It was sealed by a node of a cluster of another name.
    OtherCluster,
    /// It does not open: another secret, or somebody altered it.
    OtherSecret,
    /// It, or a much newer one of the same sender, was here before.
    Replayed,
    /// It is one of our own.
    Reflected,
    /// It opens, but what is in it cannot be read; or it is too short to be one.
    Malformed,
    /// It has more bytes than a datagram may have.
    TooLong,
    /// Too many of unknown senders came within a second.
    TooMany,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::OtherVersion,
        Self::OtherCluster,
        Self::OtherSecret,
        Self::Replayed,
        Self::Reflected,
        Self::Malformed,
        Self::TooLong,
        Self::TooMany,
    ];

    /// A name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherVersion => "other_version",
            Self::OtherCluster => "other_cluster",
            Self::OtherSecret => "other_secret",
            Self::Replayed => "replayed",
            Self::Reflected => "reflected",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
        }
    }
}

/// Counts refusals and names them in the log.
#[derive(Default)]
pub(super) struct Refusals {
    counts: [AtomicU64; Refusal::ALL.len()],
    shown: Mutex<[Shown; Refusal::ALL.len()]>,
}

#[derive(Default, Clone, Copy)]
struct Shown {
    at: Option<Instant>,
    hidden: u64,
}

impl Shown {
    /// How many were not shown before this one, if this one is.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < QUIET) {
            self.hidden = self.hidden.saturating_add(1);
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.hidden))
    }
}

impl Refusals {
    pub(super) fn note(&self, refusal: Refusal, peer: SocketAddr) {
        if let Some(count) = self.counts.get(refusal as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let line = shown.get_mut(refusal as usize).and_then(|shown| shown.next(Instant::now()));
        drop(shown);
        let Some(hidden) = line else { return };
        let reason = refusal.as_str();
        // A seed that leads back here is no mistake (one name for all nodes), and harms nobody.
        if refusal == Refusal::Reflected {
            debug!(%peer, reason, hidden, "gossip refused");
        } else {
            warn!(%peer, reason, hidden, "gossip refused");
        }
    }

    pub(super) fn counts(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|refusal| {
            (refusal, self.counts.get(refusal as usize).map_or(0, |n| n.load(Ordering::Relaxed)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_reason_and_the_number_of_those_not_shown() {
        let mut shown = Shown::default();
        let start = Instant::now();
        assert_eq!(shown.next(start), Some(0));
        for n in 1..10 {
            assert_eq!(shown.next(start + Duration::from_secs(n)), None, "{n}");
        }
        assert_eq!(shown.next(start + QUIET), Some(9));
        assert_eq!(shown.next(start + QUIET * 2), Some(0));
    }

    #[test]
    fn every_reason_has_its_own_count() {
        for (n, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, n);
        }
    }
}
