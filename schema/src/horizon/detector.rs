//! Detects jumps of the wall clock, and derives times that can be trusted. Reads no clock itself.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Trust;
use crate::time::{CLOCK_SKEW, Timestamp, millis};

/// Limit, in milliseconds, of a change of the offset between two observations that counts as slewing. A larger
/// change is a jump.
const SLEW_MAX_MS: i64 = 1_000;
/// The granularity of remembered offsets in milliseconds: they are rounded down to it, so that a clock that
/// is slewed leaves few.
const GRAIN_MS: i64 = 250;
/// Limit of remembered offsets. Beyond it, the two oldest are merged into the lower of them.
const OFFSETS_MAX: usize = 512;

/// A jump of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// The size of the jump in milliseconds; negative if the clock was set back.
    pub by_ms: i64,
}

/// An offset that the wall clock had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Past {
    offset_ms: i64,
    /// Boot time, in milliseconds, when the wall clock last had this offset.
    seen_ms: u64,
    /// When the last token or denial of that time ends, in milliseconds since the epoch.
    needed_ms: u64,
}

/// Compares the wall clock with boot time. Stored as JSON, as part of [`Saved`](super::Saved).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Detector {
    #[serde(skip)]
    trust: Trust,
    /// Ascending in both offset and time; the last is the current offset.
    past: VecDeque<Past>,
    last_ms: Option<i64>,
    /// The offset that is believed.
    steady_ms: i64,
    /// An offset that may become the believed one, and since which boot time it has lasted.
    candidate: Option<(i64, u64)>,
    /// The boot time before which no facts are deleted.
    facts_from_ms: u64,
    /// The boot time before which no rows are deleted.
    rows_from_ms: u64,
}

pub(super) fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

pub(super) fn offset(wall: Timestamp, boot_ms: u64) -> i64 {
    signed(wall.as_millis()).saturating_sub(signed(boot_ms))
}

pub(super) fn time(offset_ms: i64, boot_ms: u64) -> Timestamp {
    let ms = signed(boot_ms).saturating_add(offset_ms);
    Timestamp::from_millis(u64::try_from(ms).unwrap_or(0))
}

impl Detector {
    /// A detector without a past: nothing is deleted for a grace period.
    #[must_use]
    pub fn new(trust: Trust, wall: Timestamp, boot_ms: u64) -> Self {
        let mut detector = Self {
            trust,
            past: VecDeque::new(),
            last_ms: None,
            steady_ms: offset(wall, boot_ms),
            candidate: None,
            facts_from_ms: boot_ms.saturating_add(millis(trust.belief)),
            rows_from_ms: boot_ms.saturating_add(millis(trust.longest)),
        };
        detector.observe(wall, boot_ms, Timestamp::EPOCH);
        detector
    }

    /// A detector that continues after a boot of the machine: `settled` has certainly passed, and tokens and
    /// denials from before the boot last until `needed`.
    pub(super) fn after_boot(
        trust: Trust,
        wall: Timestamp,
        boot_ms: u64,
        settled: Timestamp,
        needed: Timestamp,
    ) -> Self {
        let mut detector = Self { facts_from_ms: 0, rows_from_ms: 0, ..Self::new(trust, wall, boot_ms) };
        let offset_ms = offset(settled, boot_ms).div_euclid(GRAIN_MS) * GRAIN_MS;
        if detector.past.front().is_some_and(|first| offset_ms < first.offset_ms) {
            detector.past.push_front(Past { offset_ms, seen_ms: boot_ms, needed_ms: needed.as_millis() });
        }
        detector
    }

    /// A saved detector that continues on a machine that was not booted in between.
    pub(super) fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Records a reading of both clocks. `needed` is the end of the last token or denial. Returns the jump of
    /// the wall clock since the last observation, if there was one.
    pub fn observe(&mut self, wall: Timestamp, boot_ms: u64, needed: Timestamp) -> Option<Jump> {
        let offset_ms = offset(wall, boot_ms);
        let moved = self.last_ms.replace(offset_ms).map_or(0, |last| offset_ms.saturating_sub(last));
        self.follow(offset_ms, boot_ms);
        let rounded = offset_ms.div_euclid(GRAIN_MS).saturating_mul(GRAIN_MS);
        while self.past.back().is_some_and(|last| last.offset_ms >= rounded) {
            self.past.pop_back();
        }
        let needed_ms = needed.as_millis();
        self.past.push_back(Past { offset_ms: rounded, seen_ms: boot_ms, needed_ms });
        while self.past.len() > 1 && self.past.front().is_some_and(|first| self.is_old(first, boot_ms)) {
            self.past.pop_front();
        }
        if self.past.len() > OFFSETS_MAX
            && let Some(second) = self.past.remove(1)
            && let Some(first) = self.past.front_mut()
        {
            first.seen_ms = second.seen_ms;
            first.needed_ms = second.needed_ms;
        }
        (moved.saturating_abs() > SLEW_MAX_MS).then_some(Jump { by_ms: moved })
    }

