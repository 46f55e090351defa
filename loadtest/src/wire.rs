//! The wires that carry requests: raw HTTP/1.1 on epoll, or h2c.

pub mod h2c;
pub mod http1;

use std::time::Duration;

use crate::{scenario::Route, target::Target};

/// The connections of a thread.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The targets.
    pub targets: Vec<Target>,
    /// The route of each connection.
    pub connections: Vec<Route>,
    /// Requests at a time on one connection, in the closed model: pipelined in HTTP/1.1, streams in h2c.
    pub depth: usize,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// The pause before a failed connection is opened again.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
