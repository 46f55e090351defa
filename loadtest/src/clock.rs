//! The one clock of a run: nanoseconds since the tool started, monotonic.
//!
//! Promises: threads that share a [`Clock`] agree on the time. Never the wall clock. Beside it, the CPU time of a
//! thread.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the clock was made: 584 years fit.
pub type Nanos = u64;

/// A second.
pub const SECOND: Nanos = 1_000_000_000;
/// A millisecond.
pub const MILLI: Nanos = 1_000_000;

/// Counts from one moment.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Counts from now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long since.
    #[must_use]
    pub fn now(self) -> Nanos {
        nanos(self.0.elapsed())
    }
}

/// What the calling thread has used of the CPU until now.
#[must_use]
pub fn thread_cpu() -> Nanos {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    let part = |n: i64| Nanos::try_from(n).unwrap_or(0);
    part(used.tv_sec) * SECOND + part(used.tv_nsec)
}

/// A span as nanoseconds.
#[must_use]
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as seconds.
#[must_use]
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
