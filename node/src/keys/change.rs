//! Changes of the stored key set, each a compare-and-set that is tried again when lost.

use std::time::Duration;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use schema::{
    Clock, Entropy, Horizon, KeyId, Stores, Timestamp,
    horizon::MAX_AHEAD,
    key::{KeySet, KeyState, MAX_KEYS, StoredKey},
    store::StoreError,
    time::CLOCK_SKEW,
    token::Algorithm,
};
use zeroize::Zeroizing;

use super::seal::{MasterKey, SealError};

const ATTEMPTS: usize = 16;

/// Why the keys could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The store did not answer, or others changed the keys all the time.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master key is another one.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The crypto library made no key.
    #[error("no {0} key could be made")]
    Generate(&'static str),
    /// There is no such key.
    #[error("there is no key {0}")]
    NotFound(KeyId),
    /// The next key may not sign yet.
    #[error("the next key was published only now, and other nodes may not know it yet; try again in {0:?}")]
    TooYoung(Duration),
    /// As many keys as may be are still needed.
    #[error("{MAX_KEYS} keys are still needed to verify tokens; wait until the oldest has gone")]
    TooMany,
}

/// What key changes work with.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Tools<'a> {
    pub stores: &'a Stores,
    pub master: &'a MasterKey,
    pub clock: &'a dyn Clock,
    pub entropy: &'a dyn Entropy,
    /// By which keys are gone.
    pub horizon: Horizon,
    /// The end of the last token that is known to have been issued.
    pub latest_expiry: Timestamp,
    /// How long a key is published before it signs, so that every node knows it by then.
    pub published: Duration,
}

/// Makes sure that there is a next key of this algorithm and, once it has been published for long enough,
/// an active one; and that the set knows how long access tokens live now. Gives the set.
///
/// # Errors
/// When the store does not answer or the master key is another one.
pub async fn ensure(
    tools: Tools<'_>,
    algorithm: Algorithm,
    access_ttl: Duration,
) -> Result<KeySet, KeyError> {
    change(tools, |set, now| {
        if set.access_ttl > access_ttl {
            // Tokens issued until now may live longer than the new setting says.
            let until = now.plus(set.access_ttl).plus(tools.published).plus(CLOCK_SKEW);
            set.access_horizon = set.access_horizon.max(until);
        }
        set.access_ttl = access_ttl;
        let ready =
            |set: &KeySet, state| set.keys.iter().any(|k| k.state == state && k.algorithm == algorithm);
        if !ready(set, KeyState::Next) {
            set.keys.retain(|key| key.state != KeyState::Next);
            set.keys.push(generate(tools, algorithm, now)?);
        }
        let first = !set.keys.iter().any(|key| key.state == KeyState::Active);
        if first || (!ready(set, KeyState::Active) && youth(tools, set, now).is_zero()) {
            promote(tools, set, now)?;
        }
        Ok(())
    })
    .await
}

/// Removes keys whose last token has expired, and lets the next key sign when [`ensure`] published it for
/// another algorithm and it has been known for long enough. It never goes back to an algorithm that the
/// others have left.
///
/// # Errors
/// As [`ensure`].
pub async fn upkeep(tools: Tools<'_>, algorithm: Algorithm) -> Result<KeySet, KeyError> {
    change(tools, |set, now| {
        remove_gone(set, tools.horizon);
        let is = |state| set.keys.iter().any(|key| key.state == state && key.algorithm == algorithm);
        if is(KeyState::Next) && !is(KeyState::Active) && youth(tools, set, now).is_zero() {
            promote(tools, set, now)?;
        }
        Ok(())
    })
    .await
}

/// Makes the set say that tokens live until then: the clock of this node was ahead when it issued them.
///
/// # Errors
/// As [`ensure`].
pub async fn raise_horizon(tools: Tools<'_>, until: Timestamp) -> Result<KeySet, KeyError> {
    change(tools, |set, _| {
        set.access_horizon = set.access_horizon.max(until);
        Ok(())
    })
    .await
}

/// How long the next key is still to be published before it may sign.
fn youth(tools: Tools<'_>, set: &KeySet, now: Timestamp) -> Duration {
    let next = set.keys.iter().find(|key| key.state == KeyState::Next);
    next.map_or(Duration::ZERO, |key| tools.published.saturating_sub(now.since(key.created_at)))
}

/// The key set as it is, for who is not to serve with it; made when there is none.
///
/// # Errors
/// As [`ensure`].
pub async fn stored(
    tools: Tools<'_>,
    algorithm: Algorithm,
    access_ttl: Duration,
) -> Result<KeySet, KeyError> {
    let set = tools.stores.keys.load().await?;
    if set.revision == 0 { ensure(tools, algorithm, access_ttl).await } else { Ok(set) }
}

