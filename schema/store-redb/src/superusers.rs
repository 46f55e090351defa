//! The superusers: one row, changed by compare-and-set.

use async_trait::async_trait;
use schema::superusers::SuperuserSet;
use store::{Result, Superusers, Versioned};

use crate::{
    rows::Rows,
    store::Store,
    table::{SUPERUSERS, SuperusersRow},
};

#[async_trait]
impl Superusers for Store {
    async fn load(&self) -> Result<Versioned<SuperuserSet>> {
        let SuperusersRow { revision, counted, pending } =
            self.read(|rows| rows.get(&SUPERUSERS, &())).await?.unwrap_or_default();
        Ok(Versioned { revision, value: SuperuserSet { counted, pending } })
    }

    async fn swap(&self, expected: u64, next: &SuperuserSet) -> Result<bool> {
        let next = next.clone();
        self.change(move |change| {
            let stored = change.get(&SUPERUSERS, &())?.unwrap_or_default();
            if stored.revision != expected {
                return Ok(false);
            }
            let SuperuserSet { counted, pending } = next.clone();
            let row = SuperusersRow { revision: expected.saturating_add(1), counted, pending };
            change.put(&SUPERUSERS, &(), &row)?;
            Ok(true)
        })
        .await
    }
}
