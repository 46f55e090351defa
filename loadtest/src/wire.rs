//! What carries requests: raw HTTP/1.1 on epoll, or h2c.

pub mod h2c;
pub mod http1;

use std::time::Duration;

use crate::{scenario::Spot, target::Target};

/// What a thread's connections are like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to.
    pub targets: Vec<Target>,
    /// The connections of this thread, each for one lane to one target.
    pub connections: Vec<Spot>,
    /// Requests at a time on one connection, in the closed model: pipelined in HTTP/1.1, streams in h2c.
    pub depth: usize,
    /// An answer that takes longer is none.
    pub timeout: Duration,
}

/// How long one waits before connecting anew.
pub const AGAIN: Duration = Duration::from_millis(50);
