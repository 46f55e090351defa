//! Limits of login and registration: pure arithmetic on the state of a counter.
//!
//! The failures of an account are counted in a window that begins with the first. At the allowed number the
//! account is locked for a minute. After that, each further failure within the length of the window locks it
//! again, for twice as long, up to an hour: see [`Failures`].
//!
//! Unrelated people share addresses, so no lock doubles for them: an address is slowed down to a rate, and
//! recovers as time passes. See [`Bucket`].

use std::{str::FromStr, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::time::{CLOCK_SKEW, Timestamp};

/// The duration of the first lock.
pub const FIRST_LOCK: Duration = Duration::from_secs(60);
/// Limit of the duration of a lock.
pub const LONGEST_LOCK: Duration = Duration::from_secs(3600);

/// A number of events per time. Settings hold `None` for `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The number of events, at least 1.
    pub count: u32,
    /// The time in which they may happen.
    pub window: Duration,
}

/// The failures of one account, as a counter remembers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The number of failures in the window.
    pub count: u32,
    /// When the window began.
    pub since: Timestamp,
    /// The number of consecutive locks.
    pub locks: u32,
    /// When the last lock ends; the epoch if there was none.
    pub locked_until: Timestamp,
}

impl Failures {
    /// Whether a correct clock could have written this by `now`. If not, the clock was ahead when it was written.
    #[must_use]
    pub fn is_credible(&self, now: Timestamp) -> bool {
        let latest = now.plus(CLOCK_SKEW);
        self.since <= latest && self.locked_until <= latest.plus(LONGEST_LOCK)
    }

    /// The state after one more failure. A failure during a lock changes nothing.
    #[must_use]
    pub fn after(previous: Option<Self>, rate: Rate, now: Timestamp) -> Self {
        let fresh = Self { count: 0, since: now, locks: 0, locked_until: Timestamp::EPOCH };
        let counts = |previous: &Self| previous.is_credible(now) && !previous.is_over(rate, now);
        let mut failures = previous.filter(counts).unwrap_or(fresh);
        if failures.is_locked(now) {
            return failures;
        }
        if now.since(failures.since) >= rate.window {
            failures.count = 0;
            failures.since = now;
        }
        failures.count = failures.count.saturating_add(1);
        if failures.count >= rate.count || failures.locks > 0 {
            let doubled = FIRST_LOCK.saturating_mul(1 << failures.locks.min(6));
            failures.locks = failures.locks.saturating_add(1);
            failures.locked_until = now.plus(doubled.min(LONGEST_LOCK));
        }
        failures
    }

    /// Whether the account is locked.
    #[must_use]
    pub fn is_locked(&self, now: Timestamp) -> bool {
        now < self.locked_until
    }

    /// Whether the state no longer matters and can be dropped.
    #[must_use]
    pub fn is_over(&self, rate: Rate, now: Timestamp) -> bool {
        now.since(self.since.max(self.locked_until)) >= rate.window
    }

    /// The remaining time of the lock; `None` if the account is not locked.
    #[must_use]
    pub fn locked_for(&self, now: Timestamp) -> Option<Duration> {
        self.is_locked(now).then(|| self.locked_until.since(now))
    }
}

/// A token bucket that refills evenly (GCRA): it allows [`Rate::count`] events at once, and on average as many
/// per [`Rate::window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bucket {
    /// When the bucket will be full again.
    pub full_at: Timestamp,
    /// When the first token was taken since it was full. The epoch if a former version wrote the bucket.
    #[serde(default)]
    pub since: Timestamp,
}

impl Bucket {
    /// Whether a correct clock could have written this by `now`; see [`Failures::is_credible`].
    #[must_use]
    pub fn is_credible(&self, rate: Rate, now: Timestamp) -> bool {
        let latest = now.plus(CLOCK_SKEW);
        self.full_at <= latest.plus(rate.window) && self.since <= latest
    }

