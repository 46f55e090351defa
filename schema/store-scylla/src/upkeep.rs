//! The store itself.

use async_trait::async_trait;
use schema::{
    horizon::Horizons,
    store::{Result, Upkeep},
};
use scylla::value::Row;

use crate::{
    statement::Cql,
    store::{At, Store},
};

#[async_trait]
impl Upkeep for Store {
    async fn ping(&self) -> Result<()> {
        self.within(async { self.read::<Row>(At::Quorum, Cql::Document, ("keys",)).await.map(drop) }).await
    }

    /// The database forgets by itself.
    async fn sweep(&self, _horizons: Horizons, _limit: usize) -> Result<usize> {
        Ok(0)
    }
}
