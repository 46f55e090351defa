//! The clocks, stores and nodes of the tests.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cache_redis::{Cache, CachedGrants, RedisCounters};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use schema::{
    Clock, PermissionId, RoleId, Timestamp, UserId,
    limit::{Bucket, Counters, Failures, Rate},
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, Permission, Role},
};
use store::{Added, GrantsStore, Result, StoreError};
use testkit::{eventually, servers::Redis};
use tokio::sync::Semaphore;

pub const SECRET: &[u8] = b"a secret of the cluster, 32 bytes";
pub const RATE: Rate = Rate { count: 10, window: Duration::from_secs(900) };
pub const MAX_AGE: Duration = Duration::from_secs(600);
pub const ANN: UserId = UserId::from_bytes([1; 16]);
pub const BOB: UserId = UserId::from_bytes([2; 16]);
/// Limit of the wait for a condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(20);

/// A clock that stands still until it is moved.
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Self::at(Timestamp::from_secs(1_800_000_000))
    }

    pub fn at(time: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(time.as_millis())))
    }

    pub fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    /// Another clock, ahead of this one.
    pub fn ahead(&self, seconds: u64) -> Arc<Self> {
        Self::at(self.now().plus(Duration::from_secs(seconds)))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Opens a cache with a long deadline, so that a busy machine does not count as a slow Redis. Waits for its
/// connection.
pub async fn open(redis: &Redis, clock: &Arc<TestClock>) -> Cache {
    let cache =
        Cache::open_with_deadline(&redis.url(), "test", SECRET, clock.clone(), CONDITION_TIMEOUT).unwrap();
    until_up(&cache).await;
    cache
}

/// Opens a cache as a node does. Waits for its connection.
pub async fn open_hasty(redis: &Redis, clock: &Arc<TestClock>) -> Cache {
    let cache = opened(&redis.url(), clock);
    until_up(&cache).await;
    cache
}

/// Opens a cache as a node does.
pub fn opened(url: &str, clock: &Arc<TestClock>) -> Cache {
    Cache::open(url, "test", SECRET, clock.clone()).unwrap()
}

pub async fn until_up(cache: &Cache) {
    soon("the cache is up", async || cache.stats().up.load(Ordering::SeqCst)).await;
}

/// Waits until a condition holds.
pub async fn soon(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(CONDITION_TIMEOUT, what, async || condition().await.then_some(())).await;
}

/// The limits of a node.
pub struct Limiter {
    pub shared: RedisCounters,
    pub local: Arc<Local>,
    pub cache: Cache,
    clock: Arc<TestClock>,
}

impl Limiter {
    pub async fn start(redis: &Redis, clock: &Arc<TestClock>) -> Self {
        Self::with(open(redis, clock).await, clock)
    }

    pub fn with(cache: Cache, clock: &Arc<TestClock>) -> Self {
        let local = Arc::new(Local::default());
        Self { shared: RedisCounters::new(cache.clone(), local.clone()), local, cache, clock: clock.clone() }
    }

    pub async fn fail(&self, key: &str, times: u32) -> Failures {
        assert!(times > 0);
        let mut last = None;
        for _ in 0..times {
            last = Some(self.shared.fail(key, RATE, self.clock.now()).await);
        }
        last.unwrap()
    }

    pub async fn is_locked(&self, key: &str) -> bool {
        let failures = self.shared.failures(key, self.clock.now()).await;
        failures.is_some_and(|failures| failures.is_locked(self.clock.now()))
    }

    pub async fn take(&self, key: &str, rate: Rate) -> std::result::Result<(), Timestamp> {
        self.shared.take(key, rate, self.clock.now()).await
    }

    pub fn refused(&self) -> u64 {
        self.cache.stats().refused.load(Ordering::SeqCst)
    }
}

/// The local counters of a node.
#[derive(Default)]
pub struct Local {
    failures: Mutex<HashMap<String, Failures>>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[async_trait]
impl Counters for Local {
    async fn failures(&self, key: &str, _: Timestamp) -> Option<Failures> {
        self.failures.lock().unwrap().get(key).copied()
    }
    async fn bucket(&self, key: &str, _: Rate, _: Timestamp) -> Option<Bucket> {
        self.buckets.lock().unwrap().get(key).copied()
    }
    async fn fail(&self, key: &str, rate: Rate, now: Timestamp) -> Failures {
        let mut all = self.failures.lock().unwrap();
        let failures = Failures::after(all.get(key).copied(), rate, now);
        all.insert(key.to_owned(), failures);
        failures
    }
    async fn forget(&self, key: &str) {
        self.failures.lock().unwrap().remove(key);
    }
    async fn refill(&self, key: &str) {
        self.buckets.lock().unwrap().remove(key);
    }
    async fn take(&self, key: &str, rate: Rate, now: Timestamp) -> std::result::Result<(), Timestamp> {
        let mut all = self.buckets.lock().unwrap();
        let (bucket, answer) = Bucket::take(all.get(key).copied(), rate, now);
        all.insert(key.to_owned(), bucket);
        answer
    }
}

/// A store that counts its reads.
pub struct Store {
    truth: Mutex<HashMap<UserId, Effective>>,
    loads: AtomicU64,
    is_down: AtomicBool,
    /// While the store is slow, loads that have read the current state wait for a permit.
    slow: AtomicBool,
    pub loading: AtomicU64,
    pub go_on: Semaphore,
}

impl Store {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            truth: Mutex::default(),
            loads: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            loading: AtomicU64::new(0),
            go_on: Semaphore::new(0),
        })
    }

    pub fn set(&self, user: UserId, effective: &Effective) {
        self.truth.lock().unwrap().insert(user, effective.clone());
    }

    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    pub fn is_down(&self, down: bool) {
        self.is_down.store(down, Ordering::SeqCst);
    }

    pub fn is_slow(&self) {
        self.slow.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl GrantsStore for Store {
    async fn effective(&self, user: UserId) -> Result<Effective> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("down"));
        }
        self.loads.fetch_add(1, Ordering::SeqCst);
        let truth = self.truth.lock().unwrap().get(&user).cloned().unwrap_or_default();
        if self.slow.load(Ordering::SeqCst) {
            self.loading.fetch_add(1, Ordering::SeqCst);
            self.go_on.acquire().await.unwrap().forget();
        }
        Ok(truth)
    }
    async fn give(&self, _: UserId, _: Grant) -> Result<Added> {
        Ok(Added::Full)
    }
    async fn take(&self, _: UserId, _: Grant) -> Result<bool> {
        Ok(true)
    }
    async fn raw(&self, _: UserId) -> Result<Grants> {
        Ok(Grants { roles: [RoleId::from_bytes([9; 16])].into(), ..Grants::default() })
    }
    async fn holders(&self, _: Grant, _: PageOf<UserId>) -> Result<Page<UserId, UserId>> {
        Ok(Page { items: vec![ANN], next: None })
    }
}

