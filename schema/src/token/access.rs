//! Access tokens: their algorithms, and what a verified one says. The crate `token-verify` parses and verifies them.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::version::MAX_VERSION;
use crate::{
    id::{KeyId, SessionId, TokenId, UserId},
    time::{CLOCK_SKEW, Timestamp},
};

/// The signature algorithms of access tokens (RFC 7518, section 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519. Small and fast: the default.
    EdDSA,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits.
    RS256,
}

impl Algorithm {
    /// The name as in a JWS header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDSA => "EdDSA",
            Self::ES256 => "ES256",
            Self::RS256 => "RS256",
        }
    }
}

/// The `type` claim of an access token.
pub const ACCESS_TYPE: &str = "access";

/// The part of a verified token that validation needs. Small, because caches hold many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessClaims {
    /// The user (`sub`).
    pub user: UserId,
    /// The session (`sid`).
    pub session: SessionId,
    /// The token (`jti`).
    pub token: TokenId,
    /// The key that signed it (`kid`).
    pub key: KeyId,
    /// The user's version in it (`uv`), at most [`MAX_VERSION`].
    pub version: u64,
    /// When it was issued, in seconds since the epoch (`iat`).
    pub issued_at: u64,
    /// When it expires, in seconds since the epoch (`exp`).
    pub expires_at: u64,
    /// Whether its `type` is `access`.
    pub is_access: bool,
}

impl AccessClaims {
    /// Whether the token was issued later than the clocks of two nodes may differ. The clock of the node that
    /// issued it was ahead, or this node's has gone back since.
    #[must_use]
    pub const fn is_of_the_future(&self, now: Timestamp) -> bool {
        self.issued_at > now.as_secs().saturating_add(CLOCK_SKEW.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_of_the_future_beyond_the_skew() {
        let claims = AccessClaims {
            user: UserId::from_bytes([1; 16]),
            session: SessionId::from_bytes([1; 16]),
            token: TokenId::from_bytes([1; 16]),
            key: KeyId::from_bytes([1; 16]),
            version: 0,
            issued_at: 100,
            expires_at: 200,
            is_access: true,
        };
        let is_of_the_future = |secs| claims.is_of_the_future(Timestamp::from_secs(secs));
        assert!(!is_of_the_future(100) && !is_of_the_future(40));
        assert!(is_of_the_future(39) && is_of_the_future(0));
    }
}
