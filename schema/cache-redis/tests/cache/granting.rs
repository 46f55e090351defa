//! Permissions of users, cached in Redis.

use std::sync::{Arc, atomic::Ordering};

use schema::{
    PermissionId, RoleId, Subject, Timestamp,
    page::PageOf,
    permission::{Effective, Grant},
};
use store::{Added, GrantsStore as _, StoreError};
use testkit::servers::Redis;

use crate::support::{ANN, BOB, Intruder, MAX_AGE, Reader, Store, TestClock, may, soon};

/// A Redis with the entry of the user ann, with the permission `read`, and its bytes.
async fn cached(clock: &Arc<TestClock>) -> (Redis, Arc<Store>, Reader, Intruder, String, Vec<u8>) {
    let (redis, store) = (Redis::start().await, Store::new());
    store.set(ANN, &may("read"));
    let mut intruder = Intruder::into(&redis).await;
    let node = Reader::start(&redis, &store, clock).await;
    node.effective(ANN).await;
    let key = intruder.only_key().await;
    let entry = intruder.get(&key).await;
    (redis, store, node, intruder, key, entry)
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_loaded_by_one_node_serves_all_nodes() {
    let clock = TestClock::new();
    let (redis, store, one, mut intruder, key, _) = cached(&clock).await;
    let two = Reader::start(&redis, &store, &clock).await;
    for node in [&one, &two] {
        assert_eq!(node.effective(ANN).await, may("read"));
        assert_eq!(node.cache.stats().hits.load(Ordering::SeqCst), 1);
    }
    assert_eq!(store.loads(), 1);
    store.is_down(true);
    assert_eq!(two.effective(ANN).await, may("read"), "also when the store is down");
    assert!(key.starts_with("palisade:test:grants-1:"));
    assert!(intruder.ttl(&key).await <= MAX_AGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_permissions_are_cached_too() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let node = Reader::start(&redis, &store, &clock).await;
    assert_eq!(node.effective(ANN).await, Effective::default());
    Intruder::into(&redis).await.only_key().await;
    assert_eq!(node.effective(ANN).await, Effective::default());
    assert_eq!(store.loads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_store_are_not_cached() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let node = Reader::start(&redis, &store, &clock).await;
    store.is_down(true);
    assert!(matches!(node.grants.effective(ANN).await, Err(StoreError::Unavailable(_))));
    store.is_down(false);
    store.set(ANN, &may("read"));
    assert_eq!(node.effective(ANN).await, may("read"));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_go_to_the_store() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let grants = Reader::start(&redis, &store, &clock).await.grants;
    let grant = Grant::Role(RoleId::from_bytes([9; 16]));
    assert_eq!(grants.give(ANN, grant).await.unwrap(), Added::Full);
    assert!(grants.take(ANN, grant).await.unwrap());
    assert_eq!(grants.raw(ANN).await.unwrap().roles.len(), 1);
    assert_eq!(grants.holders(grant, PageOf { after: None, limit: 1 }).await.unwrap().items, [ANN]);
    assert!(Intruder::into(&redis).await.keys().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidated_entry_is_rejected_whatever_redis_keeps() {
    for subject in [
        Some(Subject::User(ANN)),
        Some(Subject::Role(RoleId::from_bytes([4; 16]))),
        Some(Subject::Permission(PermissionId::from_bytes([3; 16]))),
        None,
    ] {
        let clock = TestClock::new();
        let (_redis, store, node, mut intruder, key, old) = cached(&clock).await;
        clock.forward(5);
        store.set(ANN, &may("less"));
        match subject {
            Some(subject) => node.grants.invalidate(subject),
            None => node.grants.invalidate_all(),
        }
        // 5 s is the age of the old entry at the invalidation.
        for seconds in [0, 59, 1, 1, 500, 33, 1, 100_000] {
            clock.forward(seconds);
            intruder.set(&key, &old).await;
            assert_eq!(node.effective(ANN).await, may("less"), "{subject:?}, {seconds} s later");
            let writes = async || intruder.get(&key).await != old;
            if seconds > 1 && seconds != 59 {
                soon("a new entry is written", writes).await;
            }
        }
        assert!(node.cache.stats().bypassed.load(Ordering::SeqCst) >= 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_of_a_user_affects_no_other_user() {
    let clock = TestClock::new();
    let (_redis, store, node, ..) = cached(&clock).await;
    node.grants.invalidate(Subject::User(BOB));
    node.effective(ANN).await;
    assert_eq!(store.loads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_serves_again_a_minute_after_an_invalidation() {
    let clock = TestClock::new();
    let (_redis, store, node, mut intruder, key, old) = cached(&clock).await;
    store.set(ANN, &may("less"));
    node.grants.invalidate(Subject::User(ANN));
    clock.forward(60);
    assert_eq!(node.effective(ANN).await, may("less"));
    soon("the new entry is there", async || intruder.get(&key).await != old).await;
    let loads = store.loads();
    assert_eq!(node.effective(ANN).await, may("less"));
    assert_eq!(store.loads(), loads);
    intruder.set(&key, &old).await;
    assert_eq!(node.effective(ANN).await, may("less"), "the old one is still old");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_overtaken_by_an_invalidation_is_not_written() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let (node, mut intruder) = (Reader::start(&redis, &store, &clock).await, Intruder::into(&redis).await);
    store.set(ANN, &may("read"));
    store.is_slow();
    let loading = {
        let grants = node.grants.clone();
        tokio::spawn(async move { grants.effective(ANN).await.unwrap() })
    };
    soon("the load has begun", async || store.loading.load(Ordering::SeqCst) == 1).await;
    store.set(ANN, &may("less"));
    node.grants.invalidate(Subject::User(ANN));
    store.go_on.add_permits(100);
    assert_eq!(loading.await.unwrap(), may("read"), "it was true when it was asked for");
    // The entry of another user is written, that of ann is not.
    node.effective(BOB).await;
    intruder.only_key().await;
    assert_eq!(node.effective(ANN).await, may("less"));
    intruder.only_key().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_from_before_an_invalidation_is_rejected() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let mut intruder = Intruder::into(&redis).await;
    let (deaf, hears) =
        (Reader::start(&redis, &store, &clock).await, Reader::start(&redis, &store, &clock).await);
    store.set(ANN, &may("read"));
    store.is_slow();
    let grants = deaf.grants.clone();
    let loading = tokio::spawn(async move { grants.effective(ANN).await.unwrap() });
    soon("the load has begun", async || store.loading.load(Ordering::SeqCst) == 1).await;
    store.set(ANN, &may("less"));
    clock.forward(1);
    hears.grants.invalidate(Subject::User(ANN));
    // Long after the bypass, the earlier load of the other node arrives in Redis.
    clock.forward(100);
    store.go_on.add_permits(100);
    loading.await.unwrap();
    intruder.only_key().await;
    assert_eq!(hears.effective(ANN).await, may("less"));
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_is_accepted_up_to_its_maximum_age() {
    let clock = TestClock::new();
    let (_redis, store, node, mut intruder, key, old) = cached(&clock).await;
    store.set(ANN, &may("less"));
    clock.forward(MAX_AGE.as_secs() - 1);
    assert_eq!(node.effective(ANN).await, may("read"), "the change was not announced");
    clock.forward(1);
    intruder.set(&key, &old).await;
    assert_eq!(node.effective(ANN).await, may("less"));
    assert_eq!(store.loads(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_is_accepted_if_clocks_differ_by_a_minute() {
    let clock = TestClock::new();
    let (redis, store, ..) = cached(&clock).await;
    // Its clock is behind that of the node that loaded; then ahead.
    let behind = TestClock::at(Timestamp::from_secs(1_800_000_000 - 60));
    for clock in [behind, clock.ahead(60)] {
        assert_eq!(Reader::start(&redis, &store, &clock).await.effective(ANN).await, may("read"));
    }
    assert_eq!(store.loads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_from_the_future_is_rejected() {
    let clock = TestClock::new();
    let (redis, store, ..) = cached(&clock).await;
    store.set(ANN, &may("less"));
    let behind = TestClock::at(Timestamp::from_secs(1_800_000_000 - 61));
    assert_eq!(Reader::start(&redis, &store, &behind).await.effective(ANN).await, may("less"));
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_of_a_clock_ahead_is_rejected_after_an_invalidation() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let mut intruder = Intruder::into(&redis).await;
    store.set(ANN, &may("read"));
    let ahead = Reader::start(&redis, &store, &clock.ahead(60)).await;
    ahead.effective(ANN).await;
    let key = intruder.only_key().await;
    let old = intruder.get(&key).await;
    let node = Reader::start(&redis, &store, &clock).await;
    store.set(ANN, &may("less"));
    clock.forward(1);
    node.grants.invalidate(Subject::User(ANN));
    for _ in 0..12 {
        clock.forward(60);
        intruder.set(&key, &old).await;
        assert_eq!(node.effective(ANN).await, may("less"));
        soon("a new entry is written", async || intruder.get(&key).await != old).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_entry_is_not_cached() {
    let (redis, store, clock) = (Redis::start().await, Store::new(), TestClock::new());
    let (node, mut intruder) = (Reader::start(&redis, &store, &clock).await, Intruder::into(&redis).await);
    let with = |count| {
        let mut effective = may("read");
        effective.combined = vec![effective.direct[0].clone(); count];
        effective
    };
    store.set(ANN, &with(4_000));
    node.effective(ANN).await;
    node.effective(ANN).await;
    assert_eq!(store.loads(), 2);
    assert!(intruder.keys().await.is_empty());
    store.set(BOB, &with(2_000));
    node.effective(BOB).await;
    let key = intruder.only_key().await;
    assert!(intruder.get(&key).await.len() > 150 * 1024);
    assert_eq!(node.effective(BOB).await, with(2_000));
    assert_eq!(store.loads(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_redis_costs_one_load() {
    let clock = TestClock::new();
    let (redis, store, node, mut intruder, ..) = cached(&clock).await;
    redis.flush().await;
    assert_eq!(node.effective(ANN).await, may("read"));
    assert_eq!(store.loads(), 2);
    intruder.only_key().await;
}
