//! The master key, which seals what the store keeps secret, and the root of derived keys.
//!
//! The root is the master key with which the store began, and it stays when the master key is replaced: refresh
//! tokens depend on keys that are derived from it. After the first replacement the store holds the root, sealed
//! under the master key like the signing keys.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use schema::key::KeySet;
use zeroize::Zeroizing;

use super::change::seal_context;

/// The sealing context of the root.
const ROOT_CONTEXT: &str = "derivation root";

/// The key that seals the signing keys. While it is being replaced, a second key opens them too.
pub struct MasterKey {
    own: SecretKey,
    accepted: Option<SecretKey>,
}

/// 32 bytes. Only keys derived from them (HKDF-SHA256, RFC 5869), each for one purpose, leave this module.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

/// A sealed secret cannot be opened: it was sealed with another master key, or was modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the master key does not open what is sealed in the store; give MASTER_KEY that it was sealed with, or, while it \
     is being replaced, that one as MASTER_KEY_ACCEPTED"
)]
pub struct SealError;

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

impl SecretKey {
    /// Derives the key for one purpose.
    ///
    /// # Errors
    /// Never for 32 bytes, although the library's type allows it.
    pub fn derive(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        let prk = Salt::new(HKDF_SHA256, b"palisade v1").extract(self.0.as_slice());
        let info = [purpose.as_bytes()];
        prk.expand(&info, Bytes32).and_then(|okm| okm.fill(key.as_mut_slice())).map_err(|_| SealError)?;
        Ok(key)
    }

    fn seal(&self, context: &str, secret: &[u8]) -> Result<String, SealError> {
        let mut sealed = secret.to_vec();
        let nonce = self.sealing()?.seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut sealed);
        let nonce = nonce.map_err(|_| SealError)?;
        Ok(STANDARD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    fn open(&self, context: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
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

impl MasterKey {
    /// A master key of 32 random bytes.
    #[must_use]
    pub const fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { own: SecretKey(bytes), accepted: None }
    }

    /// The same key, for a node that also opens what this other key has sealed.
    #[must_use]
    pub fn accepting(self, other: Option<Zeroizing<[u8; 32]>>) -> Self {
        Self { accepted: other.map(SecretKey), ..self }
    }

    /// The key itself, for keys that need not survive its replacement.
    #[must_use]
    pub const fn own(&self) -> &SecretKey {
        &self.own
    }

    /// Seals bytes that belong to `context` (AES-256-GCM, random nonce), as base64.
    ///
    /// # Errors
    /// If the library fails.
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<String, SealError> {
        self.own.seal(context, secret)
    }

    /// Opens what [`Self::seal`] made for the same context, with this key or the accepted one.
    ///
    /// # Errors
    /// If it was sealed with another key or for another context, or was modified.
    pub fn open(&self, context: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.keys().find_map(|key| key.open(context, sealed).ok()).ok_or(SealError)
    }

    /// The root of derived keys of the store that holds this key set.
    ///
    /// # Errors
    /// If neither this key nor the accepted one has sealed the set.
    pub fn root_of(&self, set: &KeySet) -> Result<SecretKey, SealError> {
        if let Some(sealed) = &set.derivation_root {
            let bytes = self.open(ROOT_CONTEXT, sealed)?;
            let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SealError)?;
            return Ok(SecretKey(Zeroizing::new(bytes)));
        }
        let Some(stored) = set.keys.first() else { return Ok(self.own.clone()) };
        let context = seal_context(stored.id, stored.algorithm);
        self.keys().find(|key| key.open(&context, &stored.sealed).is_ok()).cloned().ok_or(SealError)
    }

    /// Seals everything in the set with this key that the accepted one has sealed. The root stays the same. Returns
    /// whether anything changed.
    ///
    /// # Errors
    /// If neither key has sealed it.
    pub(super) fn reseal(&self, set: &mut KeySet) -> Result<bool, SealError> {
        let is_own = set
            .keys
            .iter()
            .all(|stored| self.own.open(&seal_context(stored.id, stored.algorithm), &stored.sealed).is_ok());
        let root_is_own =
            set.derivation_root.as_ref().is_none_or(|sealed| self.own.open(ROOT_CONTEXT, sealed).is_ok());
        if is_own && root_is_own {
            return Ok(false);
        }
        let root = self.root_of(set)?;
        for stored in &mut set.keys {
            let context = seal_context(stored.id, stored.algorithm);
            let secret = self.open(&context, &stored.sealed)?;
            stored.sealed = self.seal(&context, &secret)?;
        }
        set.derivation_root = Some(self.seal(ROOT_CONTEXT, root.0.as_slice())?);
        Ok(true)
    }

    fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        std::iter::once(&self.own).chain(&self.accepted)
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        KeyId, Timestamp,
        key::{KeyState, StoredKey},
        token::Algorithm,
    };

    use super::*;

    fn master(n: u8) -> MasterKey {
        MasterKey::new(Zeroizing::new([n; 32]))
    }

    #[test]
    fn secret_opens_with_the_same_key_and_context_only() {
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
    fn derived_keys_differ_by_purpose() {
        assert_ne!(master(1).own().derive("a").unwrap(), master(1).own().derive("b").unwrap());
        assert_ne!(master(1).own().derive("a").unwrap(), master(2).own().derive("a").unwrap());
    }

    fn accepting(own: u8, other: u8) -> MasterKey {
        master(own).accepting(Some(Zeroizing::new([other; 32])))
    }

    /// A set with one key, sealed by this master key.
    fn sealed_by(master: &MasterKey) -> KeySet {
        let id = KeyId::from_bytes([1; 16]);
        let sealed = master.seal(&seal_context(id, Algorithm::EdDSA), b"private key").unwrap();
        let created_at = Timestamp::EPOCH;
        let key = StoredKey { id, algorithm: Algorithm::EdDSA, state: KeyState::Active, created_at, sealed };
        KeySet { keys: vec![key], ..KeySet::default() }
    }

    fn root(master: &MasterKey, set: &KeySet) -> Result<Zeroizing<[u8; 32]>, SealError> {
        master.root_of(set)?.derive("x")
    }

    #[test]
    fn root_survives_any_number_of_replacements() {
        let mut set = sealed_by(&master(1));
        let first = root(&master(1), &set).unwrap();
        for new in 2..6 {
            let before = set.clone();
            accepting(new - 1, new).reseal(&mut set).unwrap();
            assert_eq!(set, before, "what is sealed with the own key stays as it is");
            accepting(new, new - 1).reseal(&mut set).unwrap();
            assert_ne!(set, before);
            for opens in [accepting(new - 1, new), accepting(new, new - 1), master(new)] {
                assert_eq!(root(&opens, &set), Ok(first.clone()), "replacement {new}");
                let context = seal_context(set.keys[0].id, Algorithm::EdDSA);
                assert_eq!(opens.open(&context, &set.keys[0].sealed).unwrap().as_slice(), b"private key");
            }
            assert_eq!(root(&master(new - 1), &set), Err(SealError), "the old key opens nothing");
        }
    }

    #[test]
    fn set_of_a_third_key_is_neither_opened_nor_changed() {
        let mut set = sealed_by(&master(1));
        let before = set.clone();
        assert_eq!(accepting(2, 3).reseal(&mut set), Err(SealError));
        assert_eq!(set, before);
        assert_eq!(root(&accepting(2, 3), &set), Err(SealError));
    }
}
