//! Gaps in logs: which range is pulled from which peer, and the answers to pulls of peers.
//!
//! A peer is asked for one range at a time, and no two peers for the same entries. A peer is asked once for
//! what it lacks: again only when its head shows more, or after the next digest.

use std::collections::BTreeSet;

use schema::ledger::Origin;

use super::Replicator;
use crate::protocol::{
    Message, Now, Tuning,
    log::{BLOCK_ENTRIES, Log},
    message::Forgotten,
    peer::{PULL_RESPONSES_MAX, Peer, PullRequest, PullResponse},
    range::SeqRange,
};

/// The maximum number of steps in a search for a gap. The next poll searches on.
const GAP_SEARCH_STEPS_MAX: usize = 64;

impl Replicator {
    pub(super) fn receive_pull(&mut self, from: Origin, origin: Origin, first: u64, last: u64) {
        if let Some(peer) = self.peer_mut(from)
            && let Some(range) = SeqRange::new(first, last)
            && peer.responses.len() < PULL_RESPONSES_MAX
        {
            peer.responses.push_back(PullResponse { origin, next: range.first, last: range.last });
        }
    }

    /// Ends a pull from this peer. Returns whether there was one.
    pub(super) fn finish_pull(
        &mut self,
        from: Origin,
        origin: Origin,
        last: u64,
        forgotten: Forgotten,
        now: Now,
    ) -> bool {
        let complete = self.complete(origin);
        let Self { logs, peers, tuning, .. } = self;
        let link = peers.get_mut(&from.node).filter(|link| link.origin == from);
        let Some(Peer { pull, heads, .. }) = link.map(|link| &mut link.peer) else { return false };
        let Some(PullRequest { range, .. }) =
            pull.take_if(|pull| pull.origin == origin && pull.range.last == last)
        else {
            return false;
        };
        let first = range.first;
        let is_missing = logs.get(&origin).is_some_and(|progress| progress.log.next_missing(first) <= last);
        if let Some(head) = heads.get_mut(&origin) {
            head.head.forgotten = forgotten;
            if is_missing && first <= complete.max(head.lacks) + 1 {
                head.lacks = head.lacks.max(last);
            } else if is_missing {
                head.empty_until = Some(now.monotonic + tuning.request_timeout);
            }
        }
        true
    }

    pub(super) fn next_pull(&mut self, to: Origin, now: Now) -> Option<Message> {
        let Tuning { request_timeout, pull_delay, .. } = self.tuning;
        let peer = self.peer_mut(to)?;
        if let Some(pull) = peer.pull {
            if now.monotonic < pull.progress_at + request_timeout {
                return None;
            }
            peer.pull = None;
            if let Some(head) = peer.heads.get_mut(&pull.origin) {
                head.empty_until = Some(now.monotonic + request_timeout);
            }
        }
        if let Some(repair) = peer.repairs.pop_front() {
            let first = repair.block * BLOCK_ENTRIES + 1;
            let range = SeqRange { first, last: first + BLOCK_ENTRIES - 1 };
            return self.begin_pull(to, repair.origin, range, now);
        }
        let gap = self.behind.iter().find_map(|(origin, since)| {
            let head = self.peers.get(&to.node)?.peer.heads.get(origin)?;
            let is_empty = head.empty_until.is_some_and(|until| now.monotonic < until);
            let is_left_to_origin = *origin != to && now.monotonic < *since + pull_delay;
            if is_empty || is_left_to_origin {
                return None;
            }
            Some((*origin, self.gap(*origin, head.lacks, head.highest())?))
        });
        let (origin, range) = gap?;
        self.counters.pulled += 1;
        self.begin_pull(to, origin, range, now)
    }

    fn begin_pull(&mut self, to: Origin, origin: Origin, range: SeqRange, now: Now) -> Option<Message> {
        self.peer_mut(to)?.pull = Some(PullRequest { origin, range, progress_at: now.monotonic });
        Some(Message::Pull { origin, first: range.first, last: range.last })
    }

    /// The first gap of a log between `after` and `highest` that no pull covers.
    fn gap(&self, origin: Origin, after: u64, highest: u64) -> Option<SeqRange> {
        let log = &self.logs.get(&origin)?.log;
        let asked: BTreeSet<SeqRange> = self
            .peers
            .values()
            .filter_map(|link| link.peer.pull)
            .filter(|pull| pull.origin == origin)
            .map(|pull| pull.range)
            .collect();
        let mut first = log.complete().max(after) + 1;
        for _ in 0..GAP_SEARCH_STEPS_MAX {
            if let Some(pull) = asked.iter().find(|pull| (pull.first..=pull.last).contains(&first)) {
                first = pull.last + 1;
            } else if log.holds(first) {
                first = log.next_missing(first);
            } else {
                break;
            }
        }
        let reach = log.complete().saturating_add(self.tuning.reach_max);
        let last = highest.min(reach).min(first.saturating_add(self.tuning.pull_max - 1));
        let last = log.missing_until(first, last);
        let next_asked = asked.iter().map(|pull| pull.first).filter(|begin| *begin > first);
        let last = next_asked.fold(last, |last, begin| last.min(begin - 1));
        SeqRange::new(first, last)
    }

    /// The next part of the answer to the peer's oldest pull.
    pub(super) fn next_response(&mut self, to: Origin) -> Option<Message> {
        let batch_max = self.tuning.batch_max;
        let Self { logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        let response = peer.responses.front_mut()?;
        let origin = response.origin;
        let log = logs.get(&origin).map(|progress| &progress.log);
        if let Some((first, facts)) = log.and_then(|log| log.run(response.next, response.last, batch_max)) {
            response.next = first + u64::try_from(facts.len()).unwrap_or(0);
            return Some(Message::Facts { origin, first, facts });
        }
        let last = response.last;
        peer.responses.pop_front();
        let forgotten = log.map(Log::forgotten).unwrap_or_default();
        Some(Message::Pulled { origin, last, forgotten })
    }
}
