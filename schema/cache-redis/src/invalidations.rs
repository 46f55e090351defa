//! The invalidations that this node has applied, and when. The log is bounded: if it overflows, all users count as
//! invalidated.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::{Timestamp, UserId};

/// Limit of users that are remembered one by one. With more, all users count as invalidated.
const USERS_MAX: usize = 100_000;

/// When users were last invalidated.
pub(crate) struct InvalidationLog {
    state: Mutex<State>,
    /// How long an invalidation must be remembered.
    keep: Duration,
}

#[derive(Default)]
struct State {
    /// When all users were last invalidated.
    all: Option<Timestamp>,
    users: HashMap<UserId, Timestamp>,
    /// Each of `users` once, roughly in the order in which they can be dropped.
    order: VecDeque<UserId>,
}

impl InvalidationLog {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { state: Mutex::default(), keep }
    }

    /// The time of the last invalidation that concerns the user.
    pub(crate) fn last(&self, user: UserId) -> Option<Timestamp> {
        let state = self.state();
        state.all.max(state.users.get(&user).copied())
    }

    /// Records an invalidation of all users.
    pub(crate) fn record_all(&self, now: Timestamp) {
        let mut state = self.state();
        state.all = state.all.max(Some(now));
    }

    /// Records an invalidation of one user.
    pub(crate) fn record_user(&self, user: UserId, now: Timestamp) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(last) = state.users.get_mut(&user) {
            *last = now.max(*last);
            return;
        }
        // Each new user checks the two oldest ones, so that they do not pile up.
        for _ in 0..2 {
            let Some(oldest) = state.order.pop_front() else { break };
            if state.users.get(&oldest).is_some_and(|last| now.since(*last) < self.keep) {
                state.order.push_back(oldest);
            } else {
                state.users.remove(&oldest);
            }
        }
        if state.users.len() >= USERS_MAX {
            state.all = state.all.max(Some(now));
            // Some of them are later than now if the clock was set back.
            state.all = state.all.max(state.users.values().max().copied());
            state.users.clear();
            state.order.clear();
            return;
        }
        state.users.insert(user, now);
        state.order.push_back(user);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(660);
    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn user(n: u32) -> UserId {
        UserId::from_bytes(u128::from(n).to_be_bytes())
    }

    #[test]
    fn user_is_invalidated_alone_or_with_all() {
        let log = InvalidationLog::new(KEEP);
        let later = NOW.plus(Duration::from_secs(1));
        log.record_user(user(1), NOW);
        assert_eq!((log.last(user(1)), log.last(user(2))), (Some(NOW), None));
        log.record_all(later);
        assert_eq!((log.last(user(1)), log.last(user(2))), (Some(later), Some(later)));
    }

    #[test]
    fn clock_set_back_drops_no_invalidation() {
        let log = InvalidationLog::new(KEEP);
        log.record_user(user(1), NOW);
        log.record_all(NOW);
        let earlier = NOW.minus(Duration::from_secs(100));
        log.record_user(user(1), earlier);
        log.record_all(earlier);
        assert_eq!(log.last(user(1)), Some(NOW));
        assert_eq!(log.last(user(2)), Some(NOW));
    }

    #[test]
    fn overflow_invalidates_all_users() {
        let log = InvalidationLog::new(KEEP);
        let max = u32::try_from(USERS_MAX).unwrap();
        for n in 0..max {
            log.record_user(user(n), NOW);
        }
        assert_eq!((log.last(user(0)), log.last(user(max))), (Some(NOW), None));
        log.record_user(user(max), NOW);
        assert_eq!(log.last(user(max + 1)), Some(NOW));
        assert_eq!(log.state().users.len(), 0);
    }

    #[test]
    fn old_invalidations_make_room_and_renewed_ones_stay() {
        let log = InvalidationLog::new(KEEP);
        let max = u32::try_from(USERS_MAX).unwrap();
        for n in 0..max {
            log.record_user(user(n), NOW);
        }
        let later = NOW.plus(KEEP);
        log.record_user(user(0), later);
        for n in max..2 * max - 1 {
            log.record_user(user(n), later);
        }
        assert_eq!(log.last(user(max * 3)), None, "the log never overflowed");
        assert_eq!(log.last(user(0)), Some(later));
        let state = log.state();
        assert!(state.users.len() <= USERS_MAX && state.users.len() == state.order.len());
    }
}
