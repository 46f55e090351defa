//! A circuit breaker: while Palisade is silent, callers do not wait for it, and one question at a time finds out
//! whether it is back.
//!
//! Only silence opens it. A 503 of Palisade comes at once and concerns one token; if it counted, a stranger
//! with forged tokens could degrade the service for all others.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Cause, Clock, Question, Verdict, Verifier};

/// How many silences in a row open the breaker.
const SILENCES_MAX: u32 = 5;
/// Interval between two questions while it is open: recovery takes no longer than this and one answer.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// A verifier that is not asked while it is silent.
pub struct Guarded<V> {
    inner: V,
    clock: Clock,
    breaker: Mutex<Breaker>,
}

/// The state, without a clock.
#[derive(Debug, Default)]
struct Breaker {
    silences: u32,
    /// While open: when the next question may pass.
    next_probe: Option<Instant>,
}

/// What an answer changed.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    /// Whether a question may pass.
    fn admits(&mut self, now: Instant) -> bool {
        match self.next_probe {
            Some(next) if now < next => false,
            Some(_) => {
                self.next_probe = Some(now + PROBE_INTERVAL);
                true
            }
            None => true,
        }
    }

    fn learns(&mut self, is_silent: bool, now: Instant) -> Change {
        if !is_silent {
            self.silences = 0;
            return if self.next_probe.take().is_some() { Change::Closed } else { Change::None };
        }
        self.silences = self.silences.saturating_add(1);
        if self.silences < SILENCES_MAX || self.next_probe.is_some() {
            return Change::None;
        }
        self.next_probe = Some(now + PROBE_INTERVAL);
        Change::Opened
    }
}

impl<V> Guarded<V> {
    /// Guards a verifier; closed at first.
    pub fn new(inner: V, clock: Clock) -> Self {
        Self { inner, clock, breaker: Mutex::default() }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Verifier> Verifier for Guarded<V> {
    async fn verify(&self, question: &Question) -> Verdict {
        if !self.breaker().admits((self.clock)()) {
            return Verdict::Unknown(Cause::NotAsked);
        }
        let verdict = self.inner.verify(question).await;
        let is_silent = verdict == Verdict::Unknown(Cause::Silent);
        if is_silent {
            // What was silent once may stay so: an address that is gone answers on no old connection.
            self.inner.forget_connections();
        }
        let change = self.breaker().learns(is_silent, (self.clock)());
        match change {
            Change::Opened => tracing::warn!("Palisade is silent: callers count as anonymous"),
            Change::Closed => tracing::info!("Palisade answers again"),
            Change::None => {}
        }
        verdict
    }

    fn forget_connections(&self) {
        self.inner.forget_connections();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(start: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..SILENCES_MAX {
            assert_eq!(breaker.learns(true, start), Change::None);
        }
        assert_eq!(breaker.learns(true, start), Change::Opened);
        breaker
    }

    #[test]
    fn breaker_opens_after_silences_in_a_row() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert!(!breaker.admits(start));
        let mut breaker = Breaker::default();
        for _ in 0..10 * SILENCES_MAX {
            assert_eq!(breaker.learns(true, start), Change::None);
            assert_eq!(breaker.learns(false, start), Change::None);
            assert!(breaker.admits(start));
        }
    }

    #[test]
    fn open_breaker_admits_one_question_an_interval() {
        let start = Instant::now();
        let mut breaker = opened(start);
        for n in 1..5 {
            let now = start + PROBE_INTERVAL * n;
            assert!(!breaker.admits(now.checked_sub(Duration::from_millis(1)).expect("a time")));
            assert!(breaker.admits(now));
            assert!(!breaker.admits(now), "one is on its way");
            assert_eq!(breaker.learns(true, now), Change::None);
        }
    }

    #[test]
    fn answer_closes_the_breaker() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let later = start + PROBE_INTERVAL;
        assert!(breaker.admits(later));
        assert_eq!(breaker.learns(false, later), Change::Closed);
        assert!(breaker.admits(later));
        assert_eq!(breaker.learns(true, later), Change::None, "it counts from the beginning");
    }
}
