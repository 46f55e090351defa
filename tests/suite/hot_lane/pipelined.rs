//! Many requests at once, and pieces of them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use testkit::{Node, Raw, eventually, forge, fresh, raw::Reply};

use super::{ADMIT, ANSWER_TIMEOUT, Answered, Asked, CHECK, VALIDATE, ask, check};

/// How long a connection must stay silent to prove that no answer is due.
const SILENCE: Duration = Duration::from_millis(300);

/// Awaits the answers to these questions, in their order.
async fn answers(raw: &mut Raw, expected: &[(Asked, u16)]) {
    for (n, (_, status)) in expected.iter().enumerate() {
        let answered = Answered::of(raw.reply(ANSWER_TIMEOUT).await);
        assert_eq!(answered.header("x-request-id"), format!("n-{n}"), "{answered:?}");
        answered.is(*status);
    }
}

/// The same with their numbers as ids, in bytes.
fn numbered(asked: &[(Asked, u16)]) -> Vec<u8> {
    asked.iter().enumerate().flat_map(|(n, (asked, _))| asked.clone().id(&format!("n-{n}")).bytes()).collect()
}

fn a_mix(good: &str) -> Vec<(Asked, u16)> {
    vec![
        (Asked::of(VALIDATE).by(good), 200),
        (Asked::of(VALIDATE), 401),
        (check("nothing").by(good), 200),
        (Asked::of(VALIDATE).by("a.b.c"), 422),
        (Asked::of(ADMIT).by(good), 204),
        (Asked::of(CHECK).by(good), 422),
        (Asked::of(VALIDATE).by(good).by(good), 400),
    ]
}

#[tokio::test]
async fn ready_answer_does_not_wait_for_a_later_request() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    // The key exists nowhere. For a token issued in this second under an unknown key, the node reads the
    // store again if its last read was in an earlier second, at most one second after that.
    let parts = forge::parts(&ann.access);
    let parts = forge::parts(&parts.with_header_field("kid", json!("01890a5d-ac96-774b-bcce-b302099a8057")));
    let unknown = |iat: u64| Asked::of(VALIDATE).by(&parts.with_claim("iat", json!(iat)));
    // On a machine that is slow enough the second is not looked for again: once more.
    for _ in 0..10 {
        let second = time("late in a second", |now| (600..800).contains(&now.subsec_millis())).await;
        ask(&mut Raw::to(&node).await, &unknown(second)).await.is(422);
        let next = time("the next second", |now| now.as_secs() > second).await;
        let pair = [Asked::of(VALIDATE).by(&ann.access).bytes(), unknown(next).bytes()].concat();
        let mut raw = Raw::to(&node).await;
        raw.send(&pair).await.unwrap();
        Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(200);
        let first = Instant::now();
        Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(422);
        if first.elapsed() > SILENCE {
            return;
        }
    }
    panic!("they always came together");
}

/// Awaits a time of the machine's clock, which is the node's; gives its second.
#[allow(clippy::disallowed_methods, reason = "the node's clock is the machine's")]
async fn time(what: &str, is: impl Fn(Duration) -> bool) -> u64 {
    eventually(ANSWER_TIMEOUT, what, async || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        is(now).then_some(now.as_secs())
    })
    .await
}

#[tokio::test]
async fn fifty_pipelined_requests_are_answered_in_order() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let fifty: Vec<_> = a_mix(&ann.access).into_iter().cycle().take(50).collect();
    let mut raw = Raw::to(&node).await;
    for _ in 0..3 {
        raw.send(numbered(&fifty)).await.unwrap();
        answers(&mut raw, &fifty).await;
    }
    assert_eq!(raw.reply(SILENCE).await, Reply::Silence, "an answer to nothing");
}

#[tokio::test]
async fn requests_beyond_any_buffer_are_answered_in_order() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let mut raw = Raw::to(&node).await;
    let many: Vec<_> = a_mix(&ann.access).into_iter().cycle().take(700).collect();
    for _ in 0..3 {
        raw.send(numbered(&many)).await.unwrap();
        answers(&mut raw, &many).await;
    }
    assert_eq!(raw.reply(SILENCE).await, Reply::Silence, "an answer to nothing");
}

