//! What a message of a peer changes.

use schema::{Fact, NodeId, ledger::Origin, time::CLOCK_SKEW};

use super::{DuplicateIdentity, HEADS_BATCH_MAX, LogProgress, PeerLink, Replicator, progress_of};
use crate::protocol::{
    Now,
    message::{Forgotten, LogHead},
    peer::{PeerHead, has_room},
    range::SeqRange,
};

impl Replicator {
    pub(super) fn receive_heads(
        &mut self,
        from: Origin,
        heads: Vec<LogHead>,
        now: Now,
    ) -> Result<(), DuplicateIdentity> {
        let is_last = heads.len() < HEADS_BATCH_MAX;
        for head in heads {
            self.receive_head(from, head, now)?;
        }
        if let Some(peer) = self.peer_mut(from) {
            peer.heads_received |= is_last;
        }
        self.update_freshness(from.node);
        Ok(())
    }

    fn receive_head(&mut self, from: Origin, head: LogHead, now: Now) -> Result<(), DuplicateIdentity> {
        let LogHead { origin, highest, .. } = head;
        if origin == self.own {
            return self.check_own(highest.max(head.complete));
        }
        // A log that has expired as a whole is not begun again.
        let has_expired = now.horizon.is_past(head.until, CLOCK_SKEW) && origin != from;
        if has_expired && !self.logs.contains_key(&origin) {
            return Ok(());
        }
        let tracked_max = self.tracked_logs_max();
        let Some(progress) = progress_of(&mut self.logs, origin, self.tuning.logs_max) else { return Ok(()) };
        progress.log.extend_expiry(head.until);
        if let Some(peer) = self.peer_mut(from)
            && has_room(&peer.heads, &origin, tracked_max)
        {
            let before = peer.heads.get(&origin).copied().unwrap_or(PeerHead::new(head));
            let mut peer_head = PeerHead { head, ..before };
            // A peer whose head shows nothing more has nothing more to give.
            if head.highest > before.head.highest || head.complete > before.head.complete {
                peer_head.allow_pull();
            }
            peer.heads.insert(origin, peer_head);
        }
        self.skip_forgotten(from, origin, head.forgotten, now);
        // The whole log has expired. Other nodes may not know the expiry of what they skipped.
        if origin == from {
            self.skip_forgotten(from, origin, Forgotten { seq: head.complete, until: head.until }, now);
        }
        self.note_known(origin, highest.max(head.complete), now);
        self.update_freshness(from.node);
        Ok(())
    }

    pub(super) fn receive_facts(
        &mut self,
        from: Origin,
        origin: Origin,
        first: u64,
        facts: &[Fact],
        now: Now,
    ) -> Result<(), DuplicateIdentity> {
        if origin == self.own {
            return self.check_own(first + u64::try_from(facts.len()).unwrap_or(0) - 1);
        }
        let before = self.complete(origin);
        self.insert(origin, first, facts, Some(from.node));
        // While the origin itself makes progress, no other peer is asked.
        if origin == from
            && self.complete(origin) > before
            && let Some(since) = self.behind.get_mut(&origin)
        {
            *since = now.monotonic;
        }
        if let Some(peer) = self.peer_mut(from)
            && let Some(pull) = peer.pull.as_mut().filter(|pull| pull.origin == origin)
        {
            pull.progress_at = now.monotonic;
        }
        self.note_gap(origin, now);
        Ok(())
    }

    pub(super) fn receive_kept(&mut self, from: Origin, first: u64, last: u64) {
        if let Some(peer) = self.peer_mut(from)
            && let Some(kept) = SeqRange::new(first, last)
        {
            peer.kept = Some(peer.kept.map_or(kept, |before| before.joined_with(kept)));
        }
    }

    pub(super) fn receive_leaving(&mut self, from: Origin, head: u64, now: Now) {
        self.note_known(from, head, now);
        if let Some(peer) = self.peer_mut(from) {
            peer.is_leaving = true;
        }
        // Only the life that sent it has left: another one may have begun.
        let member = self.member_mut(from);
        member.departed |= member.incarnation == from.incarnation;
    }

