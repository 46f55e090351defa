//! Removes what has expired: denials, rows of the store, keys.

use std::time::Duration;

use schema::{horizon::Horizons, time::CLOCK_SKEW};

use super::clocks;
use crate::{app::App, clock::upkeep_interval, credentials::keys, scheduling::background::UPKEEP};

/// The time between two rounds.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// The age at which a snapshot of permissions is dropped, on a shared store that answers.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Expired rows that one call to the store removes.
const SWEEP_BATCH_MAX: usize = 1_000;

/// Removes what has expired, for as long as the node runs.
pub(super) async fn remove(app: &App) -> ! {
    let mut rounds = app.background.rounds(UPKEEP, upkeep_interval(EXPIRY_INTERVAL));
    loop {
        rounds.next().await;
        remove_denials(app).await;
        // Rows are swept only once the floor that goes with the horizons is on the disk, so that they stay
        // expired after a restart with a clock that is behind.
        let horizons = app.clocks.horizons();
        let saved = clocks::save(app).await;
        let swept = sweep(app, if saved.is_ok() { horizons } else { Horizons::NOTHING }).await;
        let kept = keys::upkeep(app.key_tools(), app.settings.signing_algorithm).await;
        let kept = kept.and_then(|set| app.install_key_set(&set));
        let kept =
            kept.map_err(|error| format!("the signing keys could not be rotated or cleaned up: {error}"));
        drop_old_snapshots(app);
        rounds.finished(&saved.and(swept).and(kept));
    }
}

async fn remove_denials(app: &App) {
    let facts = app.facts.clone();
    let horizon = app.clocks.horizon();
    // A scan of a million denials takes a while: it must not block a thread that serves requests.
    let removed = tokio::task::spawn_blocking(move || facts.denials().forget(horizon, CLOCK_SKEW));
    let _ = removed.await;
}

async fn sweep(app: &App, horizons: Horizons) -> Result<(), String> {
    loop {
        match app.stores.upkeep.sweep(horizons, SWEEP_BATCH_MAX).await {
            Ok(SWEEP_BATCH_MAX..) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(format!("expired rows could not be removed from the store: {error}")),
        }
    }
}

/// Drops old snapshots of permissions: an invalidation may be lost with the node that made it. An embedded store
/// has no other node.
fn drop_old_snapshots(app: &App) {
    if app.backend.is_shared()
        && app.backend.health().is_up
        && let Some(oldest) = app.clocks.monotonic().checked_sub(SNAPSHOT_AGE_MAX)
    {
        app.facts.snapshots().forget_older(oldest);
    }
}
