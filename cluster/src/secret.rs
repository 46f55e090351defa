//! The keys that are derived from `CLUSTER_SECRET`.
//!
//! Promises: every use has a key of its own (HKDF-SHA-256, RFC 5869), bound to the name of the cluster, so
//! two clusters that share a secret by mistake cannot talk to each other.
//!
//! Never: the secret is sent, logged or shown.
//!
//! While a secret is being replaced, nodes [accept](Secret::accepting) a second one: they dial and send with
//! their own secret only, and take what comes with either.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// The minimum length of a secret, in bytes.
pub const SECRET_BYTES_MIN: usize = 32;
/// The maximum length of a secret, in bytes. A longer one is probably a mistake.
pub const SECRET_BYTES_MAX: usize = 1_024;
/// The salt of every derivation.
const SALT: &[u8] = b"palisade cluster 1";

/// The secret that all nodes of one cluster share, with the cluster's name.
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    accepted: Option<Zeroizing<Vec<u8>>>,
    cluster: String,
}

/// The secret is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
pub struct BadSecret;

/// The cryptographic library derived no key, which is a defect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no key could be derived from the cluster secret")]
pub struct DeriveError;

impl Secret {
    /// The secret of the cluster of this name.
    ///
    /// # Errors
    /// When the secret is too short or too long.
    pub fn new(bytes: Zeroizing<Vec<u8>>, cluster: &str) -> Result<Self, BadSecret> {
        Ok(Self { bytes: checked(bytes)?, accepted: None, cluster: cluster.to_owned() })
    }

    /// The same secret, for a node that also accepts peers with this other one.
    ///
    /// # Errors
    /// When the other secret is too short or too long.
    pub fn accepting(self, other: Zeroizing<Vec<u8>>) -> Result<Self, BadSecret> {
        Ok(Self { accepted: Some(checked(other)?), ..self })
    }

    /// The key for one purpose, for what this node sends.
    ///
    /// # Errors
    /// When the cryptographic library derives none.
    pub fn derive(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>, DeriveError> {
        self.derive_of(&self.bytes, purpose)
    }

    /// The keys for one purpose with which this node accepts what peers send; its own first.
    ///
    /// # Errors
    /// When the cryptographic library derives none.
    pub fn derive_accepted(&self, purpose: &str) -> Result<Vec<Zeroizing<[u8; 32]>>, DeriveError> {
        let secrets = std::iter::once(&self.bytes).chain(&self.accepted);
        secrets.map(|bytes| self.derive_of(bytes, purpose)).collect()
    }

    fn derive_of(&self, bytes: &[u8], purpose: &str) -> Result<Zeroizing<[u8; 32]>, DeriveError> {
        let mut key = Zeroizing::new([0; 32]);
        let secret = Salt::new(HKDF_SHA256, SALT).extract(bytes);
        // The length comes first, so that no other pair of purpose and name gives the same bytes.
        let length = u64::try_from(purpose.len()).unwrap_or(u64::MAX).to_be_bytes();
        let info = [length.as_slice(), purpose.as_bytes(), self.cluster.as_bytes()];
        let derived = secret.expand(&info, Bytes32).map_err(|_| DeriveError)?;
        derived.fill(key.as_mut_slice()).map_err(|_| DeriveError)?;
        Ok(key)
    }

    /// A checksum of the cluster's name, sent in clear so that a node of another cluster can be told why it
    /// is refused. It reveals nothing of the secret.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 4] {
        crc32fast::hash(self.cluster.as_bytes()).to_be_bytes()
    }
}

fn checked(bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, BadSecret> {
    if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) { Ok(bytes) } else { Err(BadSecret) }
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8, cluster: &str) -> Secret {
        Secret::new(Zeroizing::new(vec![byte; SECRET_BYTES_MIN]), cluster).unwrap()
    }

    #[test]
    fn each_secret_name_and_purpose_has_its_own_key() {
        let key = |byte, cluster, purpose| *secret(byte, cluster).derive(purpose).unwrap();
        let all = [
            key(1, "a", "link"),
            key(2, "a", "link"),
            key(1, "b", "link"),
            key(1, "a", "gossip"),
            key(1, "ka", "lin"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all[..n].iter().all(|other| other != one), "{n}");
        }
        assert_eq!(all[0], key(1, "a", "link"));
    }

    #[test]
    fn accepted_secret_adds_a_key_and_changes_none() {
        let other = Zeroizing::new(vec![2; SECRET_BYTES_MIN]);
        let both = secret(1, "a").accepting(other).unwrap();
        let [own, accepted] = [1, 2].map(|byte| secret(byte, "a").derive("link").unwrap());
        assert_eq!(both.derive("link").unwrap(), own);
        assert_eq!(both.derive_accepted("link").unwrap(), [own.clone(), accepted]);
        assert_eq!(secret(1, "a").derive_accepted("link").unwrap(), [own]);
        assert!(secret(1, "a").accepting(Zeroizing::new(vec![1; SECRET_BYTES_MIN - 1])).is_err());
    }

    #[test]
    fn short_or_long_secret_is_refused() {
        for length in [0, SECRET_BYTES_MIN - 1, SECRET_BYTES_MAX + 1] {
            assert!(Secret::new(Zeroizing::new(vec![1; length]), "a").is_err(), "{length}");
        }
    }
}
