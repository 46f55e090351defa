//! Signing keys and their life: next → active → retiring → removed.
//!
//! Promises: every node of a store signs with the active key, never with a key that it knows to be revoked,
//! and accepts signatures of the next, the active and the retiring keys; a key is published before it signs;
//! lookups of unknown `kid`s read the store at most once a second for all requests together; the store holds
//! private keys only sealed under the master key.
//!
//! The `change` module changes the stored [`KeySet`] by compare-and-set. [`KeyRing`] is this node's unsealed
//! copy, which readers use without a lock.

mod change;
mod ring;
mod seal;

pub use change::{KeyError, Tools, ensure, raise_horizon, retire, rotate, stored, upkeep};
pub(crate) use ring::LOOKUP_INTERVAL;
pub use ring::{KeyInfo, KeyRing, check, deny_revoked};
pub use seal::{MasterKey, SealError, SecretKey};

#[cfg(doc)]
use schema::key::KeySet;