/// The next key becomes active, the active one retires, a new next one is published.
///
/// # Errors
/// When the store does not answer or the master key is another one.
pub async fn rotate(tools: Tools<'_>) -> Result<KeySet, KeyError> {
    change(tools, |set, now| {
        let youth = youth(tools, set, now);
        if !youth.is_zero() {
            return Err(KeyError::TooYoung(youth));
        }
        promote(tools, set, now)?;
        if set.keys.len() > MAX_KEYS { Err(KeyError::TooMany) } else { Ok(()) }
    })
    .await
}

/// Revokes a key; what it signed is refused from now on. When it was active, the next one takes its
/// place.
///
/// # Errors
/// `NotFound`, or as [`rotate`].
pub async fn retire(tools: Tools<'_>, id: KeyId) -> Result<KeySet, KeyError> {
    change(tools, |set, now| {
        let key = set.keys.iter().find(|key| key.id == id).ok_or(KeyError::NotFound(id))?;
        match key.state {
            KeyState::Active => promote(tools, set, now)?,
            KeyState::Next => {
                let next = generate(tools, key.algorithm, now)?;
                set.keys.push(next);
            }
            KeyState::Retiring { .. } | KeyState::Revoked { .. } => {}
        }
        let until = last_expiry(tools, set, now);
        if let Some(key) = set.keys.iter_mut().find(|key| key.id == id) {
            key.state = KeyState::Revoked { until };
        }
        Ok(())
    })
    .await
}

async fn change(
    tools: Tools<'_>,
    change: impl Fn(&mut KeySet, Timestamp) -> Result<(), KeyError>,
) -> Result<KeySet, KeyError> {
    for _ in 0..ATTEMPTS {
        let stored = tools.stores.keys.load().await?;
        let mut next = stored.clone();
        change(&mut next, tools.clock.now())?;
        if next == stored {
            return Ok(stored);
        }
        next.revision = stored.revision + 1;
        if tools.stores.keys.swap(&next).await? {
            return Ok(next);
        }
    }
    Err(StoreError::unavailable("the signing keys change all the time").into())
}

fn promote(tools: Tools<'_>, set: &mut KeySet, now: Timestamp) -> Result<(), KeyError> {
    remove_gone(set, tools.horizon);
    let until = last_expiry(tools, set, now);
    let mut algorithm = None;
    for key in &mut set.keys {
        match key.state {
            KeyState::Active => key.state = KeyState::Retiring { until },
            KeyState::Next => {
                key.state = KeyState::Active;
                algorithm = Some(key.algorithm);
            }
            KeyState::Retiring { .. } | KeyState::Revoked { .. } => {}
        }
    }
    if let Some(algorithm) = algorithm {
        set.keys.push(generate(tools, algorithm, now)?);
    }
    Ok(())
}

fn remove_gone(set: &mut KeySet, horizon: Horizon) {
    set.keys.retain(|key| match key.state {
        KeyState::Next | KeyState::Active => true,
        KeyState::Retiring { until } | KeyState::Revoked { until } => horizon.time() < until,
    });
}

/// The end of every token that was signed until now, by whatever clock.
fn last_expiry(tools: Tools<'_>, set: &KeySet, now: Timestamp) -> Timestamp {
    let known = tools.latest_expiry.min(now.plus(MAX_AHEAD).plus(set.access_ttl));
    now.plus(set.access_ttl).plus(CLOCK_SKEW).max(set.access_horizon).max(known)
}

fn generate(tools: Tools<'_>, algorithm: Algorithm, now: Timestamp) -> Result<StoredKey, KeyError> {
    let failed = |_| KeyError::Generate(algorithm.as_str());
    let rng = SystemRandom::new();
    let pkcs8 = match algorithm {
        Algorithm::EdDSA => Ed25519KeyPair::generate_pkcs8v1(&rng).map_err(failed)?.as_ref().to_vec(),
        Algorithm::ES256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng)
            .map_err(failed)?
            .as_ref()
            .to_vec(),
        Algorithm::RS256 => {
            let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
            AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?.as_ref().to_vec()
        }
    };
    let pkcs8 = Zeroizing::new(pkcs8);
    let id = KeyId::new(now, tools.entropy.id());
    let sealed = tools.master.seal(&seal_context(id, algorithm), &pkcs8)?;
    Ok(StoredKey { id, algorithm, state: KeyState::Next, created_at: now, sealed })
}

/// What a sealed key belongs to, so that it cannot be passed off as another.
pub(super) fn seal_context(id: KeyId, algorithm: Algorithm) -> String {
    format!("signing key {id} {}", algorithm.as_str())
}
