//! Requests that HTTP itself refuses: answered in the contract's form, on whichever way they came.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use testkit::{Node, Raw, Shared, raw::Reply};
use tokio::net::TcpStream;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const VALIDATE: &str = "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\n\r\n";
const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";

static SHORT_TIMEOUTS: Shared = Shared::with(&[("IDLE_TIMEOUT", "2s")]);

/// An error in the form that all errors have, on a connection that closes after it.
fn is_in_form(reply: &Reply, status: u16, asked: &str) {
    let Reply::Answer { status: answered, head, body } = reply else { panic!("{asked}: {reply:?}") };
    assert_eq!(*answered, status, "{asked}: {reply:?}");
    let head = head.to_ascii_lowercase();
    let header = |name: &str| {
        let mut values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = values.next().unwrap_or_else(|| panic!("{asked}: no {name}: {head}")).to_owned();
        assert_eq!(values.next(), None, "{asked}: {name} twice: {head}");
        value
    };
    assert_eq!(header("connection"), "close", "{asked}");
    assert_eq!(header("content-type"), "application/json", "{asked}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{asked}");
    assert!(!header("referrer-policy").is_empty() && !header("date").is_empty(), "{asked}");
    assert_eq!(header("content-security-policy"), "default-src 'none'; frame-ancestors 'none'", "{asked}");
    is_error(body, &header("x-request-id"), asked);
}

fn is_error(body: &[u8], id: &str, asked: &str) {
    let error: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{asked}: {error}"));
    let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{asked}: no {name}: {error}"));
    assert!(!text("msg").is_empty() && !text("code").is_empty(), "{asked}: {error}");
    assert_eq!(text("request_id"), id, "{asked}");
    assert!(!id.is_empty(), "{asked}");
}

fn unreadable() -> Vec<(u16, String)> {
    let with = |headers: &str| format!("GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let line = |line: &str| format!("{line}\r\nHost: x\r\n\r\n");
    let post = |headers: &str| {
        format!(
            "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{{}}"
        )
    };
    vec![
        (400, with("X-Bad: a\x7fb\r\n")),
        (400, with("X-Bad: a\x01b\r\n")),
        (400, with("X Bad: a\r\n")),
        (400, with("No colon\r\n")),
        (400, with(": no name\r\n")),
        (431, with(&(0..65).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>())),
        (431, with(&format!("X-Long: {}\r\n", "x".repeat(70 * 1024)))),
        (431, with(&format!("Cookie: {}\r\n", "x".repeat(1024 * 1024)))),
        (431, line(&format!("GET /{} HTTP/1.1", "p".repeat(40 * 1024)))),
        (431, line(&format!("GET /{} HTTP/1.1", "p".repeat(200 * 1024)))),
        (400, line("GET / HTTP/9.9")),
        (400, line("GET / HTTP/2.0")),
        (400, line("GET / HTTX/1.1")),
        (400, line("GET /")),
        (400, line("GET")),
        (400, line("GET /a b HTTP/1.1")),
        (400, line("G\0T / HTTP/1.1")),
        (400, "nonsense\r\n\r\n".into()),
        (400, "\x16\x03\x01\x02 hello\r\n\r\n".into()),
        (400, post("Content-Length: two")),
        (400, post("Content-Length: 2\r\nContent-Length: 3")),
        (400, post("Content-Length: 18446744073709551616")),
        (400, post("Content-Length: 99999999999999999999999999")),
        (400, post("Transfer-Encoding: gzip")),
        (501, post("Transfer-Encoding: gzip, chunked")),
        (501, post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked")),
        (501, with("Transfer-Encoding: deflate, chunked\r\n")),
        (400, with("Transfer-Encoding: chunked, chunked\r\n")),
        (400, with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
    ]
}

#[tokio::test]
async fn malformed_request_is_refused_in_the_error_format() {
    let node = Node::shared().await;
    // At the beginning; after requests of the hot lane; after requests of hyper's; all at once with them.
    for before in ["", VALIDATE, LIVE] {
        for (status, asked) in unreadable() {
            let shown: String = format!("{before:?}, {asked:?}").chars().take(160).collect();
            for together in [false, true] {
                let mut raw = Raw::to(&node).await;
                if together {
                    raw.send(format!("{before}{asked}")).await.unwrap();
                } else if !before.is_empty() {
                    raw.send(before).await.unwrap();
                }
                if !before.is_empty() {
                    assert!(matches!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200 | 401)), "{shown}");
                }
                if !together {
                    let _ = raw.send(&asked).await;
                }
                is_in_form(&raw.reply(ANSWER_TIMEOUT).await, status, &shown);
                assert!(raw.is_closed_within(ANSWER_TIMEOUT).await, "{shown}: stays open");
            }
        }
    }
}

#[tokio::test]
async fn missing_head_is_refused_in_the_error_format() {
    let node = SHORT_TIMEOUTS.node().await;
    let cases = [
        ("", "G"),
        ("", "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\n"),
        ("", "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Le"),
        (VALIDATE, "GET /api/v1/auth_token/val"),
        (LIVE, "GET /api/v1/auth_token/val"),
    ];
    let refused = cases.map(async |(before, begun)| {
        let mut raw = Raw::to(&node).await;
        if !before.is_empty() {
            raw.send(before).await.unwrap();
            assert!(matches!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200 | 401)), "{begun}");
        }
        raw.send(begun).await.unwrap();
        is_in_form(&raw.reply(ANSWER_TIMEOUT).await, 408, begun);
        assert!(raw.is_closed_within(ANSWER_TIMEOUT).await, "{begun}: stays open");
    });
    futures_util::future::join_all(refused).await;
}

#[tokio::test]
async fn malformed_chunks_are_refused_in_the_error_format() {
    let node = Node::shared().await;
    for body in
        ["zz\r\n{}\r\n0\r\n\r\n", "-2\r\n{}\r\n0\r\n\r\n", "2\r\n{}xx0\r\n\r\n", "fffffffffffffffff\r\n{}"]
    {
        let mut raw = Raw::to(&node).await;
        let head = "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        raw.send(format!("{head}{body}")).await.unwrap();
        let Reply::Answer { status: 400, head, body: error } = raw.reply(ANSWER_TIMEOUT).await else {
            panic!("{body}")
        };
        let head = head.to_ascii_lowercase();
        assert!(head.contains("connection: close"), "{body}: {head}");
        let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("a request id");
        is_error(&error, id, body);
        assert!(raw.is_closed_within(ANSWER_TIMEOUT).await, "{body}: stays open");
    }
}

#[tokio::test]
async fn large_http2_head_is_refused_in_the_error_format() {
    let node = Node::shared().await;
    let stream = TcpStream::connect(node.address()).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for path in ["/api/v1/auth_token/validation", "/api/v1/users/me", "/health/live"] {
        for bytes in [70 * 1024, 100 * 1024] {
            let request = hyper::Request::get(format!("http://x{path}")).header("x-long", "x".repeat(bytes));
            sender.ready().await.unwrap();
            let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            assert_eq!(head.status.as_u16(), 431, "{path}");
            let id = head.headers["x-request-id"].to_str().unwrap();
            assert_eq!(head.headers["x-content-type-options"], "nosniff");
            is_error(&body.collect().await.unwrap().to_bytes(), id, path);
        }
        // The connection goes on.
        let request = hyper::Request::get("http://x/health/live").body(Empty::<Bytes>::new()).unwrap();
        sender.ready().await.unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status().as_u16(), 200);
    }
}
