//! The clock of a run: monotonic nanoseconds since the tool started. Also the CPU time of a thread.
//!
//! Promises: threads that share a [`Clock`] agree on the time. Never the wall clock.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the clock started, or a span of them: up to 584 years.
pub type Nanos = u64;

/// One second in nanoseconds.
pub const SECOND: Nanos = 1_000_000_000;
/// One millisecond in nanoseconds.
pub const MILLI: Nanos = 1_000_000;

/// A clock that counts from its start.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the clock that all other code is given")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start, in nanoseconds.
    #[must_use]
    pub fn now(self) -> Nanos {
        nanos(self.elapsed())
    }

    /// The time since the start, as a duration.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// The CPU time that the calling thread has used so far.
#[must_use]
pub fn thread_cpu() -> Nanos {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    let part = |n: i64| Nanos::try_from(n).unwrap_or(0);
    part(used.tv_sec) * SECOND + part(used.tv_nsec)
}

/// A duration in nanoseconds.
#[must_use]
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds in seconds.
#[must_use]
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
