//! Values that no node may trust: a lying Redis makes only limits softer and reads slower.

use std::time::Duration;

use schema::{
    Clock as _, Timestamp,
    limit::{Counters as _, LONGEST_LOCK, Rate},
};
use testkit::servers::Redis;

use crate::support::{ANN, BOB, Intruder, Limiter, RATE, Reader, Store, TestClock, may};

/// Values that no node wrote, of several lengths.
fn false_values() -> Vec<Vec<u8>> {
    let noise = |length: usize| (0..length).map(|n| u8::try_from(n * 151 % 256).unwrap()).collect();
    let lock =
        br#"{"failures":{"count":99,"since":0,"locks":9,"locked_until":9999999999999},"forgiven_at":0}"#;
    let mut values: Vec<Vec<u8>> = [1, 31, 32, 33, 200, 1024, 1025, 300_000].map(noise).into();
    values.push(lock.to_vec());
    values.push([&[0; 32], &lock[..]].concat());
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_counters_lock_no_account_and_are_overwritten() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let mut intruder = Intruder::into(&redis).await;
    Limiter::start(&redis, &clock).await.fail("ann", 1).await;
    let key = intruder.only_key().await;
    for value in false_values() {
        let (one, two) = (Limiter::start(&redis, &clock).await, Limiter::start(&redis, &clock).await);
        intruder.set(&key, &value).await;
        assert_eq!(one.shared.failures("ann", clock.now()).await, None, "{} bytes", value.len());
        assert_eq!(one.refused(), 1);
        assert_eq!(one.fail("ann", 1).await.count, 1);
        assert_eq!(two.fail("ann", 1).await.count, 2, "shared again after {} bytes", value.len());
    }
    intruder.command(&["DEL", &key]).await;
    intruder.command(&["RPUSH", &key, "a", "list"]).await;
    let node = Limiter::start(&redis, &clock).await;
    assert_eq!(node.shared.failures("ann", clock.now()).await, None);
    node.fail("ann", 1).await;
    let other = Limiter::start(&redis, &clock).await;
    assert_eq!(other.shared.failures("ann", clock.now()).await.unwrap().count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_moved_to_another_key_locks_no_account() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (node, mut intruder) = (Limiter::start(&redis, &clock).await, Intruder::into(&redis).await);
    node.fail("eve", 10).await;
    let eves = intruder.only_key().await;
    node.fail("ann", 1).await;
    let anns = intruder.new_key(&[&eves]).await;
    let lock = intruder.get(&eves).await;
    intruder.set(&anns, &lock).await;
    let new = Limiter::start(&redis, &clock).await;
    assert!(new.is_locked("eve").await);
    assert!(!new.is_locked("ann").await);
    assert_eq!(new.refused(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_with_an_altered_end_locks_no_account() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (node, mut intruder) = (Limiter::start(&redis, &clock).await, Intruder::into(&redis).await);
    let until = node.fail("ann", 10).await.locked_until.as_millis();
    let key = intruder.only_key().await;
    let mut forged = intruder.get(&key).await;
    let (from, to) = (until.to_string(), (until + 1_000).to_string());
    let at = forged.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    forged[at..at + to.len()].copy_from_slice(to.as_bytes());
    intruder.set(&key, &forged).await;
    assert!(!Limiter::start(&redis, &clock).await.is_locked("ann").await);
    assert!(node.is_locked("ann").await, "by its own count");
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_old_lock_ends_at_its_own_time() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (node, mut intruder) = (Limiter::start(&redis, &clock).await, Intruder::into(&redis).await);
    let until = node.fail("ann", 10).await.locked_until;
    let key = intruder.only_key().await;
    let old = intruder.get(&key).await;
    node.shared.forget("ann").await;
    intruder.set(&key, &old).await;
    assert!(node.is_locked("ann").await, "it was genuine");
    assert!(until.since(clock.now()) <= LONGEST_LOCK);
    clock.forward(61);
    assert!(!node.is_locked("ann").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_old_count_does_not_soften_the_local_one() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (node, mut intruder) = (Limiter::start(&redis, &clock).await, Intruder::into(&redis).await);
    node.fail("ann", 1).await;
    let key = intruder.only_key().await;
    let old = intruder.get(&key).await;
    node.fail("ann", 9).await;
    intruder.set(&key, &old).await;
    assert!(!Limiter::start(&redis, &clock).await.is_locked("ann").await, "softer");
    assert!(node.is_locked("ann").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_counters_from_the_future_count_as_none() {
    let redis = Redis::start().await;
    let (clock, mad) = (TestClock::new(), TestClock::at(Timestamp::from_secs(4_000_000_000)));
    let from_the_future = Limiter::start(&redis, &mad).await;
    from_the_future.fail("ann", 10).await;
    let hourly = Rate { count: 1, window: Duration::from_secs(3600) };
    from_the_future.take("address", hourly).await.unwrap();
    let node = Limiter::start(&redis, &clock).await;
    assert!(!node.is_locked("ann").await);
    assert!(node.refused() > 0);
    assert_eq!(node.take("address", hourly).await, Ok(()));
    assert!(node.take("address", hourly).await.is_err(), "and then it counts as usual");
    assert!(node.fail("ann", 10).await.is_locked(clock.now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_a_clock_a_minute_ahead_are_accepted() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    Limiter::start(&redis, &clock.ahead(59)).await.fail("ann", 10).await;
    assert!(Limiter::start(&redis, &clock).await.is_locked("ann").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_bucket_limits_no_client() {
    let (redis, clock) = (Redis::start().await, TestClock::new());
    let (node, mut intruder) = (Limiter::start(&redis, &clock).await, Intruder::into(&redis).await);
    node.take("address", RATE).await.unwrap();
    let key = intruder.only_key().await;
    for value in false_values() {
        intruder.set(&key, &value).await;
        let new = Limiter::start(&redis, &clock).await;
        assert_eq!(new.take("address", RATE).await, Ok(()), "{} bytes", value.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_entries_grant_no_permission() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    let mut intruder = Intruder::into(&redis).await;
    store.set(ANN, &may("read"));
    store.set(BOB, &may("all_all"));
    let node = Reader::start(&redis, &store, &clock).await;
    node.effective(ANN).await;
    let anns = intruder.only_key().await;
    node.effective(BOB).await;
    let bobs = intruder.new_key(&[&anns]).await;
    let genuine = intruder.get(&bobs).await;
    let mut values = false_values();
    values.push(genuine.clone());
    values.push(genuine[..genuine.len() - 1].to_vec());
    for value in values {
        intruder.set(&anns, &value).await;
        let (reader, loads) = (Reader::start(&redis, &store, &clock).await, store.loads());
        assert_eq!(reader.effective(ANN).await, may("read"), "{} bytes", value.len());
        assert_eq!(store.loads(), loads + 1, "{} bytes", value.len());
        assert_eq!(reader.cache.stats().refused.load(std::sync::atomic::Ordering::SeqCst), 1);
        // Waits until it is overwritten, so that no late write falls into the next round.
        crate::support::soon("it is overwritten", async || {
            let now = intruder.get(&anns).await;
            now != value
        })
        .await;
    }
    intruder.command(&["DEL", &anns]).await;
    intruder.command(&["SADD", &anns, "a set"]).await;
    assert_eq!(Reader::start(&redis, &store, &clock).await.effective(ANN).await, may("read"));
}
