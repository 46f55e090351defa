//! Request smuggling: the node gives exactly one answer per request, and no request hides in another.

use std::time::Duration;

use futures_util::future::join_all;
use testkit::{Node, Person, Raw, raw::Reply};

use super::{ANSWER_TIMEOUT, Answered, Asked, VALIDATE};

/// Time in which the node has sent all its answers.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// The hidden request, which the node must never answer.
const HIDDEN: &str = "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n";

/// Everything that comes, until it is silent or closed.
async fn all_replies(node: &Node, bytes: &[u8]) -> (Vec<Answered>, bool) {
    let mut raw = Raw::to(node).await;
    // It may close while we send.
    let _ = raw.send(bytes).await;
    let mut answers = Vec::new();
    loop {
        match raw.reply(SETTLE_TIME).await {
            // Interim (RFC 9110, section 15.2).
            Reply::Answer { status: 100, .. } => {}
            reply @ Reply::Answer { .. } => answers.push(Answered::of(reply)),
            Reply::Closed { part } => {
                assert!(part.is_empty(), "half an answer: {}", String::from_utf8_lossy(&part));
                return (answers, true);
            }
            Reply::Silence => return (answers, false),
        }
    }
}

/// A validation with these headers, and these bytes after it.
fn validation(ann: &Person, headers: &str, after: &str) -> Vec<u8> {
    format!(
        "GET {VALIDATE} HTTP/1.1\r\nHost: x\r\nX-Request-Id: shown\r\n{headers}Authorization: Bearer {}\r\n\r\n{after}",
        ann.access
    )
    .into_bytes()
}

/// The same bytes alone, and after questions that are answered at once.
fn placed(ann: &Person, bytes: &[u8]) -> [(usize, Vec<u8>); 2] {
    let before = Asked::of(VALIDATE).by(&ann.access).id("before").bytes();
    [(0, bytes.to_vec()), (3, [&before.repeat(3), bytes].concat())]
}

/// One answer, of one of these statuses, and a connection that goes on when `stays`.
async fn is_one_request(node: &Node, ann: &Person, bytes: &[u8], statuses: &[u16], stays: bool) {
    for (before, bytes) in placed(ann, bytes) {
        let shown: String = String::from_utf8_lossy(&bytes).chars().rev().take(300).collect();
        let shown: String = shown.chars().rev().collect();
        let (answers, closed) = all_replies(node, &bytes).await;
        assert_eq!(answers.len(), before + 1, "{shown:?}: {answers:?}");
        assert!(
            answers[..before].iter().all(|answer| answer.header("x-request-id") == "before"),
            "{answers:?}"
        );
        let answer = &answers[before];
        assert!(statuses.contains(&answer.status), "{shown:?}: {answer:?}");
        assert!(closed != stays, "{shown:?}: closed: {closed}, after {answer:?}");
    }
}

/// A clear refusal, or closed; and never what is hidden.
async fn is_refused(node: &Node, ann: &Person, bytes: &[u8]) {
    for (before, bytes) in placed(ann, bytes) {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let (answers, closed) = all_replies(node, &bytes).await;
        assert!(answers.len() >= before && answers.len() <= before + 1, "{shown:?}: {answers:?}");
        assert!(answers[..before].iter().all(|answer| answer.status == 200), "{shown:?}: {answers:?}");
        match answers.get(before) {
            Some(answer) => assert!(matches!(answer.status, 400..=499 | 501 | 505), "{shown:?}: {answer:?}"),
            None => assert!(closed, "{shown:?}: silence"),
        }
    }
}

