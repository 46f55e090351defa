//! Requests that are none, that never end, or that are two at once: a clear refusal or a closed
//! connection, and the node stays well.

use std::time::Duration;

use testkit::{Node, Raw, Shared, raw::Reply};

/// Longest time until the node closes a silent connection: longer than any of its timeouts.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// For tests that leave connections hanging.
static BESIEGED: Shared = Shared::with(&[("IDLE_TIMEOUT", "3s")]);

async fn is_well(node: &Node) {
    let client = node.another_client();
    client.get("/health/live").send().await.is(200);
    client.get("auth_token/validation").send().await.is_error(401, "Missing Authorization Header");
}

async fn is_refused(node: &Node, request: impl AsRef<[u8]>) {
    let shown: String = String::from_utf8_lossy(request.as_ref()).chars().take(200).collect();
    let reply = Raw::to(node).await.exchange(request, ANSWER_TIMEOUT).await;
    assert!(reply.is_clear_refusal(), "{shown:?}: {reply:?}");
    is_well(node).await;
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let node = Node::shared().await;
    for bytes in [
        &b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /health/live\r\n\r\n",
        b"GET /health/live HTTP/9.9\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n: x\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET /health/live\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health live HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello, and then nothing of HTTP \r\n\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    ] {
        is_refused(&node, bytes).await;
    }
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let node = Node::shared().await;
    let with = |headers: &str| format!("GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    is_refused(&node, with(&format!("X-Long: {}\r\n", "x".repeat(64 * 1024)))).await;
    is_refused(&node, with(&format!("Cookie: {}\r\n", "x".repeat(1024 * 1024)))).await;
    is_refused(&node, with(&format!("{}: x\r\n", "n".repeat(100_000)))).await;
    is_refused(&node, with(&(0..10_000).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>())).await;
    is_refused(&node, with(&"Authorization: Bearer a.b.c\r\n".repeat(50))).await;
    is_refused(&node, format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "p".repeat(1024 * 1024))).await;
    is_refused(&node, format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "M".repeat(100_000))).await;
}

#[tokio::test]
async fn wrong_or_contradictory_lengths_are_refused() {
    let node = Node::shared().await;
    let post = |headers: &str, body: &str| {
        format!(
            "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{body}"
        )
    };
    for (headers, body) in [
        ("Content-Length: -1", "{}"),
        ("Content-Length: +2", "{}"),
        ("Content-Length: 0x2", "{}"),
        ("Content-Length: 2, 3", "{}"),
        ("Content-Length: 2\r\nContent-Length: 3", "{}x"),
        ("Content-Length: 99999999999999999999999", "{}"),
        ("Content-Length: two", "{}"),
        ("Content-Length:", "{}"),
        ("Transfer-Encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "-2\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "ffffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "2\r\n{}xx0\r\n\r\n"),
        ("Transfer-Encoding: gzip", "{}"),
        ("Transfer-Encoding: identity", "{}"),
        ("Transfer-Encoding: chunked, gzip", "2\r\n{}\r\n0\r\n\r\n"),
        // A body of JSON that lacks its fields, in well-formed chunks: 400 as usual.
        ("Transfer-Encoding: chunked", "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "2;extension=\"x\"\r\n{}\r\n0\r\nX-Trailer: x\r\n\r\n"),
    ] {
        is_refused(&node, post(headers, body)).await;
    }
    let chunks = "1\r\nx\r\n".repeat(100_000);
    is_refused(&node, post("Transfer-Encoding: chunked", &format!("{chunks}0\r\n\r\n"))).await;
    let extension = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(200_000));
    is_refused(&node, post("Transfer-Encoding: chunked", &extension)).await;
}

