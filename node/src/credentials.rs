//! Issues and checks tokens, and manages signing keys and passwords.
//!
//! Promises: no secret is ever given to `tracing`; checking a token that this node has verified before awaits
//! nothing.

pub mod byte_cache;
pub mod keys;
pub mod passwords;
pub mod tokens;
