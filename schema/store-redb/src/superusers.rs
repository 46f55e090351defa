//! The superusers: one row, changed by compare-and-set.

use std::collections::BTreeSet;

use async_trait::async_trait;
use schema::{
    UserId,
    store::{Result, Superusers, Versioned},
};
use serde::{Deserialize, Serialize};

use crate::{rows::Rows, store::Store, table::SUPERUSERS};

/// The row.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Row {
    revision: u64,
    users: BTreeSet<UserId>,
}

#[async_trait]
impl Superusers for Store {
    async fn load(&self) -> Result<Versioned<BTreeSet<UserId>>> {
        let row = self.read(|rows| rows.get(&SUPERUSERS, &())).await?.unwrap_or_default();
        Ok(Versioned { revision: row.revision, value: row.users })
    }

    async fn swap(&self, expected: u64, next: &BTreeSet<UserId>) -> Result<bool> {
        let users = next.clone();
        self.change(move |change| {
            let stored = change.get(&SUPERUSERS, &())?.unwrap_or_default();
            if stored.revision != expected {
                return Ok(false);
            }
            change.put(
                &SUPERUSERS,
                &(),
                &Row { revision: expected.saturating_add(1), users: users.clone() },
            )?;
            Ok(true)
        })
        .await
    }
}
