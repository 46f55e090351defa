//! Freshness: since when this node may not know everything that was taken away.
//!
//! It knew everything at the time of the last ledger scan, and at the time when every other live node's
//! log was applied here to its end; the later of the two counts. Measured by a clock that never jumps, and
//! that goes on while the process is stopped or the machine suspended: a node that slept knows that it did. On a store of its own a
//! node is always fresh.
//!
//! Beyond `MAX_STALENESS` it answers as `STALE_POLICY` says: what it knows, with its age, or that it cannot
//! know. A refusal stands either way; what was taken away stays so.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cluster::boottime;
use schema::{Refusal, time::millis};

use crate::settings::StalePolicy;

/// How fresh this node is, and what follows.
#[derive(Debug)]
pub struct Freshness {
    /// Whether anybody else writes to the store.
    shared: bool,
    /// The last time at which everything was known, in ms; 0 before the first.
    known_at: AtomicU64,
    max: Duration,
    policy: StalePolicy,
}

impl Freshness {
    /// Of a node that knows nothing yet. One that is not `shared` needs nobody to tell it anything.
    #[must_use]
    pub fn new(shared: bool, max: Duration, policy: StalePolicy) -> Self {
        Self { shared, known_at: AtomicU64::new(0), max, policy }
    }

    /// Everything that was taken away before this time, by [`boottime`], is known here. Gives how long before
    /// that this was said last.
    pub fn knew_everything(&self, at: Duration) -> Duration {
        let at = millis(at);
        let before = self.known_at.fetch_max(at, Ordering::AcqRel);
        Duration::from_millis(if before == 0 { 0 } else { at.saturating_sub(before) })
    }

    /// How long ago everything was known; `None` before the first time.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        if !self.shared {
            return Some(Duration::ZERO);
        }
        let known_at = self.known_at.load(Ordering::Acquire);
        (known_at > 0).then(|| boottime().saturating_sub(Duration::from_millis(known_at)))
    }

    /// How old what this node knows is, when it is too old.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        if !self.shared {
            return None;
        }
        let age = self.age().unwrap_or(Duration::MAX);
        (age > self.max).then_some(age)
    }

    /// How old what this node knows is, when an answer that rests on it has to say so.
    #[must_use]
    pub fn disclosed(&self) -> Option<Duration> {
        if self.policy == StalePolicy::Open { self.staleness() } else { None }
    }

    /// Whether a token or a permission that nothing speaks against may be called good.
    ///
    /// # Errors
    /// `TooStale`, when the policy is closed.
    pub fn may_decide(&self) -> Result<(), Refusal> {
        if self.policy == StalePolicy::Closed && self.staleness().is_some() {
            return Err(Refusal::TooStale);
        }
        Ok(())
    }

    /// What it does when it is stale.
    #[must_use]
    pub const fn policy(&self) -> StalePolicy {
        self.policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    fn of_age(policy: StalePolicy, age: Duration) -> Freshness {
        let freshness = Freshness::new(true, MAX, policy);
        freshness.knew_everything(boottime().checked_sub(age).expect("the machine runs for a while"));
        freshness
    }

    #[test]
    fn on_a_store_of_its_own_a_node_is_always_fresh() {
        let freshness = Freshness::new(false, MAX, StalePolicy::Closed);
        assert_eq!(freshness.age(), Some(Duration::ZERO));
        assert_eq!((freshness.staleness(), freshness.may_decide()), (None, Ok(())));
    }

    #[test]
    fn who_never_knew_is_stale() {
        let freshness = Freshness::new(true, MAX, StalePolicy::Closed);
        assert_eq!(freshness.age(), None);
        assert!(freshness.staleness().is_some());
        assert_eq!(freshness.may_decide(), Err(Refusal::TooStale));
    }

    #[test]
    fn beyond_the_bound_the_policy_decides() {
        for (policy, verdict) in [(StalePolicy::Open, Ok(())), (StalePolicy::Closed, Err(Refusal::TooStale))]
        {
            let freshness = of_age(policy, MAX - Duration::from_secs(5));
            assert_eq!((freshness.staleness(), freshness.may_decide()), (None, Ok(())));
            let freshness = of_age(policy, MAX + Duration::from_secs(5));
            assert!(freshness.staleness().is_some_and(|age| age > MAX));
            assert_eq!(freshness.may_decide(), verdict);
            freshness.knew_everything(boottime());
            assert_eq!(freshness.may_decide(), Ok(()));
        }
    }

    #[test]
    fn what_is_known_later_counts_and_the_gap_is_told() {
        let freshness = Freshness::new(true, MAX, StalePolicy::Open);
        assert_eq!(freshness.knew_everything(MAX), Duration::ZERO, "the first time");
        assert_eq!(freshness.knew_everything(3 * MAX), 2 * MAX);
        assert_eq!(freshness.knew_everything(2 * MAX), Duration::ZERO, "it was later already");
    }
}
