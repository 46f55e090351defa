//! A cache against a real Redis that is wiped, slow, lying, full or dead.
//!
//! | to find | look in |
//! |---|---|
//! | limits that nodes count together | `counting` |
//! | permissions of users, cached in Redis | `granting` |
//! | values that no node may trust | `lies` |
//! | a Redis that does not answer | `trouble` |
//! | a Redis that breaks the protocol | `protocol` |
//! | clocks, stores and nodes of tests | `support` |

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails, and helpers of tests fail them too"
)]

mod counting;
mod granting;
mod lies;
mod protocol;
mod support;
mod trouble;
