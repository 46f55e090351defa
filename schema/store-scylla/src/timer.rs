//! The runtime's clock, for timeouts of this store.

use tokio::time::Instant;

/// Now, by the clock that `tokio::time::timeout` follows. No stored time depends on it.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
