//! The key ring: the stored keys, unsealed, which readers use without a lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::{EncodingKey, jwk::Jwk};
use schema::{
    Clock, Denials, Fact, FactKind, KeyId, Timestamp,
    key::{KeySet, KeyState, StoredKey},
    token::Algorithm,
};
use serde::Serialize;
use store::Stores;
use token_verify::{PublicKey, PublicKeys, keys::jws_algorithm};
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{
    change::{KeyError, seal_context},
    seal::{MasterKey, SealError},
};

/// The shortest time between two reads of the store on behalf of unknown keys.
pub(crate) const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// A key that signs tokens.
pub(crate) struct Signer {
    pub(crate) id: KeyId,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
}

#[derive(Default)]
struct Opened {
    revision: u64,
    /// The active key, and the next, which takes its place when it is revoked.
    signers: Vec<Signer>,
    public_keys: PublicKeys,
    infos: Vec<KeyInfo>,
    jwks: bytes::Bytes,
}

/// The public description of a key.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KeyInfo {
    /// The `kid`.
    #[schema(value_type = String)]
    pub kid: KeyId,
    /// `EdDSA`, `ES256` or `RS256`.
    pub algorithm: &'static str,
    /// `next`, `active`, `retiring` or `revoked`.
    pub state: &'static str,
    /// RFC 3339.
    pub created_at: String,
}

/// The keys of the cluster that this node knows; empty until it has read them.
#[derive(Default)]
pub struct KeyRing {
    opened: ArcSwap<Opened>,
    /// When the store was last read for an unknown key, and whether it answered. A request that arrives
    /// during a read waits for its result.
    last_lookup: Mutex<Option<(Timestamp, bool)>>,
    lookups: AtomicU64,
}

impl KeyRing {
    /// Installs a newer key set; an older one changes nothing. Tokens signed by its revoked keys are denied,
    /// whether or not this node has received the fact.
    ///
    /// # Errors
    /// If the master key is not the one that sealed the keys, or there is no active key; the keys stay
    /// unchanged.
    pub fn replace(&self, set: &KeySet, master: &MasterKey, denials: &Denials) -> Result<(), KeyError> {
        deny_revoked(set, denials);
        if set.revision <= self.opened.load().revision {
            return Ok(());
        }
        let opened = Arc::new(open(set, master)?);
        self.opened
            .rcu(|current| if current.revision < opened.revision { opened.clone() } else { current.clone() });
        Ok(())
    }

    /// Reads the stored keys on behalf of an unknown key, unless they were read within the last second.
    /// Returns the time of the read: a key that is still unknown did not exist then. `None` if the store did
    /// not answer.
    pub async fn look_up(
        &self,
        stores: &Stores,
        master: &MasterKey,
        denials: &Denials,
        clock: &dyn Clock,
    ) -> Option<Timestamp> {
        let mut last = self.last_lookup.lock().await;
        let now = clock.now();
        if let Some((at, answered)) = *last
            && is_fresh(at, now)
        {
            return answered.then_some(at);
        }
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let replaced = match stores.keys.load().await {
            Ok(set) => self.replace(&set, master, denials),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &replaced {
            tracing::warn!(%error, "signing keys could not be read from the store");
        }
        *last = Some((now, replaced.is_ok()));
        replaced.is_ok().then_some(now)
    }

    /// The answer of [`Self::look_up`] without a read of the store: `None` if a read is due or under way.
    pub(crate) fn looked_up(&self, now: Timestamp) -> Option<Option<Timestamp>> {
        let last = *self.last_lookup.try_lock().ok()?;
        let (at, answered) = last?;
        is_fresh(at, now).then_some(answered.then_some(at))
    }

    /// The number of reads of the store on behalf of unknown keys.
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Whether this node has a key with this id.
    pub(crate) fn knows(&self, id: KeyId) -> bool {
        self.opened.load().public_keys.get(id).is_some()
    }

    /// Whether the key with this id signed the token, which names this algorithm.
    pub(crate) fn has_signed(&self, id: KeyId, algorithm: Algorithm, token: &str) -> bool {
        self.opened.load().public_keys.get(id).is_some_and(|key| key.has_signed(algorithm, token))
    }

    /// Applies `sign` to the key that signs, if there is one yet: the active key. A node may learn that the
    /// active key was revoked before it reads the key set again; until then it signs with the next key, as
    /// the node that revoked the other does.
    pub(crate) fn with_signer<T>(&self, denials: &Denials, sign: impl FnOnce(&Signer) -> T) -> Option<T> {
        self.opened.load().signers.iter().find(|signer| !denials.refuses_key(signer.id)).map(sign)
    }

    /// The public descriptions of all keys.
    #[must_use]
    pub fn infos(&self) -> Vec<KeyInfo> {
        self.opened.load().infos.clone()
    }

    /// The public keys as a JWK set (RFC 7517, section 5).
    #[must_use]
    pub fn jwks(&self) -> bytes::Bytes {
        self.opened.load().jwks.clone()
    }
}

/// Whether the last answer of the store may be reused. A clock that was set back makes a read due, too.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    (at..at.plus(LOOKUP_INTERVAL)).contains(&now)
}

