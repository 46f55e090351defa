//! Denials: the facts that refuse tokens, merged, in memory.
//!
//! Promises: [`Denials::apply`] may be called from any thread at any time and has taken effect when it
//! returns. [`Denials::refuses`] takes no lock and never waits. Applying the same facts in any order, any
//! number of times, gives the same answers. A denial is never weakened: the later `until` and the higher
//! version win.
//!
//! Never: it allows nothing, does not know which tokens exist, and does no I/O.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use scc::HashIndex;

use crate::{
    fact::{Fact, FactKind},
    horizon::{HighWater, Horizon},
    id::{KeyId, SessionId, TokenId, UserId},
    time::Timestamp,
    token::AccessClaims,
    version::{MAX_VERSION, ended_below},
};

/// The facts that refuse tokens, merged.
#[derive(Debug, Default)]
pub struct Denials {
    sessions: Marks<SessionId, Denied>,
    tokens: Marks<TokenId, Denied>,
    users: Marks<UserId, Below>,
    keys: Marks<KeyId, Denied>,
    high_water: Arc<HighWater>,
}

/// The number of denials of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Revoked sessions.
    pub sessions: usize,
    /// Revoked tokens.
    pub tokens: usize,
    /// Users with a raised version.
    pub users: usize,
    /// Retired keys.
    pub keys: usize,
}

impl Denials {
    /// No denials yet, with the high-water times of this node's clocks.
    #[must_use]
    pub fn new(high_water: Arc<HighWater>) -> Self {
        Self { high_water, ..Self::default() }
    }

    /// The floor, in seconds since the epoch: denials up to it may have been deleted, so a token that ends by
    /// then counts as expired, whatever the wall clock shows.
    #[must_use]
    pub fn floor_secs(&self) -> u64 {
        self.high_water.floor_secs()
    }

    /// Merges a fact. When the call returns, every thread refuses the fact's tokens.
    pub fn apply(&self, fact: &Fact) {
        self.high_water.denied_until(fact.until);
        match fact.kind {
            FactKind::SessionRevoked { session, .. } => self.sessions.raise(session, 1, fact.until),
            FactKind::TokenRevoked { token } => self.tokens.raise(token, 1, fact.until),
            // No user reaches such a version, so the fact is damaged or a lie; there is no way to tell what
            // it should have been.
            FactKind::UserVersion { at_least, .. } if at_least > MAX_VERSION => {}
            FactKind::UserVersion { user, at_least } => {
                self.users.raise(user, ended_below(at_least), fact.until);
            }
            FactKind::KeyRetired { key } => self.keys.raise(key, 1, fact.until),
            FactKind::PermissionsChanged { .. } => {}
        }
    }

    /// Whether the session, the user version, the token itself or its key is revoked.
    #[must_use]
    pub fn refuses(&self, claims: &AccessClaims) -> bool {
        self.sessions.level(&claims.session) > 0
            || self.users.level(&claims.user) > claims.version
            || self.tokens.level(&claims.token) > 0
            || self.keys.level(&claims.key) > 0
    }

    /// Whether the session is known to be revoked.
    #[must_use]
    pub fn refuses_session(&self, session: SessionId) -> bool {
        self.sessions.level(&session) > 0
    }

    /// Whether the key is known to be retired.
    #[must_use]
    pub fn refuses_key(&self, key: KeyId) -> bool {
        self.keys.level(&key) > 0
    }

    /// The lowest version of the user's tokens that is still accepted, by the facts applied so far; 0 if
    /// there was none. At most [`MAX_VERSION`].
    #[must_use]
    pub fn user_version(&self, user: UserId) -> u64 {
        self.users.level(&user).min(MAX_VERSION)
    }

    /// Whether tokens and sessions with this version of the user are known to be refused. At
    /// [`MAX_VERSION`], all of them are.
    #[must_use]
    pub fn refuses_version(&self, user: UserId, version: u64) -> bool {
        self.users.level(&user) > version
    }

    /// Deletes the denials that ended more than `skew` before the horizon, without blocking readers and
    /// writers. Raises the [floor](Self::floor_secs) above them first.
    pub fn forget(&self, horizon: Horizon, skew: Duration) {
        let ended = horizon.time().minus(skew);
        self.high_water.raise_floor(ended);
        self.sessions.forget(ended);
        self.tokens.forget(ended);
        self.users.forget(ended);
        self.keys.forget(ended);
    }

    /// The number of denials of each kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.count(),
            tokens: self.tokens.count(),
            users: self.users.count(),
            keys: self.keys.count(),
        }
    }
}