#[tokio::test]
async fn body_by_content_length_is_not_read_as_a_request() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let length = HIDDEN.len();
    let chunked = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let cases = [
        validation(&ann, &format!("Content-Length: {length}\r\n"), HIDDEN),
        validation(&ann, &format!("content-length:{length}\r\n"), HIDDEN),
        validation(&ann, &format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"), HIDDEN),
        validation(&ann, "Content-Length: 0\r\n", ""),
        validation(&ann, "Transfer-Encoding: chunked\r\n", &chunked),
        validation(&ann, "TRANSFER-ENCODING: Chunked\r\n", &chunked),
        validation(&ann, "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        validation(&ann, "Expect: 100-continue\r\n", ""),
        validation(&ann, &format!("Expect: 100-continue\r\nContent-Length: {length}\r\n"), HIDDEN),
    ];
    // Whether the connection stays open after an unread body is the node's choice, but the node must not
    // read the next request from the middle of that body.
    join_all(cases.iter().map(async |bytes| {
        for (before, bytes) in placed(&ann, bytes) {
            let (answers, _) = all_replies(&node, &bytes).await;
            let ids: Vec<_> = answers.iter().map(|answer| answer.header("x-request-id").to_owned()).collect();
            assert!(!ids.contains(&"hidden".to_owned()), "{:?}: {ids:?}", String::from_utf8_lossy(&bytes));
            assert_eq!(answers.len(), before + 1, "{:?}: {answers:?}", String::from_utf8_lossy(&bytes));
            assert!(matches!(answers[before].status, 200 | 400..=499), "{answers:?}");
        }
    }))
    .await;
}

#[tokio::test]
async fn repeated_or_malformed_content_lengths_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let ends = format!("0\r\n\r\n{HIDDEN}");
    let cases = [
        validation(&ann, "Content-Length: 0\r\nContent-Length: 5\r\n", &ends),
        validation(&ann, "Content-Length: 0, 5\r\n", &ends),
        validation(&ann, "Content-Length: -1\r\n", HIDDEN),
        validation(&ann, "Content-Length: +0\r\n", HIDDEN),
        validation(&ann, "Content-Length:\r\n", HIDDEN),
        validation(&ann, "Transfer-Encoding: gzip\r\n", &ends),
        validation(&ann, "Transfer-Encoding: identity\r\n", &ends),
        validation(&ann, "Transfer-Encoding: chunked, identity\r\n", &ends),
        validation(&ann, "Transfer-Encoding:\x0bchunked\r\n", &ends),
        validation(&ann, "Transfer-Encoding : chunked\r\n", &ends),
        validation(&ann, "Content-Length : 5\r\n", &ends),
        validation(&ann, " Content-Length: 5\r\n", &ends),
        validation(&ann, "Content-Length\x00: 5\r\n", &ends),
        validation(&ann, "X: y\rContent-Length: 5\r\n", &ends),
    ];
    join_all(cases.iter().map(|bytes| is_refused(&node, &ann, bytes))).await;
}

/// May be refused, or read by its chunks; then the connection is closed after it (RFC 9112, section 6.1).
#[tokio::test]
async fn content_length_beside_chunks_hides_no_request() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let length = 5 + HIDDEN.len();
    let ends = format!("0\r\n\r\n{HIDDEN}");
    let cases = [
        validation(&ann, &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &ends),
        validation(&ann, &format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &ends),
        validation(&ann, "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", &ends),
    ];
    join_all(cases.iter().map(async |bytes| {
        for (before, bytes) in placed(&ann, bytes) {
            let (answers, closed) = all_replies(&node, &bytes).await;
            let shown = String::from_utf8_lossy(&bytes);
            assert!(closed, "{shown:?}: it stays open: {answers:?}");
            assert!((before..=before + 1).contains(&answers.len()), "{shown:?}: {answers:?}");
            assert!(answers.iter().all(|answer| answer.header("x-request-id") != "hidden"), "{shown:?}");
        }
    }))
    .await;
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let good = String::from_utf8(validation(&ann, "", "")).unwrap();
    let line = format!("GET {VALIDATE} HTTP/1.1");
    let cases = [
        // Folded (RFC 9112, section 5.2).
        validation(&ann, "X-Folded: a\r\n b\r\n", ""),
        validation(&ann, "X-Folded: a\r\n\tContent-Length: 5\r\n", ""),
        validation(&ann, "X-Nul: a\0b\r\n", ""),
        validation(&ann, "X\0Nul: a\r\n", ""),
        validation(&ann, "X Y: z\r\n", ""),
        validation(&ann, "X-Space : z\r\n", ""),
        validation(&ann, ": z\r\n", ""),
        validation(&ann, "no colon\r\n", ""),
        validation(&ann, "X-Return: a\rb\r\n", ""),
        good.replace("Host: x\r\n", "").into_bytes(),
        good.replace("GET", "get").into_bytes(),
        good.replace("GET", "Get").into_bytes(),
        good.replace("GET", "G ET").into_bytes(),
        good.replace("GET ", "GET  ").into_bytes(),
        good.replace("GET", "BREW").into_bytes(),
        good.replace("GET", "POST").into_bytes(),
        good.replace(" HTTP/1.1", "  HTTP/1.1").into_bytes(),
        good.replace("HTTP/1.1", "HTTP/1.2").into_bytes(),
        good.replace("HTTP/1.1", "HTTP/2.0").into_bytes(),
        good.replace("HTTP/1.1", "http/1.1").into_bytes(),
        good.replace(&line, &format!("GET {VALIDATE}")).into_bytes(),
        good.replace(&line, &format!("GET {VALIDATE}\tHTTP/1.1")).into_bytes(),
        good.replace(&line, &format!("GET {VALIDATE}\0 HTTP/1.1")).into_bytes(),
        good.replace(&line, "GET * HTTP/1.1").into_bytes(),
        good.replace(&line, "GET x HTTP/1.1").into_bytes(),
    ];
    join_all(cases.iter().map(|bytes| is_refused(&node, &ann, bytes))).await;
}

