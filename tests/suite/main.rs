//! What Palisade promises, checked from outside: one module a noun, one test a behaviour.
//!
//! The tests of [`any_store`] ask a [`testkit::Node`] and do not know what store it has; those of
//! [`process`] are about one process and its directory, and the embedded store in it. [`hot_lane`] is about
//! connections, and [`loadtest`] about the tool that measures nodes. [`films`] is about the example of a consumer,
//! [`gateways`] about the configurations of gateways, [`watching`] about dashboard and alerts, and [`compose`]
//! about the files of `compose/`.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(missing_docs, reason = "a test is documented by its name")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test may be large"
)]

#[path = "any_store.rs"]
mod any_store;

mod compose;
mod films;
mod gateways;
mod hot_lane;
mod loadtest;
mod openapi;
mod process;
mod watching;
