//! What the node issues: the claims, the header, and the set of keys that others verify with.

use serde_json::json;
use testkit::{Node, forge};

fn now() -> u64 {
    // The system's clock is what the node's claims are compared with.
    #[allow(clippy::disallowed_methods, reason = "there is no clock to be given to a test from outside")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn access_token_names_user_session_and_expiry() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    let claims = &parts.claims;
    assert_eq!(parts.header["alg"], "EdDSA");
    assert!(node.published_kids().await.contains(parts.header["kid"].as_str().unwrap()));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("palisade"), &json!("palisade")));
    assert_eq!(claims["sub"], ann.uuid.as_str());
    assert_eq!(claims["sid"], ann.session().await.as_str());
    assert_eq!(claims["type"], "access");
    assert!(claims["uv"].is_u64());
    assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
    let iat = claims["iat"].as_u64().unwrap();
    let exp = claims["exp"].as_u64().unwrap();
    assert_eq!(exp - iat, 15 * 60);
    assert!(now().abs_diff(iat) < 60, "iat is {iat}, now is {}", now());
}

#[tokio::test]
async fn no_two_tokens_have_the_same_id() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let next = other.refreshed().await;
    let claim = |token: &str, name: &str| forge::parts(token).claims[name].clone();
    assert_ne!(claim(&ann.access, "jti"), claim(&other.access, "jti"));
    assert_ne!(claim(&other.access, "jti"), claim(&next.access, "jti"));
    assert_ne!(claim(&ann.access, "sid"), claim(&other.access, "sid"));
    assert_eq!(claim(&other.access, "sid"), claim(&next.access, "sid"));
}

#[tokio::test]
async fn a_refresh_token_is_opaque_and_long() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    assert!(ann.refresh.starts_with("prt_"));
    // 256 random bits are 43 characters of base64url.
    assert!(ann.refresh.len() >= 4 + 43, "{} characters", ann.refresh.len());
    assert!(!ann.refresh.contains('.'));
}

#[tokio::test]
async fn issuer_and_audience_match_the_settings() {
    let node = Node::builder()
        .setting("ISSUER", "https://id.example.org")
        .setting("AUDIENCE", "films")
        .start()
        .await;
    let ann = node.register("ann").await;
    let claims = forge::parts(&ann.access).claims;
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("https://id.example.org"), &json!("films")));
    ann.is_in().await;
    let stranger = Node::shared().await.register("bob").await;
    node.validate(&stranger.access).await.is_error(422, "Signature verification failed");
}

#[tokio::test]
async fn published_keys_are_a_jwk_set_without_private_parts() {
    let node = Node::shared().await;
    let answer = node.get("/.well-known/jwks.json").send().await;
    let kind = answer.is(200).header("content-type").unwrap_or_default().to_owned();
    assert!(kind.starts_with("application/json") || kind.starts_with("application/jwk-set+json"), "{kind}");
    let jwks: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")));
        assert_eq!(forge::bytes(key["x"].as_str().unwrap()).len(), 32);
        assert!(key["kid"].is_string());
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "a private part: {private}");
        }
    }
}
