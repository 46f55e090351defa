//! The key ring: the stored keys, opened, for readers without a lock.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::{DecodingKey, EncodingKey, jwk::Jwk};
use schema::{
    Clock, Denials, Fact, FactKind, KeyId, Stores, Timestamp,
    key::{KeySet, KeyState, StoredKey},
    token::Algorithm,
};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{
    change::{KeyError, seal_context},
    seal::{MasterKey, SealError},
};

/// How often unknown keys may ask the store, all together.
pub(crate) const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// A key that verifies.
pub(crate) struct Verifier {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

/// The key that signs.
pub(crate) struct Signer {
    pub(crate) id: KeyId,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
}

#[derive(Default)]
struct Opened {
    revision: u64,
    /// The active key, and the next, which takes its place when it is retired.
    signers: Vec<Signer>,
    verifiers: HashMap<KeyId, Verifier, foldhash::fast::RandomState>,
    infos: Vec<KeyInfo>,
    jwks: bytes::Bytes,
}

/// What may be known about a key.
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

/// The keys of the cluster, as this node knows them; none until it has read them.
#[derive(Default)]
pub struct KeyRing {
    opened: ArcSwap<Opened>,
    /// When an unknown key asked the store last, and whether it answered. Who comes while it is
    /// being asked waits for the answer.
    last_lookup: Mutex<Option<(Timestamp, bool)>>,
    lookups: AtomicU64,
}

impl KeyRing {
    /// Takes a newer key set in; an older one changes nothing. What its revoked keys signed is
    /// denied, whether the fact of it was heard or not.
    ///
    /// # Errors
    /// When the master key is another one, or there is no active key; the keys stay as they are.
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

    /// Reads the stored keys for the sake of an unknown one, unless that was done within the last
    /// second; says when that was, so that what is unknown now was no key then. `None` when the store
    /// did not answer.
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
            tracing::warn!(%error, "the signing keys could not be read anew");
        }
        *last = Some((now, replaced.is_ok()));
        replaced.is_ok().then_some(now)
    }

    /// What [`Self::look_up`] would say without asking the store: `None` when it is due, or is being asked.
    pub(crate) fn looked_up(&self, now: Timestamp) -> Option<Option<Timestamp>> {
        let last = self.last_lookup.try_lock().ok()?;
        let (at, answered) = (*last)?;
        is_fresh(at, now).then_some(answered.then_some(at))
    }

    /// How often unknown keys asked the store.
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Whether there is such a key.
    pub(crate) fn knows(&self, id: KeyId) -> bool {
        self.opened.load().verifiers.contains_key(&id)
    }

    /// Uses the key that verifies, if there is such a one.
    pub(crate) fn with_verifier<T>(&self, id: KeyId, verify: impl FnOnce(&Verifier) -> T) -> Option<T> {
        self.opened.load().verifiers.get(&id).map(verify)
    }

    /// Uses the key that signs, if there is one yet: the active one. A key is known to be retired before
    /// the keys are read anew; until then it is the next, as it is for who retired the other.
    pub(crate) fn with_signer<T>(&self, denials: &Denials, sign: impl FnOnce(&Signer) -> T) -> Option<T> {
        self.opened.load().signers.iter().find(|signer| !denials.refuses_key(signer.id)).map(sign)
    }

    /// All keys.
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

/// Whether an answer of the store may be used again. A clock that was set back makes it due, too.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    (at..at.plus(LOOKUP_INTERVAL)).contains(&now)
}

/// Denies what revoked keys signed.
pub fn deny_revoked(set: &KeySet, denials: &Denials) {
    for key in &set.keys {
        if let KeyState::Revoked { until } = key.state {
            denials.apply(&Fact { kind: FactKind::KeyRetired { key: key.id }, until });
        }
    }
}

fn open(set: &KeySet, master: &MasterKey) -> Result<Opened, KeyError> {
    let (mut active, mut next) = (None, None);
    let mut verifiers = HashMap::default();
    let mut jwks = Vec::new();
    for stored in &set.keys {
        let key = encoding_key(stored, master)?;
        let algorithm = stored.algorithm;
        let mut jwk = Jwk::from_encoding_key(&key, jws_algorithm(algorithm)).map_err(|_| SealError)?;
        jwk.common.key_id = Some(stored.id.to_string());
        jwk.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
        let verifier = Verifier { algorithm, key: DecodingKey::from_jwk(&jwk).map_err(|_| SealError)? };
        verifiers.insert(stored.id, verifier);
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
        verifiers,
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

/// The PKCS #1 key (RFC 8017, appendix A.1.2) inside the PKCS #8 one (RFC 5958) that we made: two
/// headers of DER with two bytes of length each, around a version and the fixed identifier of RSA.
fn pkcs1(pkcs8: &[u8]) -> Option<&[u8]> {
    const VERSION_AND_RSA: &[u8] =
        &[2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let inner = pkcs8.strip_prefix(&[0x30, 0x82])?.get(2..)?.strip_prefix(VERSION_AND_RSA)?;
    inner.strip_prefix(&[4, 0x82])?.get(2..)
}

/// The library's name of an algorithm.
pub(crate) const fn jws_algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        clock::{SystemClock, SystemEntropy},
        keys::{Tools, ensure},
    };

    #[tokio::test]
    async fn who_hears_that_a_key_is_retired_signs_with_it_no_more() {
        let directory = tempfile::TempDir::new().unwrap();
        let stores = store_redb::open(&directory.path().join("store.redb")).await.unwrap().stores;
        let master = MasterKey::new(Zeroizing::new([7; 32]));
        let (clock, entropy) = (&SystemClock, &SystemEntropy);
        let (horizon, latest_expiry) = (schema::Horizon::NOTHING, Timestamp::EPOCH);
        let published = Duration::ZERO;
        let tools =
            Tools { stores: &stores, master: &master, clock, entropy, horizon, latest_expiry, published };
        let set = ensure(tools, Algorithm::EdDSA, Duration::from_secs(60)).await.unwrap();
        let (ring, denials) = (KeyRing::default(), Denials::default());
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
