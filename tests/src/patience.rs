//! Waiting for a condition, never for a while. Every wait has a bound and says what it waited for.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Looks until `look` gives something, at most for `bound`.
///
/// # Panics
/// When it has not by then; `what` says what was waited for.
pub async fn eventually<T>(bound: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Awaits something that must come to an end within `bound`.
///
/// # Panics
/// When it does not; `what` says what was waited for.
pub async fn within<T>(bound: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(bound, future).await {
        Ok(done) => done,
        Err(_) => panic!("not within {bound:?}: {what}"),
    }
}
