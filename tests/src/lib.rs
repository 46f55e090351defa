//! The testkit: a node as its users see it, in words that read as prose.
//!
//! ```ignore
//! let node = Node::start().await;
//! let ann = node.register("ann").await;
//! ann.delete("auth_token").send().await.is_done();
//! ann.get("auth_token/validation").send().await.is_error(401, "Token has been revoked");
//! ```
//!
//! Everything goes through a real process, real sockets and the real command line; nothing here
//! knows how a node works inside or what it stores its data in.
//!
//! | to find | look in |
//! |---|---|
//! | a node: start, stop, kill, restart, its command line | [`node`] |
//! | a request and what the answer must be | [`client`] |
//! | bytes on a socket, for requests that no client library sends | [`raw`] |
//! | what the OpenAPI document promises about an answer | [`document`] |
//! | a user with an account and its privileges | [`person`] |
//! | forged tokens | [`forge`] |
//! | the load tester: a call, its end, its result | [`loadtest`] |
//! | the consumer `films` | [`films`] |
//! | a server that does what a test scripts | [`standin`] |
//! | a gateway with the configuration that users get | [`gateway`] |
//! | a program of others, such as a gateway | [`program`] |
//! | several nodes that know each other, and what hurts the way between them | [`cluster`] |
//! | Redis, Cassandra, and a proxy that hurts the way to them | [`servers`] |
//! | validators and client generators of others | [`tools`] |
//! | which store the nodes of a run have | [`store`] |
//! | a directory for a test | [`scratch`] |
//! | what the dashboard and the alert rules ask for | [`watching`] |
//! | waiting for a condition | [`wait`] |
//! | what several tests use at the same time | [`background`] |

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails, and all of this runs in tests"
)]

pub mod background;
pub mod binary;
pub mod client;
pub mod cluster;
pub mod command;
pub mod document;
pub mod drain;
pub mod films;
pub mod forge;
pub mod gateway;
pub mod loadtest;
pub mod node;
pub mod person;
pub mod program;
pub mod raw;
pub mod scratch;
pub mod servers;
pub mod standin;
pub mod store;
#[cfg(test)]
mod style;
pub mod tools;
pub mod wait;
pub mod watching;

pub use client::{Answer, Client, Request};
pub use cluster::Cluster;
pub use command::{Palisade, Run};
pub use drain::Drain;
pub use films::Films;
pub use gateway::Gateway;
pub use loadtest::LoadTest;
pub use node::{Node, Shared, Shift};
pub use person::Person;
pub use program::Program;
pub use raw::Raw;
pub use standin::Standin;
pub use wait::{eventually, within};

use std::sync::atomic::{AtomicU64, Ordering};

/// A name that no other test of this run uses: `ann` becomes `ann-4211-7`.
#[must_use]
pub fn fresh(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
