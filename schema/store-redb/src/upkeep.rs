//! Upkeep of the store: examination of stored data, ping, and the removal of expired rows.

use async_trait::async_trait;
use schema::{
    UserId,
    horizon::Horizons,
    page::{Page, PageOf},
};
use store::{
    Result, Upkeep,
    check::{Examined, Finding, Reclaimed},
};

use crate::{cascade, ledger, logins, rows::Rows, sessions, store::Store, table::USERS, users};

#[async_trait]
impl Upkeep for Store {
    async fn examine(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>> {
        self.read(move |rows| users::examine(rows, page)).await
    }

    async fn examine_others(&self) -> Result<Vec<Finding>> {
        self.read(users::examine_others).await
    }

    async fn reclaim(&self, user: UserId) -> Result<Reclaimed> {
        self.change(move |change| users::reclaim(change, user)).await
    }

    /// Reads, and passes through the writer without writing, which opens the file again if it failed.
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
            swept += cascade::sweep(change, limit.saturating_sub(swept))?;
            Ok(swept)
        })
        .await
    }
}