/// One message with two possible ends: a server that reads it differently from the proxy in front
/// sees a second request in it. The node must refuse it, or answer one request and close, but never
/// answer a second.
#[tokio::test]
async fn a_request_hidden_in_another_is_never_answered() {
    let node = Node::shared().await;
    let hidden = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!(
            "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{body}"
        )
    };
    let length = 5 + hidden.len();
    for request in [
        post(
            &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
            &format!("0\r\n\r\n{hidden}"),
        ),
        post(
            &format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
            &format!("0\r\n\r\n{hidden}"),
        ),
        post("Transfer-Encoding: xchunked\r\nContent-Length: 2", &format!("{{}}{hidden}"))
            .replace("Content-Length: 2\r\n", "Content-Length: 2\r\nTransfer-Encoding : chunked\r\n"),
        post("Transfer-Encoding : chunked\r\nContent-Length: 2", &format!("0\r\n\r\n{hidden}")),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &format!("0\r\n\r\n{hidden}")),
        post("Transfer-Encoding:\x0bchunked\r\nContent-Length: 2", &format!("0\r\n\r\n{hidden}")),
        post("X: y\rTransfer-Encoding: chunked\r\nContent-Length: 2", &format!("0\r\n\r\n{hidden}")),
    ] {
        let mut raw = Raw::to(&node).await;
        let _ = raw.send(&request).await;
        let mut replies = Vec::new();
        while replies.len() < 3 {
            match raw.reply(Duration::from_secs(2)).await {
                reply @ Reply::Answer { .. } => replies.push(reply),
                Reply::Closed { .. } | Reply::Silence => break,
            }
        }
        for reply in &replies {
            let Reply::Answer { status, head, .. } = reply else { continue };
            assert!(*status >= 400, "{request:?}: {reply:?}");
            assert!(!head.contains("hidden"), "the hidden request was answered: {request:?}: {reply:?}");
        }
        is_well(&node).await;
    }
}

#[tokio::test]
async fn sequential_requests_on_one_connection_are_all_answered() {
    let node = Node::shared().await;
    let one = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut raw = Raw::to(&node).await;
    raw.send(one.repeat(20)).await.unwrap();
    for _ in 0..20 {
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200));
    }
    // A refusal in the middle does not take the connection with it.
    raw.send("GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(401));
    raw.send(one).await.unwrap();
    assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200));
}

#[tokio::test]
async fn client_that_sends_a_byte_a_second_is_disconnected() {
    let node = BESIEGED.node().await;
    let slow = (0..50).map(|_| async {
        let mut raw = Raw::to(&node).await;
        raw.send("GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < CLOSE_TIMEOUT {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if raw.send("x").await.is_err() || raw.is_closed_within(Duration::from_millis(1)).await {
                return true;
            }
        }
        false
    });
    let others = async {
        // Other clients are unaffected in the meantime.
        for _ in 0..10 {
            is_well(&node).await;
        }
    };
    let (closed, ()) = tokio::join!(futures_util::future::join_all(slow), others);
    let held = closed.iter().filter(|closed| !**closed).count();
    assert_eq!(held, 0, "connections that were still held after {CLOSE_TIMEOUT:?}");
    is_well(&node).await;
}

#[tokio::test]
async fn missing_body_times_out() {
    let node = BESIEGED.node().await;
    let mut raw = Raw::to(&node).await;
    let head = "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    raw.send(head).await.unwrap();
    let reply = raw.reply(CLOSE_TIMEOUT).await;
    assert!(reply.is_clear_refusal(), "{reply:?}");
    is_well(&node).await;
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let node = BESIEGED.node().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::to(&node).await);
    }
    is_well(&node).await;
    let ann = node.register("ann").await;
    ann.is_in().await;
}

#[tokio::test]
async fn client_that_leaves_mid_request_changes_nothing() {
    let node = Node::shared().await;
    let email = format!("{}@example.org", testkit::fresh("half"));
    let body = format!(r#"{{"email":"{email}","password":"a secret of half a request"}}"#);
    let request = format!(
        "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for cut in [10, request.len() - body.len(), request.len() - 1] {
        let mut raw = Raw::to(&node).await;
        raw.send(&request[..cut]).await.unwrap();
        drop(raw);
    }
    is_well(&node).await;
    node.log_in(&email, "a secret of half a request").await.is_error(401, "Bad email or password");
}
