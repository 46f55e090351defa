//! Tokens: made, and checked.
//!
//! [`Tokens::check`] is the hot path: a token that was seen before costs a lookup among the tokens whose
//! signature is known to be good and [`decide()`]; no store, no mailbox, no lock. What is remembered is
//! that a signature is good, never a verdict. Only tokens with a good signature come in, so a stranger
//! cannot push others out.

mod refresh;
mod signatures;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::Header;
use schema::{
    Clock, Clocks, Denials, Entropy, Refusal, SessionId, Stores, Timestamp, TokenId, UserId, decide,
    time::millis,
    token::{AccessClaims, Claims, Expected, Unverified, access::ACCESS_TYPE},
};

pub use refresh::RefreshTokens;

use signatures::Signatures;

use crate::{
    byte_cache::ByteCache,
    clock::ClockFile,
    freshness::Freshness,
    keys::{KeyRing, LOOKUP_INTERVAL, MasterKey, SealError},
};

/// How many tokens are kept whose signature is good, and in how many bytes: each takes some 600. There are four
/// times as many places as fit in, so that few share one.
const KEPT_TOKENS: usize = 1 << 20;
const KEPT_BYTES: usize = 128 << 20;

/// Makes and checks tokens.
pub struct Tokens {
    expected: Expected,
    access_ttl_ms: AtomicU64,
    ring: Arc<KeyRing>,
    master: Arc<MasterKey>,
    stores: Stores,
    denials: Arc<Denials>,
    freshness: Arc<Freshness>,
    clock: Arc<dyn Clock>,
    clocks: Arc<Clocks>,
    clock_file: Arc<ClockFile>,
    entropy: Arc<dyn Entropy>,
    verified: ByteCache<AccessClaims>,
    signatures: Signatures,
    /// Refresh tokens.
    pub refresh: RefreshTokens,
}

/// What [`Tokens`] works with.
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct TokensContext {
    pub expected: Expected,
    pub access_ttl: Duration,
    pub ring: Arc<KeyRing>,
    pub master: Arc<MasterKey>,
    pub stores: Stores,
    pub denials: Arc<Denials>,
    pub freshness: Arc<Freshness>,
    pub clock: Arc<dyn Clock>,
    pub clocks: Arc<Clocks>,
    pub clock_file: Arc<ClockFile>,
    pub entropy: Arc<dyn Entropy>,
}

/// Why tokens cannot be dealt with at all.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the error of its name")]
pub enum StartError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a thread does not start: {0}")]
    Thread(#[from] std::io::Error),
}

/// The library did not sign, or there is no key that may: none yet, though nothing is asked for a token
/// before there is one, or all that this node knows are retired.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a token could not be signed")]
pub struct SignError;

impl Tokens {
    /// # Errors
    /// When the library derives no keys, or the system gives no threads.
    pub fn new(context: TokensContext) -> Result<Self, StartError> {
        let refresh = RefreshTokens::new(&context.master, context.entropy.clone())?;
        let signatures = Signatures::start(&context.ring)?;
        let TokensContext {
            expected,
            access_ttl,
            ring,
            master,
            stores,
            denials,
            freshness,
            clock,
            clocks,
            clock_file,
            entropy,
        } = context;
        let access_ttl_ms = AtomicU64::new(millis(access_ttl));
        Ok(Self {
            expected,
            access_ttl_ms,
            ring,
            master,
            stores,
            denials,
            freshness,
            clock,
            clocks,
            clock_file,
            entropy,
            verified: ByteCache::new(KEPT_TOKENS, KEPT_BYTES),
            signatures,
            refresh,
        })
    }

    /// How long access tokens live.
    #[must_use]
    pub fn access_ttl(&self) -> Duration {
        Duration::from_millis(self.access_ttl_ms.load(Ordering::Relaxed))
    }

    /// From now on access tokens live so long.
    pub fn set_access_ttl(&self, access_ttl: Duration) {
        self.access_ttl_ms.store(millis(access_ttl), Ordering::Relaxed);
    }

    /// A new access token for a session of this user.
    ///
    /// # Errors
    /// When the library does not sign, or no key may.
    pub fn issue(&self, user: UserId, session: SessionId, version: u64) -> Result<String, SignError> {
        let now = self.clock.now();
        let expires_at = self.clocks.expiry(self.access_ttl());
        // Before the token is out: whatever refuses it is to last until its end, after a restart too.
        self.clocks.high_water().saw_expiry(expires_at.as_secs());
        self.clock_file.cover(&self.clocks, expires_at);
        let claims = Claims {
            iss: self.expected.issuer.clone(),
            aud: self.expected.audience.clone(),
            sub: user,
            sid: session,
            jti: TokenId::new(now, self.entropy.id()),
            iat: now.as_secs(),
            exp: expires_at.as_secs(),
            nbf: None,
            uv: version,
            r#type: ACCESS_TYPE.into(),
        };
        let signed = self.ring.with_signer(&self.denials, |signer| {
            let mut header = Header::new(crate::keys::jws_algorithm(signer.algorithm));
            header.kid = Some(signer.id.to_string());
            let token = jsonwebtoken::encode(&header, &claims, &signer.key).map_err(|_| SignError);
            token.map(|token| (token, signer.id))
        });
        let (token, key) = signed.unwrap_or(Err(SignError))?;
        // Nobody has to check what was signed here.
        let claims = AccessClaims {
            user,
            session,
            token: claims.jti,
            key,
            version,
            issued_at: claims.iat,
            expires_at: claims.exp,
            is_access: true,
        };
        self.keep(token.as_bytes(), claims);
        Ok(token)
    }

