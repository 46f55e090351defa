//! Freshness: since when this node may not know everything that was taken away.
//!
//! It knew everything at the time of the last ledger scan, and at the time when every other live node's
//! log was applied here to its end; the later of the two counts. Measured by a clock that never jumps, and
//! that goes on while the process is stopped: a node that slept knows that it did. On a store of its own a
//! node is always fresh.
//!
//! Beyond `MAX_STALENESS` it answers as `STALE_POLICY` says: what it knows, with its age, or that it cannot
//! know. A refusal stands either way; what was taken away stays so.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use schema::{Refusal, time::millis};

use crate::settings::StalePolicy;

/// How fresh this node is, and what follows.
#[derive(Debug)]
pub struct Freshness {
    /// What time is counted from; [`None`] when nobody else writes to the store.
    since: Option<Instant>,
    /// The last time at which everything was known, in ms since then, and 1; 0 before the first.
    known_at: AtomicU64,
    max: Duration,
    policy: StalePolicy,
}

impl Freshness {
    /// Of a node that knows nothing yet. One that is not `shared` needs nobody to tell it anything.
    #[must_use]
    pub fn new(shared: bool, max: Duration, policy: StalePolicy) -> Self {
        Self { since: shared.then(now), known_at: AtomicU64::new(0), max, policy }
    }

    /// Everything that was taken away before this time is known here. Gives how long before that this was
    /// said last.
    pub fn knew_everything(&self, at: Instant) -> Duration {
        let Some(since) = self.since else { return Duration::ZERO };
        let at = millis(at.saturating_duration_since(since)) + 1;
        let before = self.known_at.fetch_max(at, Ordering::AcqRel);
        Duration::from_millis(if before == 0 { 0 } else { at.saturating_sub(before) })
    }

    /// How long ago everything was known.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let Some(since) = self.since else { return Some(Duration::ZERO) };
        let known_at = self.known_at.load(Ordering::Acquire).checked_sub(1)?;
        Some(since.elapsed().saturating_sub(Duration::from_millis(known_at)))
    }

    /// How old what this node knows is, when it is too old.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.since?;
        let age = self.age().unwrap_or(Duration::MAX);
        (age > self.max).then_some(age)
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

/// The time by the clock that never jumps.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "the age of what is known is measured by the machine's own clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(30);

    fn long_ago(freshness: &Freshness, age: Duration) {
        // Time cannot be wound forward: the beginning is put back.
        freshness
            .known_at
            .store(millis(freshness.since.unwrap().elapsed()) + 1 - millis(age), Ordering::SeqCst);
    }

    fn begun_long_ago(policy: StalePolicy) -> Freshness {
        let mut freshness = Freshness::new(true, MAX, policy);
        freshness.since = now().checked_sub(10 * MAX);
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
        let freshness = begun_long_ago(StalePolicy::Closed);
        assert_eq!(freshness.age(), None);
        assert!(freshness.staleness().is_some());
        assert_eq!(freshness.may_decide(), Err(Refusal::TooStale));
    }

    #[test]
    fn beyond_the_bound_the_policy_decides() {
        for (policy, verdict) in [(StalePolicy::Open, Ok(())), (StalePolicy::Closed, Err(Refusal::TooStale))]
        {
            let freshness = begun_long_ago(policy);
            long_ago(&freshness, MAX - Duration::from_secs(5));
            assert_eq!((freshness.staleness(), freshness.may_decide()), (None, Ok(())));
            long_ago(&freshness, MAX + Duration::from_secs(5));
            assert!(freshness.staleness().is_some_and(|age| age > MAX));
            assert_eq!(freshness.may_decide(), verdict);
            freshness.knew_everything(now());
            assert_eq!(freshness.may_decide(), Ok(()));
        }
    }

    #[test]
    fn what_is_known_later_counts_and_the_gap_is_told() {
        let freshness = begun_long_ago(StalePolicy::Open);
        let then = freshness.since.unwrap();
        assert_eq!(freshness.knew_everything(then + MAX), Duration::ZERO, "the first time");
        assert_eq!(freshness.knew_everything(then + 3 * MAX), 2 * MAX);
        assert_eq!(freshness.knew_everything(then + 2 * MAX), Duration::ZERO, "it was later already");
    }
}
