//! Rate-limited warnings about clients or proxies, which could otherwise occur on every request. Each reports
//! how many were suppressed.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use schema::time::millis;

/// The shortest time between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Decides whether a warning is due.
#[derive(Debug, Default)]
pub struct Occasional {
    /// The earliest time of the next warning, in ms; 0 before the first.
    next_ms: AtomicU64,
    /// Warnings suppressed since the last one.
    left_out: AtomicU64,
}

impl Occasional {
    /// Whether a warning is due: `None`, or the number of warnings suppressed before this one. `now` is from
    /// a clock that does not jump.
    pub fn due(&self, now: Duration) -> Option<u64> {
        let now_ms = millis(now);
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let later_ms = now_ms.saturating_add(millis(WARNING_INTERVAL));
        let is_due = now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, later_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// The warnings of a node about requests.
#[derive(Debug, Default)]
pub struct Warnings {
    /// A gateway sent a parameter or header that the node does not know.
    pub unknown_parameter: Occasional,
    /// A trusted proxy sent an `X-Forwarded-For` that does not parse.
    pub forwarded_unreadable: Occasional,
    /// A request had `X-Forwarded-For` although no proxy is trusted. Logged once.
    pub forwarded_ignored: AtomicBool,
}

/// Characters of a text from a request that a warning shows.
const SHOWN_CHARS_MAX: usize = 64;

/// The beginning of a text from a request, for a warning.
#[must_use]
pub fn excerpt(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_is_due_once_a_minute_and_counts_suppressed() {
        let occasional = Occasional::default();
        let at = |seconds| occasional.due(Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(59)), (None, None));
        assert_eq!(at(60), Some(2));
        assert_eq!(at(119), None);
        assert_eq!(at(1_000), Some(1));
    }
}
