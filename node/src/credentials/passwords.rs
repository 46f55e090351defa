//! Password policy, and hashing that does not slow other work.

mod common;
mod hash;
mod policy;
mod pool;

pub use hash::Verdict;
pub use policy::{Normalized, PasswordError};
pub use pool::{PasswordPool, PoolBusy};