    /// The verdict on an access token, and what it says when it is good.
    ///
    /// # Errors
    /// The refusal that the contract's table has for it.
    pub async fn check(&self, token: &[u8]) -> Result<AccessClaims, Refusal> {
        if let Some(verdict) = self.check_seen(token, self.clock.now()) {
            return verdict;
        }
        let claims = self.check_to_take_away(token).await?;
        self.freshness.may_decide().map(|()| claims)
    }

    /// The same for a token that was seen before, at this time; `None` for any other.
    #[must_use]
    pub fn check_seen(&self, token: &[u8], now: Timestamp) -> Option<Result<AccessClaims, Refusal>> {
        let claims = self.verified.with(token, |claims| *claims)?;
        let verdict = decide(&claims, now, &self.denials).and_then(|()| self.freshness.may_decide());
        Some(verdict.map(|()| claims))
    }

    /// As [`Self::check`], for who wants something of its own to be taken away: that harms nobody, however
    /// old what this node knows is.
    ///
    /// # Errors
    /// As [`Self::check`], but for staleness.
    pub async fn check_to_take_away(&self, token: &[u8]) -> Result<AccessClaims, Refusal> {
        match self.verified.with(token, |claims| *claims) {
            Some(claims) => self.verdict(claims),
            // Rare and large.
            None => Box::pin(self.check_unseen(token)).await,
        }
    }

    async fn check_unseen(&self, token: &[u8]) -> Result<AccessClaims, Refusal> {
        let claims = self.verify(token).await?;
        let verdict = self.verdict(claims);
        if matches!(verdict, Ok(_) | Err(Refusal::Revoked)) {
            // The clock of the issuer may be ahead of this node's.
            self.clocks.high_water().saw_expiry(claims.expires_at);
            self.keep(token, claims);
        }
        verdict
    }

    /// The refusal of a token that is shown where a refresh token is due and does not look like one.
    /// A genuine access token is refused for its type whether or not it is revoked: type comes before
    /// revocation.
    pub async fn refuse_as_refresh(&self, token: &[u8]) -> Refusal {
        let claims = match self.verified.with(token, |claims| *claims) {
            Some(claims) => Ok(claims),
            None => Box::pin(self.verify(token)).await,
        };
        match claims {
            Ok(claims) if self.clock.now().as_secs() >= claims.expires_at => Refusal::Expired,
            Ok(_) => Refusal::NotRefresh,
            Err(refusal) => refusal,
        }
    }

    /// What a token says whose shape, claims and signature are good.
    async fn verify(&self, token: &[u8]) -> Result<AccessClaims, Refusal> {
        let unverified = Unverified::parse(token, &self.expected, self.clock.now())?;
        if !self.ring.knows(unverified.key()) {
            let arrived = self.clock.now();
            let mut asked_at = self.look_up().await;
            // The key may be younger than the last answer of the store: asked again in a second.
            if asked_at.is_some_and(|at| at < arrived && at.as_secs() < unverified.issued_at())
                && !self.ring.knows(unverified.key())
            {
                tokio::time::sleep(LOOKUP_INTERVAL).await;
                asked_at = self.look_up().await;
            }
            if asked_at.is_none() && !self.ring.knows(unverified.key()) {
                return Err(Refusal::CannotKnow);
            }
        }
        self.signatures.check(&unverified).await?;
        Ok(unverified.into_verified())
    }

    /// Remembers that the token's signature is good.
    fn keep(&self, token: &[u8], claims: AccessClaims) {
        let now = self.clock.now().as_secs();
        self.verified.insert(token, claims, 0, |kept| kept.expires_at <= now);
    }

    /// How many bytes the tokens take that are remembered.
    #[must_use]
    pub fn remembered_bytes(&self) -> usize {
        self.verified.bytes()
    }

    /// How many signatures wait to be checked.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.signatures.waiting()
    }

    async fn look_up(&self) -> Option<Timestamp> {
        self.ring.look_up(&self.stores, &self.master, &self.denials, &*self.clock).await
    }

    fn verdict(&self, claims: AccessClaims) -> Result<AccessClaims, Refusal> {
        decide(&claims, self.clock.now(), &self.denials).map(|()| claims)
    }
}
