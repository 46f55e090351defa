//! The ledger: every node's log of facts, as stored.
//!
//! An entry is numbered by its origin without gaps, from 1. A head says up to where an origin's
//! log is complete in the store: it moves only over an unbroken prefix, after the entries. There
//! is no clock in it: what a node lacks is a range of numbers, the same question that it asks a
//! peer. Entries may be written twice, by anyone: same key, same value.

use serde::{Deserialize, Serialize};

use crate::{fact::Fact, id::NodeId};

/// Who numbered a fact: a node, between one start and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Rises with every start of the node.
    pub incarnation: u64,
}

/// One fact in an origin's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Whose log.
    pub origin: Origin,
    /// From 1, without gaps.
    pub seq: u64,
    /// What was taken away.
    pub fact: Fact,
}

/// Up to where an origin's log is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Whose log.
    pub origin: Origin,
    /// All entries up to this one are stored, or were and are forgotten.
    pub seq: u64,
}
