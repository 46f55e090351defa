//! Brings a node up, and starts what it then does by itself.

use std::{sync::Arc, time::Duration};

use store::StoreError;
use tokio::time::sleep;

use crate::{
    app::{App, Purpose, StartError},
    revocation::LedgerReader,
};

/// The time between two attempts to come up.
const BOOTSTRAP_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Runs for as long as the node does; ends when the node cannot come up, with the reason.
pub async fn run(app: Arc<App>) -> StartError {
    app.start_clock_rounds();
    if app.backend.is_shared() {
        let reader = match bootstrap(&app).await {
            Ok(reader) => reader,
            Err(error) => return error,
        };
        if let Some(peering) = app.peering() {
            peering.cluster.announce(true);
            tokio::spawn(peering.clone().keep_fresh());
            tokio::spawn(peering.clone().adopt_stalled_logs());
            tokio::spawn(peering.guard_identity());
        }
        app.start_shared_rounds(reader);
    }
    app.remove_expired().await
}

/// Tries until the store answers.
async fn bootstrap(app: &App) -> Result<LedgerReader, StartError> {
    loop {
        match app.bootstrap(Purpose::Serve).await {
            Err(StartError::Store(error @ StoreError::Inconsistent(_))) => {
                tracing::error!(%error, "the node cannot come up");
            }
            Err(StartError::Store(error)) => tracing::debug!(%error, "the store does not answer yet"),
            other => return other,
        }
        sleep(BOOTSTRAP_RETRY_INTERVAL).await;
    }
}
