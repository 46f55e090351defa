//! Paths, methods and headers that mean one thing to a gateway and another to what is behind it.

use std::time::Duration;

use testkit::{Gateway, Raw, gateway::Kind, raw::Reply};

use super::{FILMS, application, holder, node, only};

/// Longest time of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Targets near the guarded one.
const TARGETS: [&str; 24] = [
    "/gated/films",
    "/gated//films",
    "//gated/films",
    "/gated/./films",
    "/gated/../gated/films",
    "/gated/x/../films",
    "/gated/%2e%2e/gated/films",
    "/gated/%2E%2E/api/v1/films",
    "/gated%2ffilms",
    "/gated%2Ffilms",
    "/gated%5cfilms",
    "/gated\\films",
    "/%67ated/films",
    "/gated/films/",
    "/gated/films/..",
    "/gated/films/../../api/v1/films",
    "/gated/films%00",
    "/gated/films;x=1",
    "/GATED/FILMS",
    "/gated/films?permissions=%22other%22",
    "/gated/films?x#/y",
    "/api/v1/films",
    "http://127.0.0.1/gated/films",
    "/auth_request",
];

#[tokio::test]
async fn path_tricks_never_pass_without_a_yes() {
    let (node, root) = node().await;
    let ann = holder(&node, &root).await;
    let bob = node.register("bob").await;
    for kind in Kind::ALL {
        let app = application().await;
        let gateway = Gateway::start(kind, node.address(), app.address()).await;
        let send = async |method: &str, target: &str, headers: &str| {
            let head = format!(
                "{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{headers}\r\n"
            );
            Raw::to(gateway.client()).await.exchange(head, ANSWER_TIMEOUT).await
        };
        let bobs = format!("authorization: Bearer {}\r\n", bob.access);
        for target in TARGETS {
            for method in ["GET", "HEAD", "POST"] {
                for headers in ["", &bobs] {
                    let reply = send(method, target, headers).await;
                    assert_ne!(reply.status(), Some(200), "{kind:?} {method} {target} {reply:?}");
                    assert!(app.asked().is_empty(), "{kind:?} {method} {target}");
                }
            }
        }
        let anns = format!("authorization: Bearer {}\r\n", ann.access);
        for target in TARGETS {
            let _: Reply = send("GET", target, &anns).await;
        }
        let asked = app.asked();
        assert!(!asked.is_empty(), "{kind:?}: a holder passes");
        for asked in asked {
            let path = asked.target.split('?').next().unwrap_or_default();
            assert_eq!(path, FILMS, "{kind:?} {asked:?}");
            assert_eq!(only(&asked, "x-auth-user"), Some(&ann.uuid[..]), "{kind:?} {asked:?}");
        }
    }
}

#[tokio::test]
async fn header_tricks_never_pass_without_a_yes() {
    let (node, root) = node().await;
    let ann = holder(&node, &root).await;
    let bob = node.register("bob").await;
    for kind in Kind::ALL {
        let app = application().await;
        let gateway = Gateway::start(kind, node.address(), app.address()).await;
        let tricks = [
            "x-original-uri: /health/live",
            "x-original-url: /health/live",
            "x-rewrite-url: /health/live",
            "x-forwarded-uri: /health/live",
            "x-forwarded-prefix: /health/live?",
            "x-forwarded-method: OPTIONS",
            "x-http-method-override: OPTIONS",
            "x-auth-user: 1",
            "x-auth-permissions: {\"all\":[]}",
            "x-envoy-original-path: /health/live",
            "connection: close, authorization",
            "connection: x-forwarded-for, x-auth-user",
        ];
        for trick in tricks {
            for token in ["", &bob.access] {
                let token = if token.is_empty() {
                    String::new()
                } else {
                    format!("authorization: Bearer {token}\r\n")
                };
                let head = format!("GET /gated/films HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}{trick}\r\n\r\n");
                let reply = Raw::to(gateway.client()).await.exchange(head, ANSWER_TIMEOUT).await;
                assert!(reply.status().is_none_or(|status| status >= 400), "{kind:?} {trick} {reply:?}");
                assert!(app.asked().is_empty(), "{kind:?} {trick}");
            }
        }
        let head = format!(
            "GET /gated/films HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\nconnection: close, \
             x-auth-user, x-auth-session\r\nx-auth-user: {}\r\n\r\n",
            ann.access, root.uuid
        );
        Raw::to(gateway.client()).await.exchange(head, ANSWER_TIMEOUT).await;
        for asked in app.asked() {
            assert_eq!(only(&asked, "x-auth-user"), Some(&ann.uuid[..]), "{kind:?} {asked:?}");
            let named = asked.header("connection").unwrap_or_default().to_lowercase();
            assert!(!named.contains("x-auth"), "{kind:?} {asked:?}");
        }
    }
}
