//! What Palisade promises, checked from outside: one module a noun, one test a behaviour.
//!
//! The tests ask a [`testkit::Node`] and do not know what store it has or whether it is alone,
//! except those in [`process`], which are about one process and its directory.

#![allow(missing_docs, reason = "a test is documented by its name")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test may be large"
)]

mod accounts;
mod http;
mod openapi;
mod permissions;
mod process;
mod sessions;
mod tokens;
