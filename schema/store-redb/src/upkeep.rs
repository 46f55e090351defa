//! The store itself: whether it answers, and forgetting what has ended.

use async_trait::async_trait;
use schema::{
    Timestamp,
    store::{Result, Upkeep},
};

use crate::{grants, ledger, logins, rows::Rows, sessions, store::Store, table::USERS};

#[async_trait]
impl Upkeep for Store {
    /// Reads, and goes through the writer without writing: a file that failed is opened again then.
    async fn ping(&self) -> Result<()> {
        self.change(|_| Ok(())).await?;
        self.read(|rows| rows.count(&USERS).map(drop)).await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.change(move |change| {
            let mut swept = sessions::sweep(change, now, limit)?;
            swept += logins::sweep(change, now, limit.saturating_sub(swept))?;
            swept += logins::sweep_places(change, now, limit.saturating_sub(swept))?;
            swept += ledger::sweep(change, now, limit.saturating_sub(swept))?;
            swept += grants::sweep(change, limit.saturating_sub(swept))?;
            Ok(swept)
        })
        .await
    }
}
