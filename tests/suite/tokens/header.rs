//! The `Authorization` header and the shape of what is in it: the table of token answers, row by
//! row, on the hot path and on an ordinary route.

use std::time::Duration;
use testkit::{Node, Raw, Shared, eventually, raw::Reply};

/// The table must be the same everywhere.
const ROUTES: [&str; 3] = ["auth_token/validation", "users/me", "users/me/sessions"];

const OTHER_SCHEME: &str =
    "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'";
const BAD_HEADER: &str = "Bad Authorization header. Expected 'Authorization: Bearer <JWT>'";

async fn refuses(node: &Node, value: &[u8], status: u16, msg: &str) {
    for route in ROUTES {
        node.get(route).authorization(value).send().await.is_error(status, msg);
    }
}

#[tokio::test]
async fn scheme_is_accepted_in_any_case_and_spacing() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    ann.is_in().await;
    for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer  ", "Bearer     "] {
        for route in ROUTES {
            let value = format!("{scheme}{}", ann.access);
            node.get(route).authorization(value.as_bytes()).send().await.is(200);
        }
    }
}

#[tokio::test]
async fn absent_or_empty_header_is_missing() {
    let node = Node::shared().await;
    for route in ROUTES {
        node.get(route).send().await.is_error(401, "Missing Authorization Header");
    }
    refuses(&node, b"", 401, "Missing Authorization Header").await;
}

#[tokio::test]
async fn other_scheme_is_told_to_use_bearer() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let token = &ann.access;
    for value in [
        "Basic YW5uOnNlY3JldA==".to_owned(),
        format!("JWT {token}"),
        format!("Bearer{token}"),
        format!("Bearer:{token}"),
        token.clone(),
        format!("Token {token}"),
    ] {
        refuses(&node, value.as_bytes(), 401, OTHER_SCHEME).await;
    }
}

#[tokio::test]
async fn bearer_with_no_token_or_two_parts_is_malformed() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let token = &ann.access;
    for value in [
        "Bearer".to_owned(),
        "bearer".to_owned(),
        "Bearer x y".to_owned(),
        format!("Bearer {token} {token}"),
        format!("Bearer {token} x"),
        format!("Bearer Bearer {token}"),
    ] {
        refuses(&node, value.as_bytes(), 422, BAD_HEADER).await;
    }
}

#[tokio::test]
async fn token_without_exactly_three_segments_is_malformed() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let token = &ann.access;
    let (two, _) = token.rsplit_once('.').unwrap();
    for value in
        ["x", ".", "a.b", "a.b.c.d", "a.b.c.d.e", "....", two, &format!("{token}."), &format!(".{token}")]
    {
        refuses(&node, format!("Bearer {value}").as_bytes(), 422, "Not enough segments").await;
    }
    refuses(&node, format!("Bearer {token}.{token}").as_bytes(), 422, "Not enough segments").await;
}

#[tokio::test]
async fn whitespace_inside_a_token_is_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let (two, signature) = ann.access.rsplit_once('.').unwrap();
    refuses(&node, format!("Bearer {two}. {signature}").as_bytes(), 422, BAD_HEADER).await;
    refuses(&node, format!("Bearer {two}.\t{signature}").as_bytes(), 422, BAD_HEADER).await;
}

#[tokio::test]
async fn bytes_that_are_not_text_are_refused() {
    let node = Node::shared().await;
    refuses(&node, b"Bearer \xff\xfe.\x80.\xc3\x28", 422, "Signature verification failed").await;
    refuses(&node, b"Bearer \xff\xfe", 422, "Not enough segments").await;
    refuses(&node, "Bearer ä.ö.ü".as_bytes(), 422, "Signature verification failed").await;
    // A scheme that is not text is another scheme.
    refuses(&node, b"B\xffarer a.b.c", 401, OTHER_SCHEME).await;
}

#[tokio::test]
async fn refresh_token_is_refused_as_access_token() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    refuses(&node, format!("Bearer {}", ann.refresh).as_bytes(), 422, "Only non-refresh tokens are allowed")
        .await;
    refuses(&node, b"Bearer prt_made_up", 422, "Only non-refresh tokens are allowed").await;
}

#[tokio::test]
async fn two_authorization_headers_are_malformed() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    for route in ROUTES {
        let twice = node.get(route).bearer(&ann.access).bearer(&ann.access).send().await;
        twice.is_refused(400);
        node.get(route).bearer(&ann.access).bearer(&bob.access).send().await.is_refused(400);
        node.get(route).bearer(&ann.access).authorization(b"").send().await.is_refused(400);
        node.get(route).authorization(b"Basic eDp5").bearer(&ann.access).send().await.is_refused(400);
    }
}

#[tokio::test]
async fn expired_token_is_reported_as_expired_only() {
    static BRIEF: Shared = Shared::with(&[("ACCESS_TTL", "2s")]);
    let node = BRIEF.node().await;
    let ann = node.register("ann").await;
    ann.is_in().await;
    let bound = Duration::from_secs(8);
    let expired = eventually(bound, "the token expires", async || {
        let answer = ann.validate().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    expired.is_error(401, "Token has expired");
    refuses(&node, format!("Bearer {}", ann.access).as_bytes(), 401, "Token has expired").await;
    // Expiry is looked at after the signature: a changed token that has expired is a bad one.
    let changed = testkit::forge::parts(&ann.access).with_claim("uv", 7.into());
    refuses(&node, format!("Bearer {changed}").as_bytes(), 422, "Signature verification failed").await;
}

#[tokio::test]
async fn revoked_token_is_reported_as_revoked() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    ann.delete("auth_token").send().await.is_done();
    refuses(&node, format!("Bearer {}", ann.access).as_bytes(), 401, "Token has been revoked").await;
}

#[tokio::test]
async fn a_token_of_64_kilobytes_is_refused() {
    let node = Node::shared().await;
    for token in [format!("{}.b.c", "a".repeat(64 * 1024)), "a".repeat(64 * 1024), ".".repeat(64 * 1024)] {
        let request = format!(
            "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let reply = Raw::to(&node).await.exchange(request, Duration::from_secs(10)).await;
        assert!(reply.is_clear_refusal(), "{reply:?}");
    }
    // Within what headers may have, the answer is the table's.
    let token = format!("{}.b.c", "a".repeat(6 * 1024));
    refuses(&node, format!("Bearer {token}").as_bytes(), 422, "Signature verification failed").await;
}

#[tokio::test]
async fn the_token_is_read_from_the_header_only() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let path = format!("auth_token/validation?access_token={}&token={}", ann.access, ann.access);
    node.get(&path).send().await.is_error(401, "Missing Authorization Header");
    let cookie = format!("access_token={}", ann.access);
    let answer = node.get("auth_token/validation").header("cookie", &cookie).send().await;
    answer.is_error(401, "Missing Authorization Header");
}

#[tokio::test]
async fn a_folded_header_is_refused_or_read_as_one() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let request = format!(
        "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n {}\r\n\r\n",
        ann.access
    );
    let reply = Raw::to(&node).await.exchange(request, Duration::from_secs(10)).await;
    let refused = reply.is_clear_refusal() || matches!(reply, Reply::Answer { status: 200, .. });
    assert!(refused, "{reply:?}");
}
