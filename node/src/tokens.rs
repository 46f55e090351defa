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
    Clock, Clocks, Denials, Entropy, KeyId, Refusal, SessionId, Stores, Timestamp, TokenId, UserId, decide,
    time::millis,
    token::{AccessClaims, Claims, Expected, Unverified, access::ACCESS_TYPE},
};

pub use refresh::RefreshTokens;

pub use signatures::Screened;
use signatures::Signatures;

use crate::{
    budget::Budget,
    byte_cache::ByteCache,
    clock::ClockFile,
    freshness::Freshness,
    keys::{KeyRing, LOOKUP_INTERVAL, MasterKey, SealError},
    source::Source,
};

/// How many tokens are kept whose signature is good, and in how many bytes: each takes some 600. There are four
/// times as many places as fit in, so that few share one.
const KEPT_TOKENS: usize = 1 << 20;
const KEPT_BYTES: usize = 128 << 20;
/// How many requests may wait at a time for the store to say whether there is a key.
const KEY_SEARCHES: usize = 1_024;

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
    searches: Arc<Budget>,
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
            verified: ByteCache::new(KEPT_TOKENS, KEPT_BYTES),
            signatures,
            searches: Budget::new(KEY_SEARCHES),
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
        self.signatures.knows(user);
        self.keep(token.as_bytes(), claims);
        Ok(token)
    }

    /// The verdict on an access token, and what it says when it is good. `source` is asked only when this token
    /// was not seen before.
    ///
    /// # Errors
    /// The refusal that the contract's table has for it.
    pub async fn check(
        &self,
        token: &[u8],
        source: impl FnOnce() -> Source,
    ) -> Result<AccessClaims, Refusal> {
        if let Some(verdict) = self.check_seen(token, self.clock.now()) {
            return verdict;
        }
        let claims = self.check_to_take_away(token, source).await?;
        self.freshness.may_decide().map(|()| claims)
    }

    /// The same for a token that was seen before, at this time; `None` for any other.
    #[must_use]
    pub fn check_seen(&self, token: &[u8], now: Timestamp) -> Option<Result<AccessClaims, Refusal>> {
        let claims = self.verified.with(token, |claims| *claims)?;
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
        // Rare and large.
        let claims = Box::pin(self.judge(token, source, search)).await?;
        self.freshness.may_decide().map(|()| claims)
    }

    /// As [`Self::check`], for a caller who wants something of its own to be taken away: that harms nobody,
    /// however old what this node knows is.
    ///
    /// # Errors
    /// As [`Self::check`], but for staleness.
    pub async fn check_to_take_away(
        &self,
        token: &[u8],
        source: impl FnOnce() -> Source,
    ) -> Result<AccessClaims, Refusal> {
        match self.verified.with(token, |claims| *claims) {
            Some(claims) => self.verdict(claims),
            // Rare and large.
            None => {
                let (source, mut search) = (source(), self.key_search());
                Box::pin(async move { self.judge(token, source, &mut search).await }).await
            }
        }
    }

    /// The refusal of a token that is shown where a refresh token is due and does not look like one.
    /// A genuine access token is refused for its type whether or not it is revoked: type comes before
    /// revocation.
    pub async fn refuse_as_refresh(&self, token: &[u8], source: impl FnOnce() -> Source) -> Refusal {
        let claims = match self.verified.with(token, |claims| *claims) {
            Some(claims) => Ok(claims),
            None => {
                let (source, mut search) = (source(), self.key_search());
                Box::pin(async move { self.verify(token, source, &mut search).await }).await
            }
        };
        match claims {
            Ok(claims) if self.clock.now().as_secs() >= claims.expires_at => Refusal::Expired,
            Ok(_) => Refusal::NotRefresh,
            Err(refusal) => refusal,
        }
    }

    /// What a request that arrives now knows about keys: nothing yet.
    #[must_use]
    pub fn key_search(&self) -> KeySearch {
        KeySearch { arrived: self.clock.now(), asked: None, waited: false }
    }

    /// The verdict on a token that was not seen before.
    async fn judge(
        &self,
        token: &[u8],
        source: Source,
        search: &mut KeySearch,
    ) -> Result<AccessClaims, Refusal> {
        let claims = self.verify(token, source, search).await?;
        let verdict = self.verdict(claims);
        if matches!(verdict, Ok(_) | Err(Refusal::Revoked)) {
            self.signatures.knows(claims.user);
            // The clock of the issuer may be ahead of this node's.
            self.clocks.high_water().saw_expiry(claims.expires_at);
            self.keep(token, claims);
        }
        verdict
    }

    /// What a token says whose shape, claims and signature are good.
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

    /// Goes on when there is the key that the token names: one that this node has not heard of, or that is
    /// younger than what the store said last. The store is asked at most once a second for all requests; one
    /// request waits for that at most once, however many tokens it has.
    async fn find_key(
        &self,
        key: KeyId,
        issued_at: u64,
        source: Source,
        search: &mut KeySearch,
    ) -> Result<(), Refusal> {
        let mut asked_at = match search.asked.or_else(|| self.ring.looked_up(self.clock.now())) {
            Some(asked_at) => asked_at,
            None => self.look_up(source).await?,
        };
        let is_known = || self.ring.knows(key);
        if !search.waited
            && !is_known()
            && let Some(at) = asked_at
            && search.may_have_missed(issued_at, at)
        {
            let _place = self.searches.hold(source, 1).map_err(|_| Refusal::Busy)?;
            search.waited = true;
            tokio::time::sleep(at.plus(LOOKUP_INTERVAL).since(self.clock.now()).min(LOOKUP_INTERVAL)).await;
            asked_at = self.ring.look_up(&self.stores, &self.master, &self.denials, &*self.clock).await;
        }
        search.asked = Some(asked_at);
        match (is_known(), asked_at) {
            (true, _) => Ok(()),
            (false, None) => Err(Refusal::CannotKnow),
            (false, Some(_)) => Err(Refusal::SignatureFailed),
        }
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

    /// Asks the store for keys, or waits for who asks it already.
    async fn look_up(&self, source: Source) -> Result<Option<Timestamp>, Refusal> {
        let _place = self.searches.hold(source, 1).map_err(|_| Refusal::Busy)?;
        Ok(self.ring.look_up(&self.stores, &self.master, &self.denials, &*self.clock).await)
    }

    fn verdict(&self, claims: AccessClaims) -> Result<AccessClaims, Refusal> {
        decide(&claims, self.clock.now(), &self.denials).map(|()| claims)
    }
}

