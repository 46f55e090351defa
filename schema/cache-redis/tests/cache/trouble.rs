//! A Redis that does not answer: only speed changes.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use cache_redis::{Cache, OpenError};
use schema::{Clock as _, limit::Counters as _};
use testkit::servers::Redis;

use crate::support::{
    ANN, Intruder, Limiter, RATE, Reader, SECRET, Store, TestClock, may, open_hasty, opened, soon, until_up,
};

/// Limit of the duration of a call: two commands, and as much again for a busy machine.
const CALL_TIMEOUT: Duration = Duration::from_millis(200);
/// Limit of the duration of hundreds of skipped calls; they take milliseconds on an idle machine.
const SKIPPED_CALLS_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a hundred calls of each kind: local limits apply, and no call waits.
async fn assert_limits_and_permissions_still_work(limiter: &Limiter, reader: &Reader) {
    let start = Instant::now();
    for n in 0..100 {
        limiter.fail(&format!("{n}"), 1).await;
        limiter.is_locked("ann").await;
        limiter.take(&format!("{n}"), RATE).await.unwrap();
        assert_eq!(reader.effective(ANN).await, may("read"));
    }
    assert!(start.elapsed() < SKIPPED_CALLS_TIMEOUT, "{:?}", start.elapsed());
}

async fn timed<T>(what: &str, call: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = call.await;
    assert!(start.elapsed() < CALL_TIMEOUT, "{what} took {:?}", start.elapsed());
    answer
}

