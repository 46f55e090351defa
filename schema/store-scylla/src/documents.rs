//! Small documents that change by compare-and-set: superusers, keys, and the latest incarnation of each
//! node.

use async_trait::async_trait;
use schema::{NodeId, key::KeySet, ledger::Origin, superusers::SuperuserSet};
use scylla::DeserializeRow;
use serde::{Serialize, de::DeserializeOwned};
use store::{
    Keys, Result, StoreError, Superusers, Versioned,
    cas::{self, Attempt, Pacing, ROW_ATTEMPTS_MAX},
};

use crate::{
    cas::{CasOutcome, Reconciled},
    convert,
    statement::Cql,
    store::{At, Store},
};

const SUPERUSERS: &str = "superusers";
const KEYS: &str = "keys";

/// The name of the document with the latest incarnation of a node.
fn life(node: NodeId) -> String {
    format!("life of {node}")
}

#[derive(DeserializeRow)]
struct Document {
    revision: i64,
    value: String,
}

#[async_trait]
impl Superusers for Store {
    async fn load(&self) -> Result<Versioned<SuperuserSet>> {
        self.within(async { Ok(self.document(At::Quorum, SUPERUSERS).await?.unwrap_or_default()) }).await
    }

    async fn swap(&self, expected: u64, next: &SuperuserSet) -> Result<bool> {
        self.within(self.swap_document(SUPERUSERS, expected, next)).await
    }
}

#[async_trait]
impl Keys for Store {
    async fn load(&self) -> Result<KeySet> {
        let keys = self.within(self.document::<KeySet>(At::Quorum, KEYS)).await?;
        Ok(keys.map(|keys| keys.value).unwrap_or_default())
    }

    async fn swap(&self, next: &KeySet) -> Result<bool> {
        let Some(expected) = next.revision.checked_sub(1) else { return Ok(false) };
        self.within(self.swap_document(KEYS, expected, next)).await
    }
}

/// Reconciles the replacement of the document at revision `expected` by `next`.
fn swapped<T: PartialEq>(current: Option<&Versioned<T>>, expected: u64, next: &T) -> Reconciled {
    match current {
        Some(current) if current.revision == expected.saturating_add(1) && current.value == *next => {
            Reconciled::Applied
        }
        _ if current.map_or(0, |current| current.revision) == expected => Reconciled::NotApplied,
        _ => Reconciled::Superseded,
    }
}

impl Store {
    /// Raises the stored incarnation of a node.
    pub(crate) async fn note_life(&self, origin: Origin) -> Result<()> {
        let name = life(origin.node);
        let name = &name;
        cas::retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), (), |()| async move {
            let noted = self.document::<u64>(At::Serial, name).await?.unwrap_or_default();
            let is_noted = noted.value >= origin.incarnation
                || self.swap_document(name, noted.revision, &origin.incarnation).await?;
            Ok(if is_noted { Attempt::Done(()) } else { Attempt::Lost(()) })
        })
        .await
    }

    /// The latest stored incarnation of a node.
    pub(crate) async fn life(&self, node: NodeId) -> Result<Option<u64>> {
        Ok(self.document(At::Serial, &life(node)).await?.map(|noted| noted.value))
    }

    async fn document<T: DeserializeOwned>(&self, at: At, name: &str) -> Result<Option<Versioned<T>>> {
        let Some(row) = self.row::<Document>(at, Cql::Document, (name,)).await? else { return Ok(None) };
        let value = serde_json::from_str(&row.value)
            .map_err(|_| StoreError::Inconsistent(format!("the document {name} does not parse")))?;
        Ok(Some(Versioned { revision: convert::number(row.revision), value }))
    }

    /// Replaces a document at revision `expected` by the next one. A document that does not exist has
    /// revision 0. Returns whether it was replaced.
    async fn swap_document<T>(&self, name: &str, expected: u64, next: &T) -> Result<bool>
    where
        T: Serialize + DeserializeOwned + PartialEq + Send + Sync,
    {
        let json = serde_json::to_string(next)
            .map_err(|error| StoreError::Inconsistent(format!("the document {name}: {error}")))?;
        let before = convert::bigint(expected);
        let after = convert::bigint(expected.saturating_add(1));
        let read_current = || self.document::<T>(At::Serial, name);
        let reconcile = |current: &Option<Versioned<T>>| swapped(current.as_ref(), expected, next);
        let outcome = if expected == 0 {
            self.cas(Cql::DocumentAdd, (name, after, json.as_str()), read_current, reconcile).await?
        } else {
            self.cas(Cql::DocumentReplace, (after, json.as_str(), name, before), read_current, reconcile)
                .await?
        };
        Ok(matches!(outcome, CasOutcome::Applied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reconciled::{Applied, NotApplied, Superseded};

    #[test]
    fn unanswered_swap_is_reconciled() {
        let at = |revision, value| Some(Versioned { revision, value });
        for (current, expected, reconciled) in [
            (None, 0, NotApplied),
            (at(1, 'n'), 0, Applied),
            (at(1, 'x'), 0, Superseded),
            (at(2, 'n'), 0, Superseded),
            (at(3, 'b'), 3, NotApplied),
            (at(4, 'n'), 3, Applied),
            (at(4, 'x'), 3, Superseded),
            (at(5, 'n'), 3, Superseded),
            (None, 3, Superseded),
        ] {
            assert_eq!(swapped(current.as_ref(), expected, &'n'), reconciled, "{current:?}");
        }
    }
}
