//! Forged tokens: taken apart, changed, signed with any key at hand, put together.

use aws_lc_rs::hmac;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

/// A JWS in parts.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The protected header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
    /// The signature's bytes.
    pub signature: Vec<u8>,
    /// The first two segments as they were.
    pub message: String,
}

/// Takes a token apart that the node issued.
///
/// # Panics
/// When it is no JWS of JSON.
#[must_use]
pub fn parts(token: &str) -> Parts {
    let (message, signature) = token.rsplit_once('.').expect("three segments");
    let (header, claims) = message.split_once('.').expect("three segments");
    let json = |segment: &str| serde_json::from_slice(&bytes(segment)).expect("a segment of JSON");
    Parts { header: json(header), claims: json(claims), signature: bytes(signature), message: message.into() }
}

/// The bytes of a segment.
///
/// # Panics
/// When it is no base64url.
#[must_use]
pub fn bytes(segment: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(segment).expect("base64url")
}

/// A segment of these bytes.
#[must_use]
pub fn segment(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of this header and these claims (as text: they need not be JSON), with these bytes as
/// its signature.
#[must_use]
pub fn token(header: &str, claims: &str, signature: &[u8]) -> String {
    format!("{}.{}.{}", segment(header), segment(claims), segment(signature))
}

/// A token signed with HMAC-SHA-256 under this secret (RFC 7518, section 3.2).
#[must_use]
pub fn hs256(secret: &[u8], header: &str, claims: &str) -> String {
    let message = format!("{}.{}", segment(header), segment(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", segment(tag))
}

impl Parts {
    /// The token with another header.
    #[must_use]
    pub fn with_header(&self, header: &Value) -> String {
        token(&header.to_string(), &self.claims.to_string(), &self.signature)
    }

    /// The token with a header field changed or added.
    #[must_use]
    pub fn with_header_field(&self, name: &str, value: Value) -> String {
        let mut header = self.header.clone();
        header[name] = value;
        self.with_header(&header)
    }

    /// The token with a claim changed or added.
    #[must_use]
    pub fn with_claim(&self, name: &str, value: Value) -> String {
        let mut claims = self.claims.clone();
        claims[name] = value;
        let header = self.message.split('.').next().unwrap_or_default();
        format!("{header}.{}.{}", segment(claims.to_string()), segment(&self.signature))
    }

    /// The same with a header field changed or added, to be changed further.
    #[must_use]
    pub fn under(&self, name: &str, value: Value) -> Self {
        parts(&self.with_header_field(name, value))
    }

    /// The token with other bytes as its signature.
    #[must_use]
    pub fn with_signature(&self, signature: &[u8]) -> String {
        self.with_signature_text(&segment(signature))
    }

    /// The token with another third segment.
    #[must_use]
    pub fn with_signature_text(&self, signature: &str) -> String {
        format!("{}.{signature}", self.message)
    }
}

/// The order of the group of Ed25519, little-endian (RFC 8032, section 5.1).
const ED25519_L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The same Ed25519 signature with `S + L` for `S`: equal in a verifier that forgets to reduce.
///
/// # Panics
/// When it is no Ed25519 signature.
#[must_use]
pub fn ed25519_s_plus_l(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at_checked(32).expect("64 bytes");
    let mut carry = 0u16;
    let sum = s.iter().zip(ED25519_L).map(|(s, l)| {
        let [low, high] = (u16::from(*s) + u16::from(l) + carry).to_le_bytes();
        carry = u16::from(high);
        low
    });
    r.iter().copied().chain(sum.collect::<Vec<_>>()).collect()
}

/// The raw ECDSA signature `r ‖ s` as DER.
///
/// # Panics
/// When it is not of an even, small length.
#[must_use]
pub fn ecdsa_der(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    der(0x30, &[der_unsigned(r), der_unsigned(s)].concat())
}

/// Byte strings of a public key that an attacker may use as an HMAC secret: its members, the whole
/// JWK, and its SubjectPublicKeyInfo as DER and PEM.
///
/// # Panics
/// When it is no JWK of a kind that we publish.
#[must_use]
pub fn public_key_as_secrets(jwk: &Value) -> Vec<Vec<u8>> {
    let member = |name: &str| bytes(jwk[name].as_str().expect("a member of the key"));
    let (spki, members) = match jwk["kty"].as_str() {
        Some("OKP") => {
            let algorithm = der(0x30, &[0x06, 0x03, 0x2b, 0x65, 0x70]);
            let x = member("x");
            (der(0x30, &[algorithm, der_bits(&x)].concat()), vec![x])
        }
        Some("EC") => {
            let algorithm = der(
                0x30,
                &[
                    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01][..],
                    &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
                ]
                .concat(),
            );
            let point = [&[4][..], &member("x"), &member("y")].concat();
            (der(0x30, &[algorithm, der_bits(&point)].concat()), vec![member("x"), point])
        }
        Some("RSA") => {
            let oid = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
            let key = der(0x30, &[der_unsigned(&member("n")), der_unsigned(&member("e"))].concat());
            (der(0x30, &[der(0x30, &oid), der_bits(&key)].concat()), vec![member("n"), key])
        }
        other => panic!("an unknown kty: {other:?}"),
    };
    let lines: Vec<String> =
        STANDARD.encode(&spki).as_bytes().chunks(64).map(|l| String::from_utf8_lossy(l).into()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    let texts = [pem.clone() + "\n", pem, jwk.to_string(), jwk["kid"].to_string(), String::new()];
    let encoded: Vec<_> = members.iter().map(|member| segment(member).into_bytes()).collect();
    members.into_iter().chain(encoded).chain([spki]).chain(texts.map(String::into_bytes)).collect()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short @ ..0x80) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(length).expect("a small structure").to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

fn der_bits(content: &[u8]) -> Vec<u8> {
    der(0x03, &[&[0][..], content].concat())
}

fn der_unsigned(big_endian: &[u8]) -> Vec<u8> {
    let start = big_endian.iter().position(|b| *b != 0).unwrap_or(big_endian.len().saturating_sub(1));
    let digits = &big_endian[start..];
    let sign: &[u8] = if digits.first().is_some_and(|b| *b >= 0x80) { &[0] } else { &[] };
    der(0x02, &[sign, digits].concat())
}
