//! The names of keys, the MAC of values, and the encryption of labels.
//!
//! A key is `palisade:NAMESPACE:KIND:HEX`, where HEX is an HMAC of the thing that it identifies: user input is
//! never part of a key or a command, and Redis holds no email in clear text. A value is an HMAC-SHA256 over its
//! key and its body, followed by the body. A label, which may contain an email, is encrypted.

use std::fmt::Write as _;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac::{HMAC_SHA256, Key as Hmac, sign, verify},
};

/// The length of the MAC of a value, in bytes.
pub(crate) const TAG_BYTES: usize = 32;

/// The kind and form of a value. A new form gets a new number, so that nodes of two versions do not overwrite
/// each other's values.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Failures,
    Bucket,
    Grants,
    /// The labels of limited keys.
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

/// The name of a key in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The keys derived from the secret of the cluster.
pub(crate) struct Seal {
    namespace: String,
    names: Hmac,
    values: Hmac,
    nonces: Hmac,
    /// `None` if the library rejected the key: then no label is encrypted, and none announced.
    labels: Option<LessSafeKey>,
}

impl Seal {
    /// Derives the keys. The namespace must consist of characters that need no escape.
    pub(crate) fn new(namespace: &str, secret: &[u8]) -> Self {
        // A separate key for each use.
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

    /// Encrypts a label. The nonce is a MAC of the label, so that the same label has the same ciphertext, and
    /// two labels never share a nonce (as in RFC 8452).
    pub(crate) fn hide(&self, label: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&sign(&self.nonces, label).as_ref()[..NONCE_LEN]);
        let mut text = label.to_vec();
        let key = self.labels.as_ref()?;
        let aad = Aad::from(self.namespace.as_bytes());
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).ok()?;
        Some([&nonce[..], &text].concat())
    }

    /// Decrypts a label; `None` unless a node of this cluster encrypted it.
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
            // Writing to a string never fails.
            let _ = write!(key, "{byte:02x}");
        }
        Key(key)
    }

    pub(crate) fn seal(&self, key: &Key, body: &[u8]) -> Vec<u8> {
        let mut value = sign(&self.values, &signed(key, body)).as_ref().to_vec();
        value.extend_from_slice(body);
        value
    }

    /// The body of a value; `None` unless a node of this cluster wrote it under this key.
    pub(crate) fn open<'a>(&self, key: &Key, value: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, body) = value.split_at_checked(TAG_BYTES)?;
        verify(&self.values, &signed(key, body), tag).ok()?;
        Some(body)
    }
}

/// The signed bytes. A key has no zero byte, so they can be split in one way only.
fn signed(key: &Key, body: &[u8]) -> Vec<u8> {
    [key.as_str().as_bytes(), &[0], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = &[7; 32];

    #[test]
    fn sealed_value_opens_only_under_its_key() {
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
    fn altered_value_does_not_open() {
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
    fn label_is_revealed_only_within_its_cluster() {
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
    fn keys_have_one_form_for_any_input() {
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
