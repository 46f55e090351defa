//! Clients that are slow, silent, many, or do not listen.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use testkit::{Node, Raw, Shared};

use super::{ANSWER_TIMEOUT, Asked, Http2, VALIDATE, ask};

/// The node's idle timeout here, for clients that send nothing or read nothing.
const IDLE: Duration = Duration::from_secs(2);
/// Longest time until the node closes a connection, on a busy machine: twice any of its timeouts.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between the bytes of a slow client.
const BETWEEN_BYTES: Duration = Duration::from_millis(300);

static BESIEGED: Shared = Shared::with(&[("IDLE_TIMEOUT", "2s")]);

/// Whether it is closed though every now and then a byte is sent, of these.
async fn is_let_go(mut raw: Raw, bytes: &[u8]) -> bool {
    let start = Instant::now();
    let mut bytes = bytes.iter().cycle();
    while start.elapsed() < CLOSE_TIMEOUT {
        if raw.is_closed_within(BETWEEN_BYTES).await {
            return true;
        }
        if let Some(byte) = bytes.next()
            && raw.send([*byte]).await.is_err()
        {
            return true;
        }
    }
    false
}

/// Its name, what it sends at first, and what follows byte by byte.
type Slow<'a> = (&'a str, &'a [&'a [u8]], &'a [u8]);

#[tokio::test]
async fn silent_or_slow_connection_is_closed() {
    let node = BESIEGED.node().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access).bytes();
    let head = [&hot[..hot.len() - 2], b"X-Slow: "].concat();
    let cases: [Slow<'_>; 13] = [
        ("nothing", &[], b""),
        ("empty lines", &[], b"\r\n"),
        ("a byte of a question", &[b"G"], b""),
        ("half a question", &[&hot[..100]], b""),
        ("half a question, then bytes", &[&head], b"x"),
        ("a question", &[&hot], b""),
        ("a question, then bytes of another", &[&hot, &head], b"x"),
        ("questions, then half a one", &[&hot, &hot, &hot[..100]], b""),
        (
            "another request, then bytes of a question",
            &[b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", &head],
            b"x",
        ),
        ("half a preface of HTTP/2", &[b"PRI * HTTP/2.0\r\n"], b""),
        ("a preface of HTTP/2, without an end", &[b"PRI * HTTP/2"], b""),
        ("half a request of hyper's", &[b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\n"], b""),
        ("a long head", &[&[&head[..], &[b'x'; 17_000]].concat()], b"x"),
    ];
    let held = join_all(cases.iter().map(async |(name, first, then)| {
        let mut raw = Raw::to(&node).await;
        for part in *first {
            raw.send(part).await.unwrap();
            if part.ends_with(b"\r\n\r\n") {
                assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200), "{name}");
            }
        }
        let start = Instant::now();
        let closed = is_let_go(raw, then).await;
        println!("{name}: {} after {:.0?}", if closed { "closed" } else { "held" }, start.elapsed());
        (!closed).then_some(*name)
    }));
    let others = async {
        for _ in 0..10 {
            ann.is_in().await;
        }
    };
    let (held, ()) = join(held, others).await;
    let held: Vec<_> = held.into_iter().flatten().collect();
    assert!(held.is_empty(), "still held after {CLOSE_TIMEOUT:?}: {held:?}");
    ann.is_in().await;
}

#[tokio::test]
async fn connection_with_occasional_requests_is_kept() {
    let node = BESIEGED.node().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    let mut raw = Raw::to(&node).await;
    let start = Instant::now();
    // Longer than a silent one is.
    while start.elapsed() < 2 * IDLE {
        ask(&mut raw, &hot).await.is(200);
        assert!(!raw.is_closed_within(IDLE / 4).await, "closed after {:?}", start.elapsed());
    }
    ask(&mut raw, &hot).await.is(200);
}

#[tokio::test]
async fn thousand_idle_connections_cost_little_and_delay_no_client() {
    const CONNECTIONS: u64 = 1_000;
    const MAX_BYTES_EACH: u64 = 20 * 1024;
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    // What the first ones cost, others find there.
    for _ in 0..2 {
        let some = join_all((0..64).map(|_| Raw::to(&node))).await;
        join_all(some.into_iter().map(async |mut raw| ask(&mut raw, &hot).await)).await;
    }
    let before = node.memory_bytes();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut raw = Raw::to(&node).await;
        ask(&mut raw, &hot).await.is(200);
        idle.push(raw);
    }
    let grown = node.memory_bytes().saturating_sub(before);
    println!("{CONNECTIONS} idle connections: {} bytes each", grown / CONNECTIONS);
    let start = Instant::now();
    let mut raw = Raw::to(&node).await;
    for _ in 0..200 {
        ask(&mut raw, &hot).await.is(200);
    }
    println!("beside them a question takes {:?}", start.elapsed() / 200);
    ann.is_in().await;
    // They are there still.
    for raw in idle.iter_mut().step_by(100) {
        ask(raw, &hot).await.is(200);
    }
    // All at once.
    let start = Instant::now();
    for raw in &mut idle {
        raw.send(hot.bytes()).await.unwrap();
    }
    for raw in &mut idle {
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(200));
    }
    println!("all of them at once: {:?}", start.elapsed());
    let grown_more = node.memory_bytes().saturating_sub(before);
    println!("after that: {} bytes each", grown_more / CONNECTIONS);
    // And once more where hyper has them.
    let mut by_hyper = Vec::new();
    let before_hyper = node.memory_bytes();
    for _ in 0..CONNECTIONS {
        let mut raw = Raw::to(&node).await;
        ask(&mut raw, &Asked::of("/health/live")).await.is(200);
        by_hyper.push(raw);
    }
    let by_hyper_each = node.memory_bytes().saturating_sub(before_hyper) / CONNECTIONS;
    println!("of hyper: {by_hyper_each} bytes each");
    for grown in [grown, grown_more] {
        assert!(grown / CONNECTIONS <= MAX_BYTES_EACH, "{} bytes each", grown / CONNECTIONS);
    }
}

