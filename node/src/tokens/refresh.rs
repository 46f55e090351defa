//! Refresh tokens: made, recognised, and succeeded by the same one whoever asks.
//!
//! The successor's secret is derived from the spent one with a key that only the cluster has, so
//! every caller, every node and a restarted node give the same, and nothing readable lies in the
//! store. The tag lets a made-up token be refused without asking the store.

use std::sync::Arc;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{self, HMAC_SHA256},
};
use schema::{
    Entropy, Refusal, Timestamp,
    session::{SecretHash, Session},
    token::{REFRESH_PREFIX, RefreshToken, refresh::TAG_BYTES},
};

use crate::keys::{MasterKey, SealError};

/// Makes and recognises refresh tokens.
pub struct RefreshTokens {
    tags: hmac::Key,
    successors: hmac::Key,
    entropy: Arc<dyn Entropy>,
}

impl RefreshTokens {
    pub(super) fn new(master: &MasterKey, entropy: Arc<dyn Entropy>) -> Result<Self, SealError> {
        let key = |purpose| Ok(hmac::Key::new(HMAC_SHA256, master.derive(purpose)?.as_slice()));
        Ok(Self { tags: key("refresh token tag")?, successors: key("refresh token successor")?, entropy })
    }

    /// A new random secret.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        self.entropy.fill(&mut secret);
        secret
    }

    /// What the store keeps of a secret.
    #[must_use]
    pub fn hash(secret: &[u8; 32]) -> SecretHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        SecretHash::new(hash)
    }

    /// The secret that a spent one is followed by.
    #[must_use]
    pub fn successor(&self, spent: &[u8; 32]) -> [u8; 32] {
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(&self.successors, spent).as_ref());
        secret
    }

    /// The token of a session with this secret.
    #[must_use]
    pub fn token(&self, session: &Session, secret: [u8; 32]) -> RefreshToken {
        self.tagged(RefreshToken {
            session: session.id,
            user: session.user,
            version: session.user_version,
            expires_at: session.expires_at,
            secret,
            tag: [0; TAG_BYTES],
        })
    }

    /// The token that follows this one.
    #[must_use]
    pub fn next(&self, spent: &RefreshToken, version: u64, expires_at: Timestamp) -> RefreshToken {
        let secret = self.successor(&spent.secret);
        self.tagged(RefreshToken { version, expires_at, secret, ..spent.clone() })
    }

    /// With the tag that makes it one of ours.
    #[must_use]
    pub fn tagged(&self, mut token: RefreshToken) -> RefreshToken {
        let tag = hmac::sign(&self.tags, &token.body());
        token.tag.copy_from_slice(&tag.as_ref()[..TAG_BYTES]);
        token
    }

    /// Reads a token that this cluster made.
    ///
    /// # Errors
    /// `Revoked` for what begins like one of ours and is none, `Expired`, or `NotRefresh` as the
    /// sign that it is no refresh token at all: the caller looks at it as an access token.
    pub fn read(&self, text: &[u8], now: Timestamp) -> Result<RefreshToken, Refusal> {
        if !text.starts_with(REFRESH_PREFIX.as_bytes()) {
            return Err(Refusal::NotRefresh);
        }
        let token = RefreshToken::parse(text).ok_or(Refusal::Revoked)?;
        let made = self.tagged(token.clone());
        aws_lc_rs::constant_time::verify_slices_are_equal(&made.tag, &token.tag)
            .map_err(|_| Refusal::Revoked)?;
        if token.expires_at <= now { Err(Refusal::Expired) } else { Ok(token) }
    }
}
