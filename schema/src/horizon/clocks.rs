//! Both clocks of a node, and the times that are derived from them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Detector, HighWater, Horizon, Horizons, Jump, Trust,
    detector::{offset, time},
};
use crate::time::{CLOCK_SKEW, Clock, MonotonicClock, Timestamp, millis};

/// Limit of the time between two readings of boot time for the wall clock's reading between them to count as
/// simultaneous.
const READING_GAP_MAX: Duration = Duration::from_millis(50);
/// Limit of attempts to read both clocks simultaneously.
const READINGS_MAX: usize = 5;
/// Limit of jumps that wait to be reported; further ones are only counted.
const PENDING_JUMPS_MAX: usize = 64;
/// The offset while nothing may be deleted, in milliseconds: a horizon far before the epoch.
const NO_OFFSET_MS: i64 = i64::MIN / 4;
/// Limit of how much longer a denial lasts that a process applied after its last save, compared with those
/// before it.
const UNSAVED_DENIAL_MAX: Duration = Duration::from_secs(120);

/// What a process saves about its clocks for the next process. Stored as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    /// The id of the boot: a new one after every boot of the machine.
    boot_id: String,
    boot_ms: u64,
    settled: Timestamp,
    floor_secs: u64,
    latest_denial: Timestamp,
    /// Includes a reserve for the tokens that are issued in the minute after the save.
    latest_expiry_secs: u64,
    detector: Detector,
}

impl Saved {
    /// The latest expiry, in seconds since the epoch, of tokens that the process may have issued until its
    /// next save.
    #[must_use]
    pub const fn latest_expiry_secs(&self) -> u64 {
        self.latest_expiry_secs
    }
}

/// The wall clock and boot time of a node. One per process.
pub struct Clocks {
    wall: Arc<dyn Clock>,
    monotonic: Arc<dyn MonotonicClock>,
    boot_id: String,
    high_water: Arc<HighWater>,
    detector: Mutex<Detector>,
    /// The offset by which facts are deleted, as of the last observation.
    fact_offset_ms: AtomicI64,
    steady_offset_ms: AtomicI64,
    /// How far the slowest clock of the other nodes is behind this one's.
    peers_behind_ms: AtomicU64,
    jumps: AtomicU64,
    pending: Mutex<Vec<Jump>>,
}

impl std::fmt::Debug for Clocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clocks").field("high_water", &self.high_water).finish_non_exhaustive()
    }
}

impl Clocks {
    /// The clocks of a process that continues after the one that saved `saved`. `boot_id` identifies the boot
    /// of the machine.
    #[must_use]
    pub fn new(
        wall: Arc<dyn Clock>,
        monotonic: Arc<dyn MonotonicClock>,
        boot_id: &str,
        saved: Option<Saved>,
    ) -> Self {
        Self::trusting(Trust::default(), wall, monotonic, boot_id, saved)
    }

    /// As [`Self::new`], with another trust in clocks.
    #[must_use]
    pub fn trusting(
        trust: Trust,
        wall: Arc<dyn Clock>,
        monotonic: Arc<dyn MonotonicClock>,
        boot_id: &str,
        saved: Option<Saved>,
    ) -> Self {
        let (now, boot_ms) = read(&*wall, &*monotonic);
        let high_water = HighWater::default();
        let detector = match saved {
            None => Detector::new(trust, now, boot_ms),
            Some(saved) => {
                high_water.raise_floor(Timestamp::from_secs(saved.floor_secs));
                high_water.saw_expiry(saved.latest_expiry_secs);
                high_water.denied_until(saved.latest_denial.plus(UNSAVED_DENIAL_MAX));
                let same_boot = !boot_id.is_empty() && saved.boot_id == boot_id && saved.boot_ms <= boot_ms;
                if same_boot {
                    saved.detector.trusting(trust)
                } else {
                    let needed = high_water.needed();
                    Detector::after_boot(trust, now, boot_ms, saved.settled, needed)
                }
            }
        };
        let clocks = Self {
            wall,
            monotonic,
            boot_id: boot_id.to_owned(),
            high_water: Arc::new(high_water),
            detector: Mutex::new(detector),
            fact_offset_ms: AtomicI64::new(NO_OFFSET_MS),
            steady_offset_ms: AtomicI64::new(0),
            peers_behind_ms: AtomicU64::new(0),
            jumps: AtomicU64::new(0),
            pending: Mutex::default(),
        };
        clocks.observe();
        clocks
    }

