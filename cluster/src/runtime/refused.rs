//! Links that were refused: counted always, logged the first time and then every hundredth time for each
//! reason.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::link::Refused;

/// Of the refusals for one reason, the first and then every one of this number is logged.
pub(super) const LOG_EVERY: u64 = 100;

/// Why a link was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkRefusal {
    OtherCluster,
    OtherSecret,
    OtherVersion,
    NotPalisade,
    Itself,
    Malformed,
    Slow,
    Crowded,
}

impl LinkRefusal {
    /// Every reason, in the order of the counts.
    const ALL: [Self; 8] = [
        Self::OtherCluster,
        Self::OtherSecret,
        Self::OtherVersion,
        Self::NotPalisade,
        Self::Itself,
        Self::Malformed,
        Self::Slow,
        Self::Crowded,
    ];

    /// The reason's name in metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::OtherCluster => "other_cluster",
            Self::OtherSecret => "other_secret",
            Self::OtherVersion => "other_version",
            Self::NotPalisade => "not_palisade",
            Self::Itself => "itself",
            Self::Malformed => "malformed",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
        }
    }

    /// The reason for a failed handshake; `None` if the connection failed and neither end refused the other.
    const fn of(error: &Refused) -> Option<Self> {
        match error {
            Refused::OtherCluster => Some(Self::OtherCluster),
            Refused::OtherSecret => Some(Self::OtherSecret),
            Refused::OtherVersion { .. } => Some(Self::OtherVersion),
            Refused::NotPalisade => Some(Self::NotPalisade),
            Refused::Itself => Some(Self::Itself),
            Refused::Malformed(_) => Some(Self::Malformed),
            Refused::Slow => Some(Self::Slow),
            Refused::Io(_) | Refused::Closed => None,
        }
    }
}

/// The number of links that were refused, by reason.
#[derive(Debug, Default)]
pub struct RefusedLinks {
    counts: [AtomicU64; LinkRefusal::ALL.len()],
}

impl RefusedLinks {
    /// Counts a refusal. Returns how many there were before for the same reason.
    pub(super) fn count(&self, refusal: LinkRefusal) -> u64 {
        self.counts[refusal as usize].fetch_add(1, Ordering::Relaxed)
    }

    /// Counts and logs a failed handshake.
    pub(super) fn note(&self, error: &Refused, address: SocketAddr) {
        let Some(refusal) = LinkRefusal::of(error) else {
            tracing::debug!(%address, reason = %error, "peer link not established");
            return;
        };
        let before = self.count(refusal);
        if before.is_multiple_of(LOG_EVERY) {
            tracing::warn!(%address, reason = %error, before, "peer link refused");
        }
    }

    /// Counts and logs a connection that was closed before it had proved itself, to make room for another
    /// one.
    pub(super) fn note_evicted(&self, address: SocketAddr) {
        let before = self.count(LinkRefusal::Crowded);
        if before.is_multiple_of(LOG_EVERY) {
            tracing::warn!(%address, before, "unproven peer connection closed to make room for others");
        }
    }

    /// The counts, each with its reason's name in metrics.
    pub(super) fn read(&self) -> Vec<(&'static str, u64)> {
        let count = |refusal: LinkRefusal| self.counts[refusal as usize].load(Ordering::Relaxed);
        LinkRefusal::ALL.into_iter().map(|refusal| (refusal.as_str(), count(refusal))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_count() {
        for (index, refusal) in LinkRefusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
        }
    }
}
