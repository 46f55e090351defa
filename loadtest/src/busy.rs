//! The share of a core that a thread uses: its CPU time over the time of the phase.
//!
//! Promises: the time before a phase (connecting) and after it (waiting for late answers) does not count, so
//! that a thread at its limit is seen as such. Two system calls a phase. Never looks at a clock itself.

use crate::clock::{Nanos, seconds};

/// From this share of a core on, the tool itself may be the bottleneck.
pub const BUSY_SHARE: f64 = 0.9;

/// The CPU time of a thread in one phase.
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
    /// Call this now and then from the begin of the phase on. `used` returns the CPU time of this thread; it is
    /// called twice: first, and when the phase has ended.
    pub fn sample(&mut self, at: Nanos, is_over: bool, used: impl FnOnce() -> Nanos) {
        if self.from.is_none() {
            self.from = Some(Moment { at, used: used() });
        } else if is_over && self.to.is_none() {
            self.to = Some(Moment { at, used: used() });
        }
    }

    /// The share of a core, rounded to a thousandth; 0 if the phase had no length.
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
    fn time_before_and_after_does_not_count() {
        let mut busy = Busy::default();
        busy.sample(SECOND, false, || 700 * MILLI);
        busy.sample(2 * SECOND, false, || unreachable!("it is called only twice"));
        busy.sample(3 * SECOND, true, || 2_500 * MILLI);
        busy.sample(8 * SECOND, true, || unreachable!("the phase has ended already"));
        assert!((busy.share() - 0.9).abs() < 1e-9 && busy.share() >= BUSY_SHARE);
    }

    #[test]
    fn phase_without_length_has_no_share() {
        let mut busy = Busy::default();
        assert!(busy.share().abs() < 1e-9);
        busy.sample(SECOND, true, || MILLI);
        assert!(busy.share().abs() < 1e-9, "its end was not seen");
        busy.sample(SECOND, true, || MILLI);
        assert!(busy.share().abs() < 1e-9, "it had no length");
    }

    #[test]
    fn waiting_threads_use_less_than_working_ones() {
        let clock = Clock::start();
        let share_of = |work: &dyn Fn()| {
            let mut busy = Busy::default();
            busy.sample(clock.now(), false, thread_cpu);
            work();
            busy.sample(clock.now(), true, thread_cpu);
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
