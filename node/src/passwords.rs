//! Passwords: what may be one, and hashing without slowing anything else.

mod common;
mod hash;
mod policy;
mod pool;

pub use hash::Verdict;
pub use policy::{Normalized, PasswordError};
pub use pool::{PasswordPool, PoolBusy};
