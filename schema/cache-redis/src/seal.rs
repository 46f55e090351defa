//! Names of keys, and the MAC of values.
//!
//! A key is `palisade:NAMESPACE:KIND:HEX`, where HEX is an HMAC of what it stands for: whatever
//! somebody typed is never part of a key or a command, and no email lies in Redis in clear. A value
//! is an HMAC-SHA256 over its key and its body, then the body. A label, which may have an email, is
//! encrypted.

use std::fmt::Write as _;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac::{HMAC_SHA256, Key as Hmac, sign, verify},
};

/// How many bytes of a value are its MAC.
pub(crate) const TAG_BYTES: usize = 32;

/// What a value is, and in which form. With a new form comes a new number, so that nodes of two
/// versions do not overwrite each other's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Failures,
    Bucket,
    Grants,
    /// The labels of what is limited.
    Limited,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures-1",
            Self::Bucket => "bucket-1",
            Self::Grants => "grants-1",
            Self::Limited => "limited-1",
        }
    }
}

/// A key as Redis knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

pub(crate) struct Seal {
    namespace: String,
    names: Hmac,
    values: Hmac,
    nonces: Hmac,
    /// `None` when the library made none of it: then nothing is encrypted, and nothing announced.
    labels: Option<LessSafeKey>,
}

impl Seal {
    /// The namespace is of characters that need no escape.
    pub(crate) fn new(namespace: &str, secret: &[u8]) -> Self {
        // One secret, a key for each use.
        let secret = Hmac::new(HMAC_SHA256, secret);
        let derive = |purpose: &str| Hmac::new(HMAC_SHA256, sign(&secret, purpose.as_bytes()).as_ref());
        let label_key = sign(&secret, b"palisade cache: labels");
        Self {
            namespace: namespace.to_owned(),
            names: derive("palisade cache: names of keys"),
            values: derive("palisade cache: values"),
            nonces: derive("palisade cache: nonces of labels"),
            labels: UnboundKey::new(&AES_256_GCM, label_key.as_ref()).ok().map(LessSafeKey::new),
        }
    }

    /// Encrypts a label. The nonce is a MAC of it, so the same label has the same text, and two
    /// labels never share a nonce (as in RFC 8452).
    pub(crate) fn hide(&self, label: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&sign(&self.nonces, label).as_ref()[..NONCE_LEN]);
        let mut text = label.to_vec();
        let key = self.labels.as_ref()?;
        let aad = Aad::from(self.namespace.as_bytes());
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).ok()?;
        Some([&nonce[..], &text].concat())
    }

    /// The label, if a node of this cluster encrypted it.
    pub(crate) fn reveal(&self, hidden: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = hidden.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let aad = Aad::from(self.namespace.as_bytes());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        Some(self.labels.as_ref()?.open_in_place(nonce, aad, &mut text).ok()?.to_vec())
    }

    pub(crate) fn key(&self, kind: Kind, what: &[u8]) -> Key {
        let mut key = format!("palisade:{}:{}:", self.namespace, kind.name());
        for byte in sign(&self.names, what).as_ref() {
            // Writing to a string does not fail.
            let _ = write!(key, "{byte:02x}");
        }
        Key(key)
    }

    pub(crate) fn seal(&self, key: &Key, body: &[u8]) -> Vec<u8> {
        let mut value = sign(&self.values, &signed(key, body)).as_ref().to_vec();
        value.extend_from_slice(body);
        value
    }

    /// The body, if a node wrote this value under this key.
    pub(crate) fn open<'a>(&self, key: &Key, value: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, body) = value.split_at_checked(TAG_BYTES)?;
        verify(&self.values, &signed(key, body), tag).ok()?;
        Some(body)
    }
}

/// A key has no zero byte, so this can be split in one way only.
fn signed(key: &Key, body: &[u8]) -> Vec<u8> {
    [key.as_str().as_bytes(), &[0], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = &[7; 32];

    #[test]
    fn what_was_sealed_opens_under_its_key_only() {
        let seal = Seal::new("test", SECRET);
        let key = seal.key(Kind::Failures, b"login account ann");
        let value = seal.seal(&key, b"body");
        assert_eq!(seal.open(&key, &value), Some(&b"body"[..]));
        assert_eq!(seal.open(&seal.key(Kind::Failures, b"login account bob"), &value), None);
        assert_eq!(seal.open(&seal.key(Kind::Bucket, b"login account ann"), &value), None);
        for other in [Seal::new("test", &[8; 32]), Seal::new("other", SECRET)] {
            assert_eq!(other.open(&other.key(Kind::Failures, b"login account ann"), &value), None);
        }
    }

    #[test]
    fn a_changed_bit_a_cut_or_an_addition_does_not_open() {
        let seal = Seal::new("test", SECRET);
        let key = seal.key(Kind::Grants, b"ann");
        let value = seal.seal(&key, b"body");
        for bit in 0..value.len() * 8 {
            let mut forged = value.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(&key, &forged), None, "{bit}");
        }
        for length in 0..value.len() {
            assert_eq!(seal.open(&key, &value[..length]), None, "{length}");
        }
        assert_eq!(seal.open(&key, &[&value[..], b" "].concat()), None);
    }

    #[test]
    fn a_label_is_revealed_to_the_nodes_of_one_cluster_only() {
        let seal = Seal::new("test", SECRET);
        let hidden = seal.hide(b"ann@example.org").unwrap();
        assert_eq!(seal.hide(b"ann@example.org"), Some(hidden.clone()), "the same each time");
        assert_ne!(seal.hide(b"bob@example.org"), Some(hidden.clone()));
        assert!(!String::from_utf8_lossy(&hidden).contains("ann"));
        assert_eq!(seal.reveal(&hidden).as_deref(), Some(&b"ann@example.org"[..]));
        for other in [Seal::new("test", &[8; 32]), Seal::new("other", SECRET)] {
            assert_eq!(other.reveal(&hidden), None);
        }
        for length in 0..hidden.len() {
            assert_eq!(seal.reveal(&hidden[..length]), None, "{length}");
        }
    }

    #[test]
    fn keys_are_of_one_form_whatever_was_typed() {
        let seal = Seal::new("a.b_c-1", SECRET);
        for typed in [&b""[..], b"\r\nFLUSHALL\r\n", b"ann@example.org", &[0xff; 10_000]] {
            let key = seal.key(Kind::Failures, typed);
            let hex = key.as_str().strip_prefix("palisade:a.b_c-1:failures-1:").unwrap();
            assert_eq!(hex.len(), 64);
            assert!(hex.bytes().all(|b| b.is_ascii_hexdigit()));
        }
        assert_ne!(seal.key(Kind::Failures, b"a"), seal.key(Kind::Failures, b"b"));
    }
}
