//! What a node does by itself: come up, keep up with others, forget what has ended.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cluster::boottime;
use schema::{
    StoreError, Timestamp,
    horizon::{Horizons, MAX_AHEAD},
    time::CLOCK_SKEW,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    app::{App, Purpose, StartError},
    clock::upkeep_interval,
    keys::{self, KeyError},
    ledger::{LedgerReader, reader},
    peers,
};

/// Between tries to come up.
const RETRY: Duration = Duration::from_millis(500);
/// How often the keys of a shared store are read.
const KEYS: Duration = Duration::from_secs(5);
const FORGET: Duration = Duration::from_secs(60);
/// How often both clocks are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How far beyond tokens of now one of another clock must end for other nodes to be told.
const FAR: Duration = Duration::from_secs(120);
/// How old what users may do becomes in memory, on a shared store that answers.
const SNAPSHOT_AGE: Duration = Duration::from_secs(15 * 60);
/// How much of what has ended one round removes at a time.
const SWEEP: usize = 1_000;

/// Runs as long as the node does; ends when the node cannot come up, with the reason.
pub async fn run(app: Arc<App>) -> StartError {
    tokio::spawn(watch_clocks(app.clone()));
    if app.backing.is_shared() {
        let reader = match come_up(&app).await {
            Ok(reader) => reader,
            Err(error) => return error,
        };
        if let Some(cluster) = app.peers() {
            cluster.announce(true);
            tokio::spawn(peers::keep_fresh(app.clone(), cluster.clone()));
            tokio::spawn(peers::inherit(app.clone(), cluster.clone()));
            tokio::spawn(peers::guard_identity(app.clone(), cluster.clone()));
        }
        tokio::spawn(keep_up(app.clone(), reader));
        tokio::spawn(keep_keys(app.clone()));
    }
    forget(&app).await
}

/// Tries until the store answers.
async fn come_up(app: &App) -> Result<LedgerReader, StartError> {
    loop {
        match app.come_up(Purpose::Serve).await {
            Err(StartError::Store(error @ StoreError::Inconsistent(_))) => {
                tracing::error!(%error, "the node cannot come up");
            }
            Err(StartError::Store(error)) => tracing::debug!(%error, "not up yet"),
            other => return other,
        }
        sleep(RETRY).await;
    }
}

/// Applies what others took away.
async fn keep_up(app: Arc<App>, mut ledger: LedgerReader) {
    let mut rounds = interval(reader::EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut away) = (app.clocks.steady(), None);
    let mut kept = HashMap::new();
    loop {
        rounds.tick().await;
        let (began, wall, steady) = (boottime(), app.clock.now(), app.clocks.steady());
        let read = ledger.go_on(&app.stores, &app.facts).await;
        if ledger.keys_changed() {
            take_keys(&app).await;
        }
        match read {
            Ok(_) => {
                kept.clear();
                if let Some(from) = away.take() {
                    tracing::info!("the ledger is read again");
                    app.actors.sessions.store_was_away(from, Some(app.clocks.steady()));
                }
                seen = steady;
                app.ledger_was_read(wall, began);
            }
            Err(error) => {
                if let Some(cluster) = app.peers() {
                    peers::keep(&app, cluster, ledger.heads(), &mut kept).await;
                }
                if away.is_none() {
                    // It may have begun right after the last answer.
                    away = Some(seen);
                    app.actors.sessions.store_was_away(seen, None);
                    tracing::warn!(%error, "the ledger cannot be read: what others take away is not known here");
                }
            }
        }
    }
}

/// Knows a new key before it signs, and how long tokens live elsewhere.
async fn keep_keys(app: Arc<App>) {
    let mut rounds = interval(KEYS);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = app.keys_changed.notified() => {}
        }
        take_keys(&app).await;
    }
}

async fn take_keys(app: &App) {
    let taken = match app.stores.keys.load().await {
        Ok(set) => app.take_in(&set),
        Err(error) => Err(error.into()),
    };
    match taken {
        Ok(()) => {}
        Err(KeyError::Store(error)) => tracing::debug!(%error, "the signing keys could not be read anew"),
        Err(error) => tracing::error!(%error, "the signing keys cannot be used"),
    }
}

