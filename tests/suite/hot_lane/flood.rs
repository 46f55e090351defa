//! A flood of forged tokens beside good ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, Person, Raw, forge, fresh};

use super::{ANSWER_TIMEOUT, Answered, Asked, FOR_THE_ROUTER, Http2, VALIDATE, ask};

/// Shortest duration of a flood.
const FLOOD: Duration = Duration::from_secs(3);

/// A validation with a token that the node has not seen before: of the right form, under the right key,
/// and with a signature that does not fit.
fn forged(parts: &forge::Parts) -> Asked {
    Asked::of(VALIDATE).by(&parts.with_claim("jti", json!(fresh("01890a5d-ac96-774b-bcce"))))
}

/// What a forged token may be told.
fn is_told_right(answered: &Answered) -> bool {
    match answered.status {
        422 => {
            assert_eq!(answered.msg(), "Signature verification failed");
            true
        }
        503 => {
            assert_eq!(answered.json()["code"], "busy", "{answered:?}");
            assert!(answered.header("retry-after").parse::<u64>().is_ok(), "{answered:?}");
            false
        }
        _ => panic!("{answered:?}"),
    }
}

/// Good tokens: one that was seen before is valid always; a new one too, or may be shown again.
async fn good_ones_stay_good(ann: Person, over: Arc<AtomicBool>) -> (Vec<Duration>, usize) {
    let mut raw = Raw::to(ann.client()).await;
    let mut times = Vec::new();
    let mut busy = 0;
    let mut next = ann.clone();
    while !over.load(Ordering::SeqCst) {
        let start = Instant::now();
        ask(&mut raw, &Asked::of(VALIDATE).by(&ann.access)).await.is(200);
        times.push(start.elapsed());
        if times.len() % 50 == 0 {
            next = next.refreshed().await;
            let answered = ask(&mut raw, &Asked::of(VALIDATE).by(&next.access)).await;
            match answered.status {
                200 => {}
                503 => {
                    assert_eq!(answered.json()["code"], "busy", "{answered:?}");
                    busy += 1;
                }
                _ => panic!("a good token: {answered:?}"),
            }
        }
    }
    times.sort();
    (times, busy)
}

