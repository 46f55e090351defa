//! Parsing an access token before its signature is verified.
//!
//! The header has `alg`, `kid`, `typ` and nothing else: `jwk`, `jku`, `x5c`, `x5u`, `crit` and `b64` are
//! rejected as unknown. Base64 must be canonical (no padding, no stray bits), JSON must have no repeated
//! keys and nothing after its end.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use schema::{
    KeyId, Refusal, Timestamp, UserId,
    time::CLOCK_SKEW,
    token::{AccessClaims, Algorithm, MAX_TOKEN_BYTES, REFRESH_PREFIX, access::ACCESS_TYPE},
    version::MAX_VERSION,
};
use serde::{Deserialize, Serialize};

use crate::claims::{Claims, Expected};

/// The header of an access token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The signature algorithm. Any other one (`none`, `HS256`, …) does not parse.
    pub alg: Algorithm,
    /// The id of the key that signed.
    pub kid: KeyId,
    /// `JWT`, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typ: Option<Typ>,
}

/// The only media type of access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Typ {
    /// RFC 7519, section 5.1.
    JWT,
}

/// A token with the right shape and plausible claims, whose signature is not verified yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    header: Header,
    claims: Claims,
    text: &'a str,
}

impl<'a> Unverified<'a> {
    /// Parses a token's shape, header and claims.
    ///
    /// # Errors
    /// `NotEnoughSegments`; `NotAccess` if it begins like a refresh token; `SignatureFailed` for everything
    /// else, because the answer must disclose nothing about an unsigned token.
    pub fn parse(token: &'a [u8], expected: &Expected, now: Timestamp) -> Result<Self, Refusal> {
        if token.iter().filter(|b| **b == b'.').count() != 2 {
            let refresh = token.starts_with(REFRESH_PREFIX.as_bytes());
            return Err(if refresh { Refusal::NotAccess } else { Refusal::NotEnoughSegments });
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::SignatureFailed);
        }
        Self::read(token, expected, now).ok_or(Refusal::SignatureFailed)
    }

    fn read(token: &'a [u8], expected: &Expected, now: Timestamp) -> Option<Self> {
        let token = std::str::from_utf8(token).ok()?;
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        // The signature is decoded here too, so that only its canonical form has the right shape.
        if URL_SAFE_NO_PAD.decode(signature).ok()?.is_empty() {
            return None;
        }
        let header: Header = segment(header)?;
        let claims: Claims = segment(payload)?;
        let latest = now.plus(CLOCK_SKEW).as_secs();
        let plausible = claims.iss == expected.issuer
            && claims.aud == expected.audience
            && claims.iat <= latest
            && claims.nbf.is_none_or(|nbf| nbf <= latest);
        plausible.then_some(Self { header, claims, text: token })
    }

    /// The id of the key that allegedly signed the token.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.header.kid
    }

    /// The alleged signature algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.header.alg
    }

    /// The alleged user.
    #[must_use]
    pub const fn user(&self) -> UserId {
        self.claims.sub
    }

    /// The alleged time of issue, in seconds since the epoch.
    #[must_use]
    pub const fn issued_at(&self) -> u64 {
        self.claims.iat
    }

    /// The whole token: the signed text, a dot, and the signature in canonical base64url.
    #[must_use]
    pub const fn text(&self) -> &str {
        self.text
    }

    /// The claims. Only for a caller that has verified the signature with [`Self::key`].
    #[must_use]
    pub fn into_verified(self) -> AccessClaims {
        AccessClaims {
            user: self.claims.sub,
            session: self.claims.sid,
            token: self.claims.jti,
            key: self.header.kid,
            version: self.claims.uv.min(MAX_VERSION),
            issued_at: self.claims.iat,
            expires_at: self.claims.exp,
            is_access: self.claims.r#type == ACCESS_TYPE,
        }
    }
}

