//! The signing keys, as stored: one small document, changed by compare-and-set.
//!
//! A key is *next* (published, does not sign yet), then *active* (signs), then *retiring* (does
//! not sign any more, still verifies what it signed), then gone. One that is *revoked* goes at once. The next one is published before
//! it signs, so that every node accepts its first token.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{id::KeyId, time::Timestamp, token::Algorithm};

/// How many keys there may be for another rotation. Revoking one is always possible.
pub const MAX_KEYS: usize = 16;

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published, signs nothing yet.
    Next,
    /// Signs.
    Active,
    /// Verifies what it signed, until then.
    Retiring {
        /// When the last token that it may have signed has expired.
        until: Timestamp,
    },
    /// Taken away: not published, and what it signed is refused. It is kept so long that such a
    /// token is still recognised and told so.
    Revoked {
        /// When the last token that it may have signed has expired.
        until: Timestamp,
    },
}

/// A signing key with its private half sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The `kid`.
    pub id: KeyId,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Timestamp,
    /// The private key (PKCS #8 DER), sealed under the master key, base64.
    pub sealed: String,
}

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredKey").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}

/// All signing keys, and how long the tokens that they signed may live.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeySet {
    /// Raised by each change.
    pub revision: u64,
    /// About [`MAX_KEYS`] at most.
    pub keys: Vec<StoredKey>,
    /// The life of access tokens issued now.
    pub access_ttl: Duration,
    /// No token that was issued with a longer life than `access_ttl` lives beyond this. A
    /// revocation is remembered at least until here.
    pub access_horizon: Timestamp,
}
