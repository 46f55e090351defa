//! Reads the signing keys of a shared store, which other nodes change.

use std::{sync::Arc, time::Duration};

use crate::{app::App, credentials::keys::KeyError};

/// The time between two reads of the keys.
const KEY_READ_INTERVAL: Duration = Duration::from_secs(5);

/// Installs each new key before it signs, and the longest lifetime of tokens elsewhere.
pub(super) async fn read(app: Arc<App>) {
    let mut rounds = app.background.rounds("key_read", KEY_READ_INTERVAL);
    loop {
        tokio::select! {
            () = rounds.next() => {}
            () = app.keys_changed.notified() => {}
        }
        rounds.finished(&install(&app).await);
    }
}

/// Installs the stored keys.
pub(super) async fn install(app: &App) -> Result<(), KeyError> {
    let set = app.stores.keys.load().await?;
    app.install_key_set(&set)
}