/// Checks that this master key opens all keys of the set.
///
/// # Errors
/// As [`KeyRing::replace`].
pub fn check(set: &KeySet, master: &MasterKey) -> Result<(), KeyError> {
    open(set, master).map(drop)
}

/// Denies all tokens that revoked keys signed.
pub fn deny_revoked(set: &KeySet, denials: &Denials) {
    for key in &set.keys {
        if let KeyState::Revoked { until } = key.state {
            denials.apply(&Fact { kind: FactKind::KeyRetired { key: key.id }, until });
        }
    }
}

fn open(set: &KeySet, master: &MasterKey) -> Result<Opened, KeyError> {
    let mut active = None;
    let mut next = None;
    let mut public_keys = Vec::new();
    let mut jwks = Vec::new();
    for stored in &set.keys {
        let key = encoding_key(stored, master)?;
        let algorithm = stored.algorithm;
        let mut jwk = Jwk::from_encoding_key(&key, jws_algorithm(algorithm)).map_err(|_| SealError)?;
        jwk.common.key_id = Some(stored.id.to_string());
        jwk.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
        public_keys.push((stored.id, PublicKey::from_jwk(&jwk).ok_or(SealError)?));
        if !matches!(stored.state, KeyState::Revoked { .. }) {
            jwks.push(jwk);
        }
        let signer = Signer { id: stored.id, algorithm, key };
        match stored.state {
            KeyState::Active => active = Some(signer),
            KeyState::Next => next = Some(signer),
            KeyState::Retiring { .. } | KeyState::Revoked { .. } => {}
        }
    }
    let jwks = serde_json::to_vec(&serde_json::json!({ "keys": jwks })).map_err(|_| SealError)?;
    Ok(Opened {
        revision: set.revision,
        signers: std::iter::once(active.ok_or(KeyError::Generate("active"))?).chain(next).collect(),
        public_keys: public_keys.into_iter().collect(),
        infos: set.keys.iter().map(info).collect(),
        jwks: jwks.into(),
    })
}

fn info(key: &StoredKey) -> KeyInfo {
    KeyInfo {
        kid: key.id,
        algorithm: key.algorithm.as_str(),
        state: match key.state {
            KeyState::Next => "next",
            KeyState::Active => "active",
            KeyState::Retiring { .. } => "retiring",
            KeyState::Revoked { .. } => "revoked",
        },
        created_at: key.created_at.to_string(),
    }
}

fn encoding_key(stored: &StoredKey, master: &MasterKey) -> Result<EncodingKey, SealError> {
    let pkcs8 = master.open(&seal_context(stored.id, stored.algorithm), &stored.sealed)?;
    Ok(match stored.algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_der(&pkcs8),
        Algorithm::ES256 => EncodingKey::from_ec_der(&pkcs8),
        Algorithm::RS256 => EncodingKey::from_rsa_der(pkcs1(&pkcs8).ok_or(SealError)?),
    })
}

/// The PKCS #1 key (RFC 8017, appendix A.1.2) inside a PKCS #8 key (RFC 5958) that this node generated: two
/// headers of DER with two bytes of length each, around a version and the fixed identifier of RSA.
fn pkcs1(pkcs8: &[u8]) -> Option<&[u8]> {
    const VERSION_AND_RSA: &[u8] =
        &[2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let inner = pkcs8.strip_prefix(&[0x30, 0x82])?.get(2..)?.strip_prefix(VERSION_AND_RSA)?;
    inner.strip_prefix(&[4, 0x82])?.get(2..)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        clock::{SystemClock, SystemEntropy},
        credentials::keys::{Tools, ensure},
    };

    #[tokio::test]
    async fn ring_stops_signing_with_a_key_that_is_denied() {
        let directory = tempfile::TempDir::new().unwrap();
        let stores = store_redb::open(&directory.path().join("store.redb")).await.unwrap().stores;
        let master = MasterKey::new(Zeroizing::new([7; 32]));
        let tools = Tools {
            stores: &stores,
            master: &master,
            clock: &SystemClock,
            entropy: &SystemEntropy,
            horizon: schema::Horizon::NOTHING,
            latest_expiry: Timestamp::EPOCH,
            published: Duration::ZERO,
        };
        let set = ensure(tools, Algorithm::EdDSA, Duration::from_secs(60)).await.unwrap();
        let ring = KeyRing::default();
        let denials = Denials::default();
        let signs = || ring.with_signer(&denials, |signer| signer.id);
        let is = |state| set.keys.iter().find(|key| key.state == state).unwrap().id;
        let retire = |key| {
            let until = SystemClock.now().plus(Duration::from_secs(60));
            denials.apply(&Fact { kind: FactKind::KeyRetired { key }, until });
        };
        assert_eq!(signs(), None, "no key was read yet");
        ring.replace(&set, &master, &denials).unwrap();
        assert_eq!(signs(), Some(is(KeyState::Active)));
        retire(is(KeyState::Active));
        assert_eq!(signs(), Some(is(KeyState::Next)));
        retire(is(KeyState::Next));
        assert_eq!(signs(), None, "both are retired, and it signed");
    }
}
