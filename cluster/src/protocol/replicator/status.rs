//! What callers can ask: acknowledgements, progress, and numbers for operators.

use std::time::Duration;

use schema::{Fact, NodeId, ledger::Origin};

use super::{LogProgress, PeerLink, Replicator};
use crate::protocol::{
    message::{Applied, Forgotten},
    peer::{Peer, PeerHead},
    range::SeqRange,
};

/// What the protocol has done since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries sent to peers without being pulled.
    pub pushed: u64,
    /// Pulls sent to peers.
    pub pulled: u64,
    /// Times a push to a slow peer skipped entries of this node's log, which the peer then pulls.
    pub jumps: u64,
    /// Blocks whose checksums differed from a peer's.
    pub diverged: u64,
    /// Entries dropped before they expired, because memory was short.
    pub shed: u64,
    /// Entries not accepted: they lie too far beyond `complete`, or there are too many logs.
    pub refused: u64,
}

/// How many of the other live nodes have some entries of this node's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckCount {
    /// The number of live nodes that have the entries.
    pub have: u32,
    /// The number of live nodes besides this one.
    pub live: u32,
}

impl AckCount {
    /// Whether every live node has the entries.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        self.have == self.live
    }
}

/// The state of the link to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerState {
    /// The peer, and which life of it.
    pub origin: Origin,
    /// The protocol version of the link.
    pub version: u8,
    /// Entries of the peer's log that are not applied here.
    pub lag: u64,
    /// Entries of this node's log that the peer has not acknowledged.
    pub acknowledged_lag: u64,
    /// The latest time at which every fact that the peer had published was applied here.
    pub fresh_at: Option<Duration>,
    /// Whether a pull from the peer is under way.
    pub pulling: bool,
}

/// The state of one log on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// The node whose log it is, and which life of it.
    pub origin: Origin,
    /// What is applied here.
    pub applied: Applied,
    /// The highest number that any peer claims.
    pub known: u64,
    /// The number of entries held.
    pub kept: usize,
}

impl Replicator {
    /// How many of the other live nodes have acknowledged these entries of this node's log.
    #[must_use]
    pub fn visible(&self, first: u64, last: u64) -> AckCount {
        self.count_live(|peer| peer.acked.covers(first, last))
    }

    /// How many of the other live nodes have these entries of this node's log on their disks.
    #[must_use]
    pub fn on_disk(&self, first: u64, last: u64) -> AckCount {
        self.count_live(|peer| peer.kept.is_some_and(|kept| kept.covers(SeqRange { first, last })))
    }

    /// The other live nodes that have not acknowledged these entries of this node's log.
    pub fn unacknowledged(&self, first: u64, last: u64) -> impl Iterator<Item = NodeId> {
        let lacks = move |peer: Option<&Peer>| !peer.is_some_and(|peer| peer.acked.covers(first, last));
        self.live().filter(move |(_, peer)| lacks(*peer)).map(|(node, _)| node)
    }

    fn count_live(&self, has: impl Fn(&Peer) -> bool) -> AckCount {
        let mut count = AckCount { have: 0, live: 0 };
        for (_, peer) in self.live() {
            count.live += 1;
            count.have += u32::from(peer.is_some_and(&has));
        }
        count
    }

    /// The other live nodes, each with its link if there is one.
    fn live(&self) -> impl Iterator<Item = (NodeId, Option<&Peer>)> {
        self.members.iter().filter_map(|(node, member)| {
            // A link to a former life is about to break.
            let link = self.peers.get(node).filter(|link| link.origin.incarnation == member.incarnation);
            let peer = link.map(|link| &link.peer);
            // A link proves that the node lives, unless the node announced that it stops.
            let is_live = peer.map_or(member.alive && !member.departed, |peer| !peer.is_leaving);
            is_live.then_some((*node, peer))
        })
    }

    /// Whether every linked peer was sent the announcement that this node stops.
    #[must_use]
    pub fn has_announced_leaving(&self) -> bool {
        self.peers.values().all(|link| link.peer.leaving_sent)
    }

    /// Whether every entry that linked peers have is applied here. Entries that they know of and do not have
    /// do not count.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        let peer_has_more = |origin: &Origin, peer_head: &PeerHead| {
            let Some(LogProgress { log, .. }) = self.logs.get(origin) else { return false };
            let next_missing = log.next_missing(log.complete().max(peer_head.lacks) + 1);
            peer_head.empty_until.is_none() && next_missing <= peer_head.highest()
        };
        let is_obtainable = |origin: &Origin| {
            let mut heads = self.peers.values().filter_map(|link| link.peer.heads.get(origin));
            heads.any(|peer_head| peer_has_more(origin, peer_head))
        };
        let all_heads_received = self.peers.values().all(|link| link.peer.heads_received);
        all_heads_received && !self.behind.keys().any(is_obtainable)
    }

    /// The beginning of a log that is no longer held.
    #[must_use]
    pub fn forgotten(&self, origin: Origin) -> Forgotten {
        self.logs.get(&origin).map(|progress| progress.log.forgotten()).unwrap_or_default()
    }

    /// The logs of other nodes, each with the number up to which it is complete here. Empty logs are left
    /// out.
    pub fn peer_logs(&self) -> impl Iterator<Item = (Origin, u64)> + '_ {
        let complete = self.logs.iter().map(|(origin, progress)| (*origin, progress.log.complete()));
        complete.filter(|(origin, seq)| *origin != self.own && *seq > 0)
    }

    /// The first run of entries that are held from number `first` on, at most `count_max` of them, with the
    /// number of its first entry.
    #[must_use]
    pub fn entries(&self, origin: Origin, first: u64, count_max: usize) -> Option<(u64, Vec<Fact>)> {
        let log = &self.logs.get(&origin)?.log;
        log.run(first, log.highest(), count_max)
    }

    /// The state of every link.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerState> {
        let head = self.head();
        let state = |(node, PeerLink { origin, peer }): (&NodeId, &PeerLink)| {
            let progress = self.logs.get(origin);
            PeerState {
                origin: *origin,
                version: peer.version,
                lag: progress.map_or(0, |progress| progress.known.saturating_sub(progress.log.complete())),
                acknowledged_lag: head.saturating_sub(peer.acked.complete),
                fresh_at: self.members.get(node).and_then(|member| member.fresh_at),
                pulling: peer.pull.is_some(),
            }
        };
        self.peers.iter().map(state).collect()
    }

    /// The state of every log.
    #[must_use]
    pub fn logs(&self) -> Vec<LogState> {
        let state = |(origin, LogProgress { log, known, .. }): (&Origin, &LogProgress)| LogState {
            origin: *origin,
            applied: log.applied(),
            known: (*known).max(log.highest()),
            kept: log.kept(),
        };
        self.logs.iter().map(state).collect()
    }

    /// The number of entries held, over all logs.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }

    /// The memory that these entries take, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the protocol has done since the node started.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// How many logs are tracked over all links: heads of peers, and cursors of pushes.
    #[cfg(test)]
    pub(in crate::protocol) fn tracked_logs(&self) -> (usize, usize) {
        let peers = || self.peers.values().map(|link| &link.peer);
        (peers().map(|peer| peer.heads.len()).sum(), peers().map(|peer| peer.pushed.len()).sum())
    }
}
