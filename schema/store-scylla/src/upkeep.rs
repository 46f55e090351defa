//! The store itself.

use async_trait::async_trait;
use schema::{
    UserId,
    check::{Examined, Finding, Reclaimed},
    horizon::Horizons,
    page::{Page, PageOf},
    store::{Result, Upkeep},
};
use scylla::value::Row;

use crate::{
    statement::Cql,
    store::{At, Store},
};

#[async_trait]
impl Upkeep for Store {
    async fn examine(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>> {
        self.within_long(self.examined(page)).await
    }

    /// A claim of nobody is taken over by who wants it, so only the catalogue is left.
    async fn examine_others(&self) -> Result<Vec<Finding>> {
        self.within(self.unreadable_in_catalogue()).await
    }

    async fn reclaim(&self, user: UserId) -> Result<Reclaimed> {
        self.within(self.reclaimed(user)).await
    }

    async fn ping(&self) -> Result<()> {
        self.within(async { self.read::<Row>(At::Quorum, Cql::Document, ("keys",)).await.map(drop) }).await
    }

    /// The database forgets by itself.
    async fn sweep(&self, _horizons: Horizons, _limit: usize) -> Result<usize> {
        Ok(0)
    }
}