    /// Takes a token. Returns the new bucket, and an error with the time of the next token if there was none.
    pub fn take(previous: Option<Self>, rate: Rate, now: Timestamp) -> (Self, Result<(), Timestamp>) {
        let each = rate.window / rate.count;
        let previous = previous.filter(|bucket| bucket.full_at > now && bucket.is_credible(rate, now));
        let Self { full_at, since } = previous.unwrap_or(Self { full_at: now, since: now });
        match Self::wait(previous, rate, now) {
            Some(wait) => (Self { full_at, since }, Err(now.plus(wait))),
            None => (Self { full_at: full_at.plus(each), since }, Ok(())),
        }
    }

    /// The time until the next token; `None` if there is one now.
    #[must_use]
    pub fn wait(bucket: Option<Self>, rate: Rate, now: Timestamp) -> Option<Duration> {
        let each = rate.window / rate.count;
        let full_at = bucket.map_or(now, |bucket| bucket.full_at.max(now)).plus(each);
        full_at.since(now).checked_sub(rate.window).filter(|wait| !wait.is_zero())
    }
}

/// A store of counters: the memory of a node, or a cache that nodes share. It may lose counters, which makes
/// limits softer but has no other effect. So its methods return no errors.
///
/// `now`, and every returned time, is that of a clock without jumps.
#[async_trait]
pub trait Counters: Send + Sync + 'static {
    /// The failures of this key.
    async fn failures(&self, key: &str, now: Timestamp) -> Option<Failures>;
    /// Counts one more failure and returns the new state.
    async fn fail(&self, key: &str, rate: Rate, now: Timestamp) -> Failures;
    /// The bucket of this key.
    async fn bucket(&self, key: &str, rate: Rate, now: Timestamp) -> Option<Bucket>;
    /// Takes a token from the bucket. If there is none, the error is the time of the next one.
    async fn take(&self, key: &str, rate: Rate, now: Timestamp) -> Result<(), Timestamp>;
    /// Deletes the failures of this key.
    async fn forget(&self, key: &str);
    /// Fills the bucket of this key.
    async fn refill(&self, key: &str);

    /// Lets all nodes that share these counters list a limited key for `lasting`. The caller gets `label` back
    /// from [`Self::announced`]; it is not stored in clear text.
    async fn announce(&self, _label: &str, _lasting: Duration) {}
    /// The unexpired labels that all nodes that share these counters announced; `None` if the counters belong to
    /// one node, or the shared ones cannot be read now.
    async fn announced(&self) -> Option<Vec<String>> {
        None
    }
}

/// Parses a rate such as `10/15m`: ten events per 15 minutes.
impl FromStr for Rate {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a number, a slash and a duration, as in 10/15m";
        let (count, window) = text.split_once('/').ok_or(FORM)?;
        let count = count.parse().map_err(|_| FORM)?;
        let window = parse_duration(window).ok_or(FORM)?;
        if count == 0 || window < Duration::from_millis(1) * count {
            return Err("more than zero, and at most one a millisecond");
        }
        Ok(Self { count, window })
    }
}

