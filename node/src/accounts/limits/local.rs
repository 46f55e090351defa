//! Bounded counters in this node's memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use schema::{
    Timestamp,
    limit::{Bucket, Counters, Failures, Rate},
};

/// Accounts and addresses that are counted; beyond, the oldest one is evicted.
pub(super) const COUNTERS_MAX: usize = 100_000;

/// Counters of accounts and addresses in this node's memory.
#[derive(Default)]
pub struct LocalCounters {
    pub(super) failures: Mutex<Bounded<Failures>>,
    buckets: Mutex<Bounded<Bucket>>,
}

#[async_trait]
impl Counters for LocalCounters {
    async fn failures(&self, key: &str, now: Timestamp) -> Option<Failures> {
        lock(&self.failures).get(key).filter(|failures| failures.is_credible(now))
    }

    async fn fail(&self, key: &str, rate: Rate, now: Timestamp) -> Failures {
        lock(&self.failures).update(key, |previous| Failures::after(previous, rate, now))
    }

    async fn bucket(&self, key: &str, rate: Rate, now: Timestamp) -> Option<Bucket> {
        lock(&self.buckets).get(key).filter(|bucket| bucket.is_credible(rate, now))
    }

    async fn take(&self, key: &str, rate: Rate, now: Timestamp) -> Result<(), Timestamp> {
        let mut leave = Ok(());
        lock(&self.buckets).update(key, |previous| {
            let (bucket, answer) = Bucket::take(previous, rate, now);
            leave = answer;
            bucket
        });
        leave
    }

    async fn forget(&self, key: &str) {
        lock(&self.failures).forget(key);
    }

    async fn refill(&self, key: &str) {
        lock(&self.buckets).forget(key);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bounded map that evicts its oldest key.
pub(super) struct Bounded<T> {
    /// Each key is in `order` once; the key of a forgotten value keeps its place there.
    pub(super) map: HashMap<String, Option<T>>,
    order: VecDeque<String>,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T: Clone> Bounded<T> {
    pub(super) fn get(&self, key: &str) -> Option<T> {
        self.map.get(key).cloned().flatten()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.map.values().flatten()
    }

    pub(super) fn forget_all(&mut self, beginning: &str) {
        let found = self.map.iter_mut().filter(|(key, _)| key.starts_with(beginning));
        found.for_each(|(_, value)| *value = None);
    }

    pub(super) fn forget(&mut self, key: &str) {
        if let Some(value) = self.map.get_mut(key) {
            *value = None;
        }
    }

    pub(super) fn update(&mut self, key: &str, change: impl FnOnce(Option<T>) -> T) -> T {
        let previous = self.map.get(key).cloned();
        let is_new = previous.is_none();
        let next = change(previous.flatten());
        self.map.insert(key.to_owned(), Some(next.clone()));
        if is_new {
            self.order.push_back(key.to_owned());
            while self.order.len() > COUNTERS_MAX {
                if let Some(oldest) = self.order.pop_front() {
                    self.map.remove(&oldest);
                }
            }
        }
        next
    }
}