#[tokio::test]
async fn pair_of_requests_split_anywhere_is_answered_whole() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let pair = [(Asked::of(VALIDATE).by(&ann.access), 200), (check("nothing").by("a.b.c"), 422)];
    let bytes = numbered(&pair);
    let mut beat = Raw::to(&node).await;
    let mut raw = Raw::to(&node).await;
    for cut in 1..bytes.len() {
        raw.send(&bytes[..cut]).await.unwrap();
        // Something else is answered meanwhile, so the first part has been looked at by itself.
        ask(&mut beat, &Asked::of(VALIDATE)).await.is(401);
        raw.send(&bytes[cut..]).await.unwrap();
        answers(&mut raw, &pair).await;
        if cut < 200 || cut % 50 == 0 {
            // The next cut is of the first bytes of a connection.
            raw = Raw::to(&node).await;
        }
    }
    assert_eq!(raw.reply(SILENCE).await, Reply::Silence, "an answer to nothing");
}

#[tokio::test]
async fn a_request_in_single_bytes_is_answered() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let mut raw = Raw::to(&node).await;
    let mut beat = Raw::to(&node).await;
    for (n, byte) in Asked::of(VALIDATE).by(&ann.access).bytes().into_iter().enumerate() {
        raw.send([byte]).await.unwrap();
        if n % 8 == 0 {
            ask(&mut beat, &Asked::of(VALIDATE)).await.is(401);
        }
    }
    Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(200);
}

#[tokio::test]
async fn mixed_requests_are_answered_in_order() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let body = json!({"email": format!("{}@example.org", fresh("mix")), "password": "a secret of the mix"});
    let body = body.to_string();
    let post = format!(
        "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nX-Request-Id: post\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let hot = |id: &str| Asked::of(VALIDATE).by(&ann.access).id(id).bytes();
    let live = Asked::of("/health/live").id("live").bytes();
    let mix =
        [hot("one"), post.into_bytes(), hot("two"), live.clone(), hot("three"), live, hot("four")].concat();
    let mut beat = Raw::to(&node).await;
    // All at once, then cut in the middle of the body and around it.
    let middle = hot("one").len() + 10;
    for cut in [0, middle, hot("one").len(), hot("one").len() - 1, mix.len() - 1] {
        let mut raw = Raw::to(&node).await;
        raw.send(&mix[..cut]).await.unwrap();
        ask(&mut beat, &Asked::of(VALIDATE)).await.is(401);
        raw.send(&mix[cut..]).await.unwrap();
        for id in ["one", "post", "two", "live", "three", "live", "four"] {
            let answered = Answered::of(raw.reply(ANSWER_TIMEOUT).await);
            assert_eq!(answered.header("x-request-id"), id, "cut at {cut}: {answered:?}");
            // The first request registers the user, later ones find the email in use.
            let expected = if id == "post" { &[201, 409][..] } else { &[200] };
            assert!(expected.contains(&answered.status), "cut at {cut}: {answered:?}");
        }
        assert_eq!(raw.reply(SILENCE).await, Reply::Silence, "an answer to nothing");
    }
}

/// A whole request and half of the next; the connection has asked for this before.
async fn is_answered_before_the_next_is_whole(before: Option<&Asked>, whole: &Asked, next: &Asked) {
    let node = Node::shared().await;
    let mut raw = Raw::to(&node).await;
    if let Some(before) = before {
        ask(&mut raw, before).await.is(200);
    }
    let next = next.bytes();
    let (begin, rest) = next.split_at(next.len() / 2);
    raw.send([&whole.bytes(), begin].concat()).await.unwrap();
    let reply = raw.reply(Duration::from_secs(5)).await;
    assert_eq!(reply.status(), Some(200), "{before:?}, then {whole:?} and half of another: {reply:?}");
    assert_eq!(raw.reply(SILENCE).await, Reply::Silence, "an answer to half a request");
    raw.send(rest).await.unwrap();
    Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(200);
}

