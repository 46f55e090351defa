//! Watches both clocks: logs jumps of the wall clock, and saves the latest expiry of issued tokens.

use std::{sync::Arc, time::Duration};

use schema::{Timestamp, horizon::MAX_AHEAD};

use crate::{app::App, clock::upkeep_interval, credentials::keys};

/// The time between two observations of the clocks.
const CLOCK_WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two attempts to save the clock file after one failed.
const SAVE_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How much later than the node's own tokens others must expire before the node tells its peers.
const EXPIRY_AHEAD_MIN: Duration = Duration::from_secs(120);

/// Observes the clocks and logs each jump. Saves the expiry of issued tokens for the next start, and tells other
/// nodes about tokens that a clock ahead has issued.
pub(super) async fn watch(app: Arc<App>) {
    let mut rounds = app.background.rounds("clock_watch", upkeep_interval(CLOCK_WATCH_INTERVAL));
    let mut told = Timestamp::EPOCH;
    let mut next_save = Duration::ZERO;
    let mut was_long = false;
    loop {
        rounds.next().await;
        log_jumps(&app);
        let expiry = expiry_of_now(&app);
        was_long = is_long(&app, expiry, was_long);
        let saved = save_if_due(&app, expiry, &mut next_save).await;
        let raised = raise_horizon_if_due(&app, expiry, &mut told).await;
        rounds.finished(&saved.and(raised));
    }
}

fn log_jumps(app: &App) {
    app.clocks.observe();
    for jump in app.clocks.take_jumps() {
        tracing::warn!(
            by_ms = jump.by_ms,
            "the wall clock jumped: nothing is forgotten by it until it has stayed there for long"
        );
    }
}

/// Whether tokens issued now expire later than the settings say. Logs the first time.
fn is_long(app: &App, expiry: Timestamp, was_long: bool) -> bool {
    let usual = app.clock.now().plus(app.facts.lifetimes().access_ttl);
    let is_long = expiry > usual.plus(EXPIRY_AHEAD_MIN);
    if is_long && !was_long {
        tracing::error!(
            by_s = expiry.since(usual).as_secs(),
            "access tokens of this node last longer than ACCESS_TTL: its clock was ahead, and has forgotten by it"
        );
    }
    is_long
}

/// Saves the clock file if that is due. While the clock is implausibly far off, expiries are saved only for tokens
/// that are issued. A failed save is retried once a minute.
async fn save_if_due(app: &App, expiry: Timestamp, next_save: &mut Duration) -> Result<(), String> {
    let now = app.clocks.monotonic();
    if app.clocks.disagreement() > MAX_AHEAD || !app.clock_file.is_due(expiry) || now < *next_save {
        return Ok(());
    }
    let saved = save(app).await;
    if saved.is_err() {
        *next_save = app.clocks.monotonic() + SAVE_RETRY_INTERVAL;
    }
    saved
}

/// Records in the shared store how long issued tokens live, if other nodes do not know that yet.
async fn raise_horizon_if_due(app: &App, expiry: Timestamp, told: &mut Timestamp) -> Result<(), String> {
    let latest = app.clocks.high_water().latest_expiry().min(expiry.plus(MAX_AHEAD));
    let is_due = app.backend.is_shared()
        && app.sync.is_synced()
        && latest > expiry.plus(EXPIRY_AHEAD_MIN)
        && latest > (*told).max(app.facts.lifetimes().access_horizon);
    if !is_due {
        return Ok(());
    }
    let horizon = latest.plus(EXPIRY_AHEAD_MIN);
    let raised = keys::raise_horizon(app.key_tools(), horizon).await;
    raised
        .and_then(|set| app.install_key_set(&set))
        .map_err(|error| format!("other nodes do not know yet how long tokens live: {error}"))?;
    *told = horizon;
    Ok(())
}

/// Writes the clock file.
pub(super) async fn save(app: &App) -> Result<(), String> {
    let clocks = app.clocks.clone();
    let file = app.clock_file.clone();
    let expiry = expiry_of_now(app);
    let saved = tokio::task::spawn_blocking(move || file.save(&clocks, expiry)).await;
    let saved =
        saved.map_err(|error| error.to_string()).and_then(|saved| saved.map_err(|error| error.to_string()));
    saved.map_err(|error| format!("the clock file cannot be written, so no row is swept: {error}"))
}

/// When a token expires that is issued now.
fn expiry_of_now(app: &App) -> Timestamp {
    app.clocks.expiry(app.facts.lifetimes().access_ttl)
}
