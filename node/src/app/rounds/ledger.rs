//! Reads the facts of other nodes from the ledger, once a second.

use std::{collections::HashMap, sync::Arc};

use super::keys;
use crate::{
    app::App,
    revocation::{LedgerReader, ledger_reader::READ_INTERVAL},
};

/// Applies the facts of other nodes as the ledger receives them.
pub(super) async fn read(app: Arc<App>, mut ledger: LedgerReader) {
    let mut rounds = app.background.rounds("ledger_read", READ_INTERVAL);
    let mut last_answer = app.clocks.steady();
    let mut unreadable_since = None;
    let mut journaled = HashMap::new();
    loop {
        rounds.next().await;
        let began = app.clocks.monotonic();
        let wall = app.clock.now();
        let steady = app.clocks.steady();
        let read = ledger.go_on(&app.stores, &app.facts).await;
        if ledger.keys_changed() {
            // The round of the keys reports a failure.
            let _ = keys::install(&app).await;
        }
        rounds.finished(&read);
        if read.is_ok() {
            journaled.clear();
            if let Some(since) = unreadable_since.take() {
                tracing::info!("the ledger is read again");
                app.actors.sessions.store_was_away(since, Some(app.clocks.steady()));
            }
            last_answer = steady;
            app.mark_ledger_read(wall, began);
        } else {
            if let Some(peering) = app.peering() {
                peering.journal_unledgered(ledger.heads(), &mut journaled).await;
            }
            if unreadable_since.is_none() {
                // The outage may have begun right after the last answer.
                unreadable_since = Some(last_answer);
                app.actors.sessions.store_was_away(last_answer, None);
            }
        }
    }
}
