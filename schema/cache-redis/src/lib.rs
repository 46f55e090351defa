//! An optional cache in Redis that the nodes of a cluster share.
//!
//! A wiped, slow, lying, full or dead Redis affects only speed and the strictness of limits, never a
//! decision about access.
//!
//! | to find | look in |
//! |---|---|
//! | the handle: how it is opened, how long a command may take | [`Cache`], `link` |
//! | limits that all nodes count together | [`RedisCounters`] |
//! | permissions of users without a read of the store | [`CachedGrants`] |
//! | why Redis cannot forge a value | `seal` |
//! | the bound of the bytes of an answer | `metered` |
//!
//! # Why nothing else is cached
//! [`CachedGrants`] caches one read, `effective`: the only read on a hot path that may lag behind by the
//! propagation time of a fact. All other reads need the current state: a user by email at log-in, a session
//! at a refresh. Decisions about superusers read the store too.
//!
//! # Which values are trusted
//! Each value carries a MAC over its key and its bytes. So a lying Redis can omit values or return old ones,
//! but it cannot forge one, nor move one to another key. A value that does not verify counts as absent. An
//! old counter is softer, or a lock that did exist and expires. An old entry of [`CachedGrants`] carries the
//! time of its load, and is rejected because of the facts applied since then.
//!
//! # The cost of a broken Redis
//! A command has a deadline ([`DEADLINE`]). After a failure, commands are skipped at once, for [`PAUSE`] and
//! until Redis answers again; only a background task tries. Keys contain no user text.

mod cache;
mod counters;
mod entry;
mod grants;
mod invalidations;
mod link;
mod metered;
mod open;
mod seal;
mod stats;
mod tally;

pub use cache::Cache;
pub use counters::RedisCounters;
pub use grants::CachedGrants;
pub use link::{DEADLINE, PAUSE};
pub use open::{OpenError, check_url};
pub use stats::Stats;
