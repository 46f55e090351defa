//! Freshness: how long ago this node was last known to have applied every revocation of every other node.
//!
//! A node knows it when it has read the ledger to its end, and when it has applied the logs of all other live
//! nodes to their ends; the later of the two counts. The age follows the monotonic clock, which continues
//! while the process is stopped or the machine is suspended, so a node that slept knows that it did. A node
//! with a store of its own is always fresh.
//!
//! Beyond `MAX_STALENESS` the node follows `STALE_POLICY`: it answers from what it knows and discloses the
//! age, or it answers that it cannot know. It refuses revoked tokens either way, since a revocation is final.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use schema::{Clocks, Refusal, time::millis};

use crate::settings::StalePolicy;

/// The freshness of this node, and what it may decide.
#[derive(Debug)]
pub struct Freshness {
    /// Whether other nodes use the same store.
    is_shared: bool,
    /// The latest time up to which everything is known, by the monotonic clock, in ms; 0 before the first
    /// sync.
    synced_at_ms: AtomicU64,
    max: Duration,
    policy: StalePolicy,
    clocks: Arc<Clocks>,
}

impl Freshness {
    /// The freshness of a node that has just started. With `is_shared` it is stale until it has synced.
    #[must_use]
    pub fn new(is_shared: bool, max: Duration, policy: StalePolicy, clocks: Arc<Clocks>) -> Self {
        Self { is_shared, synced_at_ms: AtomicU64::new(0), max, policy, clocks }
    }

    /// Records that this node has applied every revocation made anywhere before `at`, by the monotonic clock.
    /// Returns the time since the previous sync; zero the first time.
    pub fn mark_synced_at(&self, at: Duration) -> Duration {
        let at_ms = millis(at);
        let before = self.synced_at_ms.fetch_max(at_ms, Ordering::AcqRel);
        Duration::from_millis(if before == 0 { 0 } else { at_ms.saturating_sub(before) })
    }

    /// The time since the last sync; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        if !self.is_shared {
            return Some(Duration::ZERO);
        }
        let synced_at_ms = self.synced_at_ms.load(Ordering::Acquire);
        let age = || self.clocks.monotonic().saturating_sub(Duration::from_millis(synced_at_ms));
        (synced_at_ms > 0).then(age)
    }

    /// The age, if it exceeds `MAX_STALENESS`.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        if !self.is_shared {
            return None;
        }
        let age = self.age().unwrap_or(Duration::MAX);
        (age > self.max).then_some(age)
    }

    /// The age, if an answer must disclose it.
    #[must_use]
    pub fn disclosed(&self) -> Option<Duration> {
        if self.policy == StalePolicy::Open { self.staleness() } else { None }
    }

    /// Checks whether the node may accept a token, or grant a permission, that no fact denies.
    ///
    /// # Errors
    /// `TooStale`, if the node is stale and the policy is closed.
    pub fn may_decide(&self) -> Result<(), Refusal> {
        if self.policy == StalePolicy::Closed && self.staleness().is_some() {
            return Err(Refusal::TooStale);
        }
        Ok(())
    }

    /// The policy of a stale node.
    #[must_use]
    pub const fn policy(&self) -> StalePolicy {
        self.policy
    }
}

#[cfg(test)]
mod tests {
    use schema::{Timestamp, horizon::manual::ManualClocks};

    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    fn new(is_shared: bool, policy: StalePolicy) -> (Freshness, Arc<ManualClocks>) {
        let manual = ManualClocks::at(Timestamp::from_secs(1_700_000_000));
        (Freshness::new(is_shared, MAX, policy, manual.clocks()), manual)
    }

    #[test]
    fn node_with_a_store_of_its_own_is_always_fresh() {
        let (freshness, manual) = new(false, StalePolicy::Closed);
        manual.advance(10 * MAX);
        assert_eq!(freshness.age(), Some(Duration::ZERO));
        assert_eq!((freshness.staleness(), freshness.may_decide()), (None, Ok(())));
    }

    #[test]
    fn node_that_never_synced_is_stale() {
        let (freshness, _) = new(true, StalePolicy::Closed);
        assert_eq!(freshness.age(), None);
        assert!(freshness.staleness().is_some());
        assert_eq!(freshness.may_decide(), Err(Refusal::TooStale));
    }

    #[test]
    fn policy_decides_beyond_the_bound() {
        for (policy, verdict) in [(StalePolicy::Open, Ok(())), (StalePolicy::Closed, Err(Refusal::TooStale))]
        {
            let (freshness, manual) = new(true, policy);
            freshness.mark_synced_at(manual.clocks().monotonic());
            manual.advance(MAX);
            assert_eq!((freshness.staleness(), freshness.may_decide()), (None, Ok(())));
            manual.advance(Duration::from_millis(1));
            assert!(freshness.staleness().is_some_and(|age| age > MAX));
            assert_eq!(freshness.may_decide(), verdict);
            freshness.mark_synced_at(manual.clocks().monotonic());
            assert_eq!(freshness.may_decide(), Ok(()));
        }
    }

    #[test]
    fn age_follows_the_monotonic_clock_only() {
        let (freshness, manual) = new(true, StalePolicy::Closed);
        freshness.mark_synced_at(manual.clocks().monotonic());
        for by_ms in [3_600_000, -7_200_000] {
            manual.jump(by_ms);
            assert_eq!((freshness.age(), freshness.may_decide()), (Some(Duration::ZERO), Ok(())));
        }
    }

    #[test]
    fn latest_sync_counts_and_the_gap_is_returned() {
        let (freshness, _) = new(true, StalePolicy::Open);
        assert_eq!(freshness.mark_synced_at(MAX), Duration::ZERO, "the first time");
        assert_eq!(freshness.mark_synced_at(3 * MAX), 2 * MAX);
        assert_eq!(freshness.mark_synced_at(2 * MAX), Duration::ZERO, "a later time was known already");
    }
}