/// A denial of one kind. Merging facts can only strengthen it.
trait Mark: Sized + 'static {
    fn new(level: u64, until: Timestamp) -> Self;
    fn raise(&self, level: u64, until: Timestamp);
    fn level(&self) -> u64;
    fn until_ms(&self) -> u64;
}

/// A denial without a version. A node may hold a million of these, so it is small.
#[derive(Debug)]
struct Denied {
    until_ms: AtomicU64,
}

/// A denial of all versions below a level.
#[derive(Debug)]
struct Below {
    level: AtomicU64,
    until_ms: AtomicU64,
}

impl Mark for Denied {
    fn new(_: u64, until: Timestamp) -> Self {
        Self { until_ms: AtomicU64::new(until.as_millis()) }
    }

    fn raise(&self, _: u64, until: Timestamp) {
        self.until_ms.fetch_max(until.as_millis(), Ordering::AcqRel);
    }

    fn level(&self) -> u64 {
        1
    }

    fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }
}

impl Mark for Below {
    fn new(level: u64, until: Timestamp) -> Self {
        Self { level: AtomicU64::new(level), until_ms: AtomicU64::new(until.as_millis()) }
    }

    fn raise(&self, level: u64, until: Timestamp) {
        self.level.fetch_max(level, Ordering::AcqRel);
        self.until_ms.fetch_max(until.as_millis(), Ordering::AcqRel);
    }

    fn level(&self) -> u64 {
        self.level.load(Ordering::Acquire)
    }

    fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }
}

/// All denials of one kind.
#[derive(Debug)]
struct Marks<K: Eq + Hash + 'static, M: Mark> {
    marks: HashIndex<K, M, RandomState>,
    /// Kept beside the index, so that the common case of no denials costs one load.
    count: AtomicUsize,
}

impl<K: Eq + Hash, M: Mark> Default for Marks<K, M> {
    fn default() -> Self {
        Self { marks: HashIndex::with_hasher(RandomState::default()), count: AtomicUsize::new(0) }
    }
}

