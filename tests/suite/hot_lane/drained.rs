//! The end of a node under connections of the hot lane.

use std::{
    sync::{Arc, atomic::AtomicU16},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{Client, Drain, Node, Raw, eventually, raw::Reply, within};

use super::{ADMIT, ANSWER_TIMEOUT, Answered, Asked, Http2, VALIDATE, ask, check};

async fn drains(node: &Node) {
    node.ask_to_end();
    eventually(ANSWER_TIMEOUT, "it drains", async || {
        node.readiness().await.is_ok_and(|answer| answer.status == 503).then_some(())
    })
    .await;
}

#[tokio::test]
async fn open_connection_is_answered_told_to_close_and_closed() {
    let node = Node::builder().setting("DRAIN_GRACE", "4s").start().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    let mut asking = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::to(&node).await;
        ask(&mut raw, &hot).await.is(200);
        asking.push(raw);
    }
    let mut idle = Raw::to(&node).await;
    ask(&mut idle, &hot).await.is(200);
    let mut silent = Raw::to(&node).await;
    let mut http2 = Http2::to(&node).await;
    http2.ask(&hot).await.is(200);
    let start = Instant::now();
    drains(&node).await;
    for (raw, (asked, status)) in asking.iter_mut().zip([
        (hot.clone(), 200),
        (Asked::of(ADMIT), 401),
        (check("x").by(&ann.access), 200),
    ]) {
        let answered = ask(raw, &asked).await;
        answered.is(status);
        assert_eq!(answered.header("connection"), "close", "{answered:?}");
        assert!(raw.is_closed_within(ANSWER_TIMEOUT).await, "it said close");
    }
    // New connections are answered too.
    let mut newcomer = Raw::to(&node).await;
    let answered = ask(&mut newcomer, &hot).await;
    assert_eq!((answered.status, answered.header("connection")), (200, "close"));
    http2.ask(&hot).await.is(200);
    assert!(start.elapsed() < Duration::from_secs(4), "too slow a machine for this test");
    assert!(idle.is_closed_within(ANSWER_TIMEOUT).await, "an idle connection is held");
    assert!(silent.is_closed_within(ANSWER_TIMEOUT).await, "a silent connection is held");
    assert_eq!(node.ended(Duration::from_secs(20)).await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(12), "it took {:?}", start.elapsed());
}

#[tokio::test]
async fn draining_node_answers_pipelined_requests_and_says_close() {
    let node = Node::builder().setting("DRAIN_GRACE", "4s").start().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    drains(&node).await;
    let mut raw = Raw::to(&node).await;
    raw.send(hot.bytes().repeat(20)).await.unwrap();
    let mut closing = false;
    loop {
        match raw.reply(ANSWER_TIMEOUT).await {
            reply @ Reply::Answer { .. } => {
                assert!(!closing, "an answer after the last one");
                let answered = Answered::of(reply);
                answered.is(200);
                closing = answered.headers.contains_key("connection");
            }
            Reply::Closed { part } => {
                assert!(closing && part.is_empty(), "closed without a word: {part:?}");
                break;
            }
            Reply::Silence => panic!("neither answered nor closed"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_loses_no_pipelined_request() {
    let node = Node::builder().setting("DRAIN_GRACE", "1s").start().await;
    let ann = node.register("ann").await;
    let drain = Drain::default();
    let tens = [Asked::of(VALIDATE), check("x")].map(|asked| asked.by(&ann.access).bytes().repeat(10));
    let clients = (0..16).map(|n| drain.ask(&node, &tens[n % 2], 10));
    tokio::join!(join_all(clients), drain.end(&node, 1_000));
}

#[tokio::test]
async fn half_a_request_does_not_delay_the_drain() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    let mut half = Vec::new();
    for begin in [&b"G"[..], b"\r\n", b"PRI * HTTP/2.0\r\n", &hot.bytes()[..100]] {
        let mut raw = Raw::to(&node).await;
        raw.send(begin).await.unwrap();
        half.push(raw);
    }
    ask(&mut Raw::to(&node).await, &hot).await.is(200);
    let start = Instant::now();
    assert_eq!(node.terminate().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for mut raw in half {
        assert!(raw.is_closed_within(ANSWER_TIMEOUT).await);
    }
}

#[tokio::test]
async fn node_with_an_operator_listener_drains_both_listeners() {
    let free = || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let directory = testkit::scratch::directory();
    let public = free();
    let operators = free();
    let call = testkit::Palisade::with(["serve"])
        .setting("LISTEN", public.to_string())
        .setting("OPERATOR_LISTEN", operators.to_string())
        .setting("DATA_DIR", directory.path().join("data"))
        .setting("DRAIN_GRACE", "1s");
    let mut command = tokio::process::Command::from(call.into_command());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let client = |address: std::net::SocketAddr| Client::new(Arc::new(AtomicU16::new(address.port())));
    let operators = client(operators);
    let public = client(public);
    eventually(Duration::from_secs(60), "readiness", async || {
        operators.get("/health/ready").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    // Each listener has its own questions.
    let mut raw = Raw::to(&public).await;
    for (asked, status) in [(VALIDATE, 401), (ADMIT, 401), ("/metrics", 404), (VALIDATE, 401)] {
        ask(&mut raw, &Asked::of(asked)).await.is(status);
    }
    let mut operator = Raw::to(&operators).await;
    for (asked, status) in [(VALIDATE, 404), (ADMIT, 404), ("/metrics", 200), (VALIDATE, 404)] {
        ask(&mut operator, &Asked::of(asked)).await.is(status);
    }
    Http2::to(&operators).await.ask(&Asked::of(VALIDATE)).await.is(404);
    // Both ends of it end with the node.
    let mut hot = Raw::to(&public).await;
    ask(&mut hot, &Asked::of(VALIDATE)).await.is(401);
    let mut silent = Raw::to(&public).await;
    let mut idle = Raw::to(&operators).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = within(Duration::from_secs(20), "the end of the node", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    for raw in [&mut hot, &mut silent, &mut idle, &mut operator] {
        assert!(raw.is_closed_within(ANSWER_TIMEOUT).await);
    }
}
