//! The embedded store: one file, one process, group commit.
//!
//! | to find | look in |
//! |---|---|
//! | why a file is refused, and what to do | [`OpenError`] |
//! | how many changes share one `fsync` | `writer`, [`Stats`] |
//! | which tables there are | `table` |
//! | how the file of an older Palisade becomes one of this | `migration` |
//! | what a noun promises | the module of its name |
//!
//! # What is in the file
//! A [redb] database. Rows are the records of `schema` as JSON: readable with any tool, and a
//! field can be added with `#[serde(default)]` without touching what is stored. Keys are bytes that
//! sort as the lists do (ids most significant byte first, numbers big-endian), so every list is one
//! range scan.
//!
//! # What it promises
//! - A change is answered when it is on the disk: one `fsync` for all changes that waited together.
//! - One call is one transaction: a user and its email claim, or neither.
//! - Readers see a snapshot and never wait for the writer.
//! - After `kill -9` or the loss of power the file is what the last answered change left; redb walks
//!   it once at the next start. (redb's *quick repair* would spare that walk and make every commit
//!   dearer, and its *two-phase commit* guards against somebody who chooses the bytes of a whole
//!   transaction and when the machine dies; neither is needed for safety, so both are off.)
//! - After a failed write (a full disk) the file is closed and opened again until that works; nobody
//!   has to restart the node.

mod database;
mod error;
mod grants;
mod key;
mod keys;
mod ledger;
mod logins;
mod migration;
mod open;
mod permissions;
mod roles;
mod rows;
mod sessions;
mod stats;
mod store;
mod superusers;
mod table;
mod upkeep;
mod users;
mod writer;

pub use open::{OpenError, Opened, open};
pub use stats::Stats;
