//! The search for the highest rate that meets the objectives.
//!
//! Promises: ends after few steps (doubling, then halving the gap until it is below a twentieth). Never reports
//! a rate that was not run. A step that does not hold is tried once more: a hiccup of the machine is not the
//! limit.

/// The gap at which the search ends, as a share of the rate.
const GAP_MIN: f64 = 0.05;
/// Steps at most.
const STEPS_MAX: usize = 40;

/// The state of a search.
#[derive(Debug, Clone)]
pub struct Search {
    /// The rate of the next step.
    next: f64,
    /// The highest rate that held.
    held: Option<f64>,
    /// The lowest rate that did not hold.
    failed: Option<f64>,
    /// Whether the next step repeats one that did not hold.
    is_retry: bool,
    steps: usize,
}

impl Search {
    /// A search that begins at this rate.
    #[must_use]
    pub const fn new(rate: f64) -> Self {
        Self { next: rate, held: None, failed: None, is_retry: false, steps: 0 }
    }

    /// The rate of the next step; `None` if the search has ended.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let is_close =
            matches!((self.held, self.failed), (Some(held), Some(failed)) if failed - held <= GAP_MIN * held);
        let is_hopeless = self.held.is_none() && self.failed.is_some() && self.next < 1.0;
        (!is_close && !is_hopeless && self.steps < STEPS_MAX).then_some(self.next)
    }

    /// Records whether the step held.
    pub fn record(&mut self, held: bool) {
        self.steps += 1;
        let rate = self.next;
        if held {
            self.held = Some(rate);
            self.is_retry = false;
        } else if !self.is_retry {
            self.is_retry = true;
            return;
        } else {
            self.failed = Some(rate);
            self.is_retry = false;
        }
        self.next = match (self.held, self.failed) {
            (Some(held), Some(failed)) => f64::midpoint(held, failed),
            (Some(held), None) => held * 2.0,
            (None, _) => rate / 4.0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(from: f64, limit: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(from);
        while let Some(rate) = search.next() {
            search.record(rate <= limit);
        }
        (search.held, search.steps)
    }

    #[test]
    fn highest_rate_is_found_from_below_and_above() {
        for from in [10.0, 1_000.0, 1_000_000.0] {
            let (best, steps) = find(from, 54_321.0);
            assert!((51_000.0..=54_321.0).contains(&best.unwrap()), "{best:?}");
            assert!(steps <= 30, "{steps}");
        }
    }

    #[test]
    fn single_failed_step_is_not_the_limit() {
        let mut search = Search::new(100.0);
        search.record(false);
        assert_eq!(search.next(), Some(100.0));
        search.record(true);
        assert_eq!(search.next(), Some(200.0));
    }

    #[test]
    fn search_ends_if_no_rate_holds() {
        assert_eq!(find(1_000.0, 0.0).0, None);
    }
}
