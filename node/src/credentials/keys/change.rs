//! Changes of the stored key set, each a compare-and-set that is retried when it loses.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use schema::{
    Clock, Entropy, Horizon, KeyId, Timestamp,
    horizon::MAX_AHEAD,
    key::{KeySet, KeyState, MAX_KEYS, StoredKey},
    time::CLOCK_SKEW,
    token::Algorithm,
};
use store::{
    StoreError, Stores,
    cas::{self, Attempt, Contended, Pacing, ROW_ATTEMPTS_MAX},
};
use zeroize::Zeroizing;

use super::seal::{MasterKey, SealError};

/// Why the keys could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The store did not answer, or other nodes changed the keys during every retry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master key is not the one that sealed the keys.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The crypto library could not generate a key.
    #[error("no {0} key could be made")]
    Generate(&'static str),
    /// No key has this id.
    #[error("there is no key {0}")]
    NotFound(KeyId),
    /// The next key may not sign yet.
    #[error("the next key was published only now, and other nodes may not know it yet; try again in {0:?}")]
    TooYoung(Duration),
    /// The largest number of keys is still needed.
    #[error("{MAX_KEYS} keys are still needed to verify tokens; wait until the oldest has gone")]
    TooMany,
}

impl From<Contended> for KeyError {
    fn from(contended: Contended) -> Self {
        Self::Store(contended.into())
    }
}

/// The inputs of a key change.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Tools<'a> {
    pub stores: &'a Stores,
    pub master: &'a MasterKey,
    pub clock: &'a dyn Clock,
    pub entropy: &'a dyn Entropy,
    /// The horizon by which expired keys are removed.
    pub horizon: Horizon,
    /// The latest expiry of a token that is known to have been issued.
    pub latest_expiry: Timestamp,
    /// How long a key is published before it signs, so that every node knows it by then.
    pub published: Duration,
}

/// Ensures that a next key of this algorithm exists and, once it has been published for long enough, an
/// active one; and that the set records the current lifetime of access tokens. Seals all of it with this node's
/// master key. Returns the set.
///
/// # Errors
/// If the store does not answer, or the master key is not the one that sealed the keys.
pub async fn ensure(
    tools: Tools<'_>,
    algorithm: Algorithm,
    access_ttl: Duration,
) -> Result<KeySet, KeyError> {
    change_and_reseal(tools, |set, now| {
        if set.access_ttl > access_ttl {
            // Tokens issued so far may live longer than the new setting says.
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
/// another algorithm and it has been published for long enough. It never returns to an algorithm that other
/// nodes have replaced.
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

/// Records that issued tokens may live until `until`: this node's clock was ahead when it issued them.
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

/// How much longer the next key must be published before it may sign.
fn youth(tools: Tools<'_>, set: &KeySet, now: Timestamp) -> Duration {
    let next = set.keys.iter().find(|key| key.state == KeyState::Next);
    next.map_or(Duration::ZERO, |key| tools.published.saturating_sub(now.since(key.created_at)))
}

/// Reads the key set, for a command that does not serve with it; creates it if there is none.
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

/// Makes the next key active and the active one retiring, and publishes a new next key.
///
/// # Errors
/// If the store does not answer, or the master key is not the one that sealed the keys.
pub async fn rotate(tools: Tools<'_>) -> Result<KeySet, KeyError> {
    change_and_reseal(tools, |set, now| {
        let youth = youth(tools, set, now);
        if !youth.is_zero() {
            return Err(KeyError::TooYoung(youth));
        }
        promote(tools, set, now)?;
        if set.keys.len() > MAX_KEYS { Err(KeyError::TooMany) } else { Ok(()) }
    })
    .await
}

/// Revokes a key: nodes refuse the tokens that it signed. If it was active, the next key takes its place.
///
/// # Errors
/// `NotFound`, or as [`rotate`].
pub async fn retire(tools: Tools<'_>, id: KeyId) -> Result<KeySet, KeyError> {
    change_and_reseal(tools, |set, now| {
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

/// [`change`] that also seals the whole set with this node's master key, so that a set is never sealed with two.
async fn change_and_reseal(
    tools: Tools<'_>,
    edit: impl Fn(&mut KeySet, Timestamp) -> Result<(), KeyError>,
) -> Result<KeySet, KeyError> {
    let is_resealed = AtomicBool::new(false);
    let set = change(tools, |set, now| {
        is_resealed.store(tools.master.reseal(set)?, Ordering::Relaxed);
        edit(set, now)
    })
    .await?;
    if is_resealed.into_inner() {
        tracing::info!("signing keys sealed with this node's MASTER_KEY");
    }
    Ok(set)
}

async fn change(
    tools: Tools<'_>,
    change: impl Fn(&mut KeySet, Timestamp) -> Result<(), KeyError>,
) -> Result<KeySet, KeyError> {
    let change = &change;
    cas::retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), (), |()| async move {
        let stored = tools.stores.keys.load().await?;
        let mut next = stored.clone();
        change(&mut next, tools.clock.now())?;
        if next == stored {
            return Ok(Attempt::Done(stored));
        }
        next.revision = stored.revision + 1;
        let is_swapped = tools.stores.keys.swap(&next).await?;
        Ok(if is_swapped { Attempt::Done(next) } else { Attempt::Lost(()) })
    })
    .await
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

/// The latest expiry of all tokens signed so far, by any node's clock.
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

/// The sealing context of a key, so that it cannot be passed off as another key.
pub(super) fn seal_context(id: KeyId, algorithm: Algorithm) -> String {
    format!("signing key {id} {}", algorithm.as_str())
}
