//! What one client can hold of a node: never for long, and never so much that others or operators go without.

#![allow(clippy::print_stdout, reason = "how long it took is shown with --nocapture")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::{Node, Raw, raw::Reply};

const IDLE: Duration = Duration::from_secs(2);
/// Longest time until the node closes a connection, on a busy machine: longer than any of its timeouts.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const STRANGER: [u8; 4] = [127, 0, 0, 66];
const OTHER: [u8; 4] = [127, 0, 0, 67];
const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
const READY: &str = "GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n";
const VALIDATE: &str = "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\n\r\n";
const LARGE: &str = "GET /apidocs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n";

/// HTTP/2 by hand (RFC 9113): what no client library sends.
mod h2 {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const INITIAL_WINDOW_SIZE: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// The beginning of a connection whose streams have this window.
    pub fn start(window: u32) -> Vec<u8> {
        let setting = [&[0, INITIAL_WINDOW_SIZE][..], &window.to_be_bytes()].concat();
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &setting)].concat()
    }

    /// A request; `ends` when it has no body.
    pub fn get(stream: u32, path: &str, ends: bool) -> Vec<u8> {
        let length = u8::try_from(path.len()).unwrap();
        // GET, http, and literal texts for path and authority (RFC 7541, appendix A).
        let block = [&[0x82, 0x86, 0x44, length][..], path.as_bytes(), &[0x41, 1, b'x']].concat();
        frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block)
    }

    pub fn ping() -> Vec<u8> {
        frame(PING, 0, 0, b"are you?")
    }

    /// A byte more for a stream.
    pub fn window_of_a_byte(stream: u32) -> Vec<u8> {
        frame(WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes())
    }
}

/// How long it lasts though it sends this now and then.
async fn lasts(mut raw: Raw, again: &[u8]) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < CLOSE_TIMEOUT {
        if raw.is_closed_within(Duration::from_millis(200)).await
            || (!again.is_empty() && raw.send(again).await.is_err())
        {
            return Some(start.elapsed());
        }
    }
    None
}

/// How long it lasts though it reads nothing.
async fn lasts_deaf(mut raw: Raw, asked: &str) -> Option<Duration> {
    let start = Instant::now();
    let many = asked.repeat(200);
    let sent = tokio::time::timeout(CLOSE_TIMEOUT, async { while raw.send(&many).await.is_ok() {} });
    sent.await.is_ok().then(|| start.elapsed())
}

async fn with_short_timeouts() -> Node {
    Node::builder().setting("IDLE_TIMEOUT", "2s").start().await
}

#[tokio::test]
async fn connection_without_requests_ends_after_the_idle_timeout() {
    let node = with_short_timeouts().await;
    let ping = h2::ping();
    let cases: [(&str, Vec<u8>, &[u8]); 8] = [
        ("silent", Vec::new(), b""),
        ("after a request of the hot lane", VALIDATE.into(), b""),
        ("after a request of hyper's", LIVE.into(), b""),
        ("HTTP/2, silent", h2::start(65_535), b""),
        ("HTTP/2, with pings", h2::start(65_535), &ping),
        (
            "HTTP/2, a request, then pings",
            [h2::start(65_535), h2::get(1, "/health/live", true)].concat(),
            &ping,
        ),
        ("HTTP/2, half a preface", b"PRI * HTTP/2.0\r\n\r\nS".into(), b""),
        ("HTTP/2, half a frame", [h2::start(65_535), vec![0, 0]].concat(), b""),
    ];
    let lasted = join_all(cases.iter().map(async |(name, first, again)| {
        let mut raw = Raw::to(&node).await;
        raw.send(first).await.unwrap();
        (*name, lasts(raw, again).await)
    }));
    for (name, lasted) in lasted.await {
        let lasted = lasted.unwrap_or_else(|| panic!("{name}: open after {CLOSE_TIMEOUT:?}"));
        assert!(lasted >= IDLE - Duration::from_millis(500), "{name}: closed after {lasted:?}");
    }
}

#[tokio::test]
async fn unread_answer_ends_the_connection() {
    let node = with_short_timeouts().await;
    let ping = h2::ping();
    let closed = h2::start(0);
    let of = |path| [closed.clone(), h2::get(1, path, true)].concat();
    let one = [h2::start(1), h2::get(1, "/apidocs/swagger-ui-bundle.js", true)].concat();
    let beside = [h2::window_of_a_byte(1), h2::ping()].concat();
    let http2 = [
        ("no window for a large answer", of("/apidocs/swagger-ui-bundle.js"), &ping),
        ("no window for a small answer", of("/health/live"), &ping),
        ("no window for an answer of the hot lane", of("/api/v1/auth_token/validation"), &ping),
        ("no window for an error", of("/nowhere"), &ping),
        ("a byte now and then", one, &beside),
    ];
    let http2 = join_all(http2.iter().map(async |(name, first, again)| {
        let mut raw = Raw::to(&node).await;
        raw.send(first).await.unwrap();
        (*name, lasts(raw, again).await)
    }));
    let deaf =
        join_all([LARGE, VALIDATE].map(async |asked| (asked, lasts_deaf(Raw::to(&node).await, asked).await)));
    let (http2, deaf) = tokio::join!(http2, deaf);
    for (name, lasted) in http2.into_iter().chain(deaf) {
        assert!(lasted.is_some(), "{name}: open after {CLOSE_TIMEOUT:?}");
    }
}

