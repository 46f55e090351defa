//! Limits that all nodes count together.
//!
//! Everything is counted twice: by this node alone, and in Redis by all. The stricter answer
//! stands, so without Redis the limits are those of each node. The arithmetic is done here; Redis
//! only compares and sets.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    Timestamp,
    limit::{Bucket, Counters, Failures, Rate},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    cache::{Cache, Found},
    seal::{Key, Kind},
    stats::count,
    tally::{SharedBucket, Tally, emptier, stricter},
};

/// The longest value, in bytes.
const MAX_BYTES: usize = 1024;
/// How often a change is tried when others change the same value.
const ATTEMPTS: usize = 8;

/// [`Counters`] in Redis beside a node's own. Each call takes at most two
/// deadlines of a command (100 ms) longer than those.
pub struct RedisCounters {
    cache: Cache,
    local: Arc<dyn Counters>,
}

/// What came of looking at a value.
struct Step<T, A> {
    /// What is to be there, and for how long; `None` when it is right as it is.
    write: Option<(T, Duration)>,
    answer: A,
}

impl RedisCounters {
    /// Beside the `local` ones, which are asked first and always.
    #[must_use]
    pub fn new(cache: Cache, local: Arc<dyn Counters>) -> Self {
        Self { cache, local }
    }

    /// Changes a value; `None` when that could not be done.
    async fn change<T: Serialize + DeserializeOwned, A>(
        &self,
        key: &Key,
        step: impl Fn(Option<T>) -> Step<T, A> + Send,
    ) -> Option<A> {
        let change = async {
            for _ in 0..ATTEMPTS {
                let found = self.cache.read(key, MAX_BYTES).await.ok()?;
                let Step { write, answer } = step(self.value(&found));
                let Some((next, life)) = write else { return Some(answer) };
                let body = serde_json::to_vec(&next).ok()?;
                if self.cache.swap(key, &found, &body, life).await.ok()? {
                    return Some(answer);
                }
            }
            None
        };
        timeout(self.cache.deadline().saturating_mul(2), change).await.ok().flatten()
    }

    fn value<T: DeserializeOwned>(&self, found: &Found) -> Option<T> {
        serde_json::from_slice(found.body()?).ok()
    }

    fn credible(&self, tally: Option<Tally>, now: Timestamp) -> Tally {
        match tally {
            Some(tally) if tally.is_credible(now) => tally,
            Some(_) => {
                count(&self.cache.stats().refused);
                Tally::default()
            }
            None => Tally::default(),
        }
    }

    fn credible_bucket(&self, shared: Option<SharedBucket>, rate: Rate, now: Timestamp) -> SharedBucket {
        match shared {
            Some(shared) if shared.is_credible(rate, now) => shared,
            Some(_) => {
                count(&self.cache.stats().refused);
                SharedBucket::default()
            }
            None => SharedBucket::default(),
        }
    }
}

#[async_trait]
impl Counters for RedisCounters {
    async fn failures(&self, key: &str, now: Timestamp) -> Option<Failures> {
        let local = self.local.failures(key, now).await;
        let name = self.cache.key(Kind::Failures, key.as_bytes());
        let Ok(found) = self.cache.read(&name, MAX_BYTES).await else { return local };
        let shared = self.credible(self.value(&found), now);
        let local = match local {
            Some(failures) if shared.voids(&failures) => {
                self.local.forget(key).await;
                None
            }
            other => other,
        };
        match (local, shared.failures) {
            (Some(local), Some(shared)) => Some(stricter(local, shared, now)),
            (one, other) => one.or(other),
        }
    }

    async fn fail(&self, key: &str, rate: Rate, now: Timestamp) -> Failures {
        // First, so that it is counted also when the caller does not wait for Redis.
        let mut local = self.local.fail(key, rate, now).await;
        let name = self.cache.key(Kind::Failures, key.as_bytes());
        let shared = self
            .change(&name, |tally| {
                let tally = self.credible(tally, now);
                let next = tally.after_failure(rate, now);
                let write = (next != tally).then(|| (next, next.life(rate.window, now)));
                Step { write, answer: next }
            })
            .await
            .unwrap_or_default();
        if shared.voids(&local) {
            self.local.forget(key).await;
            local = self.local.fail(key, rate, now).await;
        }
        shared.failures.map_or(local, |shared| stricter(local, shared, now))
    }

    async fn bucket(&self, key: &str, rate: Rate, now: Timestamp) -> Option<Bucket> {
        let local = self.local.bucket(key, rate, now).await;
        let name = self.cache.key(Kind::Bucket, key.as_bytes());
        let Ok(found) = self.cache.read(&name, MAX_BYTES).await else { return local };
        let shared = self.credible_bucket(self.value(&found), rate, now);
        let local = match local {
            Some(bucket) if shared.voids(&bucket) => {
                self.local.refill(key).await;
                None
            }
            other => other,
        };
        match (local, shared.bucket(now)) {
            (Some(local), Some(shared)) => Some(emptier(local, shared)),
            (one, other) => one.or(other),
        }
    }

    async fn take(&self, key: &str, rate: Rate, now: Timestamp) -> Result<(), Timestamp> {
        if let Err(until) = self.local.take(key, rate, now).await {
            // Unless another node has lifted it meanwhile.
            if Bucket::wait(self.bucket(key, rate, now).await, rate, now).is_some() {
                return Err(until);
            }
            self.local.take(key, rate, now).await?;
        }
        let name = self.cache.key(Kind::Bucket, key.as_bytes());
        self.change(&name, |shared| {
            let shared = self.credible_bucket(shared, rate, now);
            let (next, answer) = Bucket::take(shared.bucket(now), rate, now);
            let next = shared.with(next);
            Step { write: answer.is_ok().then(|| (next, next.life(now))), answer }
        })
        .await
        .unwrap_or(Ok(()))
    }

    async fn forget(&self, key: &str) {
        self.local.forget(key).await;
        let now = self.cache.now();
        let failures = self.cache.key(Kind::Failures, key.as_bytes());
        // Nothing is written where nothing was counted, which is at most log-ins.
        let forgive = |tally: Option<Tally>| Step {
            write: tally.filter(|t| t.failures.is_some()).map(|_| {
                let next = Tally::forgiven(now);
                (next, next.life(Duration::ZERO, now))
            }),
            answer: (),
        };
        // What could not be forgiven is forgotten when its time is over.
        self.change(&failures, forgive).await;
    }

    async fn refill(&self, key: &str) {
        self.local.refill(key).await;
        let now = self.cache.now();
        let bucket = self.cache.key(Kind::Bucket, key.as_bytes());
        let forgive = |shared: Option<SharedBucket>| Step {
            write: shared.and_then(|shared| shared.bucket(now)).map(|_| {
                let next = SharedBucket::forgiven(now);
                (next, next.life(now))
            }),
            answer: (),
        };
        self.change(&bucket, forgive).await;
    }

    async fn announce(&self, label: &str, lasting: Duration) {
        // Without it the others do not list it, and nothing else.
        let _ = self.cache.announce(label.as_bytes(), lasting).await;
    }

    async fn announced(&self) -> Option<Vec<String>> {
        self.cache.announced().await.ok()
    }
}