/// Parses a duration of the settings: `500ms`, `10s`, `15m`, `12h`, `30d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 10, window: Duration::from_secs(900) };

    fn fail(times: u32, previous: Option<Failures>, now: Timestamp) -> Failures {
        (0..times).fold(previous, |f, _| Some(Failures::after(f, RATE, now))).unwrap()
    }

    #[test]
    fn tenth_failure_locks_for_a_minute() {
        let now = Timestamp::from_secs(1_000);
        assert!(!fail(9, None, now).is_locked(now));
        let locked = fail(10, None, now);
        assert_eq!(locked.locked_until, now.plus(FIRST_LOCK));
        assert_eq!(fail(100, Some(locked), now), locked, "further failures do not extend a lock");
    }

    #[test]
    fn each_lock_is_twice_the_last_up_to_an_hour() {
        let mut now = Timestamp::from_secs(1_000);
        let mut failures = fail(10, None, now);
        for minutes in [2, 4, 8, 16, 32, 60, 60, 60] {
            now = failures.locked_until;
            assert!(!failures.is_locked(now));
            failures = fail(1, Some(failures), now);
            assert_eq!(failures.locked_until.since(now), Duration::from_secs(60 * minutes));
        }
    }

    #[test]
    fn slow_failures_never_lock() {
        let mut failures = None;
        for n in 0..100 {
            let now = Timestamp::from_secs(n * 101);
            let next = Failures::after(failures, RATE, now);
            assert!(!next.is_locked(now), "{n}");
            failures = Some(next);
        }
    }

    #[test]
    fn locks_start_over_after_a_quiet_window() {
        let now = Timestamp::from_secs(1_000);
        let failures = fail(10, None, now);
        let later = failures.locked_until.plus(RATE.window);
        assert!(failures.is_over(RATE, later));
        assert_eq!(fail(1, Some(failures), later).locks, 0);
    }

    #[test]
    fn state_written_by_a_clock_ahead_is_ignored() {
        let now = Timestamp::from_secs(1_000_000);
        let ahead = Timestamp::from_secs(1_086_400);
        let locked = fail(10, None, ahead);
        assert!(!locked.is_credible(now) && locked.is_credible(ahead));
        let next = Failures::after(Some(locked), RATE, now);
        assert_eq!((next.count, next.is_locked(now)), (1, false));
        let (bucket, _) = Bucket::take(None, RATE, ahead);
        assert!(!bucket.is_credible(RATE, now) && bucket.is_credible(RATE, ahead));
        let (next, taken) = Bucket::take(Some(bucket), RATE, now);
        assert_eq!((taken, next.since), (Ok(()), now));
    }

    #[test]
    fn bucket_allows_a_burst_and_then_its_rate() {
        let rate = Rate { count: 20, window: Duration::from_secs(60) };
        let now = Timestamp::from_secs(1_000);
        let mut bucket = None;
        for n in 0..20 {
            let (next, taken) = Bucket::take(bucket, rate, now);
            assert_eq!(taken, Ok(()), "{n}");
            bucket = Some(next);
        }
        let (same, refused) = Bucket::take(bucket, rate, now);
        assert_eq!((Some(same), refused), (bucket, Err(now.plus(Duration::from_secs(3)))));
        let later = now.plus(Duration::from_secs(3));
        let (next, taken) = Bucket::take(bucket, rate, later);
        assert_eq!(taken, Ok(()));
        assert!(Bucket::take(Some(next), rate, later).1.is_err());
    }

    #[test]
    fn empty_bucket_refills_as_time_passes() {
        let rate = Rate { count: 100, window: Duration::from_secs(900) };
        let mut now = Timestamp::from_secs(1_000);
        let mut bucket = None;
        for _ in 0..100 {
            assert_eq!(Bucket::wait(bucket, rate, now), None);
            bucket = Some(Bucket::take(bucket, rate, now).0);
        }
        // One failure after each wait, for days: the wait stays that of one failure.
        for _ in 0..10_000 {
            let wait = Bucket::wait(bucket, rate, now).unwrap();
            assert!(wait <= Duration::from_secs(9), "{wait:?}");
            now = now.plus(wait);
            let (next, taken) = Bucket::take(bucket, rate, now);
            assert_eq!(taken, Ok(()));
            bucket = Some(next);
        }
        assert_eq!(bucket.unwrap().since, Timestamp::from_secs(1_000), "it was never full");
        let later = now.plus(rate.window / 2);
        let taken = (0..100).filter(|_| {
            let (next, taken) = Bucket::take(bucket, rate, later);
            bucket = Some(next);
            taken.is_ok()
        });
        assert_eq!(taken.count(), 50, "half the time refills half of it");
        assert_eq!(Bucket::wait(bucket, rate, later.plus(rate.window)), None);
    }

    #[test]
    fn rates_and_durations_parse() {
        assert_eq!("10/15m".parse(), Ok(RATE));
        for bad in [
            "",
            "10",
            "10/",
            "/15m",
            "0/15m",
            "10/0s",
            "-1/15m",
            "10/15",
            "10/15w",
            "10/99999999999999999999d",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!(parse_duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_duration("50ms"), Some(Duration::from_millis(50)));
        for bad in ["", "s", "10", "1.5s", "-1s", "10 s", "10S", "213503982334602d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
