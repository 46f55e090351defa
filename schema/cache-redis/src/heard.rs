//! Which invalidations this node has heard of, and when: bounded, and in doubt about everybody.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::{Timestamp, UserId};

/// How many users are remembered one by one. With more, all count as invalidated.
const MAX_USERS: usize = 100_000;

pub(crate) struct Heard {
    state: Mutex<State>,
    /// How long an invalidation matters.
    keep: Duration,
}

#[derive(Default)]
struct State {
    /// When everybody was invalidated last.
    everything: Option<Timestamp>,
    users: HashMap<UserId, Timestamp>,
    /// Each of `users` once, about in the order in which they can be forgotten.
    order: VecDeque<UserId>,
}

impl Heard {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { state: Mutex::default(), keep }
    }

    /// The last invalidation that concerns the user.
    pub(crate) fn last(&self, user: UserId) -> Option<Timestamp> {
        let state = self.state();
        state.everything.max(state.users.get(&user).copied())
    }

    pub(crate) fn everything(&self, now: Timestamp) {
        let mut state = self.state();
        state.everything = state.everything.max(Some(now));
    }

    pub(crate) fn user(&self, user: UserId, now: Timestamp) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(last) = state.users.get_mut(&user) {
            *last = now.max(*last);
            return;
        }
        // Two are looked at for each that comes, so they do not pile up.
        for _ in 0..2 {
            let Some(oldest) = state.order.pop_front() else { break };
            if state.users.get(&oldest).is_some_and(|last| now.since(*last) < self.keep) {
                state.order.push_back(oldest);
            } else {
                state.users.remove(&oldest);
            }
        }
        if state.users.len() >= MAX_USERS {
            state.everything = state.everything.max(Some(now));
            // None of them is later than now, but after a clock was set back.
            state.everything = state.everything.max(state.users.values().max().copied());
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
    fn a_user_is_remembered_alone_and_everything_is_everybody() {
        let heard = Heard::new(KEEP);
        let later = NOW.plus(Duration::from_secs(1));
        heard.user(user(1), NOW);
        assert_eq!((heard.last(user(1)), heard.last(user(2))), (Some(NOW), None));
        heard.everything(later);
        assert_eq!((heard.last(user(1)), heard.last(user(2))), (Some(later), Some(later)));
    }

    #[test]
    fn a_clock_that_was_set_back_forgets_nothing() {
        let heard = Heard::new(KEEP);
        heard.user(user(1), NOW);
        heard.everything(NOW);
        let earlier = NOW.minus(Duration::from_secs(100));
        heard.user(user(1), earlier);
        heard.everything(earlier);
        assert_eq!(heard.last(user(1)), Some(NOW));
        assert_eq!(heard.last(user(2)), Some(NOW));
    }

    #[test]
    fn with_too_many_users_all_are_invalidated() {
        let heard = Heard::new(KEEP);
        let most = u32::try_from(MAX_USERS).unwrap();
        for n in 0..most {
            heard.user(user(n), NOW);
        }
        assert_eq!((heard.last(user(0)), heard.last(user(most))), (Some(NOW), None));
        heard.user(user(most), NOW);
        assert_eq!(heard.last(user(most + 1)), Some(NOW));
        assert_eq!(heard.state().users.len(), 0);
    }

    #[test]
    fn what_matters_no_more_makes_room_and_what_was_renewed_stays() {
        let heard = Heard::new(KEEP);
        let most = u32::try_from(MAX_USERS).unwrap();
        for n in 0..most {
            heard.user(user(n), NOW);
        }
        let later = NOW.plus(KEEP);
        heard.user(user(0), later);
        for n in most..2 * most - 1 {
            heard.user(user(n), later);
        }
        assert_eq!(heard.last(user(most * 3)), None, "it was never too many at a time");
        assert_eq!(heard.last(user(0)), Some(later));
        let state = heard.state();
        assert!(state.users.len() <= MAX_USERS && state.users.len() == state.order.len());
    }
}
