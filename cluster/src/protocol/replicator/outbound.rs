//! Which message a peer gets next.
//!
//! There is no queue of messages: each kind is made from the state when its turn comes, so a slow peer costs
//! no memory.

use schema::ledger::Origin;

use super::{CLOCK_DIFFERENCE_MIN, HEADS_BATCH_MAX, LogProgress, Replicator};
use crate::protocol::{Message, Now, message::LogHead, range::SeqRange};

impl Replicator {
    /// What is small and must not wait: answers, acknowledgements, clocks.
    pub(super) fn next_reply(&mut self, to: Origin, now: Now) -> Option<Message> {
        let Self { own, logs, peers, own_furthest_clock, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        if let Some(nonce) = peer.pong_due.take() {
            let head = logs.get(own).map_or(0, |progress| progress.log.complete());
            return Some(Message::Pong { nonce, head });
        }
        if std::mem::take(&mut peer.ack_due)
            && let Some(progress) = logs.get(&to)
        {
            return Some(Message::Ack(progress.log.applied()));
        }
        if let Some(SeqRange { first, last }) = peer.kept_due.take() {
            return Some(Message::Kept { first, last });
        }
        if std::mem::take(&mut peer.clock_due) {
            return Some(Message::Clock { at: now.wall });
        }
        // The clock was set back: tokens that it issued before expire later than the ones that it issues now.
        if own_furthest_clock.since(now.wall) > CLOCK_DIFFERENCE_MIN
            && peer.furthest_clock_sent < *own_furthest_clock
        {
            peer.furthest_clock_sent = *own_furthest_clock;
            return Some(Message::Clock { at: *own_furthest_clock });
        }
        None
    }

    /// New entries of this node's log, and when links are few of every log; after them what follows on them.
    pub(super) fn next_push(&mut self, to: Origin) -> Option<Message> {
        let Self { own, tuning, logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        // Only once the peer was sent the entries that it is asked to write.
        if let Some(SeqRange { first, last }) = peer.keep_due
            && peer.pushed.get(own).is_some_and(|pushed| *pushed >= last)
        {
            peer.keep_due = None;
            return Some(Message::Keep { first, last });
        }
        while let Some(origin) = peer.unsent_logs.first().copied() {
            let Some(LogProgress { log, .. }) = logs.get(&origin) else {
                peer.unsent_logs.remove(&origin);
                continue;
            };
            let before = peer.pushed.get(&origin).copied().unwrap_or(0);
            if let Some((first, facts)) = peer.next_push(origin, log, tuning.push_window, tuning.batch_max) {
                self.counters.jumps += u64::from(first > before + 1 && origin == *own);
                self.counters.pushed += u64::try_from(facts.len()).unwrap_or(0);
                return Some(Message::Facts { origin, first, facts });
            }
        }
        if self.leaving && !peer.leaving_sent {
            peer.leaving_sent = true;
            return Some(Message::Leaving { head: self.head() });
        }
        None
    }

    /// All that is neither a reply nor a push, the most urgent first.
    pub(super) fn next_other(&mut self, to: Origin, now: Now) -> Option<Message> {
        self.next_heads(to, now)
            .or_else(|| self.next_pull(to, now))
            .or_else(|| self.next_ping(to, now))
            .or_else(|| self.next_response(to))
            .or_else(|| self.next_digests(to, now))
    }

    fn next_heads(&mut self, to: Origin, now: Now) -> Option<Message> {
        let revision = self.revision;
        let interval = self.tuning.heads_interval;
        let Self { own, logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        let is_due = peer
            .heads_sent_at
            .is_none_or(|at| peer.heads_sent_rev < revision && now.monotonic >= at + interval);
        if is_due && peer.heads_to_send.is_empty() {
            // The peer's own log is left out: it knows it.
            let has_news = |origin: &Origin, progress: &LogProgress| {
                *origin != to && progress.changed_rev > peer.heads_sent_rev
            };
            let news = logs.iter().filter(|(origin, progress)| has_news(origin, progress));
            peer.heads_to_send = news.map(|(origin, _)| *origin).collect();
            peer.heads_sent_rev = revision;
            if peer.heads_to_send.is_empty() {
                let is_first = peer.heads_sent_at.replace(now.monotonic).is_none();
                return is_first.then(|| Message::Heads(Vec::new()));
            }
            peer.heads_sent_at = Some(now.monotonic);
        }
        let mut heads = Vec::new();
        while heads.len() < HEADS_BATCH_MAX
            && let Some(origin) = peer.heads_to_send.pop_front()
        {
            let Some(LogProgress { log, .. }) = logs.get(&origin) else { continue };
            // The peer must not pull entries that are about to be pushed.
            let is_unsent = origin == *own && peer.unsent_logs.contains(&origin);
            let pushed = peer.pushed.get(&origin).copied().filter(|_| is_unsent).unwrap_or(u64::MAX);
            heads.push(LogHead {
                origin,
                complete: log.complete().min(pushed),
                highest: log.highest().min(pushed),
                until: log.until(),
                forgotten: log.forgotten(),
            });
        }
        let was_full = std::mem::replace(&mut peer.last_batch_full, heads.len() == HEADS_BATCH_MAX);
        (was_full || !heads.is_empty()).then_some(Message::Heads(heads))
    }
}
