//! What is dropped: entries and logs that have expired, and the oldest entries when memory is short.

use schema::{ledger::Origin, time::CLOCK_SKEW};

use super::{LogProgress, PeerLink, Replicator};
use crate::protocol::{Now, peer::TRACKED_LOGS_MAX};

/// The minimum number of links among which [`TRACKED_LOGS_MAX`] is shared.
const LINK_SHARES_MIN: usize = 16;

impl Replicator {
    /// Drops what has expired and what exceeds the memory limit. Call it about once a second.
    pub fn upkeep(&mut self, now: Now) {
        let forgotten_before = self.forgotten(self.own).seq;
        for LogProgress { log, .. } in self.logs.values_mut() {
            let bytes_before = log.bytes();
            self.kept -= log.forget(now.horizon, CLOCK_SKEW);
            self.bytes -= bytes_before - log.bytes();
        }
        self.make_room(self.tuning.bytes_max);
        // Peers that are linked with this node accept only its own word on what it has forgotten.
        if self.forgotten(self.own).seq > forgotten_before {
            self.head_changed(self.own);
        }
        self.skip_expired(now);
        let has_expired = |origin: Origin, progress: &LogProgress| {
            origin != self.own
                && !self.is_linked(origin)
                && !self.is_alive(origin)
                && now.horizon.is_past(progress.log.until(), CLOCK_SKEW)
        };
        let expired = self.logs.iter().filter(|(origin, progress)| has_expired(**origin, progress));
        let expired: Vec<_> = expired.map(|(origin, _)| *origin).collect();
        expired.into_iter().for_each(|origin| self.drop_log(origin));
    }

    /// Skips entries that peers have forgotten and that have now expired by this node's horizon.
    fn skip_expired(&mut self, now: Now) {
        let behind: Vec<_> = self.behind.keys().copied().collect();
        for origin in behind {
            let claim = |link: &PeerLink| Some((link.origin, link.peer.heads.get(&origin)?.head.forgotten));
            let claims: Vec<_> = self.peers.values().filter_map(claim).collect();
            for (from, forgotten) in claims {
                self.skip_forgotten(from, origin, forgotten, now);
            }
        }
    }

    pub(super) fn drop_log(&mut self, origin: Origin) {
        if let Some(LogProgress { log, .. }) = self.logs.remove(&origin) {
            self.kept -= log.kept();
            self.bytes -= log.bytes();
        }
        self.behind.remove(&origin);
        self.peers.values_mut().for_each(|link| {
            link.peer.heads.remove(&origin);
            link.peer.pushed.remove(&origin);
            link.peer.unsent_logs.remove(&origin);
        });
    }

    /// Drops blocks of the largest log until the entries take at most `bytes_max`. This node's own log keeps
    /// its last block, whose entries may not have been pushed yet.
    pub(super) fn make_room(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let own = self.own;
            let may_shed = |(origin, progress): &(&Origin, &mut LogProgress)| {
                **origin != own || progress.log.has_several_blocks()
            };
            let candidates = self.logs.iter_mut().filter(may_shed);
            let largest = candidates.max_by_key(|(_, progress)| progress.log.bytes());
            let Some((_, LogProgress { log, .. })) = largest else { break };
            let bytes_before = log.bytes();
            let dropped = log.shed();
            self.bytes -= bytes_before - log.bytes();
            if dropped == 0 {
                break;
            }
            self.kept -= dropped;
            self.counters.shed += u64::try_from(dropped).unwrap_or(0);
        }
    }

    /// The maximum number of logs whose state is tracked for one peer: an equal share for every link.
    pub(super) fn tracked_logs_max(&self) -> usize {
        (TRACKED_LOGS_MAX / self.peers.len().max(LINK_SHARES_MIN)).min(self.tuning.logs_max)
    }
}
