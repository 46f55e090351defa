//! Clocks that a test moves: both together as time passes, or the wall clock alone for a jump.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Clocks, Horizon, Saved, Trust};
use crate::time::{Clock, MonotonicClock, Timestamp, millis};

/// A wall clock and a boot clock that a test moves.
#[derive(Debug)]
pub struct ManualClocks {
    wall_ms: AtomicU64,
    boot_ms: AtomicU64,
}

impl ManualClocks {
    /// Clocks at this time, on a machine that was booted a thousand seconds ago.
    #[must_use]
    pub fn at(wall: Timestamp) -> Arc<Self> {
        Arc::new(Self { wall_ms: AtomicU64::new(wall.as_millis()), boot_ms: AtomicU64::new(1_000_000) })
    }

    /// Advances both clocks.
    pub fn advance(&self, by: Duration) {
        self.boot_ms.fetch_add(millis(by), Ordering::SeqCst);
        self.wall_ms.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Makes the wall clock jump by this number of milliseconds.
    pub fn jump(&self, by_ms: i64) {
        let jumped = |ms: u64| Some(ms.saturating_add_signed(by_ms));
        let _ = self.wall_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, jumped);
    }

    /// Sets both clocks.
    pub fn set(&self, wall: Timestamp, boot: Duration) {
        self.wall_ms.store(wall.as_millis(), Ordering::SeqCst);
        self.boot_ms.store(millis(boot), Ordering::SeqCst);
    }

    /// The clocks of a node without a previous process.
    #[must_use]
    pub fn clocks(self: &Arc<Self>) -> Arc<Clocks> {
        self.clocks_after(None)
    }

    /// The clocks of a node that continues after a process that saved `saved`.
    #[must_use]
    pub fn clocks_after(self: &Arc<Self>, saved: Option<Saved>) -> Arc<Clocks> {
        Arc::new(Clocks::new(self.clone(), self.clone(), "this boot", saved))
    }
}

impl Clock for ManualClocks {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.wall_ms.load(Ordering::SeqCst))
    }
}

impl MonotonicClock for ManualClocks {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.boot_ms.load(Ordering::SeqCst))
    }
}

/// The horizon at this time, by clocks whose wall clock is believed at once.
#[must_use]
pub fn horizon_at(now: Timestamp) -> Horizon {
    let manual = ManualClocks::at(now);
    let trust = Trust { belief: Duration::ZERO, longest: Duration::ZERO };
    // Offsets are rounded, times of tests are not.
    manual.boot_ms.store(0, Ordering::SeqCst);
    Clocks::trusting(trust, manual.clone(), manual, "", None).exact_horizon()
}

impl Clocks {
    fn exact_horizon(&self) -> Horizon {
        let Horizon(at) = self.row_horizon();
        let now = Clocks::now(self);
        Horizon(if now.since(at) < Duration::from_millis(250) { now } else { at })
    }
}
