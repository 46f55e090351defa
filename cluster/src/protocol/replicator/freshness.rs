//! Up to when this node knows everything that its peers had published.
//!
//! A pong carries the head of the peer's log. When that is applied here, this node knew everything that the
//! peer had published when the *ping was sent*, so freshness is never too recent.

use std::time::Duration;

use schema::{NodeId, ledger::Origin};

use super::Replicator;
use crate::protocol::{Message, Now, Tuning, peer::AwaitedHead};

/// The clock is sent again after this many pings.
const PINGS_PER_CLOCK: u64 = 8;

impl Replicator {
    pub(super) fn next_ping(&mut self, to: Origin, now: Now) -> Option<Message> {
        let Tuning { ping_interval, request_timeout, .. } = self.tuning;
        let peer = self.peer_mut(to)?;
        let ping = &mut peer.ping;
        let is_unanswered = ping.sent_at.is_some_and(|at| now.monotonic < at + request_timeout);
        if is_unanswered || now.monotonic < ping.next_at {
            return None;
        }
        peer.clock_due |= ping.nonce.is_multiple_of(PINGS_PER_CLOCK);
        ping.next_at = now.monotonic + ping_interval;
        ping.nonce += 1;
        ping.sent_at = Some(now.monotonic);
        Some(Message::Ping { nonce: ping.nonce })
    }

    pub(super) fn receive_pong(&mut self, from: Origin, nonce: u64, head: u64) {
        let complete = self.complete(from);
        let Some(peer) = self.peer_mut(from) else { return };
        if nonce != peer.ping.nonce {
            return;
        }
        let Some(sent_at) = peer.ping.sent_at.take() else { return };
        let awaited = AwaitedHead { head, sent_at };
        if complete >= head {
            // What an earlier pong waits for is applied too.
            peer.ping.awaiting_head = Some(awaited);
        } else {
            peer.ping.awaiting_head.get_or_insert(awaited);
        }
        self.update_freshness(from.node);
    }

    /// Advances the freshness of a node if the head that its pong reported is applied here.
    pub(super) fn update_freshness(&mut self, node: NodeId) {
        let Some(link) = self.peers.get_mut(&node) else { return };
        let awaited = link.peer.ping.awaiting_head.filter(|_| link.peer.heads_received);
        let Some(AwaitedHead { head, sent_at }) = awaited else { return };
        let complete = self.logs.get(&link.origin).map_or(0, |progress| progress.log.complete());
        if complete < head {
            return;
        }
        // The logs of its former lives, whose end it may have: it has sent all its heads.
        let lives = Origin { node, incarnation: 0 }..=Origin { node, incarnation: u64::MAX };
        if self.behind.range(lives).any(|(origin, _)| *origin != link.origin) {
            return;
        }
        link.peer.ping.awaiting_head = None;
        let origin = link.origin;
        let member = self.member_mut(origin);
        member.fresh_at = member.fresh_at.max(Some(sent_at));
    }

    /// The latest time at which every fact published by every other member had been applied here, by the
    /// monotonic clock. `None` if there is no other member, or if that has never been the case. A member that
    /// left cleanly is ignored once its log is fully applied.
    #[must_use]
    pub fn fresh_at(&self, now: Now) -> Option<Duration> {
        if self.members.values().all(|member| member.departed) {
            return None;
        }
        let is_behind = |node: &NodeId| self.behind.keys().any(|origin| origin.node == *node);
        let counted = self.members.iter().filter(|(node, member)| !member.departed || is_behind(node));
        counted.map(|(_, member)| member.fresh_at).try_fold(now.monotonic, |all, one| Some(all.min(one?)))
    }

    /// The latest time at which every fact published by `node` had been applied here, by the monotonic
    /// clock. `None` if that has never been the case.
    #[must_use]
    pub fn fresh_at_of(&self, node: NodeId) -> Option<Duration> {
        self.members.get(&node)?.fresh_at
    }
}