/// What a request has learnt about signing keys that this node did not know.
#[derive(Debug)]
pub struct KeySearch {
    arrived: Timestamp,
    /// When the store was asked for this request; `Some(None)` when it did not answer.
    asked: Option<Option<Timestamp>>,
    /// Whether this request has waited for the next time that the store is asked.
    waited: bool,
}

impl KeySearch {
    /// Whether a key that signed in this second may be younger than what the store said at that time. A token
    /// of the future proves nothing about that: anybody can write one, and it would be so every time.
    fn may_have_missed(&self, issued_at: u64, asked_at: Timestamp) -> bool {
        let arrived = self.arrived.as_secs();
        asked_at < self.arrived && asked_at.as_secs() < issued_at && issued_at <= arrived
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
        data_dir::DataDir,
        keys::{Tools, ensure},
        settings::StalePolicy,
    };

    /// A node that issues tokens, and one that has the same keys and has seen none of them.
    async fn issuer_and_other(directory: &std::path::Path) -> (Tokens, Tokens) {
        let stores = store_redb::open(&directory.join("store.redb")).await.unwrap().stores;
        let master = Arc::new(MasterKey::new(Zeroizing::new([7; 32])));
        let (clock, entropy) = (&SystemClock, &SystemEntropy);
        let (horizon, latest_expiry) = (schema::Horizon::NOTHING, Timestamp::EPOCH);
        let published = Duration::ZERO;
        let tools =
            Tools { stores: &stores, master: &master, clock, horizon, latest_expiry, entropy, published };
        let (clock_file, saved) = ClockFile::open(&DataDir::open(&directory.join("data")).unwrap()).unwrap();
        let clocks = Clocks::new(Arc::new(SystemClock), Arc::new(BootClock), &boot_id(), saved);
        let (clocks, clock_file) = (Arc::new(clocks), Arc::new(clock_file));
        let access_ttl = Duration::from_secs(600);
        let set = ensure(tools, schema::token::Algorithm::EdDSA, access_ttl).await.unwrap();
        let tokens = || {
            let (ring, denials) = (Arc::new(KeyRing::default()), Arc::new(Denials::default()));
            ring.replace(&set, &master, &denials).unwrap();
            Tokens::new(TokensContext {
                expected: Expected { issuer: "palisade".into(), audience: "palisade".into() },
                access_ttl,
                ring,
                master: master.clone(),
                stores: stores.clone(),
                denials,
                freshness: Arc::new(Freshness::new(false, Duration::from_secs(30), StalePolicy::Open)),
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

    /// With signatures of their own, in the canonical form.
    fn forged(token: &str, count: u32) -> Vec<String> {
        let (message, signature) = token.rsplit_once('.').unwrap();
        (0..count).map(|n| format!("{message}.{n:08}{}", &signature[8..])).collect()
    }

    fn source(address: [u8; 4], port: u16) -> Source {
        let connection = SocketAddr::from((address, port));
        Source { network: connection.ip().into(), connection, is_proxy: false }
    }

    #[tokio::test]
    async fn new_good_tokens_pass_beside_more_forged_ones_than_may_wait() {
        let directory = tempfile::TempDir::new().unwrap();
        let (issuer, node) = issuer_and_other(directory.path()).await;
        let bad = forged(&issue(&issuer, 0), 8_000);
        let good: Vec<_> = (1..=40).map(|n| issue(&issuer, n)).collect();
        // All of the flood is in the queue, or shed, before the first good one comes.
        let flood = bad
            .iter()
            .zip(0_u16..)
            .map(|(token, n)| node.check(token.as_bytes(), move || source([198, 51, 100, 1], n % 16)));
        let beside = good.iter().zip(0_u16..).map(|(token, n)| {
            // Half of them by connections of their own from where the flood comes, the others from elsewhere.
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
    async fn known_users_pass_beside_forged_tokens_of_the_same_connection() {
        let directory = tempfile::TempDir::new().unwrap();
        let (issuer, node) = issuer_and_other(directory.path()).await;
        let everybody = source([192, 0, 2, 1], 1);
        let users = 1..=40;
        for n in users.clone() {
            node.check(issue(&issuer, n).as_bytes(), || everybody).await.unwrap();
        }
        // Their next tokens come by a service that passes on what it gets, forged ones too.
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
    async fn one_request_looks_for_unknown_keys_once() {
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

    #[test]
    fn only_a_key_younger_than_the_answer_is_waited_for() {
        let search = KeySearch { arrived: Timestamp::from_millis(100_500), asked: None, waited: false };
        let missed =
            |issued_at, asked_ms| search.may_have_missed(issued_at, Timestamp::from_millis(asked_ms));
        assert!(missed(100, 99_900), "issued after the store was asked");
        assert!(!missed(99, 99_900), "issued before");
        assert!(!missed(101, 99_900), "of the future");
        assert!(!missed(160, 99_900), "of the future, within the skew of clocks");
        assert!(!missed(100, 100_600), "asked after the request arrived");
    }
}
