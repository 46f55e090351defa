//! The small documents that change by compare-and-set: superusers, keys, and of each node its latest life.

use async_trait::async_trait;
use schema::{
    NodeId, StoreError,
    key::KeySet,
    ledger::Origin,
    power::Power,
    store::{Keys, Result, Superusers, Versioned},
};
use scylla::DeserializeRow;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    cas::{Settled, Verdict},
    convert,
    statement::Cql,
    store::{At, Store},
};

const SUPERUSERS: &str = "superusers";
const KEYS: &str = "keys";
/// How often a lost compare-and-set is tried again.
const ATTEMPTS: usize = 16;

/// The name of the document of a node's lives.
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
    async fn load(&self) -> Result<Versioned<Power>> {
        self.within(async { Ok(self.document(At::Quorum, SUPERUSERS).await?.unwrap_or_default()) }).await
    }

    async fn swap(&self, expected: u64, next: &Power) -> Result<bool> {
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

/// What is there, seen from a swap.
fn swapped<T: PartialEq>(there: Option<&Versioned<T>>, expected: u64, next: &T) -> Verdict {
    match there {
        Some(there) if there.revision == expected.saturating_add(1) && there.value == *next => Verdict::Done,
        _ if there.map_or(0, |there| there.revision) == expected => Verdict::Before,
        _ => Verdict::Otherwise,
    }
}

impl Store {
    /// Raises the incarnation that is noted of a node.
    pub(crate) async fn note_life(&self, origin: Origin) -> Result<()> {
        let name = life(origin.node);
        for _ in 0..ATTEMPTS {
            let noted = self.document::<u64>(At::Serial, &name).await?.unwrap_or_default();
            if noted.value >= origin.incarnation
                || self.swap_document(&name, noted.revision, &origin.incarnation).await?
            {
                return Ok(());
            }
        }
        Err(StoreError::unavailable("the node starts all the time"))
    }

    /// The latest incarnation that is noted of a node.
    pub(crate) async fn life(&self, node: NodeId) -> Result<Option<u64>> {
        Ok(self.document(At::Serial, &life(node)).await?.map(|noted| noted.value))
    }

    async fn document<T: DeserializeOwned>(&self, at: At, name: &str) -> Result<Option<Versioned<T>>> {
        let Some(row) = self.row::<Document>(at, Cql::Document, (name,)).await? else { return Ok(None) };
        let value = serde_json::from_str(&row.value)
            .map_err(|_| StoreError::Inconsistent(format!("the document {name} does not parse")))?;
        Ok(Some(Versioned { revision: convert::number(row.revision), value }))
    }

    /// Revision 0 is that of a document that is not there.
    async fn swap_document<T>(&self, name: &str, expected: u64, next: &T) -> Result<bool>
    where
        T: Serialize + DeserializeOwned + PartialEq + Send + Sync,
    {
        let json = serde_json::to_string(next)
            .map_err(|error| StoreError::Inconsistent(format!("the document {name}: {error}")))?;
        let (before, after) = (convert::bigint(expected), convert::bigint(expected.saturating_add(1)));
        let look = || self.document::<T>(At::Serial, name);
        let judge = |there: &Option<Versioned<T>>| swapped(there.as_ref(), expected, next);
        let settled = if expected == 0 {
            self.cas(Cql::DocumentAdd, (name, after, json.as_str()), look, judge).await?
        } else {
            self.cas(Cql::DocumentReplace, (after, json.as_str(), name, before), look, judge).await?
        };
        Ok(matches!(settled, Settled::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Before, Done, Otherwise};

    #[test]
    fn of_a_swap_that_was_not_answered() {
        let at = |revision, value| Some(Versioned { revision, value });
        for (there, expected, verdict) in [
            (None, 0, Before),
            (at(1, 'n'), 0, Done),
            (at(1, 'x'), 0, Otherwise),
            (at(2, 'n'), 0, Otherwise),
            (at(3, 'b'), 3, Before),
            (at(4, 'n'), 3, Done),
            (at(4, 'x'), 3, Otherwise),
            (at(5, 'n'), 3, Otherwise),
            (None, 3, Otherwise),
        ] {
            assert_eq!(swapped(there.as_ref(), expected, &'n'), verdict, "{there:?}");
        }
    }
}
