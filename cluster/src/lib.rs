//! The cluster: which nodes are alive, and how a fact of one reaches all others within a millisecond.
//!
//! Promises: when [`Cluster::publish`] returns, this node's facts are on their way to every linked peer, and
//! [`Cluster::visible`] counts the peers that have applied them. Facts of peers are applied as soon as their
//! frame is read, before they are acknowledged. Facts that were lost on the way, or published while this node
//! was away, show as gaps in a numbered log and are pulled. The node knows since when it may have missed
//! facts ([`Cluster::fresh_at`]).
//!
//! Never: this crate decides nothing about tokens, stores nothing and reads no ledger; `node` joins it to
//! these. A peer that does not know the secret learns nothing.
//!
//! | to find | look in |
//! |---|---|
//! | which keys are derived from `CLUSTER_SECRET` | [`secret`] |
//! | which nodes are alive: chitchat with sealed datagrams, seeds that are looked up again and again | [`members`] |
//! | one encrypted connection to a peer | [`link`] |
//! | which peers are dialed, what is read and written, which calls wait | [`runtime`] |
//! | the messages on a link, and why none is missed: a state machine without I/O or clock | [`protocol`] |

pub mod link;
pub mod members;
pub mod protocol;
pub mod runtime;
pub mod secret;
mod timer;

pub use runtime::{
    Cluster, Config, FactHandler,
    status::{MemberStatus, Status},
};
