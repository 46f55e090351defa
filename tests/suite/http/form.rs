//! The form of requests and answers.

use serde_json::json;
use testkit::{Node, fresh};

#[tokio::test]
async fn unknown_path_is_404_in_the_error_format() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v2/users",
        "nothing",
        "users/me/nothing",
        "/favicon.ico",
        "/.well-known/nothing",
        "//api/v1/users/me",
        "/api/v1//users/me",
    ] {
        node.get(path).send().await.is_refused(404);
        ann.get(path).send().await.is_refused(404);
    }
}

#[tokio::test]
async fn wrong_method_is_405_and_lists_allowed_methods() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for (method, path, allowed) in [
        ("GET", "auth_token", &["POST", "DELETE"][..]),
        ("PUT", "users", &["GET", "POST"]),
        ("POST", "auth_token/validation", &["GET"]),
        ("GET", "auth_token/token_refresh", &["POST"]),
        ("PUT", "users/me", &["GET", "PATCH", "DELETE"]),
        ("DELETE", "/health/live", &["GET"]),
        ("POST", "/.well-known/jwks.json", &["GET"]),
    ] {
        for request in [node.request(method, path), ann.request(method, path)] {
            let answer = request.send().await;
            answer.is_refused(405);
            let allow = answer.header("allow").unwrap_or_default().to_owned();
            let listed: Vec<_> = allow.split(',').map(str::trim).collect();
            assert!(allowed.iter().all(|method| listed.contains(method)), "{method} {path}: Allow: {allow}");
            assert!(!listed.contains(&method), "{method} {path}: Allow: {allow}");
        }
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let node = Node::shared().await;
    for path in ["/health/live", "/.well-known/jwks.json"] {
        let answer = node.request("HEAD", path).send().await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{answer}");
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_415() {
    let node = Node::shared().await;
    let body = json!({"email": format!("{}@example.org", fresh("ann")), "password": "a secret of somebody"});
    for kind in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonx",
        "json",
    ] {
        for path in ["users", "auth_token"] {
            let answer = node.post(path).body(kind, body.to_string()).send().await;
            assert_eq!(answer.status, 415, "{kind:?}\n{answer}");
            answer.is_refused(415);
        }
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        let body =
            json!({"email": format!("{}@example.org", fresh("ann")), "password": "a secret of somebody"});
        node.post("users").body(kind, body.to_string()).send().await.is(201);
    }
}

#[tokio::test]
async fn body_that_is_not_json_is_400() {
    let node = Node::shared().await;
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"{\"email\":\"ann@example.org\",\"password\":\"x",
        b"{\"email\":\"ann@example.org\",}",
        b"{'email':'x'}",
        b"email=x&password=y",
        b"\xff\xfe",
        b"{\"email\":\"\xff\xfe@example.org\",\"password\":\"a secret of somebody\"}",
        b"{\"email\":\"a\"} {\"email\":\"b\"}",
        b"{\"email\":\"\\ud800\",\"password\":\"a secret of somebody\"}",
        b"{\"email\":NaN,\"password\":1e999}",
        b"\xef\xbb\xbf{}",
    ] {
        for path in ["users", "auth_token"] {
            let answer = node.post(path).body("application/json", body).send().await;
            assert_eq!(answer.status, 400, "{:?}\n{answer}", String::from_utf8_lossy(body));
            answer.is_refused(400);
        }
    }
    let deep = "[".repeat(30_000);
    node.post("users").body("application/json", deep).send().await.is_refused(400);
}

#[tokio::test]
async fn a_field_given_twice_is_400() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let body =
        format!(r#"{{"email":"{}","email":"x@example.org","password":"{}"}}"#, ann.email, ann.password);
    node.post("auth_token").body("application/json", body).send().await.is_refused(400);
}

#[tokio::test]
async fn a_body_beyond_64_kibibytes_is_413() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let long = json!({"email": "x".repeat(64 * 1024), "password": "x"});
    for path in ["users", "auth_token"] {
        node.post(path).json(&long).send().await.is_refused(413);
    }
    ann.patch("users/me").json(&json!({"first_name": "x".repeat(64 * 1024)})).send().await.is_refused(413);
    // Within it, it is read.
    let answer = node.log_in(&"x".repeat(60 * 1024), "x").await;
    assert!(matches!(answer.status, 400 | 401), "{answer}");
}

#[tokio::test]
async fn valid_request_id_is_kept_and_a_bad_one_replaced() {
    let node = Node::shared().await;
    for sane in ["x", "req-1", "01890a5d-ac96-774b-bcce-b302099a8057", "a/b=c:d;e,~!", &"i".repeat(128)] {
        for path in ["/health/live", "users/me", "nothing"] {
            let answer = node.get(path).header("x-request-id", sane).send().await;
            assert_eq!(answer.header("x-request-id"), Some(sane), "{path}");
        }
        node.get("users/me").header("x-request-id", sane).send().await.is_refused(401);
    }
    let mut made = std::collections::BTreeSet::new();
    for insane in ["", "a b", "a\tb", "ä", &"i".repeat(129), &"i".repeat(5_000)] {
        let answer = node.get("users/me").header("x-request-id", insane).send().await;
        let id = answer.is_refused(401).field("request_id");
        assert!(!id.is_empty() && id != insane && id.len() <= 128, "{insane:?} became {id:?}");
        assert!(made.insert(id), "an id was made twice");
    }
    let two = node.get("users/me").send().await.field("request_id");
    assert!(made.insert(two));
}

#[tokio::test]
async fn a_request_id_is_in_the_log() {
    let node = Node::shared().await;
    let done = fresh("look-for-me");
    let refused = fresh("look-for-me-too");
    let body = json!({"email": format!("{}@example.org", fresh("ann")), "password": fresh("a secret")});
    node.post("users").header("x-request-id", &done).json(&body).send().await.is(201);
    node.post("users").header("x-request-id", &refused).json(&json!({})).send().await.is_refused(400);
    for id in [done, refused] {
        node.logs_with(&id).await;
    }
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for path in [
        "/health/live",
        "/health/ready",
        "/metrics",
        "/openapi.json",
        "/.well-known/jwks.json",
        "users/me",
        "auth_token/validation",
        "nothing",
    ] {
        assert!(ann.get(path).send().await.header("x-request-id").is_some(), "{path}");
    }
}
