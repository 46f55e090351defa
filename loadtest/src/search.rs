//! The search for the highest rate that meets the objectives.
//!
//! Promises: ends after few steps (doubling, then halving the gap until it is below a twentieth); never
//! says a rate that was not driven. One step that does not hold is tried once more: a hiccup of the machine
//! is not the limit.

/// The gap at which it ends, as a share of the rate.
const CLOSE: f64 = 0.05;
/// Steps at most.
const STEPS: usize = 40;

/// Where the search is.
#[derive(Debug, Clone)]
pub struct Search {
    next: f64,
    held: Option<f64>,
    failed: Option<f64>,
    again: bool,
    steps: usize,
}

impl Search {
    /// Begins at this rate.
    #[must_use]
    pub const fn new(rate: f64) -> Self {
        Self { next: rate, held: None, failed: None, again: false, steps: 0 }
    }

    /// What to drive next; `None` when it is over.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let close =
            matches!((self.held, self.failed), (Some(held), Some(failed)) if failed - held <= CLOSE * held);
        let hopeless = self.held.is_none() && self.failed.is_some() && self.next < 1.0;
        (!close && !hopeless && self.steps < STEPS).then_some(self.next)
    }

    /// What became of the step.
    pub fn tell(&mut self, held: bool) {
        self.steps += 1;
        let rate = self.next;
        if held {
            self.held = Some(rate);
            self.again = false;
        } else if !self.again {
            self.again = true;
            return;
        } else {
            self.failed = Some(rate);
            self.again = false;
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
            search.tell(rate <= limit);
        }
        (search.held, search.steps)
    }

    #[test]
    fn the_highest_rate_is_found_from_below_and_from_above() {
        for from in [10.0, 1_000.0, 1_000_000.0] {
            let (best, steps) = find(from, 54_321.0);
            assert!((51_000.0..=54_321.0).contains(&best.unwrap()), "{best:?}");
            assert!(steps <= 30, "{steps}");
        }
    }

    #[test]
    fn a_single_hiccup_is_not_the_limit() {
        let mut search = Search::new(100.0);
        search.tell(false);
        assert_eq!(search.next(), Some(100.0));
        search.tell(true);
        assert_eq!(search.next(), Some(200.0));
    }

    #[test]
    fn it_ends_when_nothing_holds() {
        assert_eq!(find(1_000.0, 0.0).0, None);
    }
}