impl<K: Eq + Hash + Clone + 'static, M: Mark> Marks<K, M> {
    fn raise(&self, key: K, level: u64, until: Timestamp) {
        // The count rises first: a reader that sees zero has read before this call began.
        self.count.fetch_add(1, Ordering::SeqCst);
        match self.marks.entry_sync(key) {
            scc::hash_index::Entry::Occupied(entry) => {
                entry.get().raise(level, until);
                self.count.fetch_sub(1, Ordering::SeqCst);
            }
            scc::hash_index::Entry::Vacant(entry) => drop(entry.insert_entry(M::new(level, until))),
        }
    }

    fn level(&self, key: &K) -> u64 {
        if self.count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        self.marks.peek_with(key, |_, mark| mark.level()).unwrap_or(0)
    }

    fn forget(&self, ended: Timestamp) {
        let mut gone = 0;
        self.marks.retain_sync(|_, mark| {
            let keep = mark.until_ms() >= ended.as_millis();
            gone += usize::from(!keep);
            keep
        });
        self.count.fetch_sub(gone, Ordering::SeqCst);
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::horizon::manual::horizon_at;

    fn claims(n: u8, version: u64) -> AccessClaims {
        AccessClaims {
            user: UserId::from_bytes([n; 16]),
            session: SessionId::from_bytes([n; 16]),
            token: TokenId::from_bytes([n; 16]),
            key: KeyId::from_bytes([n; 16]),
            version,
            issued_at: 0,
            expires_at: u64::MAX,
            is_access: true,
        }
    }

    fn any_fact() -> impl Strategy<Value = Fact> {
        let kind = prop_oneof![
            (0..4_u8).prop_map(|n| FactKind::SessionRevoked {
                user: UserId::from_bytes([0; 16]),
                session: SessionId::from_bytes([n; 16])
            }),
            (0..4_u8).prop_map(|n| FactKind::TokenRevoked { token: TokenId::from_bytes([n; 16]) }),
            (0..4_u8, 0..9_u64).prop_map(|(n, at_least)| FactKind::UserVersion {
                user: UserId::from_bytes([n; 16]),
                at_least
            }),
            (0..4_u8).prop_map(|n| FactKind::KeyRetired { key: KeyId::from_bytes([n; 16]) }),
        ];
        (kind, 0..50_u64).prop_map(|(kind, ms)| Fact { kind, until: Timestamp::from_millis(ms) })
    }

    /// All answers about the ids and versions of these tests, at several times.
    fn answers(denials: &Denials) -> Vec<bool> {
        let mut answers = Vec::new();
        for now in [0, 10, 20, 40, 60] {
            denials.forget(horizon_at(Timestamp::from_millis(now)), Duration::ZERO);
            for (n, version) in (0..4).flat_map(|n| (0..9).map(move |v| (n, v))) {
                answers.push(denials.refuses(&claims(n, version)));
            }
        }
        answers
    }

    proptest! {
        #[test]
        fn facts_merge_alike_in_any_order_and_number(
            (facts, shuffled) in prop::collection::vec(any_fact(), 0..40)
                .prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle())),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let one = Denials::default();
            let other = Denials::default();
            facts.iter().for_each(|fact| one.apply(fact));
            shuffled.iter().for_each(|fact| other.apply(fact));
            if !facts.is_empty() {
                again.iter().for_each(|i| other.apply(i.get(&facts)));
            }
            prop_assert_eq!(one.counts(), other.counts());
            prop_assert_eq!(answers(&one), answers(&other));
        }
    }

    #[test]
    fn each_kind_of_fact_refuses_only_its_own_tokens() {
        let until = Timestamp::from_millis(100);
        for kind in [
            FactKind::SessionRevoked {
                user: UserId::from_bytes([0; 16]),
                session: SessionId::from_bytes([1; 16]),
            },
            FactKind::TokenRevoked { token: TokenId::from_bytes([1; 16]) },
            FactKind::UserVersion { user: UserId::from_bytes([1; 16]), at_least: 5 },
            FactKind::KeyRetired { key: KeyId::from_bytes([1; 16]) },
        ] {
            let denials = Denials::default();
            denials.apply(&Fact { kind, until });
            assert!(denials.refuses(&claims(1, 4)), "{kind:?}");
            assert!(!denials.refuses(&claims(2, 4)), "{kind:?}");
        }
    }

    #[test]
    fn user_version_refuses_lower_versions() {
        let denials = Denials::default();
        let user = UserId::from_bytes([1; 16]);
        for at_least in [5, 3] {
            denials.apply(&Fact { kind: FactKind::UserVersion { user, at_least }, until: Timestamp::MAX });
        }
        assert!(denials.refuses(&claims(1, 4)));
        assert!(!denials.refuses(&claims(1, 5)));
        assert_eq!(denials.user_version(user), 5);
    }

    #[test]
    fn highest_version_refuses_all_and_a_higher_one_is_ignored() {
        let user = UserId::from_bytes([1; 16]);
        let denied = |at_least| {
            let denials = Denials::default();
            denials.apply(&Fact { kind: FactKind::UserVersion { user, at_least }, until: Timestamp::MAX });
            denials
        };
        let highest = denied(MAX_VERSION);
        for version in [0, 1, MAX_VERSION - 1, MAX_VERSION] {
            assert!(highest.refuses(&claims(1, version)) && highest.refuses_version(user, version));
        }
        assert_eq!(highest.user_version(user), MAX_VERSION);
        let below = denied(MAX_VERSION - 1);
        assert!(
            below.refuses_version(user, MAX_VERSION - 2) && !below.refuses_version(user, MAX_VERSION - 1)
        );
        for absurd in [MAX_VERSION + 1, u64::MAX - 1, u64::MAX] {
            let denials = denied(absurd);
            assert!(!denials.refuses(&claims(1, 0)), "{absurd}");
            assert_eq!(denials.user_version(user), 0);
        }
    }

    #[test]
    fn ended_denial_is_deleted_after_the_skew() {
        let denials = Denials::default();
        let session = SessionId::from_bytes([1; 16]);
        let until = Timestamp::from_millis(100);
        denials.apply(&Fact {
            kind: FactKind::SessionRevoked { user: UserId::from_bytes([0; 16]), session },
            until,
        });
        denials.forget(horizon_at(Timestamp::from_millis(110)), Duration::from_millis(10));
        assert!(denials.refuses_session(session));
        denials.forget(horizon_at(Timestamp::from_millis(111)), Duration::from_millis(10));
        assert!(!denials.refuses_session(session));
        assert_eq!(denials.counts(), Counts::default());
    }

    #[test]
    fn concurrent_writers_lose_no_denial() {
        let denials = Denials::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let denials = &denials;
                scope.spawn(move || {
                    for n in 0..=255_u8 {
                        let mut id = [n; 16];
                        id[0] = thread;
                        let session = SessionId::from_bytes(id);
                        let fact = Fact {
                            kind: FactKind::SessionRevoked { user: UserId::from_bytes([0; 16]), session },
                            until: Timestamp::MAX,
                        };
                        denials.apply(&fact);
                        assert!(denials.refuses_session(session));
                    }
                });
            }
        });
        assert_eq!(denials.counts().sessions, 4 * 256);
    }
}
