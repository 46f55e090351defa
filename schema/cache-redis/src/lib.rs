//! An optional cache in Redis that the nodes of a cluster share.
//!
//! A wiped, slow, lying, full or dead Redis changes only speed, and how strictly limits count;
//! never what is true.
//!
//! | to find | look in |
//! |---|---|
//! | the handle: how it is opened, how long a command may take | [`Cache`], `link` |
//! | limits that all nodes count together | [`RedisCounters`] |
//! | what users may do, without asking the store | [`CachedGrants`] |
//! | why nobody can put words into our mouth | `seal` |
//! | what bounds the bytes of an answer | `metered` |
//!
//! # Why no more is cached
//! [`CachedGrants`] keeps one read, `effective`: the only one on a hot path that may be as old as a
//! fact takes to travel. All other reads are where the truth must be asked: a user by email at
//! log-in, a session at a refresh. Whoever decides about power asks the store itself too.
//!
//! # What is believed
//! Values carry a MAC over their key and their bytes. So a Redis that lies can leave out values, or
//! return old ones; it cannot invent one, nor move one to another key. What does not verify counts
//! as absent. An old count is softer, or a lock that did exist and ends by itself. An old entry of
//! [`CachedGrants`] carries the time of its load, and is refused by the facts heard since then.
//!
//! # What a bad Redis costs
//! A command has a deadline ([`DEADLINE`]). After a failure commands are skipped at once, for
//! [`PAUSE`] and until Redis answers again; only a task of our own tries. Keys carry no user text.

mod cache;
mod counters;
mod entry;
mod grants;
mod heard;
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
