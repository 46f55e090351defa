//! The clocks of peers, as they report them.
//!
//! The furthest time that a peer's clock has shown counts until this node's clock reaches it, because tokens
//! may have been issued by it. The slowest clock counts until its node is forgotten, because nothing may be
//! deleted before that clock reaches its expiry.

use std::time::Duration;

use schema::{Timestamp, horizon::MAX_AHEAD, ledger::Origin};

use super::{CLOCK_DIFFERENCE_MIN, Replicator};
use crate::protocol::Now;

/// A time that another node reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReport {
    at: Timestamp,
    /// When the report arrived, by this node's monotonic clock.
    received_at: Duration,
    /// How far the reported time was behind this node's.
    behind: Duration,
}

impl Replicator {
    pub(super) fn receive_clock(&mut self, from: Origin, at: Timestamp, now: Now) {
        let report = ClockReport { at, received_at: now.monotonic, behind: now.wall.since(at) };
        self.member_mut(from).clock = Some(report);
        self.furthest_clock = self.furthest_clock.max(at.min(now.wall.plus(MAX_AHEAD)));
    }

    /// How far the furthest time that another node's clock has shown is ahead of this node's clock, at most
    /// [`MAX_AHEAD`]. It counts until this node's clock reaches it, even if that clock was corrected or its
    /// node is gone: tokens may have been issued by it.
    #[must_use]
    pub fn clock_ahead(&self, now: Now) -> Duration {
        let ahead = self.furthest_clock.since(now.wall);
        if ahead < CLOCK_DIFFERENCE_MIN { Duration::ZERO } else { ahead.min(MAX_AHEAD) }
    }

    /// How far the slowest other clock is behind this node's, at most [`MAX_AHEAD`]. A member counts until it
    /// is forgotten, linked or not. A member that is alive and has not reported its clock counts as
    /// [`MAX_AHEAD`].
    #[must_use]
    pub fn clock_behind(&self) -> Duration {
        let is_sparse = self.is_sparse();
        let behind = self.members.iter().map(|(node, member)| match member.clock {
            Some(report) => report.behind,
            None if self.peers.contains_key(node) || (member.alive && !is_sparse) => MAX_AHEAD,
            None => Duration::ZERO,
        });
        let behind = behind.max().unwrap_or_default();
        if behind < CLOCK_DIFFERENCE_MIN { Duration::ZERO } else { behind.min(MAX_AHEAD) }
    }

    /// Whether most linked peers report the same time as this node's clock.
    #[must_use]
    pub fn clock_agrees(&self, now: Now) -> bool {
        let linked = self.members.iter().filter(|(node, _)| self.peers.contains_key(*node));
        let reports: Vec<_> = linked.filter_map(|(_, member)| member.clock).collect();
        let agrees = |report: &&ClockReport| {
            let theirs = report.at.plus(now.monotonic.saturating_sub(report.received_at));
            theirs.since(now.wall).max(now.wall.since(theirs)) < CLOCK_DIFFERENCE_MIN
        };
        2 * reports.iter().filter(agrees).count() > reports.len()
    }
}
