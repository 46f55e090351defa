//! Refusals that are made before the body of the request has arrived: the connection stays usable, or says
//! that it is not.

use std::time::{Duration, Instant};

use testkit::{Node, Raw, Shared, raw::Reply};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between packets: longer than the node needs to process what it has.
const BETWEEN_PACKETS: Duration = Duration::from_millis(30);
const NEXT: &str = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn head(method: &str, path: &str, headers: &str, length: usize) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n")
}

/// Statuses, and requests that are refused with them whatever their body is.
fn refusals(token: &str) -> Vec<(u16, &'static str, &'static str, String)> {
    let by = format!("{JSON}Authorization: Bearer {token}\r\n");
    vec![
        (401, "PATCH", "/api/v1/users/me", JSON.into()),
        (401, "POST", "/api/v1/auth_token/validation/batch", JSON.into()),
        (401, "GET", "/api/v1/auth_token/validation", JSON.into()),
        (401, "POST", "/api/v1/auth_token/token_refresh", JSON.into()),
        (401, "DELETE", "/api/v1/auth_token", JSON.into()),
        (403, "POST", "/api/v1/permissions", by),
        (404, "POST", "/api/v1/nowhere", JSON.into()),
        (404, "PUT", "/", JSON.into()),
        (405, "PUT", "/api/v1/users", JSON.into()),
        (405, "POST", "/health/live", JSON.into()),
        (415, "POST", "/api/v1/users", "Content-Type: text/plain\r\n".into()),
        (415, "POST", "/api/v1/auth_token", String::new()),
        (422, "PATCH", "/api/v1/users/me", format!("{JSON}Authorization: Bearer x\r\n")),
        (422, "GET", "/api/v1/auth_token/validation", format!("{JSON}Authorization: Bearer x\r\n")),
    ]
}

fn closes(reply: &Reply) -> bool {
    let Reply::Answer { head, .. } = reply else { panic!("no answer: {reply:?}") };
    head.to_ascii_lowercase().contains("connection: close")
}

/// Asks for something else on the connection, as far as it promised to go on.
async fn goes_on(raw: &mut Raw, refused: &Reply, asked: &str) {
    if closes(refused) {
        assert!(raw.is_closed_within(ANSWER_TIMEOUT).await, "{asked}: says that it closes, and does not");
        return;
    }
    raw.send(NEXT).await.unwrap_or_else(|error| panic!("{asked}: the next request is lost: {error}"));
    assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200), "{asked}: the next request is lost");
}

#[tokio::test]
async fn refusal_before_the_body_leaves_the_connection_usable() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let body = format!("{{\"x\": \"{}\"}}", "y".repeat(2_000));
    for (status, method, path, headers) in refusals(&ann.access) {
        let asked = head(method, path, &headers, body.len());
        for before in ["", NEXT] {
            let mut raw = Raw::to(&node).await;
            if !before.is_empty() {
                raw.send(before).await.unwrap();
                assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200));
            }
            raw.send(&asked).await.unwrap();
            tokio::time::sleep(BETWEEN_PACKETS).await;
            raw.send(&body).await.unwrap();
            let refused = raw.reply(ANSWER_TIMEOUT).await;
            assert_eq!(refused.status(), Some(status), "{asked}: {refused:?}");
            assert!(!closes(&refused), "{asked}: the body came and was small");
            goes_on(&mut raw, &refused, &asked).await;
        }
    }
}

#[tokio::test]
async fn refusal_without_the_body_says_that_the_connection_closes() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let cases = refusals(&ann.access);
    let chunked = |headers: &str| format!("{headers}Transfer-Encoding: chunked\r\n");
    let refused = cases.iter().map(async |(status, method, path, headers)| {
        let whole = head(method, path, headers, 50_000);
        let part = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{}\r\n5\r\nhello\r\n", chunked(headers));
        let broken =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{}\r\nzz\r\nhello\r\n", chunked(headers));
        let demand = head(method, path, &format!("{headers}Expect: 100-continue\r\n"), 50_000);
        for (kind, asked) in [("whole", whole), ("part", part), ("broken", broken), ("demand", demand)] {
            let mut raw = Raw::to(&node).await;
            let start = Instant::now();
            raw.send(&asked).await.unwrap();
            let reply = raw.reply(ANSWER_TIMEOUT).await;
            assert_eq!(reply.status(), Some(*status), "{kind}: {asked}: {reply:?}");
            assert!(start.elapsed() < Duration::from_secs(5), "{kind}: {asked}: {:?}", start.elapsed());
            assert!(closes(&reply), "{kind}: {asked}: {reply:?}");
            goes_on(&mut raw, &reply, &asked).await;
        }
    });
    futures_util::future::join_all(refused).await;
}

#[tokio::test]
async fn body_declared_too_large_is_not_requested() {
    let node = Node::shared().await;
    for length in [65_537, 100_000_000] {
        let mut raw = Raw::to(&node).await;
        let headers = format!("{JSON}Expect: 100-continue\r\n");
        raw.send(head("POST", "/api/v1/users", &headers, length)).await.unwrap();
        let reply = raw.reply(Duration::from_secs(5)).await;
        assert_eq!(reply.status(), Some(413), "{length}: {reply:?}");
        assert!(closes(&reply), "{reply:?}");
    }
}

#[tokio::test]
async fn refusal_is_read_by_a_client_that_sends_a_large_body_first() {
    let node = Node::shared().await;
    let body = "y".repeat(3 * 1024 * 1024);
    for (status, path, headers) in [
        (401, "/api/v1/auth_token/validation/batch", JSON),
        (404, "/api/v1/nowhere", JSON),
        (413, "/api/v1/users", JSON),
        (415, "/api/v1/users", ""),
    ] {
        let asked = head("POST", path, headers, body.len());
        let mut raw = Raw::to(&node).await;
        raw.send(&asked).await.unwrap();
        tokio::time::sleep(BETWEEN_PACKETS).await;
        raw.send(&body).await.unwrap_or_else(|error| panic!("{asked}: {error}"));
        let refused = raw.reply(ANSWER_TIMEOUT).await;
        assert_eq!(refused.status(), Some(status), "{asked}: {refused:?}");
        goes_on(&mut raw, &refused, &asked).await;
    }
}

#[tokio::test]
async fn temporary_refusal_leaves_the_connection_usable() {
    static LIMITED: Shared = Shared::with(&[("REGISTRATION_RATE", "1/1m")]);
    let node = LIMITED.node().await;
    let mut raw = Raw::to(&node).await;
    let mut statuses = Vec::new();
    for number in 0..4 {
        let body = format!(r#"{{"email":"early{number}@example.org","password":"walls and gates"}}"#);
        let asked = head("POST", "/api/v1/users", JSON, body.len());
        raw.send(&asked).await.unwrap();
        tokio::time::sleep(BETWEEN_PACKETS).await;
        raw.send(&body).await.unwrap();
        let reply = raw.reply(ANSWER_TIMEOUT).await;
        statuses.extend(reply.status());
        assert!(!closes(&reply), "{reply:?}");
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}
