//! The horizon: the one time before which expired data may be deleted.
//!
//! A wall clock can jump: an NTP step, a restored virtual machine, an operator's typing error. Data that is
//! deleted while the clock is wrong for a minute does not come back when it is right again. So nothing here
//! is deleted by the wall clock alone:
//!
//! * **Two clocks.** A fact is over when the wall clock is past its end *and* boot time, which never jumps,
//!   has advanced by the time that the fact had left when it was applied.
//! * **One number for all.** The *offset* is the wall clock minus boot time. It is constant while the wall
//!   clock runs well, and jumps with it. The horizon is boot time plus the *lowest* recent offset. It never
//!   passes the wall clock, and advances no faster than boot time. For a fact that was applied at offset `o`
//!   with `left` until its end, the horizon passes that end only after `left` of boot time, since the lowest
//!   offset is at most `o`. So no fact needs a time of its own in memory.
//! * **Recent** means: an offset counts while a token that was issued or a fact that was applied under it may
//!   still have time left by it, and for at least [`Trust::belief`] and at most [`Trust::longest`]. Until
//!   then, a clock that stays ahead is not believed. Rows that live for weeks (sessions, log-ins, keys) wait
//!   for [`Trust::longest`].
//! * **After a start**, the offsets of the previous process still count if the machine has not been booted
//!   since ([`Saved`]). If it has, no time is assumed to have passed in between. If nothing is known, nothing
//!   is deleted for a grace period.
//! * **What is over stays over.** Every horizon raises a floor ([`HighWater::floor_secs`]) before it is
//!   returned. A token that ends below the floor has expired, whatever the wall clock shows later, because
//!   its denial may be deleted. Tokens are therefore issued to end after the floor.
//! * **A denial lasts as long as the latest token that may have been issued**
//!   ([`HighWater::latest_expiry`]), not as long as a token issued now.
//!
//! The last two alone imply that no revoked token is accepted, whatever clocks do: it is either denied or
//! below the floor. One exception: revoking all tokens of a user covers tokens that were issued by a clock
//! more than [`MAX_AHEAD`] ahead only until [`MAX_AHEAD`] has passed. The rest protects sessions, rows and
//! keys from early deletion, and keeps the floor below valid tokens.
//!
//! Only [`Clocks`] makes a [`Horizon`], and every function that deletes expired data takes one. So code that
//! deletes by the wall clock alone does not compile:
//!
//! ```compile_fail
//! # use std::time::Duration;
//! # use schema::{Denials, Timestamp};
//! # fn forget(denials: &Denials, now: Timestamp) {
//! denials.forget(now, Duration::from_secs(60));
//! # }
//! ```
//!
//! ```compile_fail
//! # use schema::{Timestamp, horizon::Horizon};
//! let horizon = Horizon(Timestamp::MAX);
//! ```

mod clocks;
mod detector;
#[cfg(any(test, feature = "manual-clocks"))]
pub mod manual;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub use clocks::{Clocks, Saved, SteadyClock};
pub use detector::{Detector, Jump};

use crate::time::Timestamp;

/// Limit of how far the clock of another node, or this node's earlier clock, may have been ahead to be taken
/// into account. A clock further ahead is ignored, because denials would have to be kept for as long.
pub const MAX_AHEAD: Duration = Duration::from_secs(25 * 3_600);

/// The time before which expired data may be deleted. Only [`Clocks`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Horizon(Timestamp);

impl Horizon {
    /// The horizon before which nothing is over, so nothing is deleted.
    pub const NOTHING: Self = Self(Timestamp::EPOCH);

    /// The time of the horizon, at most that of the wall clock.
    #[must_use]
    pub const fn time(self) -> Timestamp {
        self.0
    }

    /// Whether data that lasts until `until` ended more than `skew` before the horizon.
    #[must_use]
    pub fn is_past(self, until: Timestamp, skew: Duration) -> bool {
        until.plus(skew) < self.0
    }
}

/// The horizons by which a store deletes expired rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizons {
    /// The horizon for facts and the data that is kept for them.
    pub facts: Horizon,
    /// The horizon for rows that live for weeks: it waits longer before it believes a clock.
    pub rows: Horizon,
}

impl Horizons {
    /// The horizons before which nothing is over, so nothing is deleted.
    pub const NOTHING: Self = Self { facts: Horizon::NOTHING, rows: Horizon::NOTHING };
}

/// The same horizon for facts and rows.
impl From<Horizon> for Horizons {
    fn from(both: Horizon) -> Self {
        Self { facts: both, rows: both }
    }
}

/// How long a clock that was set ahead must stay so before it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// How long, in boot time, a clock must have stayed ahead before anything is deleted by it.
    pub belief: Duration,
    /// The same for rows that live for weeks. Also the limit of how long a clock that was behind is
    /// remembered.
    pub longest: Duration,
}

impl Default for Trust {
    fn default() -> Self {
        Self { belief: Duration::from_secs(3_600), longest: Duration::from_secs(48 * 3_600) }
    }
}

/// Times that only rise, whatever the wall clock does.
#[derive(Debug, Default)]
pub struct HighWater {
    floor_secs: AtomicU64,
    latest_denial_ms: AtomicU64,
    latest_expiry_secs: AtomicU64,
}

impl HighWater {
    /// The floor, in seconds since the epoch: a token that ends up to it has expired for good, because its
    /// denial may be deleted.
    #[must_use]
    pub fn floor_secs(&self) -> u64 {
        self.floor_secs.load(Ordering::Acquire)
    }

    /// [`Self::floor_secs`] as a time.
    #[must_use]
    pub fn floor(&self) -> Timestamp {
        Timestamp::from_secs(self.floor_secs())
    }

    /// Raises the floor to this time.
    pub(crate) fn raise_floor(&self, ended: Timestamp) {
        let secs = ended.as_secs();
        // Usually the floor is there already, and a load keeps the cache line shared.
        if self.floor_secs.load(Ordering::Acquire) < secs {
            self.floor_secs.fetch_max(secs, Ordering::AcqRel);
        }
    }

    /// Notes a denial that lasts until this time.
    pub(crate) fn denied_until(&self, until: Timestamp) {
        self.latest_denial_ms.fetch_max(until.as_millis(), Ordering::AcqRel);
    }

    /// When the last of all applied denials ends.
    #[must_use]
    pub fn latest_denial(&self) -> Timestamp {
        Timestamp::from_millis(self.latest_denial_ms.load(Ordering::Acquire))
    }

    /// Notes a token that expires at this time, in seconds since the epoch.
    pub fn saw_expiry(&self, secs: u64) {
        if self.latest_expiry_secs.load(Ordering::Acquire) < secs {
            self.latest_expiry_secs.fetch_max(secs, Ordering::AcqRel);
        }
    }

    /// When the last token or denial ends for which the offsets of the clocks are needed.
    pub(crate) fn needed(&self) -> Timestamp {
        self.latest_denial().max(self.latest_expiry())
    }

    /// When the last token expires that is known to have been issued by any node, by any clock.
    #[must_use]
    pub fn latest_expiry(&self) -> Timestamp {
        Timestamp::from_secs(self.latest_expiry_secs.load(Ordering::Acquire))
    }
}
