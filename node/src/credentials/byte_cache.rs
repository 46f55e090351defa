//! A cache of values computed from bytes: a token's claims, a query's compiled form.
//!
//! Promises: [`ByteCache::with`] takes no lock and compares the whole key, so a hash collision, even one that
//! an attacker constructs, never returns the value of another key. Keys and values together take about the
//! configured number of bytes at most.
//!
//! Never: the cache does not judge validity. On every hit, the caller checks expiry and denials.
//!
//! The hash of a key selects [`WAYS`] slots that may hold it. A new key takes an empty or dead slot, else
//! evicts the next slot in turn: reads need no bookkeeping. When the bytes are used up, slots are evicted one
//! after the other.

use std::{
    hash::BuildHasher as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwapAny;
use foldhash::fast::RandomState;
use triomphe::ThinArc;

/// The number of slots that may hold a key.
pub const WAYS: usize = 4;
/// Bytes that the allocator and the reference counters of an entry take in addition to its content.
const OVERHEAD: usize = 32;

/// The header of an entry, in one allocation with the bytes of its key: in a large cache, reads spend most of
/// their time waiting for memory.
struct Head<V> {
    value: V,
    /// Heap bytes that the value owns.
    beside: usize,
}

type Entry<V> = ThinArc<Head<V>, u8>;
type Slot<V> = ArcSwapAny<Option<Entry<V>>>;

fn bytes<V>(entry: &Entry<V>) -> usize {
    size_of::<Head<V>>() + entry.slice.len() + entry.header.header.beside + OVERHEAD
}

/// A cache of values computed from bytes. Readers take no lock.
pub struct ByteCache<V> {
    slots: Box<[Slot<V>]>,
    hasher: RandomState,
    bytes: AtomicUsize,
    max_bytes: usize,
    /// The next slot to evict.
    hand: AtomicUsize,
}

impl<V> ByteCache<V> {
    /// A cache of at most `slots` keys, a multiple of [`WAYS`], and about `max_bytes` bytes.
    #[must_use]
    pub fn new(slots: usize, max_bytes: usize) -> Self {
        let slots = std::iter::repeat_with(|| Slot::new(None)).take(slots.max(WAYS)).collect();
        let hasher = RandomState::default();
        Self { slots, hasher, bytes: AtomicUsize::new(0), max_bytes, hand: AtomicUsize::new(0) }
    }

    /// Applies `read` to the cached value of this key; `None` if the key is not cached.
    pub fn with<T>(&self, key: &[u8], read: impl FnOnce(&V) -> T) -> Option<T> {
        let mut read = Some(read);
        self.ways(key).iter().find_map(|slot| {
            let entry = slot.load();
            let entry = entry.as_ref().filter(|entry| entry.slice == *key)?;
            read.take().map(|read| read(&entry.header.header.value))
        })
    }

    /// Caches the value of this key. Dead entries are evicted before live ones. The value owns `beside` bytes
    /// of heap.
    pub fn insert(&self, key: &[u8], value: V, beside: usize, is_dead: impl Fn(&V) -> bool) {
        let entry = Entry::from_header_and_slice(Head { value, beside }, key);
        if bytes(&entry) > self.max_bytes {
            return;
        }
        let ways = self.ways(key);
        let is = |slot: &&Slot<V>| slot.load().as_ref().is_some_and(|entry| entry.slice == *key);
        let is_free =
            |slot: &&Slot<V>| slot.load().as_ref().is_none_or(|entry| is_dead(&entry.header.header.value));
        let free = ways.iter().find(is).or_else(|| ways.iter().find(is_free));
        let victim = || &ways[self.hand.fetch_add(1, Ordering::Relaxed) % WAYS];
        self.put(free.unwrap_or_else(victim), Some(entry));
        while self.bytes.load(Ordering::Relaxed) > self.max_bytes {
            let turn = self.hand.fetch_add(1, Ordering::Relaxed) % self.slots.len();
            self.put(&self.slots[turn], None);
        }
    }

    /// The bytes that the cache uses.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn put(&self, slot: &Slot<V>, entry: Option<Entry<V>>) {
        self.bytes.fetch_add(entry.as_ref().map_or(0, bytes), Ordering::Relaxed);
        let before = slot.swap(entry);
        self.bytes.fetch_sub(before.as_ref().map_or(0, bytes), Ordering::Relaxed);
    }

    fn ways(&self, key: &[u8]) -> &[Slot<V>] {
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash are as good")]
        let first = (self.hasher.hash_one(key) as usize % (self.slots.len() / WAYS)) * WAYS;
        &self.slots[first..first + WAYS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_compares_the_whole_key() {
        let cache = ByteCache::new(64, 1 << 20);
        cache.insert(b"a.b.c", 1, 0, |_| false);
        assert_eq!(cache.with(b"a.b.c", |n| *n), Some(1));
        for other in [&b"a.b.d"[..], b"a.b.", b"a.b.cc", b""] {
            assert_eq!(cache.with(other, |n| *n), None);
        }
        cache.insert(b"a.b.c", 2, 0, |_| false);
        assert_eq!(cache.with(b"a.b.c", |n| *n), Some(2), "the later value counts");
    }

    #[test]
    fn cache_keeps_most_entries_that_fit() {
        let slots = 1 << 18;
        let count = 100_000_u32;
        let cache = ByteCache::new(slots, 1 << 30);
        for n in 0..count {
            cache.insert(format!("token {n}").as_bytes(), n, 0, |_| false);
        }
        let kept =
            (0..count).filter(|n| cache.with(format!("token {n}").as_bytes(), |n| *n) == Some(*n)).count();
        assert!(kept > 95_000, "{kept} of {count}");
    }

    #[test]
    fn cache_stays_within_its_bytes_and_counts_them() {
        let max = 64 * 1024;
        let cache = ByteCache::new(1 << 12, max);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let cache = &cache;
                scope.spawn(move || {
                    for n in 0..20_000_u32 {
                        let key = vec![b'x'; 1 + (n as usize * 7) % 900];
                        cache.insert(&[&n.to_be_bytes()[..], &[thread], &key].concat(), (), 0, |()| false);
                    }
                });
            }
        });
        let held: usize = cache.slots.iter().filter_map(ArcSwapAny::load_full).map(|e| bytes(&e)).sum();
        assert_eq!(cache.bytes(), held);
        assert!((max / 2..=max).contains(&held), "{held}");
        cache.insert(&vec![0; 2 * max], (), 0, |()| false);
        assert_eq!(cache.bytes(), held, "what is larger than all of it is not kept");
    }

    #[test]
    fn dead_entries_are_evicted_before_live_ones() {
        let cache = ByteCache::new(WAYS, 1 << 20);
        for n in 0..4_u8 {
            cache.insert(&[n], n, 0, |_| false);
        }
        cache.insert(&[9], 9, 0, |n| *n == 2);
        assert_eq!(cache.with(&[2], |n| *n), None);
        for n in [0, 1, 3, 9] {
            assert_eq!(cache.with(&[n], |n| *n), Some(n));
        }
    }
}
