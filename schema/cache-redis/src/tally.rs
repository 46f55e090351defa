//! The shared counters of one account or address.

use std::time::Duration;

use schema::{
    Timestamp,
    limit::{Bucket, Failures, Rate},
    time::CLOCK_SKEW,
};
use serde::{Deserialize, Serialize};

/// How long nodes remember that failures were forgiven. Longer than a lock and the usual window; beyond it,
/// the local count of another node may live on.
const FORGIVEN_TTL: Duration = Duration::from_secs(2 * 3600);

/// Failures, and when they were last forgiven, by a successful log-in or by an operator that lifted the lock.
/// That time tells other nodes that their own counts from before are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) failures: Option<Failures>,
    /// When the counter was last forgiven; the epoch if never.
    pub(crate) forgiven_at: Timestamp,
}

impl Tally {
    /// Whether a correct node could have written this by now. The only future time that a node writes is the end
    /// of a lock.
    pub(crate) fn is_credible(&self, now: Timestamp) -> bool {
        let could_be = |failures: Failures| failures.is_credible(now);
        self.forgiven_at <= now.plus(CLOCK_SKEW) && self.failures.is_none_or(could_be)
    }

    pub(crate) fn after_failure(self, rate: Rate, now: Timestamp) -> Self {
        Self { failures: Some(Failures::after(self.failures, rate, now)), ..self }
    }

    pub(crate) fn forgiven(now: Timestamp) -> Self {
        Self { failures: None, forgiven_at: now }
    }

    /// Whether these local failures began before the failures were last forgiven.
    pub(crate) fn voids(&self, failures: &Failures) -> bool {
        failures.since < self.forgiven_at
    }

    /// How long the tally matters. `window` is that of the rate; zero if there are no failures.
    pub(crate) fn life(&self, window: Duration, now: Timestamp) -> Duration {
        let failures = self.failures.map_or(Duration::ZERO, |failures| {
            failures.since.max(failures.locked_until).plus(window).since(now)
        });
        failures.max(self.forgiven_at.plus(FORGIVEN_TTL).since(now))
    }
}

/// A bucket, and when it was last forgiven, which, as with a [`Tally`], voids the local counts of other nodes
/// from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct SharedBucket {
    #[serde(flatten)]
    bucket: Bucket,
    /// When the counter was last forgiven; the epoch if never.
    #[serde(default)]
    forgiven_at: Timestamp,
}

impl SharedBucket {
    /// Whether a correct node could have written this by now.
    pub(crate) fn is_credible(&self, rate: Rate, now: Timestamp) -> bool {
        self.forgiven_at <= now.plus(CLOCK_SKEW) && self.bucket.is_credible(rate, now)
    }

    /// The bucket, unless it is full.
    pub(crate) fn bucket(&self, now: Timestamp) -> Option<Bucket> {
        Some(self.bucket).filter(|bucket| bucket.full_at > now)
    }

    pub(crate) fn with(self, bucket: Bucket) -> Self {
        Self { bucket, ..self }
    }

    pub(crate) fn forgiven(now: Timestamp) -> Self {
        Self { bucket: Bucket { full_at: now, since: now }, forgiven_at: now }
    }

    /// Whether this local bucket was begun before the bucket was last forgiven.
    pub(crate) fn voids(&self, bucket: &Bucket) -> bool {
        bucket.since < self.forgiven_at
    }

    /// How long the bucket matters.
    pub(crate) fn life(&self, now: Timestamp) -> Duration {
        self.bucket.full_at.since(now).max(self.forgiven_at.plus(FORGIVEN_TTL).since(now))
    }
}

/// The bucket that will be full later.
pub(crate) fn emptier(one: Bucket, other: Bucket) -> Bucket {
    if other.full_at > one.full_at { other } else { one }
}

/// The failures that lock longer, or else are nearer to a lock.
pub(crate) fn stricter(one: Failures, other: Failures, now: Timestamp) -> Failures {
    let strictness = |f: &Failures| (f.locked_until.since(now), f.locks, f.count);
    if strictness(&other) > strictness(&one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const RATE: Rate = Rate { count: 10, window: Duration::from_secs(900) };

    fn failures(count: u32, since: Timestamp, locked_until: Timestamp) -> Failures {
        Failures { count, since, locks: 0, locked_until }
    }

    #[test]
    fn impossible_times_are_not_credible() {
        let later = |secs| NOW.plus(Duration::from_secs(secs));
        let tally = |since, locked_until, forgiven_at| Tally {
            failures: Some(failures(1, since, locked_until)),
            forgiven_at,
        };
        assert!(tally(NOW, Timestamp::EPOCH, Timestamp::EPOCH).is_credible(NOW));
        assert!(tally(later(60), later(3_660), later(60)).is_credible(NOW));
        assert!(!tally(later(61), NOW, NOW).is_credible(NOW));
        assert!(!tally(NOW, later(3_661), NOW).is_credible(NOW));
        assert!(!tally(NOW, NOW, later(61)).is_credible(NOW));
        assert!(!tally(NOW, Timestamp::MAX, NOW).is_credible(NOW));
        let bucket = |full_at, since, forgiven_at| {
            SharedBucket { bucket: Bucket { full_at, since }, forgiven_at }.is_credible(RATE, NOW)
        };
        assert!(bucket(later(960), later(60), later(60)));
        assert!(!bucket(later(961), NOW, NOW));
        assert!(!bucket(NOW, later(61), NOW));
        assert!(!bucket(NOW, NOW, later(61)));
    }

    #[test]
    fn buckets_of_the_previous_version_stay_compatible() {
        let before: SharedBucket = serde_json::from_str(r#"{"full_at":7}"#).unwrap();
        assert_eq!(before.bucket(NOW), None);
        assert!(before.is_credible(RATE, NOW));
        let forgiven = SharedBucket::forgiven(NOW);
        let text = serde_json::to_string(&forgiven).unwrap();
        assert_eq!(serde_json::from_str::<SharedBucket>(&text).unwrap(), forgiven);
        assert_eq!(serde_json::from_str::<Bucket>(&text).unwrap().full_at, NOW);
    }

    #[test]
    fn longer_lock_is_stricter() {
        let far = NOW.plus(Duration::from_secs(60));
        let locked = failures(1, NOW, far);
        let many = failures(9, NOW, Timestamp::EPOCH);
        let over = failures(1, NOW, NOW.minus(Duration::from_secs(1)));
        assert_eq!(stricter(locked, many, NOW), locked);
        assert_eq!(stricter(many, locked, NOW), locked);
        assert_eq!(stricter(over, many, NOW), many, "an ended lock does not count");
    }

    #[test]
    fn tally_lives_as_long_as_it_matters() {
        let tally = Tally::default().after_failure(RATE, NOW);
        assert_eq!(tally.life(RATE.window, NOW), RATE.window);
        assert_eq!(Tally::forgiven(NOW).life(Duration::ZERO, NOW), FORGIVEN_TTL);
        assert_eq!(Tally::default().life(RATE.window, NOW), Duration::ZERO);
    }
}
