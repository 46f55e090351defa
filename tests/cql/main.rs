//! The same suite on a shared store, and what only a shared store promises.
//!
//! What a node promises on any store is compiled here once more, and runs against nodes on Apache
//! Cassandra.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(missing_docs, reason = "a test is documented by its name")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test may be large"
)]

#[path = "../suite/any_store.rs"]
mod any_store;

mod behind;
mod clocks;
mod cluster;
mod copy;
mod cost;
mod halfway;
mod outage;
mod redis;
mod ring;
mod stored;
mod two_nodes;
