//! The superusers: one row, changed by compare-and-set.

use std::collections::BTreeSet;

use async_trait::async_trait;
use schema::{
    UserId,
    power::{Leaving, Power},
    store::{Result, Superusers, Versioned},
};
use serde::{Deserialize, Serialize};

use crate::{rows::Rows, store::Store, table::SUPERUSERS};

/// The row. Older files say `users` for `counted` and nothing of who is leaving.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Row {
    revision: u64,
    #[serde(alias = "users")]
    counted: BTreeSet<UserId>,
    #[serde(default)]
    leaving: Vec<Leaving>,
}

#[async_trait]
impl Superusers for Store {
    async fn load(&self) -> Result<Versioned<Power>> {
        let Row { revision, counted, leaving } =
            self.read(|rows| rows.get(&SUPERUSERS, &())).await?.unwrap_or_default();
        Ok(Versioned { revision, value: Power { counted, leaving } })
    }

    async fn swap(&self, expected: u64, next: &Power) -> Result<bool> {
        let next = next.clone();
        self.change(move |change| {
            let stored = change.get(&SUPERUSERS, &())?.unwrap_or_default();
            if stored.revision != expected {
                return Ok(false);
            }
            let Power { counted, leaving } = next.clone();
            let row = Row { revision: expected.saturating_add(1), counted, leaving };
            change.put(&SUPERUSERS, &(), &row)?;
            Ok(true)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_is_read() {
        let older = r#"{"revision":7,"users":["01010101-0101-0101-0101-010101010101"]}"#;
        let row: Row = serde_json::from_str(older).unwrap();
        assert_eq!((row.revision, row.counted), (7, [UserId::from_bytes([1; 16])].into()));
        assert_eq!(row.leaving, []);
    }
}
