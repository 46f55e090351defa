//! A cache of what was computed from some bytes: a token's claims, a query's compiled form.
//!
//! Promises: [`ByteCache::with`] takes no lock and compares all of the bytes, so no hash that collides, and
//! nobody who makes hashes collide, gets another one's value. Keys and values take about the bytes that it was
//! made with at most.
//!
//! Never: it does not say whether a value is still true. Who reads asks.
//!
//! A key can lie in one of [`WAYS`] slots that its hash says. A new one takes a slot that is empty or dead,
//! else the one whose turn it is: no bookkeeping on reads. When the bytes are used up, slots are emptied one
//! after the other.

use std::{
    hash::BuildHasher as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwapAny;
use foldhash::fast::RandomState;
use triomphe::ThinArc;

/// In how many slots a key may lie.
pub const WAYS: usize = 4;
/// What the allocator and the counters of an entry take beside its bytes.
const OVERHEAD: usize = 32;

/// What lies before the bytes of a key, in one piece of memory with them: a cache of many tokens costs its
/// readers mostly the times that they have to wait for memory.
struct Head<V> {
    value: V,
    /// What the value holds beside itself.
    beside: usize,
}

type Entry<V> = ThinArc<Head<V>, u8>;
type Slot<V> = ArcSwapAny<Option<Entry<V>>>;

fn bytes<V>(entry: &Entry<V>) -> usize {
    size_of::<Head<V>>() + entry.slice.len() + entry.header.header.beside + OVERHEAD
}

/// What was computed from some bytes.
pub struct ByteCache<V> {
    slots: Box<[Slot<V>]>,
    hasher: RandomState,
    bytes: AtomicUsize,
    max_bytes: usize,
    /// The slot whose turn it is to be emptied.
    hand: AtomicUsize,
}

impl<V> ByteCache<V> {
    /// For at most so many keys, a multiple of [`WAYS`], and bytes.
    #[must_use]
    pub fn new(slots: usize, max_bytes: usize) -> Self {
        let slots = std::iter::repeat_with(|| Slot::new(None)).take(slots.max(WAYS)).collect();
        let (bytes, hand) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { slots, hasher: RandomState::default(), bytes, max_bytes, hand }
    }

    /// Reads the value of these bytes, when it is kept.
    pub fn with<T>(&self, key: &[u8], read: impl FnOnce(&V) -> T) -> Option<T> {
        let mut read = Some(read);
        self.ways(key).iter().find_map(|slot| {
            let entry = slot.load();
            let entry = entry.as_ref().filter(|entry| entry.slice == *key)?;
            read.take().map(|read| read(&entry.header.header.value))
        })
    }

    /// Keeps the value of these bytes, in the place of one that is dead rather than of one that is not. It
    /// holds so many bytes `beside` itself.
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

    /// How many bytes it takes.
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
    fn the_whole_key_is_compared() {
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
    fn it_keeps_most_of_what_fits() {
        let (slots, count) = (1 << 18, 100_000_u32);
        let cache = ByteCache::new(slots, 1 << 30);
        for n in 0..count {
            cache.insert(format!("token {n}").as_bytes(), n, 0, |_| false);
        }
        let kept =
            (0..count).filter(|n| cache.with(format!("token {n}").as_bytes(), |n| *n) == Some(*n)).count();
        assert!(kept > 95_000, "{kept} of {count}");
    }

    #[test]
    fn it_takes_no_more_bytes_than_it_may_and_knows_how_many() {
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
    fn the_dead_make_room_before_the_living() {
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