#[tokio::test]
async fn stalled_stream_ends_the_connection_despite_active_ones() {
    let node = with_short_timeouts().await;
    let mut raw = Raw::to(&node).await;
    raw.send([h2::start(0), h2::get(1, "/health/live", true)].concat()).await.unwrap();
    // Requests without an answer's body go on beside it.
    let start = Instant::now();
    let mut stream = 1;
    while !raw.is_closed_within(Duration::from_millis(200)).await {
        stream += 2;
        let _ = raw.send(h2::get(stream, "/apidocs", true)).await;
        assert!(start.elapsed() < CLOSE_TIMEOUT, "still open");
    }
}

#[tokio::test]
async fn slowly_read_answers_are_sent_to_their_end() {
    let node = Node::builder().setting("IDLE_TIMEOUT", "1s").start().await;
    let whole = node.get("/apidocs/swagger-ui-bundle.js").send().await.is(200).body.len();
    let mut raw = Raw::to(&node).await;
    // More than what lies between holds, over longer than a client that takes nothing has.
    raw.send(LARGE.repeat(12)).await.unwrap();
    for answer in 0..12 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let reply = raw.reply(ANSWER_TIMEOUT).await;
        let Reply::Answer { body, .. } = reply else { panic!("answer {answer} did not come whole") };
        assert_eq!(body.len(), whole);
    }
}

/// The median of some probes, each on a connection of its own.
async fn live_takes(source: [u8; 4], node: &Node) -> Duration {
    let mut times = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        let mut raw = Raw::from(source, node).await;
        raw.send(LIVE).await.unwrap();
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200), "probe {}", times.len());
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn address_beyond_its_share_leaves_room_for_others() {
    let node = Node::builder().setting("CONNECTIONS_PER_ADDRESS", "8").start().await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::from(STRANGER, &node).await;
        raw.send(VALIDATE).await.unwrap();
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(401));
        held.push(raw);
    }
    // Beyond it: health and metrics, nothing else, and one request a connection.
    let mut raw = Raw::from(STRANGER, &node).await;
    raw.send(VALIDATE).await.unwrap();
    let Reply::Answer { status: 503, head, body } = raw.reply(ANSWER_TIMEOUT).await else { panic!("no 503") };
    let head = head.to_ascii_lowercase();
    assert!(head.contains("retry-after: ") && head.contains("connection: close"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("\"too_many_connections\""), "{body:?}");
    assert!(raw.is_closed_within(ANSWER_TIMEOUT).await);
    for probe in [LIVE, READY, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut raw = Raw::from(STRANGER, &node).await;
        raw.send(probe).await.unwrap();
        let Reply::Answer { status: 200, head, .. } = raw.reply(ANSWER_TIMEOUT).await else {
            panic!("no 200: {probe}")
        };
        assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    }
    // Others have places, and the stranger one again when one is free.
    let mut raw = Raw::from(OTHER, &node).await;
    raw.send(VALIDATE).await.unwrap();
    assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(401));
    held.pop();
    testkit::eventually(ANSWER_TIMEOUT, "a place", async || {
        let mut raw = Raw::from(STRANGER, &node).await;
        raw.send(VALIDATE).await.ok()?;
        (raw.reply(ANSWER_TIMEOUT).await.status() == Some(401)).then_some(())
    })
    .await;
    let metrics = node.get("/metrics").send().await.is(200).text();
    let refused = metrics.lines().find(|line| line.starts_with("palisade_http_connections_refused_total"));
    assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{refused:?}");
}

#[tokio::test]
async fn trusted_proxy_has_more_than_a_share() {
    let node = Node::builder()
        .setting("CONNECTIONS_PER_ADDRESS", "2")
        .setting("TRUSTED_PROXIES", "127.0.0.66")
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::from(STRANGER, &node).await;
        raw.send(VALIDATE).await.unwrap();
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(401));
        held.push(raw);
    }
}

#[tokio::test]
async fn probes_are_answered_whatever_a_stranger_holds() {
    const SHARE: usize = 48;
    let share = SHARE.to_string();
    let node = Node::builder().setting("CONNECTIONS_PER_ADDRESS", share).start().await;
    let ann = node.register("ann").await;
    let post = "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let large = LARGE.repeat(100);
    let ways: [Vec<u8>; 8] = [
        Vec::new(),
        b"GET /health/live HTTP/1.1\r\nX-Slow: ".into(),
        large.into(),
        VALIDATE.repeat(100).into(),
        post.into(),
        [h2::start(65_535), h2::ping()].concat(),
        [h2::start(0), h2::get(1, "/apidocs/swagger-ui-bundle.js", true)].concat(),
        [h2::start(65_535), h2::get(1, "/api/v1/users/me", false)].concat(),
    ];
    let mut held = Vec::new();
    for way in ways.iter().cycle().take(SHARE) {
        let mut raw = Raw::from(STRANGER, &node).await;
        raw.send(way).await.unwrap();
        held.push(raw);
    }
    // And as many as it likes beyond, again and again, silent or with requests.
    let beyond = tokio::spawn({
        let node = node.another_handle();
        async move {
            let mut beyond = std::collections::VecDeque::new();
            loop {
                let mut raw = Raw::from(STRANGER, &node).await;
                let first = [&b""[..], READY.as_bytes(), LARGE.as_bytes(), b"GET"][beyond.len() % 4];
                let _ = raw.send(first).await;
                beyond.push_back(raw);
                if beyond.len() > 300 {
                    beyond.pop_front();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    for source in [OTHER, STRANGER] {
        let takes = live_takes(source, &node).await;
        println!("a probe from {source:?} takes {takes:?}");
        assert!(takes < Duration::from_millis(100), "a probe from {source:?} takes {takes:?}");
    }
    ann.is_in().await;
    node.register("bob").await;
    beyond.abort();
}
