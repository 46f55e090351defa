//! The store itself: whether it answers, and forgetting what has ended.

use async_trait::async_trait;
use schema::{
    horizon::Horizons,
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

    async fn sweep(&self, horizons: Horizons, limit: usize) -> Result<usize> {
        self.change(move |change| {
            let mut swept = sessions::sweep(change, horizons.rows, limit)?;
            swept += logins::sweep(change, horizons.rows, limit.saturating_sub(swept))?;
            swept += logins::sweep_places(change, horizons.rows, limit.saturating_sub(swept))?;
            swept += ledger::sweep(change, horizons.facts, limit.saturating_sub(swept))?;
            swept += grants::sweep(change, limit.saturating_sub(swept))?;
            Ok(swept)
        })
        .await
    }
}
