//! Tokens that are signed here and checked with the JWK set of their keys.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use jsonwebtoken::{EncodingKey, Header, jwk::Jwk};
use schema::{
    Fact, FactKind, KeyId, SessionId, TokenId, UserId,
    token::{Algorithm, access::ACCESS_TYPE},
};
use serde_json::{Value, json};

use super::*;
use crate::keys::jws_algorithm;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

struct Signer {
    id: KeyId,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn new(n: u8, algorithm: Algorithm) -> Self {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let key = if algorithm == Algorithm::EdDSA {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&random).unwrap();
            EncodingKey::from_ed_der(pkcs8.as_ref())
        } else {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            EncodingKey::from_ec_der(pkcs8.as_ref())
        };
        Self { id: KeyId::from_bytes([n; 16]), algorithm, key }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, jws_algorithm(self.algorithm)).unwrap();
        jwk.common.key_id = Some(self.id.to_string());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Claims) -> String {
        let mut header = Header::new(jws_algorithm(self.algorithm));
        header.kid = Some(self.id.to_string());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn expected() -> Expected {
    Expected { issuer: "palisade".into(), audience: "palisade".into() }
}

fn claims() -> Claims {
    Claims {
        iss: "palisade".into(),
        aud: "palisade".into(),
        sub: UserId::from_bytes([1; 16]),
        sid: SessionId::from_bytes([2; 16]),
        jti: TokenId::from_bytes([3; 16]),
        iat: NOW.as_secs(),
        exp: NOW.as_secs() + 900,
        nbf: None,
        uv: 3,
        r#type: ACCESS_TYPE.into(),
    }
}

fn keys(jwks: &[Value]) -> PublicKeys {
    PublicKeys::from_jwks(json!({ "keys": jwks }).to_string().as_bytes()).unwrap()
}

fn verdict(token: &str, keys: &PublicKeys) -> Result<AccessClaims, Refusal> {
    check(token.as_bytes(), &expected(), keys, &Denials::default(), NOW)
}

#[test]
fn signed_token_is_accepted_with_its_key() {
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256] {
        let signer = Signer::new(1, algorithm);
        let accepted = verdict(&signer.sign(&claims()), &keys(&[signer.jwk()])).unwrap();
        assert_eq!((accepted.user, accepted.key, accepted.version), (claims().sub, signer.id, 3));
    }
}

#[test]
fn token_is_refused_without_its_key() {
    let signer = Signer::new(1, Algorithm::EdDSA);
    let token = signer.sign(&claims());
    let other_key = Signer::new(1, Algorithm::EdDSA);
    let other_id = Signer::new(2, Algorithm::EdDSA);
    let other_algorithm = Signer::new(1, Algorithm::ES256);
    for jwks in [vec![], vec![other_key.jwk()], vec![other_id.jwk()], vec![other_algorithm.jwk()]] {
        assert_eq!(verdict(&token, &keys(&jwks)), Err(Refusal::SignatureFailed), "{jwks:?}");
    }
    let changed = token.replacen("ey", "fy", 1);
    assert_eq!(verdict(&changed, &keys(&[signer.jwk()])), Err(Refusal::SignatureFailed));
}

#[test]
fn checks_run_in_the_order_of_the_contract() {
    let signer = Signer::new(1, Algorithm::EdDSA);
    let keys = keys(&[signer.jwk()]);
    let denials = Denials::default();
    denials.apply(&Fact {
        kind: FactKind::SessionRevoked { user: claims().sub, session: claims().sid },
        until: Timestamp::MAX,
    });
    let check = |token: &str, now| check(token.as_bytes(), &expected(), &keys, &denials, now);
    let expired = NOW.plus(std::time::Duration::from_secs(900));
    let other_type = Claims { r#type: "refresh".into(), ..claims() };
    let other_issuer = Claims { iss: "else".into(), ..claims() };
    let forged = Signer::new(1, Algorithm::EdDSA).sign(&claims());

    assert_eq!(check("a.b", NOW), Err(Refusal::NotEnoughSegments), "shape");
    assert_eq!(check(&signer.sign(&other_issuer), expired), Err(Refusal::SignatureFailed), "claims");
    assert_eq!(check(&forged, expired), Err(Refusal::SignatureFailed), "signature before expiry");
    assert_eq!(check(&signer.sign(&other_type), expired), Err(Refusal::Expired), "expiry before type");
    assert_eq!(check(&signer.sign(&other_type), NOW), Err(Refusal::NotAccess), "type before revocation");
    assert_eq!(check(&signer.sign(&claims()), NOW), Err(Refusal::Revoked));
}

#[test]
fn unusable_keys_of_a_set_are_left_out() {
    let signer = Signer::new(1, Algorithm::EdDSA);
    let with = |name: &str, value: Value| {
        let mut jwk = signer.jwk();
        jwk[name] = value;
        jwk
    };
    let token = signer.sign(&claims());
    let secret = json!({ "kty": "oct", "alg": "EdDSA", "kid": signer.id.to_string(), "k": "AAAA" });
    for unusable in [
        with("alg", json!("RS256")),
        with("alg", json!("ML-DSA-44")),
        with("alg", Value::Null),
        with("kid", Value::Null),
        with("kid", json!("../key")),
        with("crv", json!("P-256")),
        with("kty", json!("AKP")),
        secret,
        json!("no key"),
    ] {
        let alone = verdict(&token, &keys(std::slice::from_ref(&unusable)));
        assert_eq!(alone, Err(Refusal::SignatureFailed), "{unusable}");
        assert!(verdict(&token, &keys(&[unusable.clone(), signer.jwk()])).is_ok(), "{unusable}");
    }
    for no_set in ["", "[]", "{}", r#"{"keys": {}}"#] {
        assert!(PublicKeys::from_jwks(no_set.as_bytes()).is_err(), "{no_set}");
    }
}
