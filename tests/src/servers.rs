//! Servers that a node uses, as tests need them: real ones that can be hurt.
//!
//! Each begins empty and ends by itself, also when the test process that used it was killed.

pub mod cassandra;
pub mod collector;
pub mod proxy;
pub mod redis;

pub use cassandra::{Cassandra, Ring};
pub use collector::Collector;
pub use proxy::{Action, Proxy};
pub use redis::Redis;
