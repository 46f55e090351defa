//! The signing keys, as stored: one small document, changed by compare-and-set.
//!
//! A key is *next* (published, but does not sign yet), then *active* (signs), then *retiring* (does not sign
//! any more, but still verifies), then deleted. A *revoked* key is withdrawn at once. The next key is
//! published before it signs, so that every node accepts its first token.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{id::KeyId, time::Timestamp, token::Algorithm};

/// Limit of keys with which another rotation is allowed. A revocation is always allowed.
pub const MAX_KEYS: usize = 16;

/// The state of a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published, but does not sign yet.
    Next,
    /// Signs new tokens.
    Active,
    /// Does not sign any more, but still verifies the tokens it signed.
    Retiring {
        /// When the last token that it may have signed has expired.
        until: Timestamp,
    },
    /// Not published, and its tokens are refused. The key is kept so that such a token is still recognised
    /// and refused as revoked.
    Revoked {
        /// When the last token that it may have signed has expired.
        until: Timestamp,
    },
}

/// A signing key with its private half sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The id of the key (`kid`).
    pub id: KeyId,
    /// The algorithm that the key signs with.
    pub algorithm: Algorithm,
    /// The state of the key.
    pub state: KeyState,
    /// When the key was generated.
    pub created_at: Timestamp,
    /// The private key (PKCS #8 DER), sealed under the master key, base64.
    pub sealed: String,
}

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredKey").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}

/// All signing keys, and the lifetimes of the tokens that they signed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeySet {
    /// Rises by one with every change.
    pub revision: u64,
    /// The keys, about [`MAX_KEYS`] at most.
    pub keys: Vec<StoredKey>,
    /// The lifetime of access tokens issued now.
    pub access_ttl: Duration,
    /// When the last token has expired that was issued with a longer lifetime than `access_ttl`. Revocations
    /// are kept at least until then.
    pub access_horizon: Timestamp,
    /// The root of derived keys, sealed under the master key, base64. `None` while it is the master key itself,
    /// which has never been replaced then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation_root: Option<String>,
}
