//! The forgetting horizon: the one time by which anything may be forgotten, swept or deleted.
//!
//! A wall clock can jump: an NTP step, a virtual machine that is restored, an operator's typing error. What
//! is destroyed by a clock that is wrong for a minute does not come back when the clock is right again. So
//! nothing here is destroyed by the wall clock alone:
//!
//! * **Two clocks.** A thing is over when the wall clock says so *and* boot time, which never jumps, has
//!   advanced by what was left of it when it was applied.
//! * **One number for all.** Let the *offset* be the wall clock minus boot time. It is constant while the wall
//!   clock runs well, and jumps when that jumps. The horizon is boot time plus the *lowest* offset of late. It
//!   never passes the wall clock, and it advances no faster than boot time. For a fact that was applied at
//!   offset `o` with `left` until its end, the horizon passes that end only after `left` of boot time, since
//!   the lowest offset is at most `o`. So no fact needs a time of its own in memory.
//! * **Of late** means: an offset counts as long as a token that was issued or a fact that was applied under it
//!   may still have something left by it, and for [`Trust::belief`] at least, for [`Trust::longest`] at most. Until then a clock that
//!   stays ahead is not believed. Rows that live for weeks (sessions, log-ins, keys) wait for
//!   [`Trust::longest`].
//! * **After a start** the offsets of the former process count on, if the machine has not been booted since
//!   ([`Saved`]). If it has, no time is taken to have passed meanwhile. If nothing is known, nothing is
//!   forgotten for a grace.
//! * **What was once over stays over.** Every horizon raises a floor ([`HighWater::floor_secs`]) before it is
//!   handed out. A token that ends below the floor has expired, whatever the wall clock says later: its
//!   denial may be forgotten. Tokens are therefore issued to end after the floor.
//! * **A denial lasts as long as the latest token that may have been issued** ([`HighWater::latest_expiry`]),
//!   not as long as a token issued now.
//!
//! The last two alone imply that no revoked token is accepted, whatever clocks do: it is either denied or below
//! the floor. One exception: revoking all tokens of a user covers tokens that were issued by a clock more than
//! [`MAX_AHEAD`] ahead only until [`MAX_AHEAD`] has passed. The rest keeps sessions, rows and keys, and keeps the
//! floor away from tokens that are good.
//!
//! A [`Horizon`] is made by [`Clocks`] only, and what forgets takes one, so code that forgets by the wall clock
//! alone does not compile:
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
#[cfg(any(test, feature = "conformance"))]
pub mod manual;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub use clocks::{Clocks, Saved, SteadyClock};
pub use detector::{Detector, Jump};

use crate::time::Timestamp;

/// By how far the clock of another node, or one's own of a while ago, is believed to have been ahead. One
/// that was further ahead is not waited for: denials would be kept for as long.
pub const MAX_AHEAD: Duration = Duration::from_secs(25 * 3_600);

/// A time that everything before it may be forgotten at. Only [`Clocks`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Horizon(Timestamp);

impl Horizon {
    /// Nothing is over: forgets nothing.
    pub const NOTHING: Self = Self(Timestamp::EPOCH);

    /// The time: at most that of the wall clock.
    #[must_use]
    pub const fn time(self) -> Timestamp {
        self.0
    }

    /// Whether what lasts until then ended more than `skew` ago.
    #[must_use]
    pub fn is_past(self, until: Timestamp, skew: Duration) -> bool {
        until.plus(skew) < self.0
    }
}

/// By which a store forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizons {
    /// For facts, and what is kept for them.
    pub facts: Horizon,
    /// For rows that live for weeks: it waits longer until it believes a clock.
    pub rows: Horizon,
}

impl Horizons {
    /// Nothing is over: forgets nothing.
    pub const NOTHING: Self = Self { facts: Horizon::NOTHING, rows: Horizon::NOTHING };
}

/// The same for both.
impl From<Horizon> for Horizons {
    fn from(both: Horizon) -> Self {
        Self { facts: both, rows: both }
    }
}

/// When a time is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// How long, of boot time, a clock that was set ahead must have stayed so before anything is forgotten
    /// by it.
    pub belief: Duration,
    /// The same for rows that live for weeks. No clock that was behind is remembered for longer.
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
    /// What ended up to here, in seconds since the epoch, has ended for good: its denial may be forgotten.
    #[must_use]
    pub fn floor_secs(&self) -> u64 {
        self.floor_secs.load(Ordering::Acquire)
    }

    /// The same as a time.
    #[must_use]
    pub fn floor(&self) -> Timestamp {
        Timestamp::from_secs(self.floor_secs())
    }

    /// What ends before this time has ended for good.
    pub(crate) fn raise_floor(&self, ended: Timestamp) {
        let secs = ended.as_secs();
        // Mostly it is there already: readers share it.
        if self.floor_secs.load(Ordering::Acquire) < secs {
            self.floor_secs.fetch_max(secs, Ordering::AcqRel);
        }
    }

    /// A denial lasts until then.
    pub(crate) fn denied_until(&self, until: Timestamp) {
        self.latest_denial_ms.fetch_max(until.as_millis(), Ordering::AcqRel);
    }

    /// When the last denial ends that was ever applied.
    #[must_use]
    pub fn latest_denial(&self) -> Timestamp {
        Timestamp::from_millis(self.latest_denial_ms.load(Ordering::Acquire))
    }

    /// There is a token that ends then, in seconds since the epoch.
    pub fn saw_expiry(&self, secs: u64) {
        if self.latest_expiry_secs.load(Ordering::Acquire) < secs {
            self.latest_expiry_secs.fetch_max(secs, Ordering::AcqRel);
        }
    }

    /// When the last thing ends, token or denial, that an offset of the clocks is needed for.
    pub(crate) fn needed(&self) -> Timestamp {
        self.latest_denial().max(self.latest_expiry())
    }

    /// When the last token ends that is known to have been issued, by whatever node and clock.
    #[must_use]
    pub fn latest_expiry(&self) -> Timestamp {
        Timestamp::from_secs(self.latest_expiry_secs.load(Ordering::Acquire))
    }
}
