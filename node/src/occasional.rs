//! Warnings about what clients or proxies do, which may happen on every request: logged at most
//! once in a while, with how many were left out.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use schema::time::millis;

/// The shortest time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides whether a warning is due.
#[derive(Debug, Default)]
pub struct Occasional {
    /// The earliest time of the next one, in ms; 0 before the first.
    next_ms: AtomicU64,
    /// How many were left out since the last one.
    left_out: AtomicU64,
}

impl Occasional {
    /// Whether to warn now: `None`, or how many warnings were left out before this one. `now` is
    /// from a clock that does not jump.
    pub fn due(&self, now: Duration) -> Option<u64> {
        let now_ms = millis(now);
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let later_ms = now_ms.saturating_add(millis(INTERVAL));
        let is_due = now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, later_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Warnings of a node about requests.
#[derive(Debug, Default)]
pub struct Warnings {
    /// A gateway sends a parameter or header that the node does not know.
    pub unknown_parameter: Occasional,
    /// A trusted proxy sends an `X-Forwarded-For` that cannot be read.
    pub forwarded_unreadable: Occasional,
    /// `X-Forwarded-For` arrives and no proxy is trusted. Logged once.
    pub forwarded_ignored: AtomicBool,
}

/// At most so many characters of a text from a request go into a warning.
const SHOWN_CHARS: usize = 64;

/// The beginning of a text from a request, for a warning.
#[must_use]
pub fn excerpt(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_due_once_a_minute_and_counts_the_others() {
        let occasional = Occasional::default();
        let at = |seconds| occasional.due(Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(59)), (None, None));
        assert_eq!(at(60), Some(2));
        assert_eq!(at(119), None);
        assert_eq!(at(1_000), Some(1));
    }
}
