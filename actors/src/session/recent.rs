//! A bounded map of recent entries: two generations, of which the older is dropped when the newer is full.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use foldhash::fast::RandomState;

/// A bounded map that may evict any entry at any time.
pub(super) struct Recent<K, V> {
    generations: Mutex<[HashMap<K, V, RandomState>; 2]>,
    capacity: usize,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// Creates a map that keeps at least the last `capacity` entries, and at most twice as many.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { generations: Mutex::default(), capacity }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let [newer, older] = &*self.lock();
        newer.get(key).or_else(|| older.get(key)).cloned()
    }

    pub(super) fn insert(&self, key: K, value: V) {
        let [newer, older] = &mut *self.lock();
        if newer.len() >= self.capacity {
            *older = std::mem::take(newer);
        }
        older.remove(&key);
        newer.insert(key, value);
    }

    pub(super) fn remove(&self, key: &K) {
        for generation in &mut *self.lock() {
            generation.remove(key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [HashMap<K, V, RandomState>; 2]> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_entries_are_kept_and_the_number_is_bounded() {
        let recent = Recent::with_capacity(10);
        for n in 0..1_000 {
            recent.insert(n, n * 2);
            recent.insert(n, n);
            for last in (0..=n).rev().take(10) {
                assert_eq!(recent.get(&last), Some(last));
            }
        }
        recent.remove(&999);
        assert_eq!(recent.get(&999), None);
        let kept = (0..1_000).filter(|n| recent.get(n).is_some()).count();
        assert!((9..=20).contains(&kept), "{kept}");
    }
}
