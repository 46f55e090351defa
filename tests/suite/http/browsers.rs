//! Browsers of other origins: allowed only where the settings say so.

use testkit::{Node, Shared};

static FILMS: Shared = Shared::with(&[("CORS_ORIGINS", "https://films.example.org,http://localhost:3000")]);

static APPLICATIONS: Shared = Shared::with(&[(
    "CORS_ORIGINS",
    "https://Admin.Example.org/, https://shop.example.org:443, capacitor://localhost, http://Localhost:80",
)]);

#[tokio::test]
async fn origins_match_however_they_are_written() {
    let node = APPLICATIONS.node().await;
    for origin in
        ["https://admin.example.org", "https://shop.example.org", "capacitor://localhost", "http://localhost"]
    {
        let answer = preflight(&node, origin).send().await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer}");
        let answer = node.get("users/me").header("origin", origin).send().await;
        assert_eq!(answer.is_refused(401).header("access-control-allow-origin"), Some(origin));
    }
    for origin in ["https://admin.example.org:8443", "ionic://localhost", "https://localhost"] {
        let answer = preflight(&node, origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{origin}\n{answer}");
    }
}

#[tokio::test]
async fn preflight_allows_headers_that_browser_libraries_add() {
    let node = FILMS.node().await;
    let origin = "https://films.example.org";
    let added = ["traceparent", "tracestate", "baggage", "x-requested-with", "x-csrf-token", "x-request-id"];
    let answer = node
        .request("OPTIONS", "auth_token")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", &added.join(","))
        .send()
        .await;
    let allowed = answer.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
    for name in added {
        assert!(allowed.split(',').any(|allowed| allowed.trim() == name), "{name}: {answer}");
    }
    let age = answer.header("access-control-max-age").and_then(|age| age.parse::<u64>().ok());
    assert!(age.is_some_and(|age| (600..=86_400).contains(&age)), "{answer}");
    let answer = node.get("users/me").header("origin", origin).send().await;
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default().to_lowercase();
    for name in ["x-request-id", "retry-after", "www-authenticate", "palisade-visible", "palisade-stale"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name}: {answer}");
    }
}

fn preflight(node: &Node, origin: &str) -> testkit::Request {
    node.request("OPTIONS", "users/me")
        .header("origin", origin)
        .header("access-control-request-method", "PATCH")
        .header("access-control-request-headers", "authorization,content-type")
}

#[tokio::test]
async fn plain_options_are_answered_as_without_cors() {
    let node = FILMS.node().await;
    let origin = "https://films.example.org";
    for path in ["/auth_request", "/auth_request?permissions=%22x%22", "/api/v1/users/me", "/nothing"] {
        let refused = if path == "/nothing" { 404 } else { 405 };
        node.request("OPTIONS", path).send().await.is_refused(refused);
        node.request("OPTIONS", path).header("origin", origin).send().await.is_refused(refused);
    }
    // A gateway takes any 2xx for leave to pass, and asks with the client's own method and headers.
    let asked = node.request("OPTIONS", "/auth_request").header("origin", origin);
    asked.header("access-control-request-method", "GET").send().await.is_refused(405);
}

#[tokio::test]
async fn configured_origin_is_allowed() {
    let node = FILMS.node().await;
    for origin in ["https://films.example.org", "http://localhost:3000"] {
        let answer = preflight(&node, origin).send().await;
        assert!(matches!(answer.status, 200 | 204), "{answer}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let allowed = |name: &str| answer.header(name).unwrap_or_default().to_lowercase();
        assert!(allowed("access-control-allow-methods").contains("patch"), "{answer}");
        let headers = allowed("access-control-allow-headers");
        assert!(headers.contains("authorization") && headers.contains("content-type"), "{answer}");
        let answer = node.get("users/me").header("origin", origin).send().await;
        answer.is_refused(401);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "errors can be read too");
        let vary = answer.header("vary").unwrap_or_default().to_lowercase();
        assert!(vary.contains("origin"), "a cache must not mix up origins: {answer}");
    }
}

#[tokio::test]
async fn another_origin_is_not_allowed() {
    let node = FILMS.node().await;
    for origin in [
        "https://evil.example.org",
        "http://films.example.org",
        "https://films.example.org.evil.example",
        "https://films.example.org:8443",
        "https://xfilms.example.org",
        "null",
        "*",
        "",
    ] {
        let answer = preflight(&node, origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{origin}\n{answer}");
        let answer = node.get("/health/live").header("origin", origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{origin}\n{answer}");
    }
}

#[tokio::test]
async fn no_origin_is_allowed_without_the_setting() {
    let node = Node::shared().await;
    for origin in ["https://films.example.org", "null"] {
        let answer = preflight(&node, origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer}");
        let answer = node.get("users/me").header("origin", origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer}");
    }
}
