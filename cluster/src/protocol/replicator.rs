//! One node's part of the protocol: what it does with each message, and what it sends to each peer next.
//!
//! Promises: every step takes the time as a parameter, does no I/O and never waits. Whatever peers send,
//! memory stays bounded and nothing panics.
//!
//! Never: it does not apply facts. Its caller applies the facts of a message before [`Replicator::receive`].
//!
//! | to find | look in |
//! |---|---|
//! | what a message changes | `inbound` |
//! | which message a peer gets next | `outbound` |
//! | gaps: asked for, answered, given up | `pull` |
//! | checksums of blocks | `digest` |
//! | members and links | `membership` |
//! | up to when this node knows everything | `freshness` |
//! | the clocks of peers | `clocks` |
//! | what is dropped, and when | `retention` |
//! | what callers can ask | `status` |

mod clocks;
mod digest;
mod freshness;
mod inbound;
mod membership;
mod outbound;
mod pull;
mod retention;
mod status;

use std::{collections::BTreeMap, time::Duration};

use schema::{Fact, NodeId, Timestamp, ledger::Origin};

use self::membership::MemberInfo;
pub use self::{
    membership::MemberState,
    status::{AckCount, Counters, LogState, PeerState},
};
use super::{
    KEEP_VERSION_MIN, Message, Now, Tuning,
    log::Log,
    message::{SEQ_MAX, is_plausible, is_sane},
    peer::Peer,
    range::SeqRange,
};

/// The maximum number of heads in one message.
const HEADS_BATCH_MAX: usize = 512;
/// A difference of clocks below this may be the latency of the network, and does not count.
const CLOCK_DIFFERENCE_MIN: Duration = Duration::from_secs(2);
/// In one of this many polls all else comes before pushes, so that pushes cannot starve it.
const OTHER_TURN_PERIOD: u8 = 4;

/// The protocol's state on one node.
#[derive(Debug)]
pub struct Replicator {
    own: Origin,
    tuning: Tuning,
    logs: BTreeMap<Origin, LogProgress>,
    /// The number of entries held, over all logs.
    kept: usize,
    /// The memory that these entries take, in bytes.
    bytes: usize,
    peers: BTreeMap<NodeId, PeerLink>,
    members: BTreeMap<NodeId, MemberInfo>,
    /// Logs of which a peer has more than this node, each with the time of its last progress.
    behind: BTreeMap<Origin, Duration>,
    /// Rises with every change of a head.
    revision: u64,
    leaving: bool,
    /// The furthest time that the clock of any peer has shown.
    furthest_clock: Timestamp,
    /// The furthest time that this node's clock has shown.
    own_furthest_clock: Timestamp,
    counters: Counters,
}

/// A linked peer and the life that the link belongs to.
#[derive(Debug)]
struct PeerLink {
    origin: Origin,
    peer: Peer,
}

/// A log, and what this node knows of it beside its entries.
#[derive(Debug, Default)]
struct LogProgress {
    log: Log,
    /// [`Replicator::revision`] at the last change of its head.
    changed_rev: u64,
    /// The highest number that any peer claims.
    known: u64,
}

/// A peer has an entry of this node's own log that this node did not publish: another process uses its
/// identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer has entry {0} of this node's own log, which has fewer: another node uses this identity")]
pub struct DuplicateIdentity(pub u64);

impl Replicator {
    /// The state of a node that has published nothing and knows no other node.
    #[must_use]
    pub fn new(own: Origin, tuning: Tuning) -> Self {
        Self {
            own,
            tuning,
            logs: [(own, LogProgress::default())].into(),
            kept: 0,
            bytes: 0,
            peers: BTreeMap::new(),
            members: BTreeMap::new(),
            behind: BTreeMap::new(),
            revision: 1,
            leaving: false,
            furthest_clock: Timestamp::EPOCH,
            own_furthest_clock: Timestamp::EPOCH,
            counters: Counters::default(),
        }
    }

    /// The origin of this node.
    #[must_use]
    pub const fn own(&self) -> Origin {
        self.own
    }