/// Forgets what has ended: denials, rows of the store, keys.
async fn forget(app: &App) -> ! {
    let mut rounds = interval(upkeep_interval(FORGET));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let facts = app.facts.clone();
        let horizon = app.clocks.horizon();
        // A million of them take a while to look through: not on a thread that serves.
        let forgotten = tokio::task::spawn_blocking(move || facts.denials().forget(horizon, CLOCK_SKEW));
        let _ = forgotten.await;
        let horizons = durable_horizons(app).await;
        loop {
            match app.stores.upkeep.sweep(horizons, SWEEP).await {
                Ok(SWEEP..) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "what has ended could not be removed");
                    break;
                }
            }
        }
        let kept = keys::upkeep(app.key_tools(), app.settings.signing_algorithm).await;
        if let Err(error) = kept.and_then(|set| app.take_in(&set)) {
            tracing::warn!(%error, "the signing keys could not be looked after");
        }
        // A fact may be lost with the node that made it; on a store of one's own there is no such node.
        if app.backing.is_shared()
            && app.backing.health().is_up
            && let Some(than) = app.clocks.monotonic().checked_sub(SNAPSHOT_AGE)
        {
            app.facts.snapshots().forget_older(than);
        }
        app.upkeep_rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// By which rows may be swept: the floor that goes with it is on the disk first, so that what is swept stays
/// over after a restart with a clock that is behind.
async fn durable_horizons(app: &App) -> Horizons {
    let horizons = app.clocks.horizons();
    if save_clocks(app).await { horizons } else { Horizons::NOTHING }
}

async fn save_clocks(app: &App) -> bool {
    let (clocks, file, expiry) = (app.clocks.clone(), app.clock_file.clone(), expiry_of_now(app));
    let saved = tokio::task::spawn_blocking(move || file.save(&clocks, expiry)).await;
    match saved {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the clock file cannot be written: no row is swept");
            false
        }
        Err(_) => false,
    }
}

/// When a token ends that is issued now.
fn expiry_of_now(app: &App) -> Timestamp {
    app.clocks.expiry(app.facts.lifetimes().access_ttl)
}

/// Looks at both clocks, and says when the wall clock has jumped. What tokens may have been issued is kept for
/// the next start, and told to others when a clock that was ahead issued some.
async fn watch_clocks(app: Arc<App>) {
    let mut rounds = interval(upkeep_interval(LOOK));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut next_save) = (Timestamp::EPOCH, Instant::now());
    let mut is_long = false;
    loop {
        rounds.tick().await;
        app.clocks.observe();
        for jump in app.clocks.take_jumps() {
            tracing::warn!(
                by_ms = jump.by_ms,
                "the wall clock jumped: nothing is forgotten by it until it has stayed there for long"
            );
        }
        let expiry = expiry_of_now(&app);
        let usual = app.clock.now().plus(app.facts.lifetimes().access_ttl);
        let was_long = std::mem::replace(&mut is_long, expiry > usual.plus(FAR));
        if is_long && !was_long {
            tracing::error!(
                by_s = expiry.since(usual).as_secs(),
                "access tokens of this node last longer than ACCESS_TTL: its clock was ahead, and has forgotten by it"
            );
        }
        // While the clock is implausibly far off, expiries are saved only for tokens that are issued. A failed
        // save is retried and logged once a minute.
        if app.clocks.disagreement() <= MAX_AHEAD
            && app.clock_file.is_due(expiry)
            && Instant::now() >= next_save
            && !save_clocks(&app).await
        {
            next_save = Instant::now() + FORGET;
        }
        let latest = app.clocks.high_water().latest_expiry().min(expiry.plus(MAX_AHEAD));
        if app.backing.is_shared()
            && app.is_informed()
            && latest > expiry.plus(FAR)
            && latest > told.max(app.facts.lifetimes().access_horizon)
        {
            match keys::raise_horizon(app.key_tools(), latest.plus(FAR))
                .await
                .and_then(|set| app.take_in(&set))
            {
                Ok(()) => told = latest.plus(FAR),
                Err(error) => tracing::debug!(%error, "others do not know yet how long tokens live"),
            }
        }
    }
}
