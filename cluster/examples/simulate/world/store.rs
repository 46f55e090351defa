//! The ledger in the store that nodes share: what they write to it and read from it.

use std::collections::BTreeMap;

use schema::{Fact, Timestamp, ledger::Origin, time::CLOCK_SKEW};

use super::World;

pub(super) struct Store {
    pub(super) up: bool,
    rows: BTreeMap<Origin, BTreeMap<u64, Row>>,
    heads: BTreeMap<Origin, u64>,
}

struct Row {
    fact: Fact,
    /// When the database deletes the row, by its own clock, which is correct.
    deleted_at: Timestamp,
}

impl Store {
    pub(super) const fn new(up: bool) -> Self {
        Self { up, rows: BTreeMap::new(), heads: BTreeMap::new() }
    }

    /// Writes the entries of a log that follow on its head.
    fn append(&mut self, origin: Origin, first: u64, facts: &[Fact], settled: Timestamp, now: Timestamp) {
        let rows = self.rows.entry(origin).or_default();
        let head = self.heads.entry(origin).or_default();
        for (seq, fact) in (first..).zip(facts) {
            if *head + 1 == seq {
                let life = fact.until.since(settled) + CLOCK_SKEW;
                rows.insert(seq, Row { fact: *fact, deleted_at: now.plus(life) });
                *head = seq;
            }
        }
    }

    fn delete_expired(&mut self, now: Timestamp) {
        self.rows.values_mut().for_each(|rows| rows.retain(|_, row| row.deleted_at >= now));
    }
}

impl World {
    /// Writes a node's journal, and the logs of other nodes as far as they are complete there.
    pub(super) fn write_store(&mut self, at: usize) {
        self.set_clocks(at);
        let now = self.true_time();
        let Self { store, nodes, .. } = self;
        let node = &nodes[at];
        let settled = node.clocks.settled();
        if !store.up || !node.reaches_store {
            return;
        }
        for (origin, facts) in &node.journal {
            store.append(*origin, 1, facts, settled, now);
        }
        for (origin, seq) in node.replicator.peer_logs() {
            if let Some((first, facts)) = node.replicator.entries(origin, 1, usize::MAX) {
                let count = facts.len().min(usize::try_from(seq).unwrap_or(0));
                store.append(origin, first, &facts[..count], settled, now);
            }
        }
        store.delete_expired(now);
    }

    /// Applies what a node does not have of other nodes' logs.
    pub(super) fn read_store(&mut self, at: usize) {
        let is_cheap = self.settings.is_cheap;
        let Self { store, nodes, .. } = self;
        let node = &mut nodes[at];
        if !store.up || !node.reaches_store {
            return;
        }
        for (origin, head) in &store.heads {
            let read = node.read.get(origin).copied().unwrap_or(0);
            let complete = node.replicator.complete(*origin).max(read);
            if *origin == node.origin || complete >= *head {
                continue;
            }
            let Some(rows) = store.rows.get(origin) else { continue };
            for (seq, Row { fact, .. }) in rows.range(complete + 1..) {
                node.apply(fact, is_cheap);
                node.replicator.learn(*origin, *seq, &[*fact]);
            }
            node.replicator.ledger_has(*origin, *head);
            node.read.insert(*origin, *head);
        }
    }
}