#[tokio::test]
async fn complete_request_is_answered_before_partial_one() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    let live = Asked::of("/health/live");
    for next in [&hot, &live] {
        is_answered_before_the_next_is_whole(None, &hot, next).await;
        is_answered_before_the_next_is_whole(Some(&hot), &hot, next).await;
    }
}

#[tokio::test]
async fn complete_mixed_request_is_answered_before_partial_one() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    let live = Asked::of("/health/live");
    for next in [&hot, &live] {
        is_answered_before_the_next_is_whole(Some(&live), &hot, next).await;
        is_answered_before_the_next_is_whole(Some(&hot), &live, next).await;
        is_answered_before_the_next_is_whole(None, &live, next).await;
    }
}

/// `Connection: close` ends a connection after the answer, not before it (RFC 9112, section 9.6).
#[tokio::test]
async fn last_request_is_answered_whatever_follows_it() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let hot = Asked::of(VALIDATE).by(&ann.access);
    let live = Asked::of("/health/live");
    for (before, last, after) in [
        (&hot, hot.clone(), &b""[..]),
        (&hot, hot.clone(), b"x"),
        (&hot, hot.clone(), &hot.bytes()),
        (&hot, live.clone(), &hot.bytes()),
        (&live, hot.clone(), b"x"),
        (&live, live.clone(), &live.bytes()),
    ] {
        for count in [0, 3] {
            let last = last.clone().with("Connection", "close").bytes();
            let mut raw = Raw::to(&node).await;
            raw.send([&before.bytes().repeat(count), &last[..], after].concat()).await.unwrap();
            for n in 0..=count {
                let reply = raw.reply(ANSWER_TIMEOUT).await;
                let what =
                    format!("{n} of {count} times {before:?}, the last, and {} bytes more", after.len());
                assert_eq!(reply.status(), Some(200), "{what}: {reply:?}");
            }
            assert!(matches!(raw.reply(ANSWER_TIMEOUT).await, Reply::Closed { part } if part.is_empty()));
        }
    }
}

#[tokio::test]
async fn requests_before_a_malformed_one_are_answered() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for good in [Asked::of(VALIDATE).by(&ann.access), Asked::of("/health/live")] {
        for broken in [&b"GET / HTTP/1.1\r\nHost x\r\n\r\n"[..], b"\0\0\0\0", b"nonsense\r\n\r\n"] {
            let mut raw = Raw::to(&node).await;
            raw.send([&good.bytes().repeat(3), broken].concat()).await.unwrap();
            for n in 0..3 {
                let reply = raw.reply(ANSWER_TIMEOUT).await;
                assert_eq!(
                    reply.status(),
                    Some(200),
                    "{n} of three times {good:?} before {broken:?}: {reply:?}"
                );
            }
            assert!(raw.reply(ANSWER_TIMEOUT).await.is_clear_refusal());
        }
    }
}

#[tokio::test]
async fn client_that_closed_its_side_still_gets_answers() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let hot = || Asked::of(VALIDATE).by(&ann.access).bytes();
    // A token that was not seen before, too: its signature is checked elsewhere.
    let unseen = Asked::of(VALIDATE).by(&ann.refreshed().await.access).bytes();
    let half = &hot()[..100];
    for (bytes, count) in [
        (hot(), 1),
        (unseen, 1),
        (hot().repeat(20), 20),
        (hot().repeat(500), 500),
        ([&hot(), half].concat(), 1),
        ([&hot()[..], &Asked::of("/health/live").bytes()].concat(), 2),
        (half.to_vec(), 0),
        (Vec::new(), 0),
    ] {
        let mut raw = Raw::to(&node).await;
        raw.send(bytes).await.unwrap();
        raw.finish().await.unwrap();
        for n in 0..count {
            let reply = raw.reply(ANSWER_TIMEOUT).await;
            assert_eq!(reply.status(), Some(200), "{n} of {count}: {reply:?}");
        }
        let end = raw.reply(ANSWER_TIMEOUT).await;
        // Half a request may be told that it is one.
        assert!(end.is_clear_refusal(), "after {count}: {end:?}");
    }
}