    /// The wall clock. Only the expiry of tokens is decided by it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall.now()
    }

    /// The expiry of a token that is issued now with the lifetime `life`: above the floor, below which it
    /// would have expired already.
    #[must_use]
    pub fn expiry(&self, life: Duration) -> Timestamp {
        self.now().max(self.high_water.floor()).plus(life)
    }

    /// The time since the machine was booted.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.monotonic.elapsed()
    }

    /// The times that only rise.
    #[must_use]
    pub const fn high_water(&self) -> &Arc<HighWater> {
        &self.high_water
    }

    /// Reads both clocks and records their offset. The node calls this about once a second.
    pub fn observe(&self) {
        self.observe_now();
    }

    /// Records the offset of the clocks. Returns the wall clock, and boot time in milliseconds.
    fn observe_now(&self) -> (Timestamp, u64) {
        let mut detector = self.detector();
        let (now, boot_ms) = read(&*self.wall, &*self.monotonic);
        if let Some(jump) = detector.observe(now, boot_ms, self.high_water.needed()) {
            self.jumps.fetch_add(1, Ordering::Relaxed);
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.len() < PENDING_JUMPS_MAX {
                pending.push(jump);
            }
        }
        self.fact_offset_ms.store(detector.fact_offset(boot_ms).unwrap_or(NO_OFFSET_MS), Ordering::Release);
        self.steady_offset_ms.store(detector.steady_offset(), Ordering::Release);
        (now, boot_ms)
    }

    fn detector(&self) -> MutexGuard<'_, Detector> {
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The horizon by which facts, and the data that is kept for them, are deleted.
    #[must_use]
    pub fn horizon(&self) -> Horizon {
        let (mut now, mut boot_ms) = read(&*self.wall, &*self.monotonic);
        if offset(now, boot_ms) < self.fact_offset_ms.load(Ordering::Acquire) {
            // The wall clock was set back since the last observation.
            (now, boot_ms) = self.observe_now();
        }
        let at = time(self.fact_offset_ms.load(Ordering::Acquire), boot_ms).min(now);
        self.hand_out(at, now)
    }

    /// The horizons by which a store deletes expired rows.
    #[must_use]
    pub fn horizons(&self) -> Horizons {
        let rows = self.row_horizon();
        Horizons { facts: self.horizon(), rows }
    }

    /// The horizon by which rows are swept that live for weeks.
    #[must_use]
    pub fn row_horizon(&self) -> Horizon {
        let (now, boot_ms) = self.observe_now();
        let offset_ms = self.detector().row_offset(boot_ms);
        let rows = offset_ms.map_or(Timestamp::EPOCH, |offset_ms| time(offset_ms, boot_ms));
        let facts = time(self.fact_offset_ms.load(Ordering::Acquire), boot_ms);
        self.hand_out(rows.min(facts).min(now), now)
    }

    /// Makes a horizon. Raises the floor first, so that readers know it before anything is deleted.
    fn hand_out(&self, at: Timestamp, now: Timestamp) -> Horizon {
        let at = at.min(self.on_all_nodes(now));
        self.high_water.raise_floor(at.minus(CLOCK_SKEW));
        Horizon(at)
    }

    /// This time minus the lag of the slowest clock in the cluster.
    fn on_all_nodes(&self, now: Timestamp) -> Timestamp {
        now.minus(Duration::from_millis(self.peers_behind_ms.load(Ordering::Relaxed)))
    }

    /// Sets how far another node's clock is behind this one's: nothing is deleted that is not over there.
    pub fn set_peers_behind(&self, by: Duration) {
        self.peers_behind_ms.store(millis(by), Ordering::Relaxed);
    }

    /// Makes [`Self::steady`] follow the wall clock at once, because other nodes confirm it.
    pub fn believe_wall(&self) {
        self.observe_now();
        let mut detector = self.detector();
        detector.believe();
        self.steady_offset_ms.store(detector.steady_offset(), Ordering::Release);
    }

    /// A time that has passed on every node, for the TTLs of shared rows.
    #[must_use]
    pub fn settled(&self) -> Timestamp {
        let (now, boot_ms) = self.observe_now();
        self.detector().settled(boot_ms).min(self.on_all_nodes(now))
    }

    /// The wall clock without its jumps, until one has lasted: for short spans that a jump must neither cut
    /// short nor draw out, such as the grace of a spent token and the locks of limits.
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        time(self.steady_offset_ms.load(Ordering::Acquire), millis(self.monotonic()))
    }

    /// How far the wall clock is from [`Self::steady`], either way.
    #[must_use]
    pub fn disagreement(&self) -> Duration {
        let now = self.now();
        let steady = self.steady();
        now.since(steady).max(steady.since(now))
    }

    /// The number of jumps of the wall clock since this process started, and between it and the previous one.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    /// Returns the jumps that were not reported yet.
    #[must_use]
    pub fn take_jumps(&self) -> Vec<Jump> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state for the next process, with a reserve for tokens that expire up to `reserved`.
    #[must_use]
    pub fn save(&self, reserved: Timestamp) -> Saved {
        let (_, boot_ms) = self.observe_now();
        let detector = self.detector().clone();
        let water = &self.high_water;
        Saved {
            boot_id: self.boot_id.clone(),
            boot_ms,
            settled: detector.settled(boot_ms),
            floor_secs: water.floor_secs(),
            latest_denial: water.latest_denial(),
            latest_expiry_secs: water.latest_expiry().max(reserved).as_secs(),
            detector,
        }
    }
}