/// A node that reads permissions through Redis.
pub struct Reader {
    pub grants: Arc<CachedGrants>,
    pub cache: Cache,
}

impl Reader {
    pub async fn start(redis: &Redis, store: &Arc<Store>, clock: &Arc<TestClock>) -> Self {
        Self::with(open(redis, clock).await, store)
    }

    pub fn with(cache: Cache, store: &Arc<Store>) -> Self {
        let grants = Arc::new(CachedGrants::new(store.clone(), cache.clone(), MAX_AGE));
        Self { grants, cache }
    }

    pub async fn effective(&self, user: UserId) -> Effective {
        self.grants.effective(user).await.unwrap()
    }
}

/// The permissions of a user with this permission, directly and by a role.
pub fn may(name: &str) -> Effective {
    let permission = Permission {
        id: PermissionId::from_bytes([3; 16]),
        name: name.parse().unwrap(),
        description: Some(format!("{name} \u{1f512} \"quoted\"")),
    };
    let role = Role {
        id: RoleId::from_bytes([4; 16]),
        name: "role".parse().unwrap(),
        description: None,
        permissions: [permission.id].into(),
    };
    Effective { roles: vec![role], direct: vec![permission.clone()], combined: vec![permission] }
}

/// A client that can read and write everything in Redis.
pub struct Intruder(MultiplexedConnection);

impl Intruder {
    pub async fn into(redis: &Redis) -> Self {
        Self::at(&redis.url()).await
    }

    pub async fn at(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    pub async fn keys(&mut self) -> Vec<String> {
        self.0.keys("*").await.unwrap()
    }

    /// The only key, as soon as there is one.
    pub async fn only_key(&mut self) -> String {
        soon("there is a key", async || !self.keys().await.is_empty()).await;
        let keys = self.keys().await;
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys.into_iter().next().unwrap()
    }

    /// The key that was added since.
    pub async fn new_key(&mut self, known: &[&String]) -> String {
        soon("there is a new key", async || self.keys().await.len() > known.len()).await;
        self.keys().await.into_iter().find(|key| !known.contains(&key)).unwrap()
    }

    pub async fn get(&mut self, key: &str) -> Vec<u8> {
        self.0.get(key).await.unwrap()
    }

    pub async fn set(&mut self, key: &str, value: &[u8]) {
        self.0.set::<_, _, ()>(key, value).await.unwrap();
    }

    pub async fn ttl(&mut self, key: &str) -> Duration {
        Duration::from_millis(self.0.pttl::<_, i64>(key).await.unwrap().try_into().unwrap())
    }

    pub async fn command(&mut self, words: &[&str]) {
        let (first, rest) = words.split_first().unwrap();
        redis::cmd(first).arg(rest).exec_async(&mut self.0).await.unwrap();
    }

    /// Whether a command was rejected since the last call.
    pub async fn has_refused(&mut self) -> bool {
        let info: String = redis::cmd("INFO").arg("errorstats").query_async(&mut self.0).await.unwrap();
        let refused = info.contains("errorstat_");
        if refused {
            self.command(&["CONFIG", "RESETSTAT"]).await;
        }
        refused
    }
}
