//! The feed of facts to the peers of this node, besides the journal and the ledger.

use async_trait::async_trait;
use cluster::Cluster;
use schema::{Fact, ledger::Origin};
use tokio::time::Instant;

/// Sends numbered facts to peers. Counts are pairs: the live nodes that have the facts, and all live nodes.
#[async_trait]
pub trait FactFeed: Send + Sync {
    /// Sends facts of this node's log, numbered from `first`, without waiting. This node has applied them
    /// already, and `first` follows the last published number.
    fn publish(&self, first: u64, facts: &[Fact]);

    /// Waits until every live node has acknowledged these facts, which were published at `since`, or until
    /// the acknowledgement deadline. Returns at once if `last` is 0.
    async fn visible(&self, first: u64, last: u64, since: Instant) -> (u32, u32);

    /// Asks every live node to write these published facts to its disk, and waits until all have done so, or
    /// until the acknowledgement deadline.
    async fn on_disk(&self, first: u64, last: u64) -> (u32, u32);

    /// Adds facts of any log, numbered from `first`, that this node has applied from the ledger or the
    /// journal, so that peers can request them.
    fn learn(&self, origin: Origin, first: u64, facts: &[Fact]);

    /// Notes that the ledger has all of this log up to `seq`, and that this node has applied all of it that
    /// has not expired.
    fn ledger_has(&self, origin: Origin, seq: u64);

    /// The sequence number up to which this log was received from its own node, and need not be read from the
    /// ledger.
    fn proven(&self, origin: Origin) -> u64;
}

#[async_trait]
impl FactFeed for Cluster {
    fn publish(&self, first: u64, facts: &[Fact]) {
        self.publish(first, facts);
    }

    async fn visible(&self, first: u64, last: u64, since: Instant) -> (u32, u32) {
        self.visible(first, last, since).await
    }

    async fn on_disk(&self, first: u64, last: u64) -> (u32, u32) {
        self.on_disk(first, last).await
    }

    fn learn(&self, origin: Origin, first: u64, facts: &[Fact]) {
        self.learn(origin, first, facts);
    }

    fn ledger_has(&self, origin: Origin, seq: u64) {
        self.ledger_has(origin, seq);
    }

    fn proven(&self, origin: Origin) -> u64 {
        self.proven(origin)
    }
}