#[tokio::test]
async fn unusual_valid_requests_are_answered_once() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let good = String::from_utf8(validation(&ann, "", "")).unwrap();
    let line = format!("GET {VALIDATE} HTTP/1.1");
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>();
    let long = |count: usize| format!("X-Long: {}\r\n", "x".repeat(count));
    let cases = [
        (validation(&ann, &many(28), ""), &[200][..], true),
        (validation(&ann, &many(29), ""), &[200], true),
        (validation(&ann, &many(30), ""), &[200], true),
        (validation(&ann, &many(40), ""), &[200], true),
        (validation(&ann, &long(15_000), ""), &[200], true),
        (validation(&ann, &long(16_384), ""), &[200], true),
        (validation(&ann, &long(20_000), ""), &[200], true),
        (validation(&ann, "Connection: close\r\n", ""), &[200], false),
        (validation(&ann, "connection: Close\r\n", ""), &[200], false),
        (validation(&ann, "Connection: keep-alive, close\r\n", ""), &[200], false),
        (validation(&ann, "Connection: keep-alive\r\nConnection: close\r\n", ""), &[200], false),
        (validation(&ann, "Connection: keep-alive\r\n", ""), &[200], true),
        (validation(&ann, "Connection: TE\r\nTE: trailers\r\n", ""), &[200], true),
        (validation(&ann, "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""), &[200], true),
        (
            validation(
                &ann,
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
                "",
            ),
            &[200],
            true,
        ),
        (validation(&ann, "Connection: Upgrade\r\n", ""), &[200], true),
        (validation(&ann, "Trailer: X\r\n", ""), &[200], true),
        (validation(&ann, "X-Empty:\r\nX-Tab:\ta\tb\t\r\nX-High: \u{e4}\r\n", ""), &[200], true),
        (
            good.replace(&line, &format!("GET http://x{VALIDATE} HTTP/1.1")).into_bytes(),
            &[200, 400, 404],
            true,
        ),
        (good.replace("HTTP/1.1", "HTTP/1.0").into_bytes(), &[200], false),
        (
            good.replace("HTTP/1.1", "HTTP/1.0").replace("Host: x", "Connection: keep-alive").into_bytes(),
            &[200],
            true,
        ),
        // An empty line before a request is passed over (RFC 9112, section 2.2).
        (format!("\r\n{good}").into_bytes(), &[200], true),
        (
            good.replace(&line, &format!("HEAD {VALIDATE} HTTP/1.1"))
                .replace("Host", "Connection: close\r\nHost")
                .into_bytes(),
            &[200, 405],
            false,
        ),
    ];
    join_all(cases.iter().map(async |(bytes, statuses, stays)| {
        // The body of an answer to HEAD does not come: what there is, is told by the length alone.
        if bytes.starts_with(b"HEAD") {
            let mut raw = Raw::to(&node).await;
            raw.send(bytes).await.unwrap();
            assert!(matches!(raw.reply(ANSWER_TIMEOUT).await, Reply::Closed { part } if part.ends_with(b"\r\n\r\n")));
            return;
        }
        is_one_request(&node, &ann, bytes, statuses, *stays).await;
    }))
    .await;
}

/// RFC 9112, section 3.2: a proxy may route by one `Host` header while the node answers for the other.
#[tokio::test]
async fn two_hosts_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    is_refused(&node, &ann, &validation(&ann, "Host: y\r\n", "")).await;
    is_refused(&node, &ann, &validation(&ann, "Host: x\r\n", "")).await;
}

