//! What others took away, from the ledger.
//!
//! At start everything is read. Then, when the store is shared, the heads once a second, what lies
//! between a head and what was applied, and in turn the tails behind heads: an origin may have died
//! between an entry and its head.

use std::{collections::HashMap, time::Duration};

use actors::Facts;
use schema::{
    Stores,
    ledger::{Head, Origin},
    store::Result as StoreResult,
};

/// How often the heads are read.
pub const EVERY: Duration = Duration::from_secs(1);
/// How many entries are read at a time.
const READ: usize = 10_000;
/// How many tails are looked at in one round.
const TAILS: usize = 8;

/// How far each origin's log was applied.
#[derive(Debug)]
pub struct LedgerReader {
    own: Origin,
    applied: HashMap<Origin, u64>,
    turn: usize,
}

impl LedgerReader {
    /// Reads every fact that is in the ledger and applies it; gives how many there were.
    ///
    /// # Errors
    /// When the store does not answer: a node must not decide without knowing what was taken away.
    pub async fn begin(stores: &Stores, facts: &Facts, own: Origin) -> StoreResult<(Self, usize)> {
        let mut reader = Self { own, applied: HashMap::new(), turn: 0 };
        let mut count = 0;
        for head in stores.ledger.heads().await? {
            count += read(stores, facts, head.origin, 0).await?;
            reader.applied.insert(head.origin, head.seq);
        }
        Ok((reader, count))
    }

    /// Reads what is new; gives how many entries were read.
    ///
    /// # Errors
    /// When the store does not answer; what was applied stays so.
    pub async fn go_on(&mut self, stores: &Stores, facts: &Facts) -> StoreResult<usize> {
        let mut heads = stores.ledger.heads().await?;
        heads.retain(|head| head.origin != self.own);
        self.applied.retain(|origin, _| heads.iter().any(|head| head.origin == *origin));
        let mut count = 0;
        for head in &heads {
            let applied = self.applied.get(&head.origin).copied();
            if applied.is_none_or(|applied| applied < head.seq) {
                count += read(stores, facts, head.origin, applied.unwrap_or(0)).await?;
                self.applied.insert(head.origin, head.seq);
            }
        }
        for head in self.next_tails(&heads) {
            count += read(stores, facts, head.origin, head.seq).await?;
        }
        Ok(count)
    }

    fn next_tails(&mut self, heads: &[Head]) -> Vec<Head> {
        let tails = heads.iter().cycle().skip(self.turn).take(TAILS.min(heads.len())).copied().collect();
        self.turn = (self.turn + TAILS).checked_rem(heads.len()).unwrap_or(0);
        tails
    }
}

async fn read(stores: &Stores, facts: &Facts, origin: Origin, after: u64) -> StoreResult<usize> {
    let (mut count, mut after) = (0, after);
    loop {
        let entries = stores.ledger.entries(origin, after, READ).await?;
        entries.iter().for_each(|entry| facts.hear(&entry.fact));
        count += entries.len();
        match entries.last() {
            Some(last) if entries.len() == READ => after = last.seq,
            _ => return Ok(count),
        }
    }
}