impl Clock for Clocks {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }
}

/// [`Clocks::steady`] as a clock.
#[derive(Debug, Clone)]
pub struct SteadyClock(pub Arc<Clocks>);

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.0.steady()
    }
}

/// Reads both clocks at one moment: the wall clock, and boot time in milliseconds. If the process is stopped
/// between the readings at every attempt, the offset is too low, which is the safe direction.
fn read(wall: &dyn Clock, monotonic: &dyn MonotonicClock) -> (Timestamp, u64) {
    let mut reading = (Timestamp::EPOCH, 0);
    for _ in 0..READINGS_MAX {
        let before = monotonic.elapsed();
        let now = wall.now();
        let after = monotonic.elapsed();
        reading = (now, millis(after));
        if after.saturating_sub(before) <= READING_GAP_MAX {
            break;
        }
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::{super::manual::ManualClocks, *};

    const START: Timestamp = Timestamp::from_secs(2_000_000_000);
    const HOUR: Duration = Duration::from_secs(3_600);
    const HOUR_MS: i64 = 3_600_000;

    /// Clocks that have run for four days.
    fn settled() -> (Arc<ManualClocks>, Arc<Clocks>) {
        let manual = ManualClocks::at(START);
        let clocks = manual.clocks();
        for _ in 0..2 {
            manual.advance(49 * HOUR);
            clocks.observe();
        }
        (manual, clocks)
    }

    #[test]
    fn floor_is_raised_before_a_horizon_is_returned() {
        let (_manual, clocks) = settled();
        assert_eq!(clocks.high_water().floor(), Timestamp::EPOCH, "nothing was deleted");
        let horizon = clocks.horizon();
        assert_eq!(horizon.time(), clocks.now());
        assert_eq!(clocks.high_water().floor(), horizon.time().minus(CLOCK_SKEW));
    }

    #[test]
    fn clock_set_back_between_observations_lowers_the_horizon() {
        let (manual, clocks) = settled();
        let before = clocks.horizon();
        manual.jump(-HOUR_MS);
        assert_eq!(clocks.horizon().time(), before.time().minus(HOUR));
        assert_eq!(clocks.high_water().floor(), before.time().minus(CLOCK_SKEW), "the floor stays");
        assert_eq!(clocks.jumps(), 1);
        assert_eq!(clocks.take_jumps(), [Jump { by_ms: -HOUR_MS }]);
        assert_eq!(clocks.take_jumps(), []);
    }

    #[test]
    fn jump_ahead_moves_neither_horizon_nor_steady_clock() {
        let (manual, clocks) = settled();
        let before = (clocks.horizon(), clocks.row_horizon(), clocks.steady(), clocks.settled());
        manual.jump(960 * HOUR_MS);
        clocks.observe();
        assert_eq!((clocks.horizon(), clocks.row_horizon(), clocks.steady(), clocks.settled()), before);
        assert_eq!(clocks.disagreement(), 960 * HOUR);
        manual.jump(-960 * HOUR_MS);
        clocks.observe();
        assert_eq!((clocks.horizon(), clocks.row_horizon(), clocks.steady(), clocks.settled()), before);
        assert_eq!((clocks.jumps(), clocks.disagreement()), (2, Duration::ZERO));
    }

    #[test]
    fn horizon_waits_for_a_peer_whose_clock_is_behind() {
        let (_manual, clocks) = settled();
        clocks.set_peers_behind(HOUR);
        assert_eq!(clocks.horizon().time(), clocks.now().minus(HOUR));
        assert_eq!(clocks.settled(), clocks.now().minus(HOUR));
        clocks.set_peers_behind(Duration::ZERO);
        assert_eq!(clocks.horizon().time(), clocks.now());
        assert_eq!(clocks.settled(), clocks.now());
    }

    #[test]
    fn jump_that_peers_confirm_is_followed_at_once() {
        let (manual, clocks) = settled();
        manual.jump(-HOUR_MS);
        clocks.observe();
        assert_eq!(clocks.disagreement(), HOUR);
        clocks.believe_wall();
        assert_eq!(clocks.disagreement(), Duration::ZERO);
        assert_eq!(clocks.steady(), clocks.now());
        manual.jump(HOUR_MS);
        clocks.observe();
        assert_eq!(clocks.disagreement(), HOUR, "the next one is a jump again");
    }

    #[test]
    fn restart_with_a_wrong_clock_keeps_the_horizon() {
        let (manual, clocks) = settled();
        let horizon = clocks.horizon();
        let saved = clocks.save(Timestamp::EPOCH);
        manual.jump(HOUR_MS);
        let clocks = manual.clocks_after(Some(saved));
        assert_eq!(clocks.horizon(), horizon);
        assert_eq!(clocks.jumps(), 1, "the jump while it was down is seen");
        manual.advance(HOUR / 2);
        assert_eq!(clocks.horizon().time(), horizon.time().plus(HOUR / 2));
    }

    #[test]
    fn restart_after_a_boot_continues_from_the_saved_time() {
        let (manual, clocks) = settled();
        let _ = clocks.horizon();
        let settled = clocks.settled();
        let floor = clocks.high_water().floor();
        let text = serde_json::to_string(&clocks.save(START)).unwrap();
        // Down for a day; boot time starts again.
        manual.set(clocks.now().plus(24 * HOUR), Duration::from_secs(1));
        let clocks = manual.clocks_after(Some(serde_json::from_str(&text).unwrap()));
        assert_eq!(clocks.high_water().floor(), floor);
        assert_eq!(clocks.horizon().time(), settled, "no time is assumed to have passed");
        assert_eq!(clocks.high_water().latest_expiry(), START, "what was reserved");
        manual.advance(HOUR / 2);
        clocks.observe();
        assert_eq!(clocks.horizon().time(), settled.plus(HOUR / 2));
        manual.advance(2 * HOUR);
        clocks.observe();
        assert_eq!(clocks.horizon().time(), clocks.now(), "after a while the clock is believed");
        assert_eq!(clocks.row_horizon().time(), settled.plus(5 * HOUR / 2), "for rows later");
    }

    #[test]
    fn tokens_are_issued_above_the_floor() {
        let (manual, clocks) = settled();
        let horizon = clocks.horizon().time();
        assert_eq!(clocks.expiry(HOUR), clocks.now().plus(HOUR));
        manual.jump(-48 * HOUR_MS);
        assert_eq!(clocks.expiry(HOUR), horizon.minus(CLOCK_SKEW).plus(HOUR));
    }
}
