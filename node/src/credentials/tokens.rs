//! Issues access tokens, and checks them.
//!
//! [`Tokens::check`] is the hot path. A token that this node has verified before costs one lookup in the cache of
//! verified tokens and [`decide()`]: no store, no mailbox, no lock. The cache records only that a signature is
//! valid; every request decides again. Only tokens with a valid signature enter the cache, so a client without one
//! cannot evict other tokens.
//!
//! The crate `token-verify` parses tokens and verifies signatures. This module adds what a node needs beside that:
//! the cache, the queue of signatures, keys that other nodes have published since, and the signing itself.

mod key_search;
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
    Clock, Clocks, Denials, Entropy, Refusal, SessionId, Timestamp, TokenId, UserId, decide,
    time::millis,
    token::{AccessClaims, access::ACCESS_TYPE},
};
use store::Stores;
use token_verify::{Claims, Expected, Unverified, keys::jws_algorithm};

pub use key_search::KeySearch;
pub use refresh::RefreshTokens;
pub use signatures::Screened;

use key_search::KEY_SEARCHES_MAX;
use signatures::Signatures;

use crate::{
    credentials::{
        byte_cache::ByteCache,
        keys::{KeyRing, MasterKey, SealError},
    },
    revocation::freshness::Freshness,
    scheduling::{budget::Budget, source::Source},
    storage::clock_file::ClockFile,
};

/// Slots of the cache of verified tokens: four times as many as the tokens of some 600 bytes that fit in
/// [`VERIFIED_BYTES_MAX`], so that few tokens compete for one slot.
const VERIFIED_SLOTS: usize = 1 << 20;
/// Bytes of the cache of verified tokens.
const VERIFIED_BYTES_MAX: usize = 128 << 20;

/// Issues and checks tokens.
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
    searches: Arc<Budget>,
    /// Issues and recognises refresh tokens.
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

/// An error that keeps [`Tokens`] from starting.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the error of its name")]
pub enum StartError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A token could not be signed: the library failed, or no key may sign. Either no key has been read yet,
/// although the node issues no token before that, or all keys that this node knows are revoked.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a token could not be signed")]
pub struct SignError;

