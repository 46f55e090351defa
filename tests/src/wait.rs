//! Waiting for a condition, never for a fixed time. Every wait has a bound and panics with the condition.

use std::time::{Duration, Instant};

/// Interval between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `look` until it returns a value, at most for `bound`.
///
/// # Panics
/// When `look` returns nothing in that time. `what` names the condition in the message.
pub async fn eventually<T>(bound: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Awaits a future that must complete within `bound`.
///
/// # Panics
/// When it does not. `what` names the event in the message.
pub async fn within<T>(bound: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(bound, future).await {
        Ok(done) => done,
        Err(_) => panic!("not within {bound:?}: {what}"),
    }
}
