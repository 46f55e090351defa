//! The public keys of a cluster, as its JWK set (RFC 7517, section 5) has them.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use jsonwebtoken::{
    DecodingKey, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm},
};
use schema::{KeyId, token::Algorithm};
use serde::Deserialize;

/// The text is not a JWK set.
#[derive(Debug, thiserror::Error)]
#[error("not a JWK set: {0}")]
pub struct JwksError(#[from] serde_json::Error);

/// A public key that verifies the signatures of access tokens.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl PublicKey {
    /// The key of a JWK; `None` if it is not a public key of one of our algorithms.
    #[must_use]
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let algorithm = match (jwk.common.key_algorithm?, &jwk.algorithm) {
            (KeyAlgorithm::EdDSA, AlgorithmParameters::OctetKeyPair(key))
                if key.curve == EllipticCurve::Ed25519 =>
            {
                Algorithm::EdDSA
            }
            (KeyAlgorithm::ES256, AlgorithmParameters::EllipticCurve(key))
                if key.curve == EllipticCurve::P256 =>
            {
                Algorithm::ES256
            }
            (KeyAlgorithm::RS256, AlgorithmParameters::RSA(_)) => Algorithm::RS256,
            _ => return None,
        };
        Some(Self { algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
    }

    /// Whether this key signed the token. `algorithm` is the one that the token names. It must be the key's:
    /// the key determines how a signature is verified, never the token.
    #[must_use]
    pub fn has_signed(&self, algorithm: Algorithm, token: &str) -> bool {
        let Some((message, signature)) = token.rsplit_once('.') else { return false };
        self.algorithm == algorithm
            && crypto::verify(signature, message.as_bytes(), &self.key, jws_algorithm(algorithm))
                .unwrap_or(false)
    }
}

/// Public keys by their id (`kid`).
#[derive(Debug, Clone, Default)]
pub struct PublicKeys(HashMap<KeyId, PublicKey, RandomState>);

impl PublicKeys {
    /// The keys of a JWK set. Keys that cannot have signed our tokens are left out, as the RFC demands: a
    /// later version may publish other kinds.
    ///
    /// # Errors
    /// If the text is not a JWK set.
    pub fn from_jwks(json: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json)?;
        let known = |value| {
            let jwk: Jwk = serde_json::from_value(value).ok()?;
            let id = jwk.common.key_id.as_ref()?.parse().ok()?;
            Some((id, PublicKey::from_jwk(&jwk)?))
        };
        Ok(set.keys.into_iter().filter_map(known).collect())
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&PublicKey> {
        self.0.get(&id)
    }
}

impl FromIterator<(KeyId, PublicKey)> for PublicKeys {
    fn from_iter<I: IntoIterator<Item = (KeyId, PublicKey)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// The `jsonwebtoken` name of an algorithm.
#[must_use]
pub const fn jws_algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
    }
}
