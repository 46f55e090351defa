//! The keys that come from `CLUSTER_SECRET`.
//!
//! One secret of at least 32 bytes; every use has a key of its own (HKDF-SHA-256, RFC 5869), bound to the
//! name of the cluster: two clusters that share a secret by mistake do not understand each other. The
//! secret is never sent, logged or shown.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// Fewer bytes are no secret.
pub const MIN_BYTES: usize = 32;
/// More would be a mistake.
pub const MAX_BYTES: usize = 1_024;
const SALT: &[u8] = b"palisade cluster 1";

/// What all nodes of one cluster know and nobody else does.
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    cluster: String,
}

/// The secret is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster secret has {MIN_BYTES} to {MAX_BYTES} bytes")]
pub struct BadSecret;

/// The library derived no key, which is a defect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no key could be derived from the cluster secret")]
pub struct DeriveError;

impl Secret {
    /// The secret of the cluster of this name.
    ///
    /// # Errors
    /// When it is too short or too long.
    pub fn new(bytes: Zeroizing<Vec<u8>>, cluster: &str) -> Result<Self, BadSecret> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes.len()) {
            return Err(BadSecret);
        }
        Ok(Self { bytes, cluster: cluster.to_owned() })
    }

    /// The key for one use.
    ///
    /// # Errors
    /// When the library derives none.
    pub fn derive(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>, DeriveError> {
        let mut key = Zeroizing::new([0; 32]);
        let secret = Salt::new(HKDF_SHA256, SALT).extract(&self.bytes);
        // The length first, so that no other pair of texts gives the same bytes.
        let length = u64::try_from(purpose.len()).unwrap_or(u64::MAX).to_be_bytes();
        let info = [length.as_slice(), purpose.as_bytes(), self.cluster.as_bytes()];
        let derived = secret.expand(&info, Bytes32).map_err(|_| DeriveError)?;
        derived.fill(key.as_mut_slice()).map_err(|_| DeriveError)?;
        Ok(key)
    }

    /// What may be shown of the cluster's name, so that a stranger's mistake can be named: it says
    /// nothing of the secret.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 4] {
        crc32fast::hash(self.cluster.as_bytes()).to_be_bytes()
    }
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
        Secret::new(Zeroizing::new(vec![byte; MIN_BYTES]), cluster).unwrap()
    }

    #[test]
    fn every_secret_name_and_purpose_has_a_key_of_its_own() {
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
    fn a_short_or_long_secret_is_refused() {
        for length in [0, MIN_BYTES - 1, MAX_BYTES + 1] {
            assert!(Secret::new(Zeroizing::new(vec![1; length]), "a").is_err(), "{length}");
        }
    }
}