    /// Adds entries to a log. `from` is the peer that sent them, if a peer did.
    pub(super) fn insert(&mut self, origin: Origin, first: u64, facts: &[Fact], from: Option<NodeId>) {
        let tracked_max = self.tracked_logs_max();
        let count = u64::try_from(facts.len()).unwrap_or(0);
        let last = first + count - 1;
        let Some(LogProgress { log, known, .. }) = progress_of(&mut self.logs, origin, self.tuning.logs_max)
        else {
            self.counters.refused += count;
            return;
        };
        let bytes_before = log.bytes();
        let mut inserted = 0;
        // Between `complete` and a number beyond this lie more entries than are ever held.
        if from.is_some() && last > log.complete().saturating_add(self.tuning.reach_max) {
            self.counters.refused += count;
        } else {
            for (seq, fact) in (first..).zip(facts) {
                inserted += usize::from(log.insert(seq, *fact));
            }
        }
        let complete = log.complete();
        self.bytes += log.bytes() - bytes_before;
        *known = (*known).max(last).max(complete);
        if complete >= *known {
            self.behind.remove(&origin);
        }
        self.kept += inserted;
        // Not at every entry: making room looks at all logs.
        let bytes_max = self.tuning.bytes_max;
        if self.bytes > bytes_max + bytes_max / 8 {
            self.make_room(bytes_max);
        }
        if let Some(link) = from.and_then(|node| self.peers.get_mut(&node)) {
            link.peer.note_has(origin, last, tracked_max);
        }
        if inserted > 0 {
            self.head_changed(origin);
            self.schedule_push(origin, first, from);
        }
    }

    /// Makes the next polls of peers push the new entries of a log, which begin at `first`.
    fn schedule_push(&mut self, origin: Origin, first: u64, from: Option<NodeId>) {
        if origin != self.own && !self.is_sparse() {
            return;
        }
        let tracked_max = self.tracked_logs_max();
        for PeerLink { origin: to, peer } in self.peers.values_mut() {
            // A peer without room for this log learns of the entries by heads, and pulls them.
            if Some(to.node) != from && *to != origin && has_room(&peer.pushed, &origin, tracked_max) {
                peer.pushed.entry(origin).or_insert(first.saturating_sub(1));
                peer.unsent_logs.insert(origin);
            }
        }
    }

    /// Notes that the head of a log has changed.
    pub(super) fn head_changed(&mut self, origin: Origin) {
        self.revision += 1;
        if let Some(progress) = self.logs.get_mut(&origin) {
            progress.changed_rev = self.revision;
            if progress.log.complete() >= progress.known {
                self.behind.remove(&origin);
            }
        }
        if let Some(peer) = self.peer_mut(origin) {
            peer.ack_due = true;
        }
        self.update_freshness(origin.node);
    }

    /// Skips entries that a peer has forgotten and that have expired by this node's own horizon. For the log
    /// of a linked node only that node's own word counts: another node could hide entries that are still to
    /// come.
    pub(super) fn skip_forgotten(&mut self, from: Origin, origin: Origin, forgotten: Forgotten, now: Now) {
        if origin != self.own
            && (origin == from || !self.is_linked(origin))
            && now.horizon.is_past(forgotten.until, CLOCK_SKEW)
            && let Some(progress) = self.logs.get_mut(&origin)
            && forgotten.seq > progress.log.complete()
        {
            if origin == from {
                progress.log.skip_forgotten(forgotten);
            } else {
                progress.log.skip_hearsay(forgotten);
            }
            self.head_changed(origin);
        }
    }

    /// Notes that a peer claims entries of a log up to `seq`.
    fn note_known(&mut self, origin: Origin, seq: u64, now: Now) {
        if seq > 0
            && let Some(progress) = progress_of(&mut self.logs, origin, self.tuning.logs_max)
        {
            progress.known = progress.known.max(seq);
        }
        self.note_gap(origin, now);
    }

    /// Notes since when a log is behind, if it is.
    fn note_gap(&mut self, origin: Origin, now: Now) {
        if self.logs.get(&origin).is_some_and(|progress| progress.known > progress.log.complete()) {
            self.behind.entry(origin).or_insert(now.monotonic);
        }
    }
}