/// Sends forged tokens for a while, and good ones beside them. `wave` sends some and says how many were
/// checked, of how many.
async fn flooded(node: &Node, ann: &Person, wave: impl AsyncFn() -> (usize, usize)) {
    ann.is_in().await;
    let over = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(good_ones_stay_good(ann.clone(), over.clone()));
    let start = Instant::now();
    let mut checked = 0;
    let mut sent = 0;
    while start.elapsed() < FLOOD {
        let (some, of) = wave().await;
        checked += some;
        sent += of;
    }
    over.store(true, Ordering::SeqCst);
    let (times, busy) = good.await.unwrap();
    println!(
        "of {sent} forged tokens {checked} were checked; {} good ones meanwhile, median {:?}, longest {:?}; {busy} new ones busy",
        times.len(),
        times.get(times.len() / 2),
        times.last()
    );
    assert!(checked > 0, "none was checked");
    assert!(times.len() >= 20, "only {} good ones", times.len());
    ann.is_in().await;
    node.register("bob").await.is_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_withstands_a_flood_by_many_connections() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    flooded(&node, &ann, async || {
        let connections = (0..64).map(async |_| {
            let mut raw = Raw::to(&node).await;
            let mut checked = 0;
            for _ in 0..5 {
                let ten: Vec<_> = (0..10).flat_map(|_| forged(&parts).bytes()).collect();
                raw.send(ten).await.unwrap();
                for _ in 0..10 {
                    checked += usize::from(is_told_right(&Answered::of(raw.reply(ANSWER_TIMEOUT).await)));
                }
            }
            checked
        });
        (join_all(connections).await.into_iter().sum(), 64 * 50)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_withstands_more_streams_than_may_wait() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    flooded(&node, &ann, async || {
        let connections = join_all((0..24).map(|_| Http2::to(&node))).await;
        let asked = connections.iter().flat_map(|connection| (0..200).map(move |_| connection.clone()));
        let asked = asked.map(async |mut http2| is_told_right(&http2.ask(&forged(&parts)).await));
        (join_all(asked).await.into_iter().filter(|checked| *checked).count(), 24 * 200)
    })
    .await;
}

/// Good tokens that this node has not seen: of a person each, from before its restart.
async fn unseen(node: &Node, count: usize) -> Vec<String> {
    let ann = node.register("ann").await;
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(ann.in_another_session().await.access);
    }
    node.restart().await;
    tokens
}

/// Keeps forged tokens coming over HTTP/2 until told to stop, on many streams; says how many were sent.
fn flood(
    node: &Node,
    parts: &forge::Parts,
    over: &Arc<AtomicBool>,
    sent: &Arc<AtomicUsize>,
) -> tokio::task::JoinHandle<()> {
    let node = node.another_handle();
    let parts = parts.clone();
    let over = over.clone();
    let sent = sent.clone();
    tokio::spawn(async move {
        let connections = join_all((0..16).map(|_| Http2::to(&node))).await;
        let streams = connections.iter().flat_map(|connection| (0..200).map(move |_| connection.clone()));
        let streams = streams.map(async |mut http2| {
            while !over.load(Ordering::SeqCst) {
                is_told_right(&http2.ask(&forged(&parts)).await);
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        join_all(streams).await;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_good_tokens_pass_beside_a_flood_of_forged_ones() {
    const GOOD: usize = 30;
    let node = Node::start().await;
    let tokens = unseen(&node, GOOD).await;
    let over = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let flooding = flood(&node, &forge::parts(&tokens[0]), &over, &sent);
    let is_flooded = async || (sent.load(Ordering::SeqCst) > 3_200).then_some(());
    testkit::eventually(ANSWER_TIMEOUT, "a flood", is_flooded).await;
    let mut passed = [0; 3];
    for (n, token) in tokens.iter().enumerate() {
        let asked = Asked::of(VALIDATE).by(token);
        let answered = match n % 3 {
            0 => ask(&mut Raw::to(&node).await, &asked).await,
            1 => Http2::to(&node).await.ask(&asked).await,
            _ => ask(&mut Raw::to(&node).await, &asked.with(FOR_THE_ROUTER.0, FOR_THE_ROUTER.1)).await,
        };
        assert!(matches!(answered.status, 200 | 503), "{answered:?}");
        passed[n % 3] += usize::from(answered.status == 200);
    }
    over.store(true, Ordering::SeqCst);
    flooding.await.unwrap();
    println!("of {GOOD} good ones {passed:?} passed beside {} forged ones", sent.load(Ordering::SeqCst));
    assert!(passed.iter().sum::<usize>() >= GOOD * 9 / 10, "of {GOOD} good ones only {passed:?} passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_unknown_keys_delay_no_other_request() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access).under("kid", json!("01890a5d-ac96-774b-bcce-b302099a8057"));
    let connections = join_all((0..4).map(|_| Http2::to(&node))).await;
    let lookups = async || node.metric("palisade_key_lookups_total").await.unwrap();
    let before = lookups().await;
    let start = Instant::now();
    let streams = connections.iter().flat_map(|connection| (0..200).map(move |_| connection.clone()));
    let issued = parts.claims["iat"].as_u64().unwrap();
    let unknown = streams.enumerate().map(async |(n, mut http2)| {
        // Issued at about now, so that its key may be younger than what the store said last.
        let iat = issued + n as u64 % 4;
        let asked = Asked::of(VALIDATE).by(&parts.with_claim("iat", json!(iat)));
        http2.ask(&asked).await.status
    });
    let others = async {
        for _ in 0..5 {
            ann.in_another_session().await.is_in().await;
        }
    };
    let (statuses, ()) = tokio::join!(join_all(unknown), others);
    assert!(statuses.iter().all(|status| matches!(status, 422 | 503)), "{statuses:?}");
    assert!(statuses.contains(&422), "none was looked for");
    let seconds = start.elapsed().as_secs_f64();
    let asked = lookups().await - before;
    assert!(asked <= seconds + 2.0, "the store was asked {asked} times in {seconds:.1} s");
}