#[tokio::test]
async fn client_that_never_reads_delays_no_other_and_is_closed() {
    let node = Node::builder().setting("IDLE_TIMEOUT", "2s").start().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access).bytes();
    let before = node.memory_bytes();
    let deaf = (0..4).map(|_| async {
        let mut raw = Raw::to(&node).await;
        let start = Instant::now();
        let many = hot.repeat(1_000);
        // Answers fill what lies between, then the node waits, then we do; at last it hangs up.
        let sent = tokio::time::timeout(CLOSE_TIMEOUT, async { while raw.send(&many).await.is_ok() {} });
        sent.await.is_ok().then(|| start.elapsed())
    });
    let others = async {
        let mut raw = Raw::to(&node).await;
        let mut http2 = Http2::to(&node).await;
        let start = Instant::now();
        while start.elapsed() < 2 * IDLE {
            ask(&mut raw, &Asked::of(VALIDATE).by(&ann.access)).await.is(200);
            http2.ask(&Asked::of(VALIDATE)).await.is(401);
        }
        node.memory_bytes().saturating_sub(before)
    };
    let (deaf, grown) = join(join_all(deaf), others).await;
    println!("who does not listen is let go after {deaf:?}; they cost {grown} bytes");
    assert!(deaf.iter().all(Option::is_some), "held for longer than {CLOSE_TIMEOUT:?}: {deaf:?}");
    assert!(grown < 16 << 20, "{grown} bytes");
    ann.is_in().await;
}

/// How long others wait, at the median and at most, while some ask this without end.
async fn others_wait_beside(node: &Node, greedy: &[u8]) -> (Duration, Duration) {
    let many = greedy.repeat(1 + (64 << 10) / greedy.len());
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let stream = tokio::net::TcpStream::connect(node.address()).await.unwrap();
        let (mut answers, mut questions) = stream.into_split();
        let many = many.clone();
        tasks.push(tokio::spawn(async move {
            while tokio::io::AsyncWriteExt::write_all(&mut questions, &many).await.is_ok() {}
        }));
        tasks.push(tokio::spawn(async move {
            let mut sink = vec![0; 256 << 10];
            while matches!(tokio::io::AsyncReadExt::read(&mut answers, &mut sink).await, Ok(1..)) {}
        }));
    }
    let mut raw = Raw::to(node).await;
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        ask(&mut raw, &Asked::of("/health/live")).await.is(200);
        times.push(asked.elapsed());
    }
    for task in tasks {
        task.abort();
    }
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_requests_leave_room_for_other_clients() {
    let node = Node::start().await;
    let by_hyper = others_wait_beside(&node, b"GET /health/live HTTP/1.1\r\nHost:\r\n\r\n").await;
    let hot = others_wait_beside(&node, b"GET /auth_request HTTP/1.1\r\nHost:\r\n\r\n").await;
    println!(
        "others wait {hot:?} (median, most) beside greedy questions, {by_hyper:?} beside greedy requests of hyper's"
    );
    assert!(hot.0 < Duration::from_secs(1), "others wait for {:?} at the median", hot.0);
}

#[tokio::test]
async fn buffer_of_a_long_head_is_released() {
    const CONNECTIONS: u64 = 1_000;
    let node = Node::start().await;
    let long = Asked::of(VALIDATE).with("X-Long", "x".repeat(15_000)).bytes();
    let (begin, rest) = long.split_at(14_000);
    let mut beat = Raw::to(&node).await;
    let half_then_whole = async |beat: &mut Raw| {
        let mut raw = Raw::to(&node).await;
        raw.send(begin).await.unwrap();
        ask(beat, &Asked::of(VALIDATE)).await.is(401);
        raw.send(rest).await.unwrap();
        assert_eq!(raw.reply(ANSWER_TIMEOUT).await.status(), Some(401));
        raw
    };
    for _ in 0..64 {
        half_then_whole(&mut beat).await;
    }
    let before = node.memory_bytes();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(half_then_whole(&mut beat).await);
    }
    let each = node.memory_bytes().saturating_sub(before) / CONNECTIONS;
    println!("{} idle connections that once sent half a long head: {each} bytes each", idle.len());
    assert!(each <= 10 * 1024, "{each} bytes each");
}
