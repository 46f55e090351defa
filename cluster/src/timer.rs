//! The runtime's clock, for timeouts of connections and tasks: tests pause it.

use tokio::time::Instant;

/// Now, by the clock that `tokio::time::timeout` and `sleep_until` follow. Facts and freshness never depend on it.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