/// The hot lane and hyper, to which it leaves `TE`, judge `Host` alike (RFC 9112, section 3.2): there is one, which
/// is a host and perhaps a port.
#[tokio::test]
async fn host_is_judged_alike_by_both_parsers() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let line = |host: &str| format!("Host: {host}\r\n");
    let good =
        ["x", "x:80", "x:", "", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b.example", "a%20b", "X.example."];
    let bad =
        ["a b", "a/b", "u@x", "x:y", "x:80:90", "x:99999", "::1", "[::1", "[x]", "a,\"b", "http://x", "a\tb"];
    let cases = good.iter().map(|host| (line(host), 200)).chain(bad.iter().map(|host| (line(host), 400)));
    let cases = cases.chain([
        (String::new(), 400),
        (line("x") + &line("x"), 400),
        (line("x") + &line("y"), 400),
        (line("x") + &line("a b"), 400),
    ]);
    join_all(cases.map(async |(hosts, status)| {
        let asked = ["", "TE: trailers\r\n"].map(|other| {
            let bytes = String::from_utf8(validation(&ann, other, "")).unwrap();
            placed(&ann, bytes.replace("Host: x\r\n", &hosts).as_bytes())
        });
        let answers = join_all(asked.as_flattened().iter().map(async |(before, bytes)| {
            let (mut answered, _) = all_replies(&node, bytes).await;
            assert_eq!(answered.len(), before + 1, "{hosts:?}: {answered:?}");
            let answer = answered.remove(*before);
            assert_eq!(answer.status, status, "{hosts:?}: {answer:?}");
            let error = if status == 200 { answer.body } else { answer.msg() };
            (error, answer.headers.contains_key("connection"))
        }));
        let answers = answers.await;
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{hosts:?}: {answers:?}");
    }))
    .await;
}

/// A transfer coding beside `chunked` is refused (RFC 9112, section 6.1), and the connection is closed.
#[tokio::test]
async fn other_transfer_codings_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let ends = format!("0\r\n\r\n{HIDDEN}");
    for (codings, status) in [
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: identity, chunked\r\n", 501),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
    ] {
        is_one_request(&node, &ann, &validation(&ann, codings, &ends), &[status], false).await;
    }
    // Empty elements of the list mean nothing (RFC 9110, section 5.6.1).
    let listed = validation(&ann, "Transfer-Encoding: , chunked\r\n", "0\r\n\r\n");
    is_one_request(&node, &ann, &listed, &[200], true).await;
}

/// Bare line feeds may end lines (RFC 9112, section 2.2), and may be refused.
#[tokio::test]
async fn bare_line_feeds_hide_no_request() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let good = String::from_utf8(validation(&ann, "", "")).unwrap();
    let length = HIDDEN.len();
    let cases = [
        good.replace("\r\n", "\n"),
        good.replace("Host: x\r\n", "Host: x\n"),
        good.replace("Host: x\r\n", &format!("Host: x\nContent-Length: {length}\n")) + HIDDEN,
        good.replace("Host: x\r\n", &format!("Host: x\r\nX: y\nContent-Length: {length}\r\n")) + HIDDEN,
        good.replace("\r\n", "\n").replace("Host: x", "Host: x\nTransfer-Encoding: chunked")
            + &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
    ];
    join_all(cases.iter().map(async |bytes| {
        for (before, bytes) in placed(&ann, bytes.as_bytes()) {
            let (answers, closed) = all_replies(&node, &bytes).await;
            let shown = String::from_utf8_lossy(&bytes);
            assert!((before..=before + 1).contains(&answers.len()), "{shown:?}: {answers:?}");
            assert!(answers.len() > before || closed, "{shown:?}: silence");
            assert!(answers.iter().all(|answer| answer.header("x-request-id") != "hidden"), "{shown:?}");
        }
    }))
    .await;
}

#[tokio::test]
async fn heads_beyond_the_bounds_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>();
    let cases = [
        validation(&ann, &many(100), ""),
        validation(&ann, &many(10_000), ""),
        validation(&ann, &format!("X-Long: {}\r\n", "x".repeat(64 * 1024)), ""),
        validation(&ann, &format!("{}: x\r\n", "n".repeat(64 * 1024)), ""),
    ];
    join_all(cases.iter().map(async |bytes| {
        let reply = Raw::to(&node).await.exchange(bytes, ANSWER_TIMEOUT).await;
        assert!(reply.is_clear_refusal(), "{reply:?}");
        let before = Asked::of(VALIDATE).by(&ann.access).bytes();
        let mut raw = Raw::to(&node).await;
        raw.send(&before).await.unwrap();
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200));
        let reply = raw.exchange(bytes, ANSWER_TIMEOUT).await;
        assert!(reply.is_clear_refusal(), "{reply:?}");
    }))
    .await;
}