fn segment<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn expected() -> Expected {
        Expected { issuer: "palisade".into(), audience: "palisade".into() }
    }

    fn claims() -> Value {
        json!({"iss": "palisade", "aud": "palisade", "sub": ID, "sid": ID, "jti": ID,
               "iat": 1_800_000_000, "exp": 1_800_000_900, "uv": 3, "type": "access"})
    }

    fn header() -> Value {
        json!({"alg": "EdDSA", "kid": ID, "typ": "JWT"})
    }

    fn token(header: &str, payload: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(header);
        let payload = URL_SAFE_NO_PAD.encode(payload);
        format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode([1; 64]))
    }

    fn parse(token: &str) -> Result<AccessClaims, Refusal> {
        Unverified::parse(token.as_bytes(), &expected(), NOW).map(Unverified::into_verified)
    }

    fn with_claim(name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        token(&header().to_string(), &claims.to_string())
    }

    #[test]
    fn plausible_token_parses() {
        let read = parse(&token(&header().to_string(), &claims().to_string())).unwrap();
        assert_eq!((read.version, read.expires_at, read.is_access), (3, 1_800_000_900, true));
    }

    #[test]
    fn token_must_have_three_segments() {
        for text in ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "prt.", "...."] {
            assert_eq!(parse(text).unwrap_err(), Refusal::NotEnoughSegments, "{text:?}");
        }
        assert_eq!(parse("prt_AAAA").unwrap_err(), Refusal::NotAccess);
        assert_eq!(parse("a.b.c").unwrap_err(), Refusal::SignatureFailed);
        assert_eq!(parse("..").unwrap_err(), Refusal::SignatureFailed);
        let long = format!("{}.b.c", "a".repeat(64 * 1024));
        assert_eq!(parse(&long).unwrap_err(), Refusal::SignatureFailed);
        let refusal = Unverified::parse(b"\xff.\xfe.\xfd", &expected(), NOW).unwrap_err();
        assert_eq!(refusal, Refusal::SignatureFailed);
    }

    #[test]
    fn token_with_a_missing_or_mistyped_claim_is_refused() {
        for name in ["iss", "aud", "sub", "sid", "jti", "iat", "exp", "uv", "type"] {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            let missing = token(&header().to_string(), &without.to_string());
            assert_eq!(parse(&missing).unwrap_err(), Refusal::SignatureFailed, "{name} missing");
            for value in [json!(null), json!([]), json!({}), json!(true), json!(-1), json!(1.5)] {
                let refusal = parse(&with_claim(name, value.clone())).unwrap_err();
                assert_eq!(refusal, Refusal::SignatureFailed, "{name} = {value}");
            }
        }
        for name in ["sub", "sid", "jti"] {
            let simple = ID.replace('-', "");
            for value in [json!("x"), json!(simple), json!(format!("{{{ID}}}")), json!(7)] {
                assert!(parse(&with_claim(name, value.clone())).is_err(), "{name} = {value}");
            }
        }
        for value in [json!("palisade2"), json!(["palisade"]), json!("Palisade"), json!("")] {
            assert!(parse(&with_claim("iss", value.clone())).is_err(), "iss = {value}");
            assert!(parse(&with_claim("aud", value.clone())).is_err(), "aud = {value}");
        }
        for raw in ["NaN", "1e400", "1e9", "\"1800000900\"", "18446744073709551616"] {
            let payload = claims().to_string().replace("1800000900", raw);
            assert!(parse(&token(&header().to_string(), &payload)).is_err(), "exp = {raw}");
        }
    }

    #[test]
    fn token_from_the_future_is_refused_beyond_the_skew() {
        for name in ["iat", "nbf"] {
            assert!(parse(&with_claim(name, json!(1_800_000_060))).is_ok(), "{name}");
            assert!(parse(&with_claim(name, json!(1_800_000_061))).is_err(), "{name}");
        }
    }

    #[test]
    fn header_with_other_parameters_is_refused() {
        let payload = claims().to_string();
        for alg in ["none", "None", "NONE", "nOnE", "HS256", "HS512", "RS512", "PS256", "eddsa", ""] {
            let mut header = header();
            header["alg"] = json!(alg);
            assert!(parse(&token(&header.to_string(), &payload)).is_err(), "{alg}");
        }
        for (name, value) in [
            ("jwk", json!({"kty": "OKP"})),
            ("jku", json!("http://127.0.0.1/")),
            ("x5c", json!([])),
            ("x5u", json!("http://127.0.0.1/")),
            ("crit", json!(["exp"])),
            ("b64", json!(false)),
            ("typ", json!("JWS")),
            ("cty", json!("JWT")),
        ] {
            let mut header = header();
            header[name] = value;
            assert!(parse(&token(&header.to_string(), &payload)).is_err(), "{name}");
        }
        for kid in ["../../etc/passwd", "' OR 1=1 --", "", &"k".repeat(4000)] {
            let mut header = header();
            header["kid"] = json!(kid);
            assert!(parse(&token(&header.to_string(), &payload)).is_err(), "{kid}");
        }
    }

    #[test]
    fn json_is_parsed_strictly() {
        let header = header().to_string();
        let payload = claims().to_string();
        let twice = payload.replace("\"uv\":3", "\"uv\":3,\"uv\":4");
        assert_ne!(twice, payload);
        assert!(parse(&token(&header, &twice)).is_err());
        let twice = header.replace("\"alg\":", "\"alg\":\"EdDSA\",\"alg\":");
        assert!(parse(&token(&twice, &payload)).is_err());
        assert!(parse(&token(&header, &format!("{payload}x"))).is_err());
        assert!(parse(&token(&header, &format!("{payload}{payload}"))).is_err());
        assert!(parse(&token(&header, &format!("[{payload}]"))).is_err());
        assert!(parse(&token(&header, "")).is_err());
        assert!(parse(&token(&header, &format!("\"{ID}\""))).is_err());
    }

    #[test]
    fn base64_must_be_canonical() {
        let good = token(&header().to_string(), &claims().to_string());
        assert!(parse(&good).is_ok());
        // 64 bytes leave 4 stray bits in the last character: `A` and `B` decode to the same bytes
        // in a lenient decoder.
        let (message, signature) = good.rsplit_once('.').unwrap();
        let stray = format!("{message}.{}R", &signature[..signature.len() - 1]);
        for bad in [
            format!("{good}=="),
            format!("{good} "),
            stray,
            format!("{message}."),
            good.replace('_', "/") + "+",
        ] {
            assert_eq!(parse(&bad).unwrap_err(), Refusal::SignatureFailed, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(token: Vec<u8>) {
            let _ = Unverified::parse(&token, &expected(), NOW);
        }

        #[test]
        fn dotted_text_is_refused(a in "[A-Za-z0-9_-]{0,80}", b in "[A-Za-z0-9_-]{0,80}", c in "[A-Za-z0-9_-]{0,80}") {
            let token = [a, b, c].join(".");
            proptest::prop_assert!(parse(&token).is_err());
        }
    }
}
