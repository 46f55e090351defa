//! The embedded store: one file, one process, group commit.
//!
//! | to find | look in |
//! |---|---|
//! | why a file is not opened, and what to do | [`OpenError`] |
//! | whether a start would accept a file | [`inspect()`] |
//! | how many changes share one `fsync` | `writer`, [`Stats`] |
//! | the tables | `table` |
//! | how the file of an older Palisade is migrated | `migration` |
//! | what a deletion removes besides its own row | `cascade` |
//! | the promises of a noun | the module of its name |
//!
//! # The file
//! A [redb] database. Rows are the records of `schema` as JSON: any tool can read them, and a field can
//! be added with `#[serde(default)]` without rewriting stored rows. Keys are bytes that sort like the
//! lists (ids most significant byte first, numbers big-endian), so every list is one range scan.
//!
//! # Promises
//! - A change returns when it is on the disk: one `fsync` for all changes that waited together.
//! - One call is one transaction: it stores a user and its email claim, or neither. Removals of many rows
//!   are the exception: they take several.
//! - Readers see a snapshot and never wait for the writer.
//! - After `kill -9` or a loss of power the file holds every change that returned; redb walks the file
//!   once at the next start. (redb's *quick repair* would avoid that walk but slow every commit down, and
//!   its *two-phase commit* protects against an attacker that chooses the bytes of a whole transaction
//!   and the moment of the crash. Neither is needed for safety, so both are off.)
//! - After a failed write (a full disk) the file is closed and opened again until that succeeds, without
//!   a restart of the node.

mod cascade;
mod database;
mod error;
mod grants;
mod inspect;
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

pub use error::OpenError;
pub use inspect::inspect;
pub use open::{Opened, open};
pub use stats::Stats;