async fn until_down(cache: &Cache) {
    soon("the cache is down", async || !cache.stats().up.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_starts_without_redis_and_uses_it_later() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    redis.kill();
    let limiter = Limiter::with(opened(&redis.url(), &clock), &clock);
    let reader = Reader::with(opened(&redis.url(), &clock), &store);
    assert!(limiter.fail("ann", 10).await.is_locked(clock.now()), "by its own count");
    assert!(limiter.is_locked("ann").await);
    assert_limits_and_permissions_still_work(&limiter, &reader).await;
    assert_eq!(reader.cache.stats().hits.load(Ordering::SeqCst), 0);
    redis.restart().await;
    until_up(&limiter.cache).await;
    until_up(&reader.cache).await;
    let new = Limiter::start(&redis, &clock).await;
    soon("what it counts is shared", async || {
        limiter.fail("bob", 1).await;
        new.shared.failures("bob", clock.now()).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_redis_leaves_the_limits_of_each_node() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    let limiter = Limiter::with(open_hasty(&redis, &clock).await, &clock);
    let other = Limiter::with(open_hasty(&redis, &clock).await, &clock);
    let reader = Reader::with(open_hasty(&redis, &clock).await, &store);
    limiter.fail("ann", 10).await;
    redis.kill();
    assert!(timed("failures", limiter.is_locked("ann")).await);
    timed("effective", reader.effective(ANN)).await;
    for cache in [&limiter.cache, &reader.cache, &other.cache] {
        until_down(cache).await;
    }
    assert_limits_and_permissions_still_work(&limiter, &reader).await;
    assert!(limiter.is_locked("ann").await);
    assert!(!other.is_locked("ann").await, "it counted none");
    redis.restart().await;
    until_up(&limiter.cache).await;
    until_up(&other.cache).await;
    assert!(limiter.is_locked("ann").await, "a Redis that is empty takes nothing back");
    assert!(other.fail("ann", 10).await.is_locked(clock.now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_redis_costs_one_short_wait() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    for call in ["failures", "fail", "forget", "take", "effective"] {
        let limiter = Limiter::with(open_hasty(&redis, &clock).await, &clock);
        let reader = Reader::with(limiter.cache.clone(), &store);
        redis.pause();
        match call {
            "failures" => drop(timed(call, limiter.shared.failures("ann", clock.now())).await),
            "fail" => drop(timed(call, limiter.fail("ann", 1)).await),
            "forget" => timed(call, limiter.shared.forget("ann")).await,
            "take" => timed(call, limiter.take("ann", RATE)).await.unwrap(),
            _ => assert_eq!(timed(call, reader.effective(ANN)).await, may("read")),
        }
        assert_limits_and_permissions_still_work(&limiter, &reader).await;
        assert_eq!(limiter.cache.stats().errors.load(Ordering::SeqCst), 1, "one waited for all");
        redis.resume();
        until_up(&limiter.cache).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_of_a_hanging_redis_wait_once() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    let reader = Reader::with(open_hasty(&redis, &clock).await, &store);
    redis.pause();
    let start = Instant::now();
    let calls: Vec<_> = (0..2_000)
        .map(|_| {
            let grants = reader.grants.clone();
            tokio::spawn(async move { store::GrantsStore::effective(&*grants, ANN).await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), may("read"));
    }
    // In sequence, with the limit of commands under way, they would take 1.5 s.
    assert!(start.elapsed() < SKIPPED_CALLS_TIMEOUT, "{:?}", start.elapsed());
    redis.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_redis_leaves_the_limits_of_each_node() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    one.fail("ann", 10).await;
    two.fail("bob", 9).await;
    redis.flush().await;
    assert!(one.is_locked("ann").await);
    assert!(!two.is_locked("ann").await);
    assert!(two.fail("bob", 1).await.is_locked(clock.now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn full_redis_affects_only_speed() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    let (limiter, reader) =
        (Limiter::start(&redis, &clock).await, Reader::start(&redis, &store, &clock).await);
    let mut intruder = Intruder::into(&redis).await;
    limiter.fail("bob", 9).await;
    intruder.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(limiter.fail("ann", 10).await.is_locked(clock.now()));
    limiter.take("address", RATE).await.unwrap();
    for _ in 0..2 {
        assert_eq!(reader.effective(ANN).await, may("read"));
    }
    assert_eq!(store.loads(), 2, "nothing could be kept");
    assert!(limiter.cache.stats().errors.load(Ordering::SeqCst) > 0);
    assert!(limiter.cache.stats().up.load(Ordering::SeqCst), "what it has can be read");
    let new = Limiter::start(&redis, &clock).await;
    assert_eq!(new.shared.failures("bob", clock.now()).await.unwrap().count, 9);
    intruder.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(new.fail("bob", 1).await.is_locked(clock.now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn password_and_database_of_the_url_are_used() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    Intruder::into(&redis).await.command(&["CONFIG", "SET", "requirepass", "s3cret@"]).await;
    let with = |login: &str| redis.url().replace("redis://", &format!("redis://{login}@"));
    let limiter = Limiter::with(opened(&format!("{}/3", with(":s3cret%40")), &clock), &clock);
    until_up(&limiter.cache).await;
    let mut third = Intruder::at(&format!("{}/3", with(":s3cret%40"))).await;
    soon("it is counted there", async || {
        limiter.fail("ann", 1).await;
        third.keys().await.len() == 1
    })
    .await;
    assert!(Intruder::at(&with(":s3cret%40")).await.keys().await.is_empty());
    // With a wrong password, none, or a nonexistent database, Redis counts as down.
    for url in [with(":wrong"), redis.url(), format!("{}/99", with(":s3cret%40"))] {
        let limiter = Limiter::with(opened(&url, &clock), &clock);
        soon("it was tried", async || third.has_refused().await).await;
        assert!(limiter.fail("bob", 10).await.is_locked(clock.now()));
        assert!(!limiter.cache.stats().up.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn invalid_arguments_are_rejected_at_once() {
    let clock = TestClock::new();
    let open =
        |url: &str, namespace: &str, secret: &[u8]| Cache::open(url, namespace, secret, clock.clone()).err();
    assert_eq!(open("redis://127.0.0.1:1", "main", SECRET), None);
    let said = open("redis://:hunter2@", "main", SECRET).unwrap();
    assert_eq!(said, OpenError::Url);
    assert!(!said.to_string().contains("hunter2"));
    assert_eq!(open("rediss://127.0.0.1", "main", SECRET), Some(OpenError::Tls));
    for bad in ["", "a:b", "a b", "a\n", &"a".repeat(65)] {
        assert_eq!(open("redis://127.0.0.1:1", bad, SECRET), Some(OpenError::Namespace), "{bad:?}");
    }
    assert_eq!(open("redis://127.0.0.1:1", "main", &[7; 31]), Some(OpenError::Secret));
}

#[test]
fn opening_without_a_runtime_is_an_error() {
    let opened = Cache::open("redis://127.0.0.1:1", "main", SECRET, TestClock::new());
    assert_eq!(opened.err(), Some(OpenError::NoRuntime));
}
