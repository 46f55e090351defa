//! How much of a core a driving thread takes: what it used of the CPU, over the time in which it used it.
//!
//! Promises: what comes before a phase (connecting) and after it (waiting for late answers) is left out, so that
//! a thread that had to do all it can is seen as such. Two system calls a phase. Never looks at a clock itself.

use crate::clock::{Nanos, seconds};

/// From this share of a core on, the tool itself may be what is slow.
pub const BUSY: f64 = 0.9;

/// A thread in one phase.
#[derive(Debug, Clone, Copy, Default)]
pub struct Busy {
    from: Option<Moment>,
    to: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Nanos,
    used: Nanos,
}

impl Busy {
    /// To be called now and then from the begin of the phase on. `used`: the CPU time of this thread until now,
    /// which is asked for twice: at first, and when the phase is over.
    pub fn look(&mut self, at: Nanos, is_over: bool, used: impl FnOnce() -> Nanos) {
        if self.from.is_none() {
            self.from = Some(Moment { at, used: used() });
        } else if is_over && self.to.is_none() {
            self.to = Some(Moment { at, used: used() });
        }
    }

    /// The share of a core, to a thousandth; 0 when the phase had no length.
    #[must_use]
    pub fn share(self) -> f64 {
        let (Some(from), Some(to)) = (self.from, self.to) else { return 0.0 };
        let span = seconds(to.at.saturating_sub(from.at));
        let used = seconds(to.used.saturating_sub(from.used));
        if span > 0.0 { (used / span * 1e3).round() / 1e3 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, MILLI, SECOND, thread_cpu};

    #[test]
    fn what_was_used_before_and_after_does_not_count() {
        let mut busy = Busy::default();
        busy.look(SECOND, false, || 700 * MILLI);
        busy.look(2 * SECOND, false, || unreachable!("it is asked for twice only"));
        busy.look(3 * SECOND, true, || 2_500 * MILLI);
        busy.look(8 * SECOND, true, || unreachable!("it is over already"));
        assert!((busy.share() - 0.9).abs() < 1e-9 && busy.share() >= BUSY);
    }

    #[test]
    fn a_phase_without_length_has_no_share() {
        let mut busy = Busy::default();
        assert!(busy.share().abs() < 1e-9);
        busy.look(SECOND, true, || MILLI);
        assert!(busy.share().abs() < 1e-9, "its end was not seen");
        busy.look(SECOND, true, || MILLI);
        assert!(busy.share().abs() < 1e-9, "it had no length");
    }

    #[test]
    fn a_thread_that_waits_takes_little_of_a_core_and_one_that_works_never_more_than_one() {
        let clock = Clock::start();
        let share_of = |work: &dyn Fn()| {
            let mut busy = Busy::default();
            busy.look(clock.now(), false, thread_cpu);
            work();
            busy.look(clock.now(), true, thread_cpu);
            busy.share()
        };
        let (_kept, nothing) = std::sync::mpsc::channel::<()>();
        let waiting = share_of(&|| {
            nothing.recv_timeout(Duration::from_millis(50)).unwrap_err();
        });
        assert!(waiting < 0.5, "{waiting}");
        let working = share_of(&|| {
            let begin = thread_cpu();
            while thread_cpu() < begin + 20 * MILLI {}
        });
        assert!(working > waiting && working < 1.05, "{working}");
    }
}
