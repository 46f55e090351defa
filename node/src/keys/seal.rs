//! The master key: what is derived from it, and sealing under it.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The key that seals the signing keys. It leaves this module only as keys derived from it
/// (HKDF-SHA256, RFC 5869), each for one purpose.
pub struct MasterKey(Zeroizing<[u8; 32]>);

/// What was sealed cannot be opened: another master key, or it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the master key does not open what is sealed in the store; give MASTER_KEY that it was sealed with")]
pub struct SealError;

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

impl MasterKey {
    /// From 32 random bytes.
    #[must_use]
    pub const fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// A key for one purpose.
    ///
    /// # Errors
    /// Never for 32 bytes; the library's type says so anyway.
    pub fn derive(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        let prk = Salt::new(HKDF_SHA256, b"palisade v1").extract(self.0.as_slice());
        let info = [purpose.as_bytes()];
        prk.expand(&info, Bytes32).and_then(|okm| okm.fill(key.as_mut_slice())).map_err(|_| SealError)?;
        Ok(key)
    }

    /// Seals bytes that belong to `context` (AES-256-GCM, random nonce), as base64.
    ///
    /// # Errors
    /// When the library fails.
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<String, SealError> {
        let mut sealed = secret.to_vec();
        let nonce = self.sealing()?.seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut sealed);
        let nonce = nonce.map_err(|_| SealError)?;
        Ok(STANDARD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// Opens what [`Self::seal`] made for the same context.
    ///
    /// # Errors
    /// When it was made with another key or for another context, or was changed.
    pub fn open(&self, context: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let bytes = STANDARD.decode(sealed).map_err(|_| SealError)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = {
            let opened = self.sealing()?.open_in_place(nonce, Aad::from(context.as_bytes()), &mut opened);
            opened.map_err(|_| SealError)?.len()
        };
        opened.truncate(length);
        Ok(opened)
    }

    fn sealing(&self) -> Result<RandomizedNonceKey, SealError> {
        let key = self.derive("seal signing keys")?;
        RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| SealError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(n: u8) -> MasterKey {
        MasterKey::new(Zeroizing::new([n; 32]))
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_context_only() {
        let sealed = master(1).seal("a", b"secret").unwrap();
        assert_eq!(master(1).open("a", &sealed).unwrap().as_slice(), b"secret");
        assert!(master(2).open("a", &sealed).is_err());
        assert!(master(1).open("b", &sealed).is_err());
        assert_ne!(sealed, master(1).seal("a", b"secret").unwrap(), "nonces are random");
        let mut bytes = STANDARD.decode(&sealed).unwrap();
        for i in 0..bytes.len() {
            bytes[i] ^= 1;
            assert!(master(1).open("a", &STANDARD.encode(&bytes)).is_err(), "byte {i}");
            bytes[i] ^= 1;
        }
        for torn in ["", "AAAA", "not base64"] {
            assert!(master(1).open("a", torn).is_err(), "{torn}");
        }
    }

    #[test]
    fn purposes_have_keys_of_their_own() {
        assert_ne!(master(1).derive("a").unwrap(), master(1).derive("b").unwrap());
        assert_ne!(master(1).derive("a").unwrap(), master(2).derive("a").unwrap());
    }
}
