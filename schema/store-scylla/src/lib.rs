//! The store of a cluster: ScyllaDB or Apache Cassandra ≥ 4.1, over CQL.
//!
//! | to find | look in |
//! |---|---|
//! | the form of a `cql://…` address | [`Config`] |
//! | how a node starts while the database is down | `connection`, [`Status`] |
//! | the tables and their reasons | `schema/cql/` |
//! | how one of many nodes migrates them | [`migration`] |
//! | how an unanswered conditional write is reconciled | `cas` |
//! | the promises of a noun, and how stalled changes of it are completed | the module of its name |
//!
//! # Consistency
//! Reads and plain writes are `QUORUM`; conditional writes are `SERIAL` and commit at `QUORUM`. The local
//! variants do not suffice: an email must be unique across all data centres, and a result that was
//! returned in one must be visible in the others, in order. A head must not arrive before the entries
//! below it, nor the fact of a change before the change. In one data centre both are the same.
//!
//! The price: every statement waits for a quorum of all replicas, across all data centres. Two data
//! centres of three replicas each do not survive the loss of one of them; surviving it takes three.
//! Nodes of `local_dc` are preferred, and others are used if none of them answers.
//!
//! Nothing here relies on two clocks agreeing: changes that must be ordered are conditional writes (Paxos
//! orders them), and rows that are written plainly are written once or checked when read.
//!
//! # Changes that stall half-way
//! The steps of a change of several partitions are ordered so that a stall between any two is harmless:
//!
//! | change | steps | left by a stall | repaired by |
//! |---|---|---|---|
//! | register | list row → claim the email → user, if absent | list row without user; claim without user | lists skip the row; the next registration with the email voids that user and takes the claim |
//! | change email | claim → user, if unchanged → release the old claim | claim of a user with another email | the next user that wants the email raises the other's revision and takes the claim |
//! | delete user | sessions, grants, history → user → claim → grants once more → list row | a user without sessions and grants; a claim without user | the caller, by repeating the call; as above |
//! | open session | session, if absent → list row → end the oldest | a session without tokens | its TTL |
//! | end session | session, if it exists → list row | list row without session | lists skip and remove it |
//! | give | holder row → grant, if nothing changed | holder row without grant | lists of holders check the grant |
//! | take | grant, if nothing changed → holder row | holder row without grant | lists of holders check the grant |
//! | append | entries → head | entries beyond the head | readers, which read past the head; the writer, by repeating the call |
//!
//! # Where a result may be wrong
//! An unanswered `end` or `take` whose row is gone when the store reads it reports that it removed the
//! row. Another node may have removed it at that moment, and got the same answer. The same holds for an
//! unanswered `give` whose row exists when the store reads it.
//!
//! # What the store never does
//! It scans no table. It trusts no cache: the copy of the catalogue is used only if its revision is still
//! the stored one. It repeats no write with unknown outcome unless that is harmless (`cas` says which are).
//! It never returns `Unavailable` for a change before it has tried to read the outcome, and never waits
//! for a database that is known to be down.

mod cas;
mod catalogue;
mod config;
mod connection;
mod convert;
mod documents;
mod grants;
mod ledger;
mod link;
mod logins;
pub mod migration;
mod permissions;
mod roles;
mod sessions;
mod statement;
mod status;
mod store;
mod timer;
mod tls;
mod upkeep;
mod users;

pub use config::{BadConfig, Config};
pub use connection::{Opened, open};
pub use status::{Counters, State, Status};
