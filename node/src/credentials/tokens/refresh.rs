//! Issues and recognises refresh tokens, and derives the one successor of each.
//!
//! The secret of a successor is derived from the spent one with a key that only the cluster has, so every
//! node returns the same successor to every caller, also after a restart, and the store holds no readable
//! secret. The tag lets a node refuse a made-up token without reading the store.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{self, HMAC_SHA256},
};
use schema::{
    Entropy, Refusal, Timestamp,
    session::{SecretHash, Session},
    token::{REFRESH_PREFIX, RefreshToken, refresh::TAG_BYTES},
};

use crate::credentials::keys::{SealError, SecretKey};

/// Issues and recognises refresh tokens.
pub struct RefreshTokens {
    keys: ArcSwap<Keys>,
    entropy: Arc<dyn Entropy>,
}

struct Keys {
    tags: hmac::Key,
    successors: hmac::Key,
}

impl Keys {
    fn of(root: &SecretKey) -> Result<Self, SealError> {
        let key = |purpose| Ok(hmac::Key::new(HMAC_SHA256, root.derive(purpose)?.as_slice()));
        Ok(Self { tags: key("refresh token tag")?, successors: key("refresh token successor")? })
    }
}

impl RefreshTokens {
    /// With keys that are derived from this root.
    pub(super) fn new(root: &SecretKey, entropy: Arc<dyn Entropy>) -> Result<Self, SealError> {
        Ok(Self { keys: ArcSwap::from_pointee(Keys::of(root)?), entropy })
    }

    /// Uses keys that are derived from this root from now on.
    ///
    /// # Errors
    /// If the library derives none.
    pub fn set_root(&self, root: &SecretKey) -> Result<(), SealError> {
        self.keys.store(Arc::new(Keys::of(root)?));
        Ok(())
    }

    /// Generates a random secret.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        self.entropy.fill(&mut secret);
        secret
    }

    /// The digest of a secret, which the store keeps.
    #[must_use]
    pub fn hash(secret: &[u8; 32]) -> SecretHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        SecretHash::new(hash)
    }

    /// The secret that succeeds a spent one.
    #[must_use]
    pub fn successor(&self, spent: &[u8; 32]) -> [u8; 32] {
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(&self.keys.load().successors, spent).as_ref());
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

    /// The token that succeeds this one.
    #[must_use]
    pub fn next(&self, spent: &RefreshToken, version: u64, expires_at: Timestamp) -> RefreshToken {
        let secret = self.successor(&spent.secret);
        self.tagged(RefreshToken { version, expires_at, secret, ..spent.clone() })
    }

    /// Adds the tag that marks the token as this cluster's.
    #[must_use]
    pub fn tagged(&self, mut token: RefreshToken) -> RefreshToken {
        let tag = hmac::sign(&self.keys.load().tags, &token.body());
        token.tag.copy_from_slice(&tag.as_ref()[..TAG_BYTES]);
        token
    }

    /// Parses a token that this cluster issued.
    ///
    /// # Errors
    /// `Revoked` for a text that begins like a token of this cluster and is none, `Expired`, or `NotRefresh`
    /// for a text that is no refresh token: the caller then checks it as an access token.
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