    /// Makes the steady offset follow small changes at once, and others after they have lasted.
    fn follow(&mut self, offset_ms: i64, boot_ms: u64) {
        let is_near = |other: i64| offset_ms.saturating_sub(other).saturating_abs() <= SLEW_MAX_MS;
        if is_near(self.steady_ms) {
            self.steady_ms = offset_ms;
            self.candidate = None;
            return;
        }
        match self.candidate {
            Some((candidate, since)) if is_near(candidate) => {
                if boot_ms.saturating_sub(since) >= millis(self.trust.belief) {
                    self.steady_ms = offset_ms;
                    self.candidate = None;
                } else {
                    self.candidate = Some((offset_ms, since));
                }
            }
            _ => self.candidate = Some((offset_ms, boot_ms)),
        }
    }

    /// Adopts the offset of the last observation, even after a jump.
    pub(super) fn believe(&mut self) {
        self.steady_ms = self.last_ms.unwrap_or(self.steady_ms);
        self.candidate = None;
    }

    fn is_old(&self, past: &Past, boot_ms: u64) -> bool {
        boot_ms.saturating_sub(past.seen_ms) > millis(self.trust.longest)
    }

    /// Whether every token and denial of the time of this offset has ended by it.
    fn is_done(&self, past: &Past, boot_ms: u64) -> bool {
        let ago = boot_ms.saturating_sub(past.seen_ms);
        let by_it = time(past.offset_ms, boot_ms);
        let needed = Timestamp::from_millis(past.needed_ms).plus(CLOCK_SKEW);
        self.is_old(past, boot_ms) || (ago > millis(self.trust.belief) && needed < by_it)
    }

    fn lowest(&self, boot_ms: u64) -> i64 {
        let counts = self.past.iter().find(|past| !self.is_done(past, boot_ms));
        counts.or(self.past.back()).map_or(i64::MIN / 4, |past| past.offset_ms)
    }

    /// The offset by which facts are deleted; `None` while none may be.
    pub(super) fn fact_offset(&self, boot_ms: u64) -> Option<i64> {
        (boot_ms >= self.facts_from_ms).then(|| self.lowest(boot_ms))
    }

    /// The offset by which rows are swept; `None` while none may be.
    pub(super) fn row_offset(&self, boot_ms: u64) -> Option<i64> {
        let counts = self.past.iter().find(|past| !self.is_old(past, boot_ms)).or(self.past.back());
        counts.map(|past| past.offset_ms).filter(|_| boot_ms >= self.rows_from_ms)
    }

    /// A time that has certainly passed, as far as this process has seen; at most that of the wall clock.
    #[must_use]
    pub fn settled(&self, boot_ms: u64) -> Timestamp {
        time(self.lowest(boot_ms), boot_ms)
    }

    /// The wall clock without its jumps, until one has lasted for [`Trust::belief`].
    #[must_use]
    pub fn steady(&self, boot_ms: u64) -> Timestamp {
        time(self.steady_ms, boot_ms)
    }

