//! What a node does by itself, in rounds: it reads the ledger and the keys, removes what has expired, and watches
//! its clocks.

mod clocks;
mod expiry;
mod keys;
mod ledger;

use std::sync::Arc;

use super::App;
use crate::revocation::LedgerReader;

impl App {
    /// Starts the rounds that a node on a shared store needs once it has come up.
    pub fn start_shared_rounds(self: &Arc<Self>, reader: LedgerReader) {
        tokio::spawn(ledger::read(self.clone(), reader));
        tokio::spawn(keys::read(self.clone()));
    }

    /// Starts to watch the clocks.
    pub fn start_clock_rounds(self: &Arc<Self>) {
        tokio::spawn(clocks::watch(self.clone()));
    }

    /// Removes what has expired, for as long as the node runs.
    pub async fn remove_expired(&self) -> ! {
        expiry::remove(self).await
    }
}
