//! `/auth_request`: the question of gateways (nginx, Traefik, Caddy), which understand only
//! 2xx, 401 and 403.

use serde_json::json;
use testkit::{Node, fresh};

#[tokio::test]
async fn gateway_learns_the_users_id() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let answer = ann.get("/auth_request").send().await;
    answer.is_done();
    assert_eq!(answer.header("x-auth-user"), Some(ann.uuid.as_str()));
    assert_eq!(answer.header("x-auth-session"), Some(ann.session().await.as_str()));
    assert_eq!(answer.header("x-auth-kind"), Some("user"));
}

#[tokio::test]
async fn invalid_token_is_401_for_any_reason() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    node.get("/auth_request").send().await.is_refused(401);
    node.get("/auth_request").authorization(b"Basic x").send().await.is_refused(401);
    ann.delete("auth_token").send().await.is_done();
    let out = ann.get("/auth_request").send().await;
    out.is_error(401, "Token has been revoked");
    assert!(out.header("x-auth-user").is_none());
    // nginx turns any other 4xx of its subrequest into a 500: a bad token must not do that.
    for token in ["x", "a.b.c", "prt_x", &ann.refresh] {
        let answer = node.get("/auth_request").bearer(token).send().await;
        assert!(matches!(answer.status, 401 | 403), "{answer}");
        answer.is_refused(answer.status);
    }
}

#[tokio::test]
async fn user_without_the_permission_is_403() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let path = format!("/auth_request?permissions=%22{films}%22");
    ann.get(&path).send().await.is_refused(403);
    root.gives(&ann, &films).await.is(200);
    ann.get(&path).send().await.is_done();
    let query =
        format!("/auth_request?permissions=%7B%22all%22%3A%5B%22{films}%22%2C%22{}%22%5D%7D", fresh("x"));
    ann.get(&query).send().await.is_refused(403);
    root.takes(&ann, &films).await.is(200);
    ann.get(&path).send().await.is_refused(403);
    node.get(&path).send().await.is_refused(401);
}

#[tokio::test]
async fn malformed_query_lets_no_request_through() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for query in ["permissions=", "permissions=nonsense", "permissions=%22a%22&permissions=%22b%22"] {
        let answer = ann.get(&format!("/auth_request?{query}")).send().await;
        assert!(answer.status >= 400, "{query}\n{answer}");
        answer.is_refused(answer.status);
    }
}

#[tokio::test]
async fn client_cannot_supply_its_own_identity() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let answer = ann.get("/auth_request").header("x-auth-user", &bob.uuid).send().await;
    assert_eq!(answer.is(204).header("x-auth-user"), Some(ann.uuid.as_str()));
    let body = json!({"tokens": []});
    ann.post("auth_token/validation/batch").header("x-auth-user", &bob.uuid).json(&body).send().await.is(200);
}

/// No refusal names anybody: some gateways pass a refusal's headers on.
fn names_no_user(answer: &testkit::Answer) {
    for name in ["x-auth-user", "x-auth-session", "x-auth-kind"] {
        assert!(answer.header(name).is_none(), "{answer}");
    }
}

#[tokio::test]
async fn unknown_or_repeated_parameter_lets_no_request_through() {
    let node = Node::start().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    root.gives(&ann, &films).await.is(200);
    let good = format!("permissions=%22{films}%22");
    // Asked before, so that the query is known by its text.
    let check = async |query: &str| {
        ann.get(&format!("users/me/combined_permissions/validation?{query}")).send().await
    };
    for query in [
        format!("permision=%22{films}%22"),
        format!("Permissions=%22{films}%22"),
        format!("x;permissions=%22{films}%22"),
        format!("{good}&{good}"),
        format!("{good}&x=1"),
        format!("x=1&{good}"),
        format!("{good}&x"),
        format!("permissions[]=%22{films}%22"),
        format!("%20permissions=%22{films}%22"),
        format!("permissions%3D%22{films}%22"),
        "x".into(),
        "=".into(),
        "_=1700000000".into(),
    ] {
        check(&query).await;
        let path = format!("/auth_request?{query}");
        // By the fast path, by the router, and again when all of it may be remembered.
        for request in [ann.get(&path), ann.get(&path).header("origin", "http://x"), ann.get(&path)] {
            let answer = request.send().await;
            answer.is_refused(403);
            assert_eq!(answer.field("code"), "unknown_parameter", "{path}");
            names_no_user(&answer);
        }
        let head = ann.request("HEAD", &path).send().await;
        assert_eq!(head.status, 403, "{path}");
        names_no_user(&head);
        node.get(&path).send().await.is_refused(401);
    }
    // The usual one passes still, however its name is written.
    for query in [good.clone(), format!("permission%73=%22{films}%22"), format!("&{good}&")] {
        ann.get(&format!("/auth_request?{query}")).send().await.is_done();
    }
    ann.get("/auth_request?").send().await.is_done();
    let warning = "unknown or repeated parameter";
    assert_eq!(node.logs_with(warning).await.matches(warning).count(), 1, "one warning a minute");
}

#[tokio::test]
async fn unknown_palisade_header_lets_no_request_through() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for name in ["X-Auth-Permissions", "x-auth-permision", "X-Auth-Query"] {
        for request in [ann.get("/auth_request"), ann.get("/auth_request").header("origin", "http://x")] {
            let answer = request.header(name, "\"films\"").send().await;
            answer.is_refused(403);
            assert_eq!(answer.field("code"), "unknown_parameter", "{name}");
            names_no_user(&answer);
        }
    }
    for name in ["X-Auth-User", "X-Auth-Session", "X-Auth-Kind", "X-Authority"] {
        let answer = ann.get("/auth_request").header(name, "service").send().await;
        answer.is_done();
        assert_eq!(answer.header("x-auth-kind"), Some("user"));
    }
}

#[tokio::test]
async fn only_get_is_allowed_for_a_gateway() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = ann.request(method, "/auth_request").send().await;
        answer.is_refused(405);
        names_no_user(&answer);
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{answer}");
    }
    let head = ann.request("HEAD", "/auth_request").send().await;
    assert_eq!((head.status, head.header("x-auth-user")), (204, Some(ann.uuid.as_str())));
}
