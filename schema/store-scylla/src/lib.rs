//! The store of a cluster: ScyllaDB or Apache Cassandra ≥ 4.1, over CQL.
//!
//! | to find | look in |
//! |---|---|
//! | what may stand in `cql://…` | [`Config`] |
//! | how a node starts while the database is down | `connection`, [`Status`] |
//! | the tables, and why they are as they are | `schema/cql/` |
//! | how one of many nodes migrates them | [`migration`] |
//! | what became of a conditional write that was not answered | `cas` |
//! | what a noun promises, and who completes what stopped half-way | the module of its name |
//!
//! # Consistency
//! Reads and plain writes are `QUORUM`; conditional writes are `SERIAL` and commit at `QUORUM`. Not the
//! local ones: an email must be unique over all data centres, and what was answered in one must be seen
//! in the others, in order. A head must not arrive before the entries below it, nor the fact of a
//! change before the change. In one data centre both are the same.
//!
//! The price: a quorum of all copies, over all data centres, must be there and is waited for. Two data
//! centres of three copies each do not live on when one of them is lost; to lose one takes three. Nodes
//! of `local_dc` are preferred, and others are asked when none of them answers.
//!
//! Nothing here trusts that two clocks agree: what must be ordered goes through conditional writes
//! (their order is that of Paxos), what is written plainly is written once or checked when read.
//!
//! # What stops half-way
//! Changes of several partitions are ordered so that a stop between any two steps is harmless:
//!
//! | change | steps | left by a stop | who mends it |
//! |---|---|---|---|
//! | register | list row → claim the email → user, if absent | list row of nobody; claim of nobody | lists skip it; the next who wants the email voids that user and takes the claim |
//! | change email | claim → user, if unchanged → release the old claim | claim of somebody with another email | the next who wants it raises that user's revision and takes the claim |
//! | delete user | sessions, grants, history → user → claim → grants once more → list row | a user without sessions and grants; a claim of nobody | the caller, again; as above |
//! | open session | session, if absent → list row → end the oldest | a session that nobody has tokens of | its TTL |
//! | end session | session, if there → list row | list row of nothing | lists skip and remove it |
//! | give | holder row → grant, if nothing changed | holder who has nothing | lists of holders check the grant |
//! | take | grant, if nothing changed → holder row | the same | the same |
//! | append | entries → head | entries beyond the head | readers of tails; the writer, again |
//!
//! # Where it says more than it knows
//! An `end` or `take` that was not answered, of what is gone when we ask, says that it was there: by
//! chance another may have removed it in that moment, and was told the same. So does a `give` of what
//! is there when we ask.
//!
//! # What it never does
//! It scans no table, trusts no cache (the copy of the catalogue is used when its revision is still
//! the one that is stored), and repeats no write whose outcome is not known unless repeating it is
//! harmless (which are, says `cas`). It never says `Unavailable` of a change before it has asked what
//! became of it, and never waits for a database that is known to be down.

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
mod tls;
mod upkeep;
mod users;

pub use config::{BadConfig, Config};
pub use connection::{Opened, open};
pub use status::{Counters, State, Status};