    /// The number of the last fact that this node published; 0 before the first.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.complete(self.own)
    }

    /// Every entry of the log up to this number is applied here or has expired.
    #[must_use]
    pub fn complete(&self, origin: Origin) -> u64 {
        self.logs.get(&origin).map_or(0, |progress| progress.log.complete())
    }

    /// As [`Self::complete`], without entries that only nodes other than the origin called expired. The
    /// ledger need not be read up to here.
    #[must_use]
    pub fn proven(&self, origin: Origin) -> u64 {
        self.logs.get(&origin).map_or(0, |progress| progress.log.proven())
    }

    /// Adds facts of this node to its log. `first` is [`Self::head`] plus 1.
    pub fn publish(&mut self, first: u64, facts: &[Fact]) {
        self.insert(self.own, first, facts, None);
    }

    /// Adds entries that were applied here and came from the ledger or the journal. Entries that no peer
    /// would accept are left out, whatever their source.
    pub fn learn(&mut self, origin: Origin, first: u64, facts: &[Fact]) {
        let last = first.saturating_add(u64::try_from(facts.len()).unwrap_or(u64::MAX));
        if first == 0 || last > SEQ_MAX || !is_plausible(origin) {
            return;
        }
        let mut next = first;
        for run in facts.chunk_by(|one, other| is_sane(one) && is_sane(other)) {
            if run.iter().all(is_sane) {
                self.insert(origin, next, run, None);
            }
            next += u64::try_from(run.len()).unwrap_or(0);
        }
    }

    /// Notes that the ledger was read up to `seq` of a log: every entry that had not expired was applied.
    pub fn ledger_has(&mut self, origin: Origin, seq: u64) {
        if origin == self.own || seq > SEQ_MAX {
            return;
        }
        let Some(progress) = progress_of(&mut self.logs, origin, self.tuning.logs_max) else { return };
        let before = progress.log.complete();
        progress.log.skip_proven(seq);
        if progress.log.complete() > before {
            self.head_changed(origin);
        }
    }

    /// Asks every peer whose version allows it to write these entries of this node's log to its disk, because
    /// the store does not accept writes.
    pub fn ask_to_keep(&mut self, first: u64, last: u64) {
        let asked = SeqRange { first, last };
        let links = self.peers.values_mut();
        for PeerLink { peer, .. } in links.filter(|link| link.peer.version >= KEEP_VERSION_MIN) {
            peer.keep_due = Some(peer.keep_due.map_or(asked, |due| due.span(asked)));
        }
    }

    /// Notes that these entries of a peer's log are on this node's disk, as the peer asked.
    pub fn confirm_kept(&mut self, origin: Origin, kept: SeqRange) {
        if let Some(peer) = self.peer_mut(origin) {
            peer.kept_due = Some(peer.kept_due.map_or(kept, |due| due.joined_with(kept)));
        }
    }

    /// Makes this node tell every peer that it stops and that its log ends here.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Takes a message of a peer. The caller has applied the facts in it.
    ///
    /// # Errors
    /// When the message proves that another node uses this node's identity. Everything before the offending
    /// part was taken.
    pub fn receive(&mut self, from: Origin, message: Message, now: Now) -> Result<(), DuplicateIdentity> {
        if !self.is_linked(from) {
            return Ok(());
        }
        match message {
            Message::Heads(heads) => self.receive_heads(from, heads, now)?,
            Message::Facts { origin, first, facts } => {
                self.receive_facts(from, origin, first, &facts, now)?;
            }
            Message::Ack(applied) => {
                self.check_own(applied.complete.max(applied.newest.1))?;
                if let Some(peer) = self.peer_mut(from) {
                    peer.acked = applied;
                }
            }
            Message::Pull { origin, first, last } => self.receive_pull(from, origin, first, last),
            Message::Pulled { origin, last, forgotten } => {
                if self.finish_pull(from, origin, last, forgotten, now) {
                    self.skip_forgotten(from, origin, forgotten, now);
                }
            }
            Message::Ping { nonce } => {
                if let Some(peer) = self.peer_mut(from) {
                    peer.pong_due = Some(nonce);
                }
            }
            Message::Pong { nonce, head } => self.receive_pong(from, nonce, head),
            Message::Digests { origin, first, sums } => self.compare_digests(from, origin, first, &sums),
            // The caller reads and writes disks: see `confirm_kept`.
            Message::Keep { .. } => {}
            Message::Kept { first, last } => {
                self.check_own(last)?;
                self.receive_kept(from, first, last);
            }
            Message::Clock { at } => self.receive_clock(from, at, now),
            Message::Leaving { head } => self.receive_leaving(from, head, now),
        }
        Ok(())
    }

    /// The next message for this peer; `None` when there is nothing to send until an event happens or
    /// [`Tuning::pull_delay`] has passed.
    pub fn poll(&mut self, to: Origin, now: Now) -> Option<Message> {
        self.own_furthest_clock = self.own_furthest_clock.max(now.wall);
        if !self.is_linked(to) {
            return None;
        }
        if let Some(reply) = self.next_reply(to, now) {
            return Some(reply);
        }
        let peer = self.peer_mut(to)?;
        // Heads come first on a link, so that the peer knows what it can ask for.
        if peer.heads_sent_at.is_none() {
            return self.next_other(to, now);
        }
        peer.turn = peer.turn.wrapping_add(1);
        if peer.turn.is_multiple_of(OTHER_TURN_PERIOD) {
            self.next_other(to, now).or_else(|| self.next_push(to))
        } else {
            self.next_push(to).or_else(|| self.next_other(to, now))
        }
    }

    fn peer_mut(&mut self, origin: Origin) -> Option<&mut Peer> {
        let link = self.peers.get_mut(&origin.node).filter(|link| link.origin == origin)?;
        Some(&mut link.peer)
    }

    fn is_linked(&self, origin: Origin) -> bool {
        self.peers.get(&origin.node).is_some_and(|link| link.origin == origin)
    }

    /// Checks a number that a peer claims of this node's own log.
    fn check_own(&self, seq: u64) -> Result<(), DuplicateIdentity> {
        if seq > self.head() { Err(DuplicateIdentity(seq)) } else { Ok(()) }
    }
}

/// The log of `origin`, begun if there is none yet; `None` if there are `logs_max` others.
fn progress_of(
    logs: &mut BTreeMap<Origin, LogProgress>,
    origin: Origin,
    logs_max: usize,
) -> Option<&mut LogProgress> {
    if logs.len() >= logs_max && !logs.contains_key(&origin) {
        return None;
    }
    Some(logs.entry(origin).or_default())
}
