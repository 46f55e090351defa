//! In which order a token is checked, wherever one is taken: shape, signature, expiry, type,
//! revocation. What comes first is what is answered.

use std::time::Duration;

use serde_json::json;
use testkit::{Answer, Node, Person, eventually, forge};

/// Each kind of token, what is wrong with it, and what is answered where an access token is due and
/// where a refresh token is due.
type Row<'a> = (&'a str, String, (u16, &'a str), (u16, &'a str));

const VALID: (u16, &str) = (200, "Token is valid");
const EXPIRED: (u16, &str) = (401, "Token has expired");
const REVOKED: (u16, &str) = (401, "Token has been revoked");
const SEGMENTS: (u16, &str) = (422, "Not enough segments");
const SIGNATURE: (u16, &str) = (422, "Signature verification failed");
const NOT_ACCESS: (u16, &str) = (422, "Only non-refresh tokens are allowed");
const NOT_REFRESH: (u16, &str) = (422, "Only refresh tokens are allowed");

fn is(answer: &Answer, expected: (u16, &str), what: &str) {
    let said = (answer.status, answer.field("msg"));
    assert_eq!(said, (expected.0, expected.1.to_owned()), "{what}\n{answer}");
}

/// Tokens that are expired by now: of a live session, and of one that has ended.
async fn expired(node: &Node) -> (String, String) {
    let late = node.register("late").await;
    let ended = node.register("ended").await;
    ended.delete("auth_token").send().await.is_done();
    for person in [&late, &ended] {
        eventually(Duration::from_secs(20), "the token expires", async || {
            (person.validate().await.field("msg") == EXPIRED.1).then_some(())
        })
        .await;
    }
    (late.access, ended.access)
}

async fn ended(node: &Node, path: &str) -> Person {
    let person = node.register("ended").await;
    person.delete(path).send().await.is_done();
    person
}

#[tokio::test]
async fn first_defect_of_a_token_is_reported() {
    let node = Node::builder().setting("ACCESS_TTL", "3s").start().await;
    let (expired, expired_and_ended) = expired(&node).await;
    node.terminate().await;
    let node = node.successor().setting("ACCESS_TTL", "15m").start().await;
    let ann = node.register("ann").await;
    let out = ended(&node, "auth_token").await;
    let everywhere = ended(&node, "auth_token/all").await;
    let forged = |token: &str| forge::parts(token).with_claim("uv", json!(9));
    let rows: [Row<'_>; 12] = [
        ("a good one", ann.access.clone(), VALID, NOT_REFRESH),
        ("of an ended session", out.access.clone(), REVOKED, NOT_REFRESH),
        ("of a user who logged out everywhere", everywhere.access.clone(), REVOKED, NOT_REFRESH),
        ("expired", expired.clone(), EXPIRED, EXPIRED),
        ("expired, of an ended session", expired_and_ended.clone(), EXPIRED, EXPIRED),
        ("forged", forged(&ann.access), SIGNATURE, SIGNATURE),
        ("forged, expired", forged(&expired), SIGNATURE, SIGNATURE),
        ("forged, of an ended session", forged(&out.access), SIGNATURE, SIGNATURE),
        ("no token", "a.b".into(), SEGMENTS, SEGMENTS),
        ("of empty segments", "..".into(), SIGNATURE, SIGNATURE),
        ("a refresh token of an ended session", out.refresh.clone(), NOT_ACCESS, REVOKED),
        ("an invented refresh token", "prt_x".into(), NOT_ACCESS, REVOKED),
    ];
    for (what, token, as_access, as_refresh) in rows {
        is(&node.validate(&token).await, as_access, what);
        // Whether or not the token was seen before.
        for _ in 0..2 {
            is(&node.refresh(&token).await, as_refresh, what);
        }
        let batch = ann.post("auth_token/validation/batch").json(&json!({"tokens": [token]})).send().await;
        let verdict = batch.is(200).json()[0].clone();
        assert_eq!(
            (verdict["status"].as_u64(), verdict["msg"].as_str()),
            (Some(as_access.0.into()), Some(as_access.1)),
            "{what}"
        );
        let gateway = node.get("/auth_request").bearer(&token).send().await;
        if as_access == VALID {
            gateway.is_done();
            continue;
        }
        // For gateways every refusal is 401, with the same sentence.
        is(&gateway, (401, as_access.1), what);
        for (method, path) in [
            ("GET", "users/me"),
            ("GET", "users/me/combined_permissions/validation?permissions=%22x%22"),
            ("DELETE", "auth_token"),
            ("DELETE", "auth_token/all"),
            ("POST", "auth_token/validation/batch"),
            ("POST", "users/me/password"),
            ("GET", "permissions"),
        ] {
            let answer = node.request(method, path).bearer(&token).json(&json!({})).send().await;
            is(&answer, as_access, &format!("{what}: {method} {path}"));
        }
    }
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
}
