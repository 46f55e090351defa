//! Peers: who is alive, and what was taken away anywhere, known everywhere within a millisecond.
//!
//! Promises: what this node takes away is on its way to every linked peer when [`Cluster::publish`]
//! returns, and [`Cluster::visible`] says who has it; what others take away is applied the moment its
//! frame is read, before it is acknowledged; whatever was lost on the way, or happened while this node
//! was away, is found by numbers and asked for; and the node knows since when it may have missed
//! something ([`Cluster::fresh_at`]).
//!
//! Never: it decides nothing about tokens, stores nothing, and reads no ledger; who joins it to these is
//! `node`. A peer that does not know the secret is told nothing.
//!
//! | to find | look in |
//! |---|---|
//! | which keys come from `CLUSTER_SECRET` | [`secret`] |
//! | who is alive: chitchat, its datagrams sealed, seeds looked up again and again | [`members`] |
//! | one encrypted connection to a peer | [`link`] |
//! | who is dialed, what is read and written, who waits for whom | [`cluster`] |
//! | what is said over a link, and why nothing is missed: a state machine without I/O or clock | [`protocol`] |

pub mod cluster;
pub mod link;
pub mod members;
pub mod protocol;
pub mod secret;

pub use cluster::{Cluster, Config, Hears, MemberStatus, Status, boottime};
