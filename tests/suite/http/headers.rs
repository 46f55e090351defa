//! Headers that say why a token is refused, and what browsers must not do with an answer.

use serde_json::json;
use testkit::{Answer, Node};

const NO_PAGE: Option<&str> = Some("default-src 'none'; frame-ancestors 'none'");

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap_or_default()
}

#[tokio::test]
async fn challenge_says_what_is_wrong_with_a_token() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let out = node.register("out").await;
    out.delete("auth_token").send().await.is_done();
    for path in ["users/me", "auth_token/validation", "/auth_request"] {
        let bare = node.get(path).send().await;
        assert_eq!(challenge(bare.is_refused(401)), "Bearer", "{path}");
        let basic = node.get(path).authorization(b"Basic eDp5").send().await;
        assert_eq!(challenge(basic.is_refused(401)), "Bearer", "{path}");
        let revoked = out.get(path).send().await;
        let expected = r#"Bearer error="invalid_token", error_description="Token has been revoked""#;
        assert_eq!(challenge(revoked.is_refused(401)), expected, "{path}");
    }
    // A gateway learns of tokens that cannot be read by a 401, too.
    for (token, why) in [("x", "Not enough segments"), ("a.b.c", "Signature verification failed")] {
        let answer = node.get("/auth_request").bearer(token).send().await;
        let expected = format!(r#"Bearer error="invalid_token", error_description="{why}""#);
        assert_eq!(challenge(answer.is_refused(401)), expected);
    }
    let twice = node.get("/auth_request").bearer(&ann.access).bearer(&ann.access).send().await;
    assert!(challenge(twice.is_refused(401)).starts_with(r#"Bearer error="invalid_request""#), "{twice}");
    let refresh = node.refresh(&out.refresh).await;
    assert!(challenge(refresh.is_refused(401)).starts_with(r#"Bearer error="invalid_token""#), "{refresh}");
    // Wrong credentials of a person are no bad token.
    let login = node.log_in(&ann.email, "another secret").await;
    assert_eq!(challenge(login.is_refused(401)), "Bearer");
    for (path, status) in [("users", 403), ("/auth_request?permissions=%22none%22", 403), ("users/me", 200)] {
        let answer = ann.get(path).send().await;
        let expected = if status == 403 { r#"Bearer error="insufficient_scope""# } else { "" };
        assert_eq!((answer.status, challenge(&answer)), (status, expected), "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let get = async |path: &str| ann.get(path).send().await;
    for (answer, policy) in [
        (get("users/me").await, NO_PAGE),
        (get("auth_token/validation").await, NO_PAGE),
        (get("users/me/combined_permissions/validation?permissions=%22a%22").await, NO_PAGE),
        (get("/health/live").await, NO_PAGE),
        (get("/metrics").await, NO_PAGE),
        (get("/openapi.json").await, NO_PAGE),
        (get("/.well-known/jwks.json").await, NO_PAGE),
        (get("nothing").await, NO_PAGE),
        (ann.request("PUT", "users").send().await, NO_PAGE),
        (ann.request("HEAD", "/health/live").send().await, NO_PAGE),
        (ann.post("users").json(&json!({})).send().await, NO_PAGE),
        (get("/auth_request").await, None),
        (ann.request("OPTIONS", "users").send().await, NO_PAGE),
    ] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{answer}");
        assert_eq!(answer.header("content-security-policy"), policy, "{answer}");
    }
}

#[tokio::test]
async fn api_pages_run_no_inline_script_or_style() {
    let node = Node::shared().await;
    for path in ["/apidocs/", "/apidocs/swagger-ui.css", "/apidocs/swagger-initializer.js"] {
        let answer = node.get(path).send().await;
        let policy = answer.is(200).header("content-security-policy").unwrap_or_default();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|found| found == part), "{path}: no {part} in {policy}");
        }
        assert!(policy.contains("; style-src 'self' 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    }
    let html = node.get("/apidocs/").send().await.text();
    for inline in ["<style", "style=\"", "onload=\"", "onclick=\"", "javascript:"] {
        assert!(!html.contains(inline), "{inline} in {html}");
    }
    for script in html.split("<script").skip(1) {
        assert!(script.split('>').next().is_some_and(|tag| tag.contains("src=\"")), "{script}");
    }
}

#[tokio::test]
async fn api_pages_work_under_a_path_prefix() {
    let node = Node::shared().await;
    let bare = node.get("/apidocs").send().await;
    // Relative to /iam/apidocs it is /iam/apidocs/, whatever the prefix is.
    assert_eq!((bare.status, bare.header("location")), (308, Some("apidocs/")), "{bare}");
    let initializer = node.get("/apidocs/swagger-initializer.js").send().await.is(200).text();
    assert!(initializer.contains("\"../openapi.json\""), "{initializer}");
    let absolute = |text: &str| ["=\"/", ": \"/", "url(/"].iter().any(|start| text.contains(start));
    let html = node.get("/apidocs/").send().await.text();
    assert!(!absolute(&html) && !absolute(&initializer), "{html}\n{initializer}");
    // Nothing comes from a server of strangers, not even a badge.
    assert!(initializer.contains("\"validatorUrl\": \"none\""), "{initializer}");
}
