//! Tests of the actors' promises: one module a noun, one test a behaviour.
//!
//! The store is a real one behind the faults of [`faults`]. The test controls time, randomness and the
//! sink of facts ([`world`]).

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(missing_docs, reason = "a test is documented by its name")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test may be large"
)]

mod admission;
mod catalogue;
mod clocks;
mod ends;
mod facts;
mod faults;
mod permissions;
mod random_changes;
mod refresh;
mod superusers;
mod two_nodes;
mod unanswered;
mod users;
mod world;