impl Tokens {
    /// # Errors
    /// If the library cannot derive keys, or the system cannot start threads.
    pub fn new(context: TokensContext) -> Result<Self, StartError> {
        let refresh = RefreshTokens::new(context.master.own(), context.entropy.clone())?;
        let signatures = Signatures::start(&context.ring, &context.expected, &context.clock)?;
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
            verified: ByteCache::new(VERIFIED_SLOTS, VERIFIED_BYTES_MAX),
            signatures,
            searches: Budget::new(KEY_SEARCHES_MAX),
            refresh,
        })
    }

    /// The lifetime of access tokens.
    #[must_use]
    pub fn access_ttl(&self) -> Duration {
        Duration::from_millis(self.access_ttl_ms.load(Ordering::Relaxed))
    }

    /// Sets the lifetime of access tokens issued from now on.
    pub fn set_access_ttl(&self, access_ttl: Duration) {
        self.access_ttl_ms.store(millis(access_ttl), Ordering::Relaxed);
    }

    /// Issues an access token for a session of this user. `version` is the user version.
    ///
    /// # Errors
    /// If the library fails, or no key may sign.
    pub fn issue(&self, user: UserId, session: SessionId, version: u64) -> Result<String, SignError> {
        let now = self.clock.now();
        let expires_at = self.clocks.expiry(self.access_ttl());
        // Before the token is issued: its denials must last until it expires, also after a restart.
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
            let mut header = Header::new(jws_algorithm(signer.algorithm));
            header.kid = Some(signer.id.to_string());
            let token = jsonwebtoken::encode(&header, &claims, &signer.key).map_err(|_| SignError);
            token.map(|token| (token, signer.id))
        });
        let (token, key) = signed.unwrap_or(Err(SignError))?;
        // This node signed the token, so its signature needs no check.
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
        self.signatures.knows(user);
        self.remember(token.as_bytes(), claims);
        Ok(token)
    }

    /// Checks an access token and returns its claims. `source` is called only if this node has not verified
    /// the token before.
    ///
    /// # Errors
    /// The reason for which the token is not accepted.
    pub async fn check(
        &self,
        token: &[u8],
        source: impl FnOnce() -> Source,
    ) -> Result<AccessClaims, Refusal> {
        if let Some(verdict) = self.check_seen(token, self.clock.now()) {
            return verdict;
        }
        let claims = self.check_ignoring_staleness(token, source).await?;
        self.freshness.may_decide().map(|()| claims)
    }

    /// Checks a token that this node has verified before, as of `now`; `None` for any other.
    #[must_use]
    pub fn check_seen(&self, token: &[u8], now: Timestamp) -> Option<Result<AccessClaims, Refusal>> {
        let claims = self.verified.with(token, |claims| *claims)?;
        // As for a token that this node has not verified before.
        if claims.is_of_the_future(now) {
            return Some(Err(Refusal::SignatureFailed));
        }
        let verdict = decide(&claims, now, &self.denials).and_then(|()| self.freshness.may_decide());
        Some(verdict.map(|()| claims))
    }

    /// Whether the token is in the cache of verified tokens.
    #[must_use]
    pub fn has_seen(&self, token: &[u8]) -> bool {
        self.verified.with(token, |_| ()).is_some()
    }

    /// Screens uncached tokens that this user sent, without checking signatures.
    pub async fn screen(&self, tokens: Vec<Box<[u8]>>, by: UserId, source: Source) -> Vec<Screened> {
        self.signatures.screen(tokens, by, source).await
    }

    /// Like [`Self::check`], for a token that was screened. `search` holds what this request has learnt about
    /// unknown keys.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn check_screened(
        &self,
        token: &[u8],
        screened: Screened,
        source: Source,
        search: &mut KeySearch,
    ) -> Result<AccessClaims, Refusal> {
        match screened {
            Screened::Refused(refusal) => return Err(refusal),
            Screened::OfUnknownKey { key, issued_at } => {
                self.find_key(key, issued_at, source, search).await?;
            }
            Screened::Plausible => {}
        }
        // This future is rare and large.
        let claims = Box::pin(self.check_unseen(token, source, search)).await?;
        self.freshness.may_decide().map(|()| claims)
    }

    /// Like [`Self::check`], but does not refuse on a stale node, nor a token of the future that this node has
    /// verified before. For a caller that revokes something of its own, which does no harm.
    ///
    /// # Errors
    /// As [`Self::check`], except for staleness.
    pub async fn check_ignoring_staleness(
        &self,
        token: &[u8],
        source: impl FnOnce() -> Source,
    ) -> Result<AccessClaims, Refusal> {
        match self.verified.with(token, |claims| *claims) {
            Some(claims) => self.decide_now(claims),
            // This future is rare and large.
            None => {
                let source = source();
                let mut search = self.key_search();
                Box::pin(async move { self.check_unseen(token, source, &mut search).await }).await
            }
        }
    }

    /// The refusal of a text that a client sent as a refresh token and that does not look like one. A genuine access
    /// token is refused for its type, even if it is revoked: the type is checked first.
    pub async fn refuse_as_refresh(&self, token: &[u8], source: impl FnOnce() -> Source) -> Refusal {
        let claims = match self.verified.with(token, |claims| *claims) {
            Some(claims) => Ok(claims),
            None => {
                let source = source();
                let mut search = self.key_search();
                Box::pin(async move { self.verify(token, source, &mut search).await }).await
            }
        };
        match claims {
            Ok(claims) if claims.is_of_the_future(self.clock.now()) => Refusal::SignatureFailed,
            Ok(claims) if self.clock.now().as_secs() >= claims.expires_at => Refusal::Expired,
            Ok(_) => Refusal::NotRefresh,
            Err(refusal) => refusal,
        }
    }

    /// Checks a token that this node has not verified before.
    async fn check_unseen(
        &self,
        token: &[u8],
        source: Source,
        search: &mut KeySearch,
    ) -> Result<AccessClaims, Refusal> {
        let claims = self.verify(token, source, search).await?;
        let verdict = self.decide_now(claims);
        if matches!(verdict, Ok(_) | Err(Refusal::Revoked)) {
            self.signatures.knows(claims.user);
            // The issuer's clock may be ahead of this node's.
            self.clocks.high_water().saw_expiry(claims.expires_at);
            self.remember(token, claims);
        }
        verdict
    }

    /// Checks shape, claims and signature, and returns the claims.
    async fn verify(
        &self,
        token: &[u8],
        source: Source,
        search: &mut KeySearch,
    ) -> Result<AccessClaims, Refusal> {
        let unverified = Unverified::parse(token, &self.expected, self.clock.now())?;
        if !self.ring.knows(unverified.key()) {
            self.find_key(unverified.key(), unverified.issued_at(), source, search).await?;
        }
        self.signatures.check(&unverified, source).await?;
        Ok(unverified.into_verified())
    }

    /// Records that the token's signature is valid.
    fn remember(&self, token: &[u8], claims: AccessClaims) {
        let now = self.clock.now().as_secs();
        self.verified.insert(token, claims, 0, |kept| kept.expires_at <= now);
    }

    /// The bytes that the cache of verified tokens uses.
    #[must_use]
    pub fn remembered_bytes(&self) -> usize {
        self.verified.bytes()
    }

    /// The number of signatures that wait to be checked.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.signatures.waiting()
    }

    /// Whether verified claims are accepted now.
    fn decide_now(&self, claims: AccessClaims) -> Result<AccessClaims, Refusal> {
        decide(&claims, self.clock.now(), &self.denials).map(|()| claims)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::future::join_all;
    use tokio::task::unconstrained;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        clock::{BootClock, SystemClock, SystemEntropy, boot_id},
        credentials::keys::{Tools, ensure},
        settings::StalePolicy,
        storage::data_dir::DataDir,
    };

    /// A node that issues tokens, and one with the same keys that has verified none of them.
    async fn issuer_and_other(directory: &std::path::Path) -> (Tokens, Tokens) {
        let stores = store_redb::open(&directory.join("store.redb")).await.unwrap().stores;
        let master = Arc::new(MasterKey::new(Zeroizing::new([7; 32])));
        let tools = Tools {
            stores: &stores,
            master: &master,
            clock: &SystemClock,
            entropy: &SystemEntropy,
            horizon: schema::Horizon::NOTHING,
            latest_expiry: Timestamp::EPOCH,
            published: Duration::ZERO,
        };
        let (clock_file, saved) = ClockFile::open(&DataDir::open(&directory.join("data")).unwrap()).unwrap();
        let clocks = Clocks::new(Arc::new(SystemClock), Arc::new(BootClock), &boot_id(), saved);
        let clocks = Arc::new(clocks);
        let clock_file = Arc::new(clock_file);
        let access_ttl = Duration::from_secs(600);
        let set = ensure(tools, schema::token::Algorithm::EdDSA, access_ttl).await.unwrap();
        let tokens = || {
            let ring = Arc::new(KeyRing::default());
            let denials = Arc::new(Denials::default());
            ring.replace(&set, &master, &denials).unwrap();
            Tokens::new(TokensContext {
                expected: Expected { issuer: "palisade".into(), audience: "palisade".into() },
                access_ttl,
                ring,
                master: master.clone(),
                stores: stores.clone(),
                denials,
                freshness: Arc::new(Freshness::new(
                    false,
                    Duration::from_secs(30),
                    StalePolicy::Open,
                    clocks.clone(),
                )),
                clock: Arc::new(SystemClock),
                clocks: clocks.clone(),
                clock_file: clock_file.clone(),
                entropy: Arc::new(SystemEntropy),
            })
            .unwrap()
        };
        (tokens(), tokens())
    }

    fn issue(tokens: &Tokens, n: u128) -> String {
        let id = n.to_be_bytes();
        tokens.issue(UserId::from_bytes(id), SessionId::from_bytes(id), 0).unwrap()
    }

    /// Copies of a token with invalid signatures in the canonical form.
    fn forged(token: &str, count: u32) -> Vec<String> {
        let (message, signature) = token.rsplit_once('.').unwrap();
        (0..count).map(|n| format!("{message}.{n:08}{}", &signature[8..])).collect()
    }

    fn source(address: [u8; 4], port: u16) -> Source {
        let connection = SocketAddr::from((address, port));
        Source { network: connection.ip().into(), connection, is_proxy: false }
    }

    #[tokio::test]
    async fn valid_tokens_pass_a_flood_that_exceeds_the_queue() {
        let directory = tempfile::TempDir::new().unwrap();
        let (issuer, node) = issuer_and_other(directory.path()).await;
        let bad = forged(&issue(&issuer, 0), 8_000);
        let good: Vec<_> = (1..=40).map(|n| issue(&issuer, n)).collect();
        // All of the flood is queued or shed before the first valid token arrives.
        let flood = bad
            .iter()
            .zip(0_u16..)
            .map(|(token, n)| node.check(token.as_bytes(), move || source([198, 51, 100, 1], n % 16)));
        let beside = good.iter().zip(0_u16..).map(|(token, n)| {
            // Half of them on connections of their own from the flood's network, the others from another
            // network.
            let address = if n % 2 == 0 { [198, 51, 100, 1] } else { [198, 51, 100, 2] };
            node.check(token.as_bytes(), move || source(address, 1_000 + n))
        });
        let (bad, good) = tokio::join!(unconstrained(join_all(flood)), unconstrained(join_all(beside)));
        let shed = bad.iter().filter(|verdict| matches!(verdict, Err(Refusal::Busy))).count();
        assert!(shed > 0, "it was no flood");
        assert!(bad.iter().all(|verdict| matches!(verdict, Err(Refusal::Busy | Refusal::SignatureFailed))));
        let refused: Vec<_> = good.iter().filter_map(|verdict| verdict.err()).collect();
        assert!(refused.is_empty(), "good ones were refused: {refused:?}");
    }

    #[tokio::test]
    async fn known_users_pass_a_flood_on_the_same_connection() {
        let directory = tempfile::TempDir::new().unwrap();
        let (issuer, node) = issuer_and_other(directory.path()).await;
        let everybody = source([192, 0, 2, 1], 1);
        let users = 1..=40;
        for n in users.clone() {
            node.check(issue(&issuer, n).as_bytes(), || everybody).await.unwrap();
        }
        // Their next tokens come from a service that forwards all tokens, forged ones too.
        let bad = forged(&issue(&issuer, 0), 8_000);
        let good: Vec<_> = users.map(|n| issue(&issuer, n)).collect();
        let flood = bad.iter().map(|token| node.check(token.as_bytes(), || everybody));
        let beside = good.iter().map(|token| node.check(token.as_bytes(), || everybody));
        let (bad, good) = tokio::join!(unconstrained(join_all(flood)), unconstrained(join_all(beside)));
        assert!(bad.iter().any(|verdict| matches!(verdict, Err(Refusal::Busy))), "it was no flood");
        let refused: Vec<_> = good.iter().filter_map(|verdict| verdict.err()).collect();
        assert!(refused.is_empty(), "good ones were refused: {refused:?}");
    }

    #[tokio::test]
    async fn request_looks_up_unknown_keys_once() {
        let directory = tempfile::TempDir::new().unwrap();
        let (issuer, node) = issuer_and_other(directory.path()).await;
        let token = issue(&issuer, 0);
        let (_, rest) = token.split_once('.').unwrap();
        let mut search = node.key_search();
        for n in 0..1_000 {
            let header = format!(r#"{{"alg":"EdDSA","kid":"01890a5d-ac96-774b-bcce-{n:012}"}}"#);
            let header = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
            let unknown = format!("{header}.{rest}");
            let tokens = vec![unknown.as_bytes().into()];
            let first_look = node.screen(tokens, UserId::from_bytes([1; 16]), Source::OWN).await[0];
            assert!(matches!(first_look, Screened::OfUnknownKey { .. }), "{first_look:?}");
            let verdict = node.check_screened(unknown.as_bytes(), first_look, Source::OWN, &mut search).await;
            assert_eq!(verdict.unwrap_err(), Refusal::SignatureFailed);
        }
        assert!(node.ring.lookups() <= 2, "the store was asked {} times", node.ring.lookups());
    }
}
