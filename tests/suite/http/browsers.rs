//! Browsers of other origins: allowed only where the settings say so.

use testkit::{Node, Shared};

static FILMS: Shared = Shared::with(&[("CORS_ORIGINS", "https://films.example.org,http://localhost:3000")]);

fn preflight(node: &Node, origin: &str) -> testkit::Request {
    node.request("OPTIONS", "users/me")
        .header("origin", origin)
        .header("access-control-request-method", "PATCH")
        .header("access-control-request-headers", "authorization,content-type")
}

#[tokio::test]
async fn an_origin_of_the_settings_is_allowed() {
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
async fn without_the_setting_nobody_is_allowed() {
    let node = Node::shared().await;
    for origin in ["https://films.example.org", "null"] {
        let answer = preflight(&node, origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer}");
        let answer = node.get("users/me").header("origin", origin).send().await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer}");
    }
}
