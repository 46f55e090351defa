//! Limits that nodes count together.

use std::{sync::Arc, time::Duration};

use schema::{
    Clock as _,
    limit::{Bucket, Counters as _, FIRST_LOCK, Rate},
};
use testkit::servers::Redis;

use crate::support::{Intruder, Limiter, RATE, TestClock};

const TWENTY: Rate = Rate { count: 20, window: Duration::from_secs(60) };

#[tokio::test(flavor = "multi_thread")]
async fn ten_failures_at_two_nodes_lock_at_all_nodes() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    one.fail("ann", 5).await;
    assert!(!two.fail("ann", 4).await.is_locked(clock.now()));
    assert!(!one.is_locked("ann").await && !two.is_locked("ann").await, "nine are no lock");
    assert_eq!(one.fail("ann", 1).await.locked_until, clock.now().plus(FIRST_LOCK));
    let new = Limiter::start(&redis, &clock).await;
    for node in [&one, &two, &new] {
        assert!(node.is_locked("ann").await);
        assert!(!node.is_locked("bob").await, "another account");
    }
    clock.forward(61);
    assert!(!one.is_locked("ann").await && !new.is_locked("ann").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_lock_is_longer_on_every_node() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    one.fail("ann", 10).await;
    clock.forward(61);
    assert_eq!(two.fail("ann", 1).await.locked_until, clock.now().plus(2 * FIRST_LOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_is_shared_by_all_nodes() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    for n in 0..20 {
        let node = if n % 2 == 0 { &one } else { &two };
        assert_eq!(node.take("address", TWENTY).await, Ok(()), "{n}");
    }
    let next = clock.now().plus(Duration::from_secs(3));
    assert_eq!(one.take("address", TWENTY).await, Err(next));
    assert_eq!(two.take("address", TWENTY).await, Err(next));
    assert_eq!(two.take("another address", TWENTY).await, Ok(()));
    clock.forward(3);
    assert_eq!(one.take("address", TWENTY).await, Ok(()));
    assert!(two.take("address", TWENTY).await.is_err(), "there was one for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_forgiven_at_one_node_are_forgiven_at_all() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    two.fail("ann", 10).await;
    assert!(one.is_locked("ann").await);
    clock.forward(1);
    one.shared.forget("ann").await;
    assert!(!one.is_locked("ann").await && !two.is_locked("ann").await);
    assert!(!two.fail("ann", 9).await.is_locked(clock.now()), "counted from zero");
    assert!(one.fail("ann", 1).await.is_locked(clock.now()), "and together");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_another_node_forgave_do_not_continue() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    two.fail("ann", 9).await;
    clock.forward(1);
    one.shared.forget("ann").await;
    clock.forward(1);
    let failures = two.fail("ann", 1).await;
    assert!(!failures.is_locked(clock.now()));
    assert_eq!(failures.count, 1);
    assert_eq!(two.local.failures("ann", clock.now()).await.unwrap().count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn successful_log_in_without_failures_writes_nothing() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let node = Limiter::start(&redis, &clock).await;
    node.shared.forget("ann").await;
    assert!(Intruder::into(&redis).await.keys().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_expires_and_none_contains_user_input() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (node, mut intruder) = (Limiter::start(&redis, &clock).await, Intruder::into(&redis).await);
    let typed = "ann@example.org\r\nFLUSHALL";
    node.fail(typed, 1).await;
    let failures = intruder.only_key().await;
    node.take(typed, TWENTY).await.unwrap();
    let bucket = intruder.new_key(&[&failures]).await;
    for (key, longest) in [(&failures, RATE.window), (&bucket, Duration::from_secs(3))] {
        assert!(key.starts_with("palisade:test:") && !key.contains("ann"), "{key}");
        assert!(intruder.ttl(key).await <= longest, "{key}");
        let value = String::from_utf8_lossy(&intruder.get(key).await).into_owned();
        assert!(!value.contains("ann"), "{value}");
    }
    node.fail(typed, 9).await;
    let locked = intruder.ttl(&failures).await;
    assert!(locked > RATE.window && locked <= RATE.window + FIRST_LOCK, "{locked:?}");
    node.shared.forget(typed).await;
    assert!(intruder.ttl(&failures).await > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_other_names_or_secrets_share_nothing() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let node = Limiter::start(&redis, &clock).await;
    node.fail("ann", 10).await;
    for (name, secret) in [("other", crate::support::SECRET), ("test", &[7; 32])] {
        let cache = cache_redis::Cache::open(&redis.url(), name, secret, clock.clone()).unwrap();
        crate::support::until_up(&cache).await;
        assert!(!Limiter::with(cache, &clock).is_locked("ann").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_failures_are_never_counted_twice() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Arc::new(Limiter::start(&redis, &clock).await));
    }
    let tries: Vec<_> = (0..9)
        .map(|n| {
            let node = nodes[n % 3].clone();
            tokio::spawn(async move { node.fail("ann", 1).await })
        })
        .collect();
    for failed in tries {
        assert!(!failed.await.unwrap().is_locked(clock.now()), "nine are no lock");
    }
    for node in &nodes {
        assert_eq!(
            node.local.failures("ann", clock.now()).await.unwrap().count,
            3,
            "its own are all counted"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_that_is_refilled_at_one_node_is_full_at_all() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    for _ in 0..20 {
        one.take("address", TWENTY).await.unwrap();
    }
    for node in [&one, &two] {
        let bucket = node.shared.bucket("address", TWENTY, clock.now()).await;
        assert_eq!(Bucket::wait(bucket, TWENTY, clock.now()), Some(Duration::from_secs(3)));
    }
    clock.forward(1);
    two.shared.refill("address").await;
    for node in [&one, &two] {
        assert_eq!(node.shared.bucket("address", TWENTY, clock.now()).await, None);
    }
    for n in 0..20 {
        assert_eq!([&one, &two][n % 2].take("address", TWENTY).await, Ok(()), "{n}");
    }
    assert!(one.take("address", TWENTY).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_listed_by_all_nodes_and_encrypted_in_redis() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
    let mut intruder = Intruder::into(&redis).await;
    assert_eq!(one.shared.announced().await, Some(vec![]));
    for (node, label, seconds) in [(&one, "ann@example.org", 60), (&two, "bob", 120), (&two, "bob", 180)] {
        node.shared.announce(label, Duration::from_secs(seconds)).await;
    }
    let both = ["ann@example.org", "bob"].map(str::to_owned).to_vec();
    for node in [&one, &two] {
        assert_eq!(node.shared.announced().await, Some(both.clone()));
    }
    let key = intruder.only_key().await;
    assert!(key.starts_with("palisade:test:limited-1:"), "{key}");
    assert!(intruder.ttl(&key).await > Duration::ZERO);
    // Labels that other clients add are rejected.
    intruder.command(&["ZADD", &key, "99999999999999", "eve@example.org"]).await;
    clock.forward(61);
    assert_eq!(one.shared.announced().await, Some(vec!["bob".to_owned()]));
    let longest = "x".repeat(10_000);
    one.shared.announce(&longest, Duration::from_secs(60)).await;
    assert_eq!(one.shared.announced().await, Some(vec!["bob".to_owned()]), "too long to be kept");
    intruder.command(&["DEL", &key]).await;
    intruder.set(&key, b"a value").await;
    assert_eq!(one.shared.announced().await, None);
}
