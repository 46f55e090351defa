//! What a node does by itself: come up, keep up with others, forget what has ended.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cluster::boottime;
use schema::{StoreError, time::CLOCK_SKEW};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    app::{App, Purpose, StartError},
    keys::{self, KeyError},
    ledger::{LedgerReader, reader},
    peers,
};

/// Between tries to come up.
const RETRY: Duration = Duration::from_millis(500);
/// How often the keys of a shared store are read.
const KEYS: Duration = Duration::from_secs(5);
const FORGET: Duration = Duration::from_secs(60);
/// How old what users may do becomes in memory, on a shared store that answers.
const SNAPSHOT_AGE: Duration = Duration::from_secs(15 * 60);
/// How much of what has ended one round removes at a time.
const SWEEP: usize = 1_000;

/// Runs as long as the node does; ends when the node cannot come up, with the reason.
pub async fn run(app: Arc<App>) -> StartError {
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
    let (mut seen, mut away) = (app.clock.now(), None);
    let mut kept = HashMap::new();
    loop {
        rounds.tick().await;
        let (began, wall) = (boottime(), app.clock.now());
        let read = ledger.go_on(&app.stores, &app.facts).await;
        if ledger.keys_changed() {
            take_keys(&app).await;
        }
        match read {
            Ok(_) => {
                kept.clear();
                if let Some(from) = away.take() {
                    tracing::info!("the ledger is read again");
                    app.actors.sessions.store_was_away(from, Some(app.clock.now()));
                }
                seen = wall;
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
    let mut rounds = interval(FORGET);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let facts = app.facts.clone();
        let now = app.clock.now();
        // A million of them take a while to look through: not on a thread that serves.
        let forgotten = tokio::task::spawn_blocking(move || facts.denials().forget(now, CLOCK_SKEW));
        let _ = forgotten.await;
        loop {
            match app.stores.upkeep.sweep(now, SWEEP).await {
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
        if app.backing.is_shared() && app.backing.health().is_up {
            app.facts.snapshots().forget_older(now.minus(SNAPSHOT_AGE));
        }
    }
}
