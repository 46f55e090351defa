//! Verdicts of a moment ago. None is used after its age, which counts from the moment before the question was
//! asked: a token that is revoked at that moment is refused here `max_age` later at the latest.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::HeaderValue;

use super::{Clock, Question, Standing, Verdict, Verifier};

/// Most verdicts that are kept.
const ENTRIES_MAX: usize = 8_192;
/// Longest `Authorization` that is kept, in bytes: with [`ENTRIES_MAX`] it bounds memory to 16 MiB.
const KEY_BYTES_MAX: usize = 2_048;

/// A verifier that remembers what another one said.
pub struct Cached<V> {
    inner: V,
    clock: Clock,
    entries: Mutex<Entries>,
}

/// Two generations, so that forgetting takes no search: when the young one is full, the old one goes.
struct Entries {
    max_age: Duration,
    young: HashMap<HeaderValue, Entry>,
    old: HashMap<HeaderValue, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    standing: Standing,
    asked_at: Instant,
}

impl<V> Cached<V> {
    /// Remembers for `max_age`; not at all if that is zero.
    pub fn new(inner: V, max_age: Duration, clock: Clock) -> Self {
        let entries = Entries { max_age, young: HashMap::new(), old: HashMap::new() };
        Self { inner, clock, entries: Mutex::new(entries) }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Verifier> Verifier for Cached<V> {
    async fn verify(&self, question: &Question) -> Verdict {
        let asked_at = (self.clock)();
        if let Some(standing) = self.entries().get(&question.authorization, asked_at) {
            return Verdict::Known(standing);
        }
        let verdict = self.inner.verify(question).await;
        // Tokens that are not active are not kept: strangers can make any number of them.
        if let Verdict::Known(standing @ (Standing::Pro | Standing::Plain)) = verdict {
            self.entries().insert(&question.authorization, Entry { standing, asked_at });
        }
        verdict
    }

    fn forget_connections(&self) {
        self.inner.forget_connections();
    }
}

impl Entries {
    fn get(&self, key: &HeaderValue, now: Instant) -> Option<Standing> {
        let entry = self.young.get(key).or_else(|| self.old.get(key))?;
        (now.saturating_duration_since(entry.asked_at) < self.max_age).then_some(entry.standing)
    }

    fn insert(&mut self, key: &HeaderValue, entry: Entry) {
        if key.len() > KEY_BYTES_MAX || self.max_age.is_zero() {
            return;
        }
        let is_newer = |known: &Entry| known.asked_at > entry.asked_at;
        if self.young.get(key).or_else(|| self.old.get(key)).is_some_and(is_newer) {
            return;
        }
        if self.young.len() >= ENTRIES_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key.clone(), entry);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering::SeqCst},
        },
    };

    use axum::http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::verify::Cause;

    const MAX_AGE_MS: u64 = 1_000;

    /// A clock that tests move, in milliseconds.
    #[derive(Clone)]
    struct Hand {
        start: Instant,
        millis: Arc<AtomicU64>,
    }

    impl Hand {
        fn new() -> Self {
            Self { start: Instant::now(), millis: Arc::default() }
        }

        fn clock(&self) -> Clock {
            let hand = self.clone();
            Arc::new(move || hand.start + Duration::from_millis(hand.millis.load(SeqCst)))
        }
    }

    /// Knows the truth, which changes. An answer is true at the moment at which half its time has gone by.
    struct Truth {
        hand: Hand,
        takes_ms: Arc<AtomicU64>,
        is_pro: Arc<AtomicU64>,
        asked: Arc<AtomicU64>,
    }

    impl Verifier for Truth {
        async fn verify(&self, _question: &Question) -> Verdict {
            self.asked.fetch_add(1, SeqCst);
            let takes = self.takes_ms.load(SeqCst);
            self.hand.millis.fetch_add(takes / 2, SeqCst);
            let standing = match self.is_pro.load(SeqCst) {
                0 => Standing::Plain,
                1 => Standing::Pro,
                2 => Standing::Inactive,
                3 => {
                    self.hand.millis.fetch_add(takes - takes / 2, SeqCst);
                    return Verdict::Unknown(Cause::Busy);
                }
                _ => return Verdict::Stale(Standing::Pro),
            };
            self.hand.millis.fetch_add(takes - takes / 2, SeqCst);
            Verdict::Known(standing)
        }
    }

    fn question(token: &str) -> Question {
        Question {
            authorization: HeaderValue::from_str(&format!("Bearer {token}")).expect("a header"),
            request_id: HeaderValue::from_static("1"),
            peer: Ipv4Addr::LOCALHOST.into(),
            headers: HeaderMap::new(),
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    struct World {
        hand: Hand,
        takes_ms: Arc<AtomicU64>,
        is_pro: Arc<AtomicU64>,
        asked: Arc<AtomicU64>,
        cached: Cached<Truth>,
    }

    fn world(max_age_ms: u64) -> World {
        let hand = Hand::new();
        let [takes_ms, is_pro, asked] = [(); 3].map(|()| Arc::<AtomicU64>::default());
        let truth = Truth {
            hand: hand.clone(),
            takes_ms: takes_ms.clone(),
            is_pro: is_pro.clone(),
            asked: asked.clone(),
        };
        let cached = Cached::new(truth, Duration::from_millis(max_age_ms), hand.clock());
        World { hand, takes_ms, is_pro, asked, cached }
    }

    proptest! {
        /// What is said was true at some moment of the last `MAX_AGE_MS`.
        #[test]
        fn verdict_is_never_older_than_its_bound(
            steps in prop::collection::vec((0..1_500_u64, 0..300_u64, 0..5_u64, 0..3_u8), 1..60),
        ) {
            let world = world(MAX_AGE_MS);
            // From when on each standing was the truth: the history, by the clock in milliseconds.
            let mut history = vec![(0, 0)];
            for (passes, takes, truth, token) in steps {
                world.hand.millis.fetch_add(passes, SeqCst);
                let before = world.hand.millis.load(SeqCst);
                history.push((before, truth));
                world.is_pro.store(truth, SeqCst);
                world.takes_ms.store(takes, SeqCst);
                let verdict = block_on(world.cached.verify(&question(&token.to_string())));
                let Verdict::Known(standing) = verdict else { continue };
                let said = standing as u64;
                let code = [1, 0, 2][usize::try_from(said).expect("small")];
                let now = world.hand.millis.load(SeqCst);
                let mut ends = history.iter().skip(1).map(|(start, _)| *start).chain([u64::MAX]);
                let was_true = history.iter().any(|(_, truth)| {
                    let end = ends.next().unwrap_or(u64::MAX);
                    *truth == code && end.saturating_add(MAX_AGE_MS) > before.min(now)
                });
                prop_assert!(was_true, "{standing:?} at {now}: {history:?}");
            }
        }
    }

    #[test]
    fn number_of_verdicts_is_bounded() {
        let world = world(MAX_AGE_MS);
        let asked_at = (world.cached.clock)();
        let mut entries = world.cached.entries();
        for token in 0..3 * ENTRIES_MAX {
            let key = question(&token.to_string()).authorization;
            entries.insert(&key, Entry { standing: Standing::Plain, asked_at });
            assert!(entries.len() <= ENTRIES_MAX);
            assert_eq!(entries.get(&key, asked_at), Some(Standing::Plain));
        }
    }

    #[test]
    fn age_counts_from_the_question() {
        let world = world(MAX_AGE_MS);
        world.is_pro.store(1, SeqCst);
        world.takes_ms.store(400, SeqCst);
        let ask = || block_on(world.cached.verify(&question("a")));
        assert_eq!(ask(), Verdict::Known(Standing::Pro));
        world.hand.millis.fetch_add(599, SeqCst);
        assert_eq!(ask(), Verdict::Known(Standing::Pro));
        assert_eq!(world.asked.load(SeqCst), 1, "the verdict is 999 ms old");
        world.hand.millis.fetch_add(1, SeqCst);
        assert_eq!(ask(), Verdict::Known(Standing::Pro));
        assert_eq!(world.asked.load(SeqCst), 2, "the verdict would be 1,000 ms old");
    }

    #[test]
    fn only_known_and_active_verdicts_are_kept() {
        let world = world(MAX_AGE_MS);
        for (asked, truth) in (1..).zip([2, 2, 3, 3, 4, 4]) {
            world.is_pro.store(truth, SeqCst);
            block_on(world.cached.verify(&question("a")));
            assert_eq!(world.asked.load(SeqCst), asked);
        }
        let long = "x".repeat(KEY_BYTES_MAX);
        world.is_pro.store(1, SeqCst);
        for asked in 7..9 {
            block_on(world.cached.verify(&question(&long)));
            assert_eq!(world.asked.load(SeqCst), asked);
        }
    }

    #[test]
    fn age_of_zero_keeps_nothing() {
        let world = world(0);
        for asked in 1..4 {
            block_on(world.cached.verify(&question("a")));
            assert_eq!(world.asked.load(SeqCst), asked);
            assert_eq!(world.cached.entries().len(), 0);
        }
    }
}
