//! Signing keys: next → active → retiring → gone.
//!
//! Promises: every node that has this store signs with the active key, never with one that it knows
//! to be retired, and accepts the next, the active and the retiring ones; a key is published before
//! it signs; an unknown `kid` asks the store at most once a second for all requests together; private
//! keys lie in the store sealed under the master key.
//!
//! What happens to keys happens in the stored [`KeySet`], by compare-and-set (`change`);
//! [`KeyRing`] is what this node made of it and what readers use without a lock.

mod change;
mod ring;
mod seal;

pub use change::{KeyError, Tools, ensure, raise_horizon, retire, rotate, stored, upkeep};
pub use ring::{KeyInfo, KeyRing, deny_revoked};
pub(crate) use ring::{LOOKUP_INTERVAL, Verifier, jws_algorithm};
pub use seal::{MasterKey, SealError};

#[cfg(doc)]
use schema::key::KeySet;
