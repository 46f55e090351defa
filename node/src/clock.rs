//! The machine's clocks and randomness. All other code receives them as parameters.

#[cfg(debug_assertions)]
mod shift;

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use schema::{Clock, Entropy, MonotonicClock, Timestamp, time};
use tokio::time::Instant;

/// The file whose content changes at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The machine's wall clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock that everybody else is given")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = Timestamp::from_millis(time::millis(since_epoch.unwrap_or(Duration::ZERO)));
        #[cfg(debug_assertions)]
        let now = shift::wall(now);
        now
    }
}

/// The time since boot. It never jumps, and continues while the machine is suspended.
#[derive(Debug, Default, Clone, Copy)]
pub struct BootClock;

impl MonotonicClock for BootClock {
    fn elapsed(&self) -> Duration {
        let elapsed = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let elapsed = Duration::try_from(elapsed).unwrap_or_default();
        #[cfg(debug_assertions)]
        let elapsed = shift::boot(elapsed);
        elapsed
    }
}

/// Now, by the clock that `tokio::time::timeout` follows: for timeouts and latencies, which tests may pause.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
pub fn runtime_now() -> Instant {
    Instant::now()
}

/// The time between two rounds of upkeep: `usual`, or shorter if a test moves the clocks.
#[must_use]
pub fn upkeep_interval(usual: Duration) -> Duration {
    #[cfg(debug_assertions)]
    let usual = if shift::is_on() { shift::UPKEEP_INTERVAL } else { usual };
    usual
}

/// An id of the current boot; empty if the system provides none.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The operating system's random number generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// If the operating system provides no randomness: tokens would be guessable.
    #[allow(clippy::expect_used, reason = "there is no safe way to continue")]
    fn fill(&self, bytes: &mut [u8]) {
        SystemRandom::new().fill(bytes).expect("the operating system gives random bytes");
    }
}
