//! What the actors promise: one module a noun, one test a behaviour.
//!
//! The store is a real one, with faults put in front of it by [`faults`]; the time, the randomness
//! and where facts go are the test's own ([`world`]).

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
mod refresh;
mod superusers;
mod two_nodes;
mod unanswered;
mod users;
mod world;
