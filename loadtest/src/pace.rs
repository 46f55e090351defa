//! The due times of requests.
//!
//! Promises: in the open model, due times depend on the plan alone: a slow server does not delay the next
//! request (no coordinated omission). After a stall, each missed request is still due, in the past. A rate of
//! zero has no requests. Never looks at a clock.

use crate::clock::{Nanos, SECOND};

/// The lowest share of the full rate, so that the time to the next request stays finite.
const SHARE_MIN: f64 = 0.02;
/// The share of the full rate at which a ramp begins. A warm-up before a ramp runs at this share.
pub const RAMP_FROM: f64 = 0.1;

/// The rate over the time of a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve {
    /// The full rate, requests a second.
    pub rate: f64,
    /// Seconds within which the rate rises from a tenth to its full value.
    pub ramp_s: f64,
    /// The length in seconds of a day that the rate follows. The full rate is that of its busiest hour.
    pub day_s: Option<f64>,
}

impl Curve {
    /// The rate `at` seconds after the phase began.
    #[must_use]
    pub fn rate_at(&self, at: f64) -> f64 {
        let ramp = if at < self.ramp_s { RAMP_FROM + (1.0 - RAMP_FROM) * at / self.ramp_s } else { 1.0 };
        let day = self.day_s.map_or(1.0, |day| share_of_day(at / day));
        self.rate * (ramp * day).max(SHARE_MIN)
    }
}

/// The share of the busiest hour's rate at a part of the day (0 midnight, 0.5 noon): quiet at night, a rise in
/// the morning, a dip at lunch, the peak in the evening.
#[must_use]
pub fn share_of_day(part: f64) -> f64 {
    const HOURS: [f64; 24] = [
        0.25, 0.18, 0.13, 0.10, 0.10, 0.13, 0.22, 0.40, 0.60, 0.72, 0.78, 0.80, 0.70, 0.74, 0.78, 0.80, 0.82,
        0.86, 0.92, 0.98, 1.00, 0.92, 0.70, 0.42,
    ];
    let hour = (part.clamp(0.0, 1.0) * 24.0).min(23.999);
    let mut low = 0;
    while low < 23 && (low + 1) as f64 <= hour {
        low += 1;
    }
    let within = hour - low as f64;
    HOURS[low] * (1.0 - within) + HOURS[(low + 1) % 24] * within
}

/// The due times of one lane to one target in one thread.
#[derive(Debug, Clone)]
pub struct Pacer {
    curve: Curve,
    /// Its share of the curve's rate.
    share: f64,
    begin: Nanos,
    end: Nanos,
    /// The next due time, seconds since `begin`.
    next: f64,
}

impl Pacer {
    /// Due times from `begin` up to `end`. The first is `offset` (0 to 1) of a gap after `begin`, so that many
    /// pacers are not in step.
    #[must_use]
    pub fn new(curve: Curve, share: f64, offset: f64, begin: Nanos, end: Nanos) -> Self {
        let mut pacer = Self { curve, share, begin, end, next: 0.0 };
        let gap = pacer.gap();
        // Zero times an infinite gap is NaN.
        pacer.next = if gap.is_finite() { offset * gap } else { gap };
        pacer
    }

    fn gap(&self) -> f64 {
        let rate = self.curve.rate_at(self.next) * self.share;
        if rate > 0.0 { 1.0 / rate } else { f64::INFINITY }
    }

    /// When the next request is due; `None` if there is none until the end.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and below u64's end"
    )]
    pub fn due(&self) -> Option<Nanos> {
        let due = self.begin.saturating_add((self.next * SECOND as f64) as u64);
        (due < self.end).then_some(due)
    }

    /// Moves on to the next request.
    pub fn advance(&mut self) {
        self.next += self.gap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(curve: Curve, seconds: u64) -> Vec<Nanos> {
        let mut pacer = Pacer::new(curve, 1.0, 0.0, 5, 5 + seconds * SECOND);
        std::iter::from_fn(|| {
            let due = pacer.due()?;
            pacer.advance();
            Some(due)
        })
        .collect()
    }

    #[test]
    fn requests_are_due_evenly_at_the_rate() {
        let due = arrivals(Curve { rate: 1000.0, ramp_s: 0.0, day_s: None }, 3);
        assert!((2999..=3001).contains(&due.len()), "{}", due.len());
        assert!(due.windows(2).all(|pair| (999_990..=1_000_010).contains(&(pair[1] - pair[0]))));
    }

    #[test]
    fn rate_of_zero_has_no_requests() {
        for (rate, ramp_s, day_s) in [(0.0, 0.0, None), (-1.0, 0.0, None), (0.0, 2.0, Some(3.0))] {
            for offset in [0.0, 0.5, 1.0] {
                let mut pacer = Pacer::new(Curve { rate, ramp_s, day_s }, 0.25, offset, 5, 5 + 3 * SECOND);
                assert_eq!(pacer.due(), None);
                pacer.advance();
                assert_eq!(pacer.due(), None);
            }
        }
    }

    #[test]
    fn ramp_rises_to_the_rate() {
        let due = arrivals(Curve { rate: 1000.0, ramp_s: 10.0, day_s: None }, 11);
        let in_second = |s: u64| due.iter().filter(|&&at| (at - 5) / SECOND == s).count();
        assert!((100..200).contains(&in_second(0)), "{}", in_second(0));
        assert!((550..660).contains(&in_second(5)), "{}", in_second(5));
        assert!((998..=1002).contains(&in_second(10)), "{}", in_second(10));
    }

    #[test]
    fn day_is_quiet_at_night_and_busy_in_the_evening() {
        let due = arrivals(Curve { rate: 1000.0, ramp_s: 0.0, day_s: Some(24.0) }, 24);
        let in_hour = |s: u64| due.iter().filter(|&&at| (at - 5) / SECOND == s).count();
        assert!(in_hour(3) < 150 && in_hour(19) > 900, "{} {}", in_hour(3), in_hour(19));
        assert!((0..=240).all(|part| share_of_day(f64::from(part) / 240.0) <= 1.0));
    }

    #[test]
    fn shares_of_many_pacers_add_up() {
        let curve = Curve { rate: 900.0, ramp_s: 0.0, day_s: None };
        let count = |offset: f64| {
            let mut pacer = Pacer::new(curve, 1.0 / 3.0, offset, 0, SECOND);
            std::iter::from_fn(|| pacer.due().inspect(|_| pacer.advance())).count()
        };
        let all = count(0.0) + count(1.0 / 3.0) + count(2.0 / 3.0);
        assert!((899..=901).contains(&all), "{all}");
    }
}
