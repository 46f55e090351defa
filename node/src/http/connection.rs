//! The limits of connections: how many an address may have, and for how long.
//!
//! Connections are scarce and any client can open them, so each has deadlines and each address has a share:
//!
//! | a connection | is closed |
//! |---|---|
//! | that is idle, in HTTP/1.1 or HTTP/2, with or without `PING`s | after `IDLE_TIMEOUT` |
//! | whose request head does not arrive | 30 s after its first byte, with 408 |
//! | whose client does not read an answer: its socket or a stream's window is full | 30 s after the last 4 KiB that it read |
//! | beyond the share of its address, or beyond the node's limit | after one request of operators, see [`reserve`] |
//!
//! The deadlines never exceed `IDLE_TIMEOUT`. [`activity`] computes the next deadline, without a clock or a
//! socket. [`socket`] reports to it what hyper reads and writes, in both protocols. The fast path
//! ([`super::fast_path::http1`]) has the same deadlines where it reads and writes.

pub mod activity;
pub mod admission;
pub mod body;
pub mod head;
pub mod refused;
pub mod reserve;
pub mod socket;

use std::time::Duration;

/// The limit for the head of a request, from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The limit for a client to read the next piece of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Between requests.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// From one piece of an answer that the client reads to the next.
    pub write: Duration,
}

impl Timeouts {
    /// The limits for this `IDLE_TIMEOUT`, which no other exceeds.
    #[must_use]
    pub fn new(idle: Duration) -> Self {
        Self { idle, head: idle.min(HEAD_TIMEOUT), write: idle.min(WRITE_TIMEOUT) }
    }
}
