//! What a client may hold of a node's connections, and for how long.
//!
//! A connection is a scarce thing that a stranger gets for nothing, so each has deadlines, and each address
//! has a share:
//!
//! | a connection | ends |
//! |---|---|
//! | on which nothing happens, in HTTP/1.1 or HTTP/2, with or without `PING`s | after `IDLE_TIMEOUT` |
//! | whose request head does not arrive | 30 s after its first byte, with 408 |
//! | whose client does not take an answer: its socket or a stream's window is full | 30 s after the last 4 KiB that it took |
//! | beyond the share of its address, or beyond all that the node has | after one request of operators, see [`reserve`] |
//!
//! The deadlines never exceed `IDLE_TIMEOUT`. [`activity`] says which one comes next; it has neither a clock
//! nor a socket. `line` is the socket that tells it what happens, for hyper's two protocols; the hot lane
//! ([`super::hot::wire`]) has the same deadlines where it reads and writes.

pub mod activity;
pub mod admission;
pub mod body;
pub mod line;
pub mod refused;
pub mod reserve;

use std::time::Duration;

/// The longest that the head of a request may take, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a client may take none of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may stay without getting on.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Between requests.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// From one piece of an answer that the client takes to the next.
    pub write: Duration,
}

impl Timeouts {
    /// For this `IDLE_TIMEOUT`, which no other exceeds.
    #[must_use]
    pub fn new(idle: Duration) -> Self {
        Self { idle, head: idle.min(HEAD_TIMEOUT), write: idle.min(WRITE_TIMEOUT) }
    }
}