    pub(super) fn steady_offset(&self) -> i64 {
        self.steady_ms
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TRUST: Trust = Trust { belief: Duration::from_secs(3_600), longest: Duration::from_secs(172_800) };
    const START: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// A detector with a long past behind it, at boot time `3 * longest`.
    fn settled() -> (Detector, u64) {
        let mut detector = Detector::new(TRUST, at(START), 0);
        let boot = 3 * millis(TRUST.longest);
        detector.observe(at(START + boot), boot, Timestamp::EPOCH);
        (detector, boot)
    }

    fn facts(detector: &Detector, boot: u64) -> Timestamp {
        time(detector.fact_offset(boot).expect("the grace is over"), boot)
    }

    #[test]
    fn nothing_is_deleted_for_a_grace_after_a_first_start() {
        let detector = Detector::new(TRUST, at(START), 7);
        assert_eq!(detector.fact_offset(6 + HOUR), None);
        assert!(detector.fact_offset(7 + HOUR).is_some());
        assert_eq!(detector.row_offset(6 + 48 * HOUR), None);
        assert!(detector.row_offset(7 + 48 * HOUR).is_some());
    }

    #[test]
    fn horizon_follows_a_clock_that_runs_well() {
        let (mut detector, boot) = settled();
        for minute in 1..600 {
            let boot = boot + minute * 60_000;
            assert_eq!(detector.observe(at(START + boot), boot, at(START + boot + 900_000)), None);
            assert_eq!(facts(&detector, boot), at(START + boot));
        }
    }

    #[test]
    fn jump_ahead_moves_no_horizon_until_it_has_lasted() {
        let (mut detector, boot) = settled();
        let needed = at(START + boot + 900_000);
        detector.observe(at(START + boot), boot, needed);
        let jump = detector.observe(at(START + boot + HOUR), boot + 1_000, needed);
        assert_eq!(jump, Some(Jump { by_ms: signed(HOUR - 1_000) }));
        for minute in 1..60 {
            let boot = boot + minute * 60_000;
            detector.observe(at(START + boot + HOUR), boot, needed);
            assert_eq!(facts(&detector, boot), at(START + boot));
            assert_eq!(detector.steady(boot), at(START + boot));
        }
        let boot = boot + 2 * HOUR;
        detector.observe(at(START + boot + HOUR), boot, needed);
        assert_eq!(facts(&detector, boot), at(START + boot + HOUR));
        assert_eq!(detector.steady(boot), at(START + boot + HOUR));
        let rows = time(detector.row_offset(boot).unwrap(), boot);
        assert_eq!(rows, at(START + boot), "rows wait for longer");
    }

    #[test]
    fn offset_counts_while_a_denial_has_time_left_by_it() {
        let (mut detector, boot) = settled();
        // A token that was issued by a clock five hours ahead was revoked.
        let needed = at(START + boot + 5 * HOUR);
        detector.observe(at(START + boot), boot, needed);
        for (hours, by_ms) in [(2, 0), (4, 0), (6, 3 * HOUR)] {
            let boot = boot + hours * HOUR;
            detector.observe(at(START + boot + 3 * HOUR), boot, needed);
            assert_eq!(facts(&detector, boot), at(START + boot + by_ms), "{hours}");
        }
    }

    #[test]
    fn clock_that_was_behind_delays_the_horizon() {
        let (mut detector, boot) = settled();
        detector.observe(at(START + boot - 2 * HOUR), boot, at(START + boot));
        for (hours, behind) in [(1, 2 * HOUR), (47, 0)] {
            let boot = boot + hours * HOUR;
            detector.observe(at(START + boot), boot, at(START + boot));
            assert_eq!(facts(&detector, boot), at(START + boot - behind), "{hours}");
        }
    }

    #[test]
    fn a_clock_of_1970_is_forgotten_after_two_days() {
        let (mut detector, boot) = settled();
        detector.observe(at(1_000), boot, at(START + boot));
        for (hours, is_back) in [(1, false), (48, false), (49, true)] {
            let boot = boot + hours * HOUR;
            detector.observe(at(START + boot), boot, at(START + boot));
            assert_eq!(facts(&detector, boot) == at(START + boot), is_back, "{hours}");
        }
    }

    #[test]
    fn slewed_clock_is_no_jump_and_leaves_few_offsets() {
        let (mut detector, mut boot) = settled();
        let mut wall = START + boot;
        for _ in 0..50_000 {
            (boot, wall) = (boot + 1_000, wall + 1_083);
            assert_eq!(detector.observe(at(wall), boot, at(wall)), None);
        }
        assert!(detector.past.len() <= OFFSETS_MAX + 1, "{}", detector.past.len());
        assert_eq!(detector.steady(boot), at(wall));
    }

    /// An applied fact: the boot time of its application, and the time that it had left.
    #[derive(Debug, Clone, Copy)]
    struct Applied {
        boot: u64,
        left: u64,
        until: Timestamp,
    }

    proptest! {
        /// Whatever the wall clock does, the horizon is never beyond it, and passes the end of no fact before
        /// the fact's remaining time has passed in boot time.
        #[test]
        fn horizon_passes_nothing_that_has_time_left(
            steps in prop::collection::vec(
                (1_u64..7_200_000, prop_oneof![3 => Just(0_i64), 2 => -5_000_000_i64..5_000_000], 0_u64..9_000_000),
                1..80,
            ),
        ) {
            let mut detector = Detector::new(TRUST, at(START), 0);
            let (mut boot, mut offset_ms) = (0_u64, signed(START));
            let mut needed = Timestamp::EPOCH;
            let mut applied: Vec<Applied> = Vec::new();
            for (elapsed, jump, left) in steps {
                boot += elapsed;
                offset_ms += jump;
                let wall = time(offset_ms, boot);
                detector.observe(wall, boot, needed);
                if let Some(offset_ms) = detector.fact_offset(boot) {
                    let horizon = time(offset_ms, boot);
                    prop_assert!(horizon <= wall);
                    for one in &applied {
                        let has_left = boot - one.boot < one.left;
                        prop_assert!(!(horizon > one.until && has_left), "{one:?} at {boot}");
                    }
                }
                let until = wall.plus(Duration::from_millis(left));
                needed = needed.max(until);
                applied.push(Applied { boot, left, until });
                // An observation that follows at once.
                detector.observe(wall, boot, needed);
            }
        }
    }
}
