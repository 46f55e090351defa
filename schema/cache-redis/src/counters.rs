//! Limits that all nodes count together.
//!
//! Every event is counted twice: by this node alone, and in Redis by all nodes. The stricter result applies, so
//! without Redis each node has its own limits. The arithmetic is done here; Redis only compares and sets.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    Timestamp,
    limit::{Bucket, Counters, Failures, Rate},
};
use serde::{Serialize, de::DeserializeOwned};
use store::cas::{self, Attempt, Pacing};
use tokio::time::timeout;

use crate::{
    cache::{Cache, Found},
    link::NoAnswer,
    seal::{Key, Kind},
    stats::count,
    tally::{SharedBucket, Tally, emptier, stricter},
};

/// Limit of the length of a value, in bytes.
const VALUE_BYTES_MAX: usize = 1024;
/// Limit of attempts of a change that loses to concurrent ones.
const CAS_ATTEMPTS_MAX: usize = 8;

/// [`Counters`] in Redis, combined with those of the node. Each call takes at most two command deadlines
/// (100 ms) longer than a call of the local ones.
pub struct RedisCounters {
    cache: Cache,
    local: Arc<dyn Counters>,
}

/// A change of a value, computed from its current state.
struct Step<T, A> {
    /// The new value and its TTL; `None` if the value stays as it is.
    write: Option<(T, Duration)>,
    answer: A,
}

impl RedisCounters {
    /// Combines Redis with the `local` counters, which always count, and count first.
    #[must_use]
    pub fn new(cache: Cache, local: Arc<dyn Counters>) -> Self {
        Self { cache, local }
    }

    /// Changes a value by compare-and-set; `None` if that failed.
    async fn change<T: Serialize + DeserializeOwned, A>(
        &self,
        key: &Key,
        step: impl Fn(Option<T>) -> Step<T, A> + Send + Sync,
    ) -> Option<A> {
        let step = &step;
        let change = cas::retry(Pacing::AtOnce(CAS_ATTEMPTS_MAX), (), |()| async move {
            let found = self.cache.read(key, VALUE_BYTES_MAX).await?;
            let Step { write, answer } = step(self.value(&found));
            let Some((next, life)) = write else { return Ok::<_, NoAnswer>(Attempt::Done(answer)) };
            let body = serde_json::to_vec(&next).map_err(|_| NoAnswer)?;
            let is_swapped = self.cache.swap(key, &found, &body, life).await?;
            Ok(if is_swapped { Attempt::Done(answer) } else { Attempt::Lost(()) })
        });
        timeout(self.cache.deadline().saturating_mul(2), change).await.ok()?.ok()
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
        let Ok(found) = self.cache.read(&name, VALUE_BYTES_MAX).await else { return local };
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
        // Counted locally first, so that it counts even if the caller drops the future.
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
        let Ok(found) = self.cache.read(&name, VALUE_BYTES_MAX).await else { return local };
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
            // Another node may have lifted the limit.
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
        // Nothing is written if nothing was counted, as at most log-ins.
        let forgive = |tally: Option<Tally>| Step {
            write: tally.filter(|t| t.failures.is_some()).map(|_| {
                let next = Tally::forgiven(now);
                (next, next.life(Duration::ZERO, now))
            }),
            answer: (),
        };
        // Failures that could not be forgiven expire.
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
        // If this fails, other nodes do not list the key, with no other effect.
        let _ = self.cache.announce(label.as_bytes(), lasting).await;
    }

    async fn announced(&self) -> Option<Vec<String>> {
        self.cache.announced().await.ok()
    }
}
