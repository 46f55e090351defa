//! Upkeep of the store: examination of stored data, repair of claims, ping.

use async_trait::async_trait;
use schema::{
    UserId,
    horizon::Horizons,
    page::{Page, PageOf},
};
use scylla::value::Row;
use store::{
    Result, Upkeep,
    check::{Examined, Finding, Reclaimed},
};

use crate::{
    statement::Cql,
    store::{At, Store},
};

#[async_trait]
impl Upkeep for Store {
    async fn examine(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>> {
        self.within_long(self.examined(page)).await
    }

    /// Examines the catalogue only: the next user that wants the email takes over a claim without user.
    async fn examine_others(&self) -> Result<Vec<Finding>> {
        self.within(self.unreadable_in_catalogue()).await
    }

    async fn reclaim(&self, user: UserId) -> Result<Reclaimed> {
        self.within(self.reclaimed(user)).await
    }

    async fn ping(&self) -> Result<()> {
        self.within(async { self.read::<Row>(At::Quorum, Cql::Document, ("keys",)).await.map(drop) }).await
    }

    /// Does nothing: rows expire by their TTL.
    async fn sweep(&self, _horizons: Horizons, _limit: usize) -> Result<usize> {
        Ok(0)
    }
}
