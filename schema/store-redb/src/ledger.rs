//! The ledger: entries by origin and number, an index by the end of their facts, and the heads.

use std::collections::BTreeSet;

use async_trait::async_trait;
use schema::{
    Horizon,
    ledger::{Entry, Head, Origin},
    time::CLOCK_SKEW,
};
use store::{LedgerStore, Result};

use crate::{
    rows::{Change, Rows, Span},
    store::Store,
    table::{HEADS, LEDGER, LEDGER_ENDS},
};

#[async_trait]
impl LedgerStore for Store {
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let entries = entries.to_vec();
        let heads = heads.to_vec();
        self.change(move |change| append(change, &entries, &heads)).await
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        self.read(|rows| {
            let heads = rows.scan(&HEADS, &Span::all(), usize::MAX)?;
            Ok(heads.into_iter().map(|(origin, seq)| Head { origin, seq }).collect())
        })
        .await
    }

    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>> {
        self.read(move |rows| {
            let span = Span::of(&origin).after(Some(&(origin, after)));
            let entries = rows.scan(&LEDGER, &span, limit)?;
            Ok(entries.into_iter().map(|((origin, seq), fact)| Entry { origin, seq, fact }).collect())
        })
        .await
    }
}

fn append(change: &Change<'_>, entries: &[Entry], heads: &[Head]) -> Result<()> {
    for entry in entries {
        if !change.has(&LEDGER, &(entry.origin, entry.seq))? {
            change.put(&LEDGER, &(entry.origin, entry.seq), &entry.fact)?;
            change.put(&LEDGER_ENDS, &(entry.fact.until, entry.origin, entry.seq), &())?;
        }
    }
    for head in heads {
        if change.get(&HEADS, &head.origin)?.is_none_or(|stored| stored < head.seq) {
            change.put(&HEADS, &head.origin, &head.seq)?;
        }
    }
    Ok(())
}

/// Removes at most `limit` entries whose facts have ended, and the heads of logs without entries. Returns
/// the number of both.
pub(crate) fn sweep(change: &Change<'_>, horizon: Horizon, limit: usize) -> Result<usize> {
    let ended_before = horizon.time().minus(CLOCK_SKEW);
    let ended = change.scan(&LEDGER_ENDS, &Span::up_to(&ended_before), limit)?;
    let mut origins = BTreeSet::new();
    for (end, ()) in &ended {
        let (_, origin, seq) = *end;
        change.remove(&LEDGER_ENDS, end)?;
        change.remove(&LEDGER, &(origin, seq))?;
        origins.insert(origin);
    }
    let mut swept = ended.len();
    for origin in origins {
        if change.scan(&LEDGER, &Span::of(&origin), 1)?.is_empty() {
            swept += usize::from(change.remove(&HEADS, &origin)?);
        }
    }
    Ok(swept)
}
