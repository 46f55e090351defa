//! Why datagrams are refused. Every refusal is counted; for each reason at most one in ten seconds is logged.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::timer;
use tracing::{debug, warn};

/// The shortest time between two log lines for one reason.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The datagram has another format: from another version of this program, or from another program.
    OtherVersion,
    /// The sender belongs to a cluster of another name.
    OtherCluster,
    /// The datagram cannot be decrypted: the sender has another secret, or the datagram was altered.
    OtherSecret,
    /// The datagram, or a much newer one of the same sender, arrived before.
    Replayed,
    /// The datagram is one of this node's own.
    Reflected,
    /// The datagram can be decrypted, but its content cannot be read; or it is too short.
    Malformed,
    /// The datagram is longer than a datagram may be.
    TooLong,
    /// Too many datagrams of unknown senders arrived within a second.
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

    /// The reason's name in logs and metrics.
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

/// Counts and logs refusals.
#[derive(Default)]
pub(super) struct Refusals {
    counts: [AtomicU64; Refusal::ALL.len()],
    logged: Mutex<[LoggedAt; Refusal::ALL.len()]>,
}

#[derive(Default, Clone, Copy)]
struct LoggedAt {
    at: Option<Instant>,
    omitted: u64,
}

impl LoggedAt {
    /// If this refusal is logged, the number that were left out before it.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < LOG_INTERVAL) {
            self.omitted = self.omitted.saturating_add(1);
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.omitted))
    }
}

impl Refusals {
    pub(super) fn note(&self, refusal: Refusal, peer: SocketAddr) {
        if let Some(count) = self.counts.get(refusal as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let line = logged.get_mut(refusal as usize).and_then(|logged| logged.next(timer::now()));
        drop(logged);
        let Some(omitted) = line else { return };
        let reason = refusal.as_str();
        // A seed that resolves to this node is no mistake (one name for all nodes) and does no harm.
        if refusal == Refusal::Reflected {
            debug!(%peer, reason, omitted, "gossip datagram refused");
        } else {
            warn!(%peer, reason, omitted, "gossip datagram refused");
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
    fn log_line_names_the_number_of_omitted_refusals() {
        let mut logged = LoggedAt::default();
        let start = timer::now();
        assert_eq!(logged.next(start), Some(0));
        for n in 1..10 {
            assert_eq!(logged.next(start + Duration::from_secs(n)), None, "{n}");
        }
        assert_eq!(logged.next(start + LOG_INTERVAL), Some(9));
        assert_eq!(logged.next(start + LOG_INTERVAL * 2), Some(0));
    }

    #[test]
    fn every_reason_has_its_own_count() {
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
        }
    }
}
