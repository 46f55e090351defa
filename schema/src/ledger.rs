//! The ledger: every node's log of facts, as stored.
//!
//! An origin numbers its entries without gaps, from 1. The head of a log is the number up to which the log
//! is complete in the store: it moves only after the entries, over an unbroken prefix. The ledger depends
//! on no clock: what a node lacks is a range of numbers, which it can request from the store or a peer
//! alike. Any node may write an entry again: the same key always has the same value.

use serde::{Deserialize, Serialize};

use crate::{fact::Fact, id::NodeId};

/// The author of a log: one life of one node, from a start to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The start time of this life, which distinguishes it from earlier ones. Rises with every start.
    pub incarnation: u64,
}

/// One fact in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The author of the log.
    pub origin: Origin,
    /// The number of the entry, from 1, without gaps.
    pub seq: u64,
    /// The fact.
    pub fact: Fact,
}

/// The number up to which a log is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// The author of the log.
    pub origin: Origin,
    /// The last number such that all entries up to it are stored, or were stored and have expired.
    pub seq: u64,
}
