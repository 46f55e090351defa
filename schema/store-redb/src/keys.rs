//! The signing keys: one row, changed by compare-and-set.

use async_trait::async_trait;
use schema::key::KeySet;
use store::{Keys, Result};

use crate::{rows::Rows, store::Store, table::KEYS};

#[async_trait]
impl Keys for Store {
    async fn load(&self) -> Result<KeySet> {
        Ok(self.read(|rows| rows.get(&KEYS, &())).await?.unwrap_or_default())
    }

    async fn swap(&self, next: &KeySet) -> Result<bool> {
        let next = next.clone();
        self.change(move |change| {
            let stored = change.get(&KEYS, &())?.map_or(0, |keys| keys.revision);
            if stored.checked_add(1) != Some(next.revision) {
                return Ok(false);
            }
            change.put(&KEYS, &(), &next)?;
            Ok(true)
        })
        .await
    }
}
