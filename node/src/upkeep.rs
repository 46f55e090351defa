//! What a node does by itself: come up, keep up with others, forget what has ended.

use std::{sync::Arc, time::Duration};

use schema::time::CLOCK_SKEW;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    app::{App, Purpose, StartError},
    keys,
    ledger::{LedgerReader, reader},
};

/// Between tries to come up.
const RETRY: Duration = Duration::from_millis(500);
/// How often the keys of a shared store are read.
const KEYS: Duration = Duration::from_secs(5);
const FORGET: Duration = Duration::from_secs(60);
/// How much of what has ended one round removes at a time.
const SWEEP: usize = 1_000;

/// Runs as long as the node does; ends when the node cannot come up, with the reason.
pub async fn run(app: Arc<App>) -> StartError {
    if app.backing.is_shared() {
        let reader = match come_up(&app).await {
            Ok(reader) => reader,
            Err(error) => return error,
        };
        tokio::spawn(keep_up(app.clone(), reader));
        tokio::spawn(keep_keys(app.clone()));
    }
    forget(&app).await
}

/// Tries until the store answers.
async fn come_up(app: &App) -> Result<LedgerReader, StartError> {
    loop {
        match app.come_up(Purpose::Serve).await {
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
    let mut failing = false;
    loop {
        rounds.tick().await;
        let began = app.clock.now();
        match ledger.go_on(&app.stores, &app.facts).await {
            Ok(_) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the ledger is read again");
                }
                app.ledger_was_read(began);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
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
        rounds.tick().await;
        let taken = match app.stores.keys.load().await {
            Ok(set) => app.take_in(&set),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "the signing keys could not be read anew");
        }
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
        let swept = keys::sweep(app.key_tools()).await;
        if let Err(error) = swept.and_then(|set| app.take_in(&set)) {
            tracing::warn!(%error, "retired keys could not be removed");
        }
    }
}
