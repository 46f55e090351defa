//! The machine: what a node does with what it hears, and what it has to say to each peer next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use schema::{Fact, NodeId, Timestamp, horizon::MAX_AHEAD, ledger::Origin, time::CLOCK_SKEW};

use super::{
    KEEPS, Message, Now, Tuning,
    log::{BLOCK, Log},
    message::{Applied, Forgotten, LogHead, MAX_SEQ, is_plausible, is_sane},
    peer::{Answer, Has, MAX_ANSWERS, MAX_NOTES, MAX_REPAIRS, Peer, Pulling, joined, room},
};

/// Heads in one message.
const HEADS: usize = 512;
/// Sums in one message.
const SUMS: u64 = 64;
/// After so many pings the clock is told again.
const CLOCKS: u64 = 8;
/// A clock that is ahead by less is not.
const LATENCY: Duration = Duration::from_secs(2);
/// How many steps the search for a gap takes at most.
const STEPS: usize = 64;
/// How many other nodes are known at most.
const MAX_MEMBERS: usize = 16_384;

/// One node's part of the protocol.
#[derive(Debug)]
pub struct Machine {
    own: Origin,
    tuning: Tuning,
    logs: BTreeMap<Origin, Tracked>,
    kept: usize,
    /// The memory that the entries take.
    bytes: usize,
    peers: BTreeMap<NodeId, Linked>,
    members: BTreeMap<NodeId, Known>,
    /// Logs that somebody has more of, since when without progress.
    behind: BTreeMap<Origin, Duration>,
    /// Rises whenever a head changes.
    changes: u64,
    leaving: bool,
    /// The furthest that a peer's clock has shown, and this node's own.
    furthest: Timestamp,
    own_furthest: Timestamp,
    counters: Counters,
}

#[derive(Debug)]
struct Linked {
    origin: Origin,
    peer: Peer,
}

#[derive(Debug, Default)]
struct Tracked {
    log: Log,
    /// The count at its last change.
    changed: u64,
    /// The highest number that somebody claims.
    known: u64,
}

/// Another node, linked or not.
#[derive(Debug, Clone, Copy)]
struct Known {
    incarnation: u64,
    alive: bool,
    left: bool,
    /// The last time that it reported.
    clock: Option<Told>,
    /// Since when it is neither called alive nor linked.
    gone_since: Option<Duration>,
    /// When everything that it had taken away was known here last.
    fresh_at: Option<Duration>,
}

/// A time that another node reported.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: Timestamp,
    /// When the report arrived, by this node's monotonic clock.
    heard: Duration,
    /// How far the reported time was behind this node's.
    behind: Duration,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field counts the thing of its name")]
pub struct Counters {
    pub pushed: u64,
    pub pulled: u64,
    pub jumps: u64,
    /// Blocks whose sums differed.
    pub diverged: u64,
    /// Entries dropped before they had ended, for want of room.
    pub shed: u64,
    /// Entries not taken: they lie too far beyond what is complete, or their log has no place.
    pub refused: u64,
}

/// How the machine sees another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerState {
    /// The peer.
    pub origin: Origin,
    /// The version of the protocol.
    pub version: u8,
    /// Entries of its log that are not applied here.
    pub lag: u64,
    /// Entries of this node's log that it has not acknowledged.
    pub acknowledged_lag: u64,
    /// When everything that it had taken away was known here last.
    pub fresh_at: Option<Duration>,
    /// Whether something is asked of it.
    pub pulling: bool,
}

/// How a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Whose.
    pub origin: Origin,
    /// What is applied.
    pub applied: Applied,
    /// The highest number that somebody claims.
    pub known: u64,
    /// Entries held.
    pub kept: usize,
}

/// This node's log got this number, which it did not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer has entry {0} of this node's own log, which has fewer: another node uses this identity")]
pub struct Impostor(pub u64);

impl Machine {
    /// The machine of a node that has published nothing.
    #[must_use]
    pub fn new(own: Origin, tuning: Tuning) -> Self {
        Self {
            own,
            tuning,
            logs: [(own, Tracked::default())].into(),
            kept: 0,
            bytes: 0,
            peers: BTreeMap::new(),
            members: BTreeMap::new(),
            behind: BTreeMap::new(),
            changes: 1,
            leaving: false,
            furthest: Timestamp::EPOCH,
            own_furthest: Timestamp::EPOCH,
            counters: Counters::default(),
        }
    }

    /// Whose machine this is.
    #[must_use]
    pub const fn own(&self) -> Origin {
        self.own
    }

    /// The number of the last own fact.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.logs.get(&self.own).map_or(0, |own| own.log.complete())
    }

    /// All of a log that is applied here without a gap.
    #[must_use]
    pub fn complete(&self, origin: Origin) -> u64 {
        self.logs.get(&origin).map_or(0, |tracked| tracked.log.complete())
    }

    /// The same, but for what only others than its origin call ended: what need not be read in the ledger.
    #[must_use]
    pub fn proven(&self, origin: Origin) -> u64 {
        self.logs.get(&origin).map_or(0, |tracked| tracked.log.proven())
    }

    // What this node does.

    /// This node took something away; `first` follows on the head.
    pub fn publish(&mut self, first: u64, facts: &[Fact]) {
        self.insert(self.own, first, facts, None);
    }

    /// Entries that were applied here and came from elsewhere than a peer: from the ledger or the journal.
    /// What no peer would take is left out, however it came there.
    pub fn learn(&mut self, origin: Origin, first: u64, facts: &[Fact]) {
        let last = first.saturating_add(u64::try_from(facts.len()).unwrap_or(u64::MAX));
        if first == 0 || last > MAX_SEQ || !is_plausible(origin) {
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

    /// Asks every peer that can to write these own entries to its disk, since the store does not take them.
    pub fn ask_to_keep(&mut self, first: u64, last: u64) {
        for Linked { peer, .. } in self.peers.values_mut().filter(|linked| linked.peer.version >= KEEPS) {
            let due = peer.keep_due.map_or((first, last), |due| (due.0.min(first), due.1.max(last)));
            peer.keep_due = Some(due);
        }
    }

    /// These entries of a peer's log are on this node's disk, as it asked.
    pub fn kept_for(&mut self, origin: Origin, first: u64, last: u64) {
        if let Some(peer) = self.peer(origin) {
            peer.kept_due = Some(joined(peer.kept_due, (first, last)));
        }
    }

    /// The ledger has everything of this log up to here, and everything that had not ended was applied.
    pub fn ledger_has(&mut self, origin: Origin, seq: u64) {
        if origin == self.own || seq > MAX_SEQ {
            return;
        }
        let Some(tracked) = tracked(&mut self.logs, origin, self.tuning.max_logs) else { return };
        let before = tracked.log.complete();
        tracked.log.skip_proven(seq);
        if tracked.log.complete() > before {
            self.changed(origin);
        }
    }

    /// Who else there is, as far as gossip says.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = (Origin, MemberState)>) {
        let members: BTreeMap<_, _> =
            members.into_iter().map(|(origin, state)| (origin.node, (origin, state))).collect();
        // Who was alive once and did not leave may still be there, and take things away.
        self.members.retain(|node, known| {
            known.alive &= members.contains_key(node);
            !known.left || members.contains_key(node) || self.peers.contains_key(node)
        });
        for (origin, state) in members.into_values() {
            if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&origin.node) {
                continue;
            }
            let known = self.known(origin);
            // Gossip may be later than what was said over a link.
            if origin.incarnation == known.incarnation {
                known.alive = state == MemberState::Alive;
                known.left |= state == MemberState::Left;
            }
        }
    }

    /// Another node; one that starts again has not left.
    fn known(&mut self, origin: Origin) -> &mut Known {
        let Origin { node, incarnation } = origin;
        let known = self.members.entry(node).or_insert(Known {
            incarnation,
            alive: false,
            left: false,
            clock: None,
            gone_since: None,
            fresh_at: None,
        });
        if incarnation > known.incarnation {
            *known = Known { incarnation, alive: false, left: false, ..*known };
        }
        known
    }

    /// The ledger was read at this time: whoever was gone for long then is no more reason to be stale.
    pub fn forget_gone(&mut self, at: Duration) {
        for (node, known) in &mut self.members {
            let is_here = known.alive || self.peers.contains_key(node);
            known.gone_since = if is_here { None } else { known.gone_since.or(Some(at)) };
        }
        let forget = self.tuning.forget;
        self.members.retain(|_, known| known.gone_since.is_none_or(|since| at < since + forget));
    }

    /// From now on every peer is told that this node ends.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Forgets what has ended and what there is no room for. To be called about once a second.
    pub fn upkeep(&mut self, now: Now) {
        let told = self.forgotten(self.own).seq;
        for tracked in self.logs.values_mut() {
            let before = tracked.log.bytes();
            self.kept -= tracked.log.forget(now.horizon, CLOCK_SKEW);
            self.bytes -= before - tracked.log.bytes();
        }
        self.make_room(self.tuning.max_bytes);
        // Peers that are linked with this node accept only its own word on what it has forgotten.
        if self.forgotten(self.own).seq > told {
            self.changed(self.own);
        }
        self.skip_what_has_ended(now);
        let ended: Vec<_> = self
            .logs
            .iter()
            .filter(|(origin, tracked)| {
                **origin != self.own
                    && !self.is_linked(**origin)
                    && !self.lives(**origin)
                    && now.horizon.is_past(tracked.log.until(), CLOCK_SKEW)
            })
            .map(|(origin, _)| *origin)
            .collect();
        ended.into_iter().for_each(|origin| self.drop_log(origin));
    }

    fn drop_log(&mut self, origin: Origin) {
        if let Some(tracked) = self.logs.remove(&origin) {
            self.kept -= tracked.log.kept();
            self.bytes -= tracked.log.bytes();
        }
        self.behind.remove(&origin);
        self.peers.values_mut().for_each(|linked| {
            linked.peer.has.remove(&origin);
            linked.peer.pushed.remove(&origin);
            linked.peer.dirty.remove(&origin);
        });
    }

    /// Until the entries take no more than so many bytes, the largest log loses a block; this node's own
    /// keeps the one that grows, which is not on its way yet.
    fn make_room(&mut self, most: usize) {
        while self.bytes > most {
            let own = self.own;
            let can = |(origin, tracked): &(&Origin, &mut Tracked)| {
                **origin != own || tracked.log.has_several_blocks()
            };
            let largest = self.logs.iter_mut().filter(can).max_by_key(|(_, tracked)| tracked.log.bytes());
            let Some((_, Tracked { log, .. })) = largest else { break };
            let before = log.bytes();
            let gone = log.shed();
            self.bytes -= before - log.bytes();
            if gone == 0 {
                break;
            }
            self.kept -= gone;
            self.counters.shed += u64::try_from(gone).unwrap_or(0);
        }
    }

    /// Of how many logs it is noted what one peer has, or was sent: each link has the same share.
    fn most_notes(&self) -> usize {
        (MAX_NOTES / self.peers.len().max(16)).min(self.tuning.max_logs)
    }

    // Links.

    /// A link is up. One that there was before is no more.
    pub fn linked(&mut self, origin: Origin, version: u8, now: Now) {
        let mut peer = Peer::new(version, now.monotonic);
        peer.pushed.insert(self.own, self.head());
        self.peers.insert(origin.node, Linked { origin, peer });
        if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&origin.node) {
            // Somebody names nodes that there are not. One that is linked counts more.
            let gone = |(node, known): &(&NodeId, &Known)| !known.alive && !self.peers.contains_key(*node);
            if let Some(node) = self.members.iter().find(gone).map(|(node, _)| *node) {
                self.members.remove(&node);
            }
        }
        self.known(origin);
        if self.logs.len() >= self.tuning.max_logs && !self.logs.contains_key(&origin) {
            let idle = |(origin, _): &(&Origin, &Tracked)| {
                **origin != self.own && !self.is_linked(**origin) && !self.lives(**origin)
            };
            let idle = self.logs.iter().filter(idle).min_by_key(|(_, tracked)| tracked.log.bytes());
            if let Some(idle) = idle.map(|(origin, _)| *origin) {
                self.drop_log(idle);
                self.logs.insert(origin, Tracked::default());
            }
        }
    }

    /// The link is down.
    pub fn unlinked(&mut self, origin: Origin) {
        if self.is_linked(origin) {
            self.peers.remove(&origin.node);
        }
    }

    /// Whether it may have more to say.
    fn lives(&self, origin: Origin) -> bool {
        let known = self.members.get(&origin.node);
        known.is_some_and(|known| known.alive && known.incarnation == origin.incarnation)
    }

    fn is_linked(&self, origin: Origin) -> bool {
        self.peers.get(&origin.node).is_some_and(|linked| linked.origin == origin)
    }

    // What comes.

    /// Takes what a peer said. Facts in it have been applied already.
    ///
    /// # Errors
    /// When somebody else writes this node's log; all else was taken.
    pub fn receive(&mut self, from: Origin, message: Message, now: Now) -> Result<(), Impostor> {
        if !self.is_linked(from) {
            return Ok(());
        }
        match message {
            Message::Heads(heads) => {
                let is_last = heads.len() < HEADS;
                for head in heads {
                    self.hear_head(from, head, now)?;
                }
                if let Some(peer) = self.peer(from) {
                    peer.heard |= is_last;
                }
                self.refresh(from.node);
            }
            Message::Facts { origin, first, facts } => {
                if origin == self.own {
                    return self.check_own(first + u64::try_from(facts.len()).unwrap_or(0) - 1);
                }
                let before = self.complete(origin);
                self.insert(origin, first, &facts, Some(from.node));
                // While the origin itself gets on, nobody else is asked.
                if origin == from
                    && self.complete(origin) > before
                    && let Some(since) = self.behind.get_mut(&origin)
                {
                    *since = now.monotonic;
                }
                if let Some(peer) = self.peer(from)
                    && let Some(pulling) = peer.pulling.as_mut().filter(|pulling| pulling.origin == origin)
                {
                    pulling.at = now.monotonic;
                }
                self.note_gap(origin, now);
            }
            Message::Ack(applied) => {
                self.check_own(applied.complete.max(applied.newest.1))?;
                if let Some(peer) = self.peer(from) {
                    peer.acked = applied;
                }
            }
            Message::Pull { origin, first, last } => {
                if let Some(peer) = self.peer(from)
                    && first > 0
                    && first <= last
                    && peer.answers.len() < MAX_ANSWERS
                {
                    peer.answers.push_back(Answer { origin, next: first, last });
                }
            }
            Message::Pulled { origin, last, forgotten } => {
                if self.pulled(from, origin, last, forgotten, now) {
                    self.skip_forgotten(from, origin, forgotten, now);
                }
            }
            Message::Ping { nonce } => {
                if let Some(peer) = self.peer(from) {
                    peer.pong_due = Some(nonce);
                }
            }
            Message::Pong { nonce, head } => self.hear_pong(from, nonce, head),
            Message::Digests { origin, first, sums } => self.compare(from, origin, first, &sums),
            // Who runs the machine reads and writes disks: see `kept_for`.
            Message::Keep { .. } => {}
            Message::Kept { first, last } => {
                self.check_own(last)?;
                if let Some(peer) = self.peer(from)
                    && first > 0
                    && first <= last
                {
                    peer.kept = Some(joined(peer.kept, (first, last)));
                }
            }
            Message::Clock { at } => {
                let told = Told { at, heard: now.monotonic, behind: now.wall.since(at) };
                self.known(from).clock = Some(told);
                self.furthest = self.furthest.max(at.min(now.wall.plus(MAX_AHEAD)));
            }
            Message::Leaving { head } => {
                self.note_known(from, head, now);
                if let Some(peer) = self.peer(from) {
                    peer.leaving = true;
                }
                // Of the life that said it: another one may have begun.
                let known = self.known(from);
                known.left |= known.incarnation == from.incarnation;
            }
        }
        Ok(())
    }

    fn peer(&mut self, origin: Origin) -> Option<&mut Peer> {
        let linked = self.peers.get_mut(&origin.node).filter(|linked| linked.origin == origin)?;
        Some(&mut linked.peer)
    }

    fn check_own(&self, seq: u64) -> Result<(), Impostor> {
        if seq > self.head() { Err(Impostor(seq)) } else { Ok(()) }
    }

    fn insert(&mut self, origin: Origin, first: u64, facts: &[Fact], from: Option<NodeId>) {
        let (most_notes, count) = (self.most_notes(), u64::try_from(facts.len()).unwrap_or(0));
        let Some(tracked) = tracked(&mut self.logs, origin, self.tuning.max_logs) else {
            self.counters.refused += count;
            return;
        };
        let (mut new, before) = (0, tracked.log.bytes());
        let last = first + count - 1;
        // Between this and what is complete there is more than is ever held.
        if from.is_some() && last > tracked.log.complete().saturating_add(self.tuning.reach) {
            self.counters.refused += count;
        } else {
            for (seq, fact) in (first..).zip(facts) {
                new += usize::from(tracked.log.insert(seq, *fact));
            }
        }
        let complete = tracked.log.complete();
        self.bytes += tracked.log.bytes() - before;
        tracked.known = tracked.known.max(last).max(complete);
        if complete >= tracked.known {
            self.behind.remove(&origin);
        }
        self.kept += new;
        // Not at each entry: it looks at all logs.
        let most = self.tuning.max_bytes;
        if self.bytes > most + most / 8 {
            self.make_room(most);
        }
        if let Some(linked) = from.and_then(|node| self.peers.get_mut(&node)) {
            linked.peer.has_up_to(origin, last, most_notes);
        }
        if new == 0 {
            return;
        }
        self.changed(origin);
        let everything = self.is_sparse();
        if origin == self.own || everything {
            for linked in self
                .peers
                .values_mut()
                .filter(|linked| Some(linked.origin.node) != from && linked.origin != origin)
            {
                // Who has no room for it hears of it by heads, and asks.
                if room(&linked.peer.pushed, &origin, most_notes) {
                    linked.peer.pushed.entry(origin).or_insert(first.saturating_sub(1));
                    linked.peer.dirty.insert(origin);
                }
            }
        }
    }

    /// Whether links are few, so that everybody passes on what it hears.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        let here = |(node, known): &(&NodeId, &Known)| known.alive || self.peers.contains_key(*node);
        self.members.iter().filter(here).count() > self.tuning.mesh
    }

    fn changed(&mut self, origin: Origin) {
        self.changes += 1;
        if let Some(tracked) = self.logs.get_mut(&origin) {
            tracked.changed = self.changes;
            if tracked.log.complete() >= tracked.known {
                self.behind.remove(&origin);
            }
        }
        if let Some(peer) = self.peer(origin) {
            peer.ack_due = true;
        }
        self.refresh(origin.node);
    }

    fn hear_head(&mut self, from: Origin, head: LogHead, now: Now) -> Result<(), Impostor> {
        let LogHead { origin, highest, .. } = head;
        if origin == self.own {
            return self.check_own(highest.max(head.complete));
        }
        // A log that has ended altogether is not begun again.
        let ended = now.horizon.is_past(head.until, CLOCK_SKEW) && origin != from;
        if ended && !self.logs.contains_key(&origin) {
            return Ok(());
        }
        let most_notes = self.most_notes();
        let Some(tracked) = tracked(&mut self.logs, origin, self.tuning.max_logs) else { return Ok(()) };
        tracked.log.lasts_until(head.until);
        if let Some(peer) = self.peer(from)
            && room(&peer.has, &origin, most_notes)
        {
            let before = peer.has.get(&origin).copied().unwrap_or(Has { head, lacks: 0, dry_at: None });
            let mut has = Has { head, ..before };
            // With nothing more than before, there is no more to be had.
            if head.highest > before.head.highest || head.complete > before.head.complete {
                has.asked_anew();
            }
            peer.has.insert(origin, has);
        }
        self.skip_forgotten(from, origin, head.forgotten, now);
        // All of it has ended; others may not know the end of what they skipped.
        if origin == from {
            self.skip_forgotten(from, origin, Forgotten { seq: head.complete, until: head.until }, now);
        }
        self.note_known(origin, highest.max(head.complete), now);
        self.refresh(from.node);
        Ok(())
    }

    /// What other nodes have forgotten, and what has ended by this node's own horizon, is not asked for. Of a
    /// node that is linked, only that node itself says what is forgotten: another one would hide what is to come.
    fn skip_forgotten(&mut self, from: Origin, origin: Origin, forgotten: Forgotten, now: Now) {
        if origin != self.own
            && (origin == from || !self.is_linked(origin))
            && now.horizon.is_past(forgotten.until, CLOCK_SKEW)
            && let Some(tracked) = self.logs.get_mut(&origin)
            && forgotten.seq > tracked.log.complete()
        {
            if origin == from {
                tracked.log.skip_forgotten(forgotten);
            } else {
                tracked.log.skip_hearsay(forgotten);
            }
            self.changed(origin);
        }
    }

    /// Skips entries that peers have forgotten and that have now expired by this node's horizon.
    fn skip_what_has_ended(&mut self, now: Now) {
        let behind: Vec<_> = self.behind.keys().copied().collect();
        for origin in behind {
            let said =
                |Linked { origin: from, peer }: &Linked| Some((*from, peer.has.get(&origin)?.head.forgotten));
            let said: Vec<_> = self.peers.values().filter_map(said).collect();
            for (from, forgotten) in said {
                self.skip_forgotten(from, origin, forgotten, now);
            }
        }
    }

    fn note_known(&mut self, origin: Origin, seq: u64, now: Now) {
        if seq > 0
            && let Some(tracked) = tracked(&mut self.logs, origin, self.tuning.max_logs)
        {
            tracked.known = tracked.known.max(seq);
        }
        self.note_gap(origin, now);
    }

    fn note_gap(&mut self, origin: Origin, now: Now) {
        if self.logs.get(&origin).is_some_and(|tracked| tracked.known > tracked.log.complete()) {
            self.behind.entry(origin).or_insert(now.monotonic);
        }
    }

    /// The end of a pull; says whether there was one.
    fn pulled(&mut self, from: Origin, origin: Origin, last: u64, forgotten: Forgotten, now: Now) -> bool {
        let complete = self.complete(origin);
        let Self { logs, peers, .. } = self;
        let linked = peers.get_mut(&from.node).filter(|linked| linked.origin == from);
        let Some(Peer { pulling, has, .. }) = linked.map(|linked| &mut linked.peer) else { return false };
        let Some(Pulling { first, .. }) =
            pulling.take_if(|pulling| pulling.origin == origin && pulling.last == last)
        else {
            return false;
        };
        let still_missing = logs.get(&origin).is_some_and(|tracked| tracked.log.next_missing(first) <= last);
        if let Some(has) = has.get_mut(&origin) {
            has.head.forgotten = forgotten;
            if still_missing && first <= complete.max(has.lacks) + 1 {
                has.lacks = has.lacks.max(last);
            } else if still_missing {
                has.dry_at = Some(now.monotonic);
            }
        }
        true
    }

    fn hear_pong(&mut self, from: Origin, nonce: u64, head: u64) {
        let complete = self.complete(from);
        let Some(peer) = self.peer(from) else { return };
        if nonce != peer.ping.nonce {
            return;
        }
        let Some(sent_at) = peer.ping.sent_at.take() else { return };
        if complete >= head {
            // What was owed before is known too.
            peer.ping.owed = Some((head, sent_at));
        } else {
            peer.ping.owed.get_or_insert((head, sent_at));
        }
        self.refresh(from.node);
    }

    /// Notes when everything of this node was known, if it is.
    fn refresh(&mut self, node: NodeId) {
        let Some(linked) = self.peers.get_mut(&node) else { return };
        let Some((head, sent_at)) = linked.peer.ping.owed.filter(|_| linked.peer.heard) else { return };
        let complete = self.logs.get(&linked.origin).map_or(0, |tracked| tracked.log.complete());
        if complete < head {
            return;
        }
        // Logs of its former lives, of which it may have the end: it has told all its heads.
        let lives = Origin { node, incarnation: 0 }..=Origin { node, incarnation: u64::MAX };
        if self.behind.range(lives).any(|(origin, _)| *origin != linked.origin) {
            return;
        }
        linked.peer.ping.owed = None;
        let origin = linked.origin;
        let known = self.known(origin);
        known.fresh_at = known.fresh_at.max(Some(sent_at));
    }

    fn compare(&mut self, from: Origin, origin: Origin, first: u64, sums: &[u64]) {
        let Some(Tracked { log, .. }) = self.logs.get_mut(&origin) else { return };
        let ours = log.sums(first, u64::try_from(sums.len()).unwrap_or(0));
        let differing = (first..).zip(ours.iter().zip(sums)).filter(|(block, (ours, theirs))| {
            **theirs != 0 && ours != theirs && (**ours != 0 || log.has_lost(*block))
        });
        let differing: Vec<_> = differing.map(|(block, _)| block).collect();
        self.counters.diverged += u64::try_from(differing.len()).unwrap_or(0);
        let Some(peer) = self.peer(from) else { return };
        for block in differing {
            if peer.repairs.len() < MAX_REPAIRS && !peer.repairs.contains(&(origin, block)) {
                peer.repairs.push_back((origin, block));
            }
        }
    }

    // What is to be said.

    /// What this peer is to be told next; `None` when there is nothing until something happens or
    /// [`Tuning::patience`] has passed.
    pub fn poll(&mut self, to: Origin, now: Now) -> Option<Message> {
        self.own_furthest = self.own_furthest.max(now.wall);
        let Self { own, logs, peers, own_furthest, .. } = self;
        let linked = peers.get_mut(&to.node).filter(|linked| linked.origin == to)?;
        let peer = &mut linked.peer;
        if let Some(nonce) = peer.pong_due.take() {
            let head = logs.get(own).map_or(0, |tracked| tracked.log.complete());
            return Some(Message::Pong { nonce, head });
        }
        if std::mem::take(&mut peer.ack_due)
            && let Some(tracked) = logs.get(&to)
        {
            return Some(Message::Ack(tracked.log.applied()));
        }
        if let Some((first, last)) = peer.kept_due.take() {
            return Some(Message::Kept { first, last });
        }
        if std::mem::take(&mut peer.clock_due) {
            return Some(Message::Clock { at: now.wall });
        }
        // It was set back: tokens that it issued before last longer than those of now.
        if own_furthest.since(now.wall) > LATENCY && peer.told_furthest < *own_furthest {
            peer.told_furthest = *own_furthest;
            return Some(Message::Clock { at: *own_furthest });
        }
        // First of all on a link: what there is to be asked for.
        if peer.told_at.is_none() {
            return self.next_other(to, now);
        }
        peer.turn = peer.turn.wrapping_add(1);
        // All else gets a turn now and then, however much there is of the present.
        if peer.turn.is_multiple_of(4) {
            self.next_other(to, now).or_else(|| self.next_push(to))
        } else {
            self.next_push(to).or_else(|| self.next_other(to, now))
        }
    }

    fn next_push(&mut self, to: Origin) -> Option<Message> {
        let Self { own, tuning, logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        // When it was sent what it is to write.
        if let Some((first, last)) = peer.keep_due
            && peer.pushed.get(own).is_some_and(|pushed| *pushed >= last)
        {
            peer.keep_due = None;
            return Some(Message::Keep { first, last });
        }
        while let Some(origin) = peer.dirty.first().copied() {
            let Some(tracked) = logs.get(&origin) else {
                peer.dirty.remove(&origin);
                continue;
            };
            let before = peer.pushed.get(&origin).copied().unwrap_or(0);
            if let Some((first, facts)) = peer.next_push(origin, &tracked.log, tuning.window, tuning.batch) {
                self.counters.jumps += u64::from(first > before + 1 && origin == *own);
                self.counters.pushed += u64::try_from(facts.len()).unwrap_or(0);
                return Some(Message::Facts { origin, first, facts });
            }
        }
        if self.leaving && !peer.told_leaving {
            peer.told_leaving = true;
            return Some(Message::Leaving { head: logs.get(own).map_or(0, |own| own.log.complete()) });
        }
        None
    }

    fn next_other(&mut self, to: Origin, now: Now) -> Option<Message> {
        self.next_heads(to, now)
            .or_else(|| self.next_pull(to, now))
            .or_else(|| self.next_ping(to, now))
            .or_else(|| self.next_answer(to))
            .or_else(|| self.next_digests(to, now))
    }

    fn next_heads(&mut self, to: Origin, now: Now) -> Option<Message> {
        let (changes, interval) = (self.changes, self.tuning.heads);
        let Self { own, logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        let due = peer.told_at.is_none_or(|at| peer.told < changes && now.monotonic >= at + interval);
        if due && peer.telling.is_empty() {
            // Its own log it knows.
            let news = logs.iter().filter(|(origin, tracked)| **origin != to && tracked.changed > peer.told);
            peer.telling = news.map(|(origin, _)| *origin).collect();
            peer.told = changes;
            if peer.telling.is_empty() {
                let first = peer.told_at.replace(now.monotonic).is_none();
                return first.then(|| Message::Heads(Vec::new()));
            }
            peer.told_at = Some(now.monotonic);
        }
        let mut heads = Vec::new();
        while heads.len() < HEADS
            && let Some(origin) = peer.telling.pop_front()
        {
            let Some(Tracked { log, .. }) = logs.get(&origin) else { continue };
            // What is about to be pushed shall not be asked for.
            let waits = origin == *own && peer.dirty.contains(&origin);
            let pushed = peer.pushed.get(&origin).copied().filter(|_| waits).unwrap_or(u64::MAX);
            heads.push(LogHead {
                origin,
                complete: log.complete().min(pushed),
                highest: log.highest().min(pushed),
                until: log.until(),
                forgotten: log.forgotten(),
            });
        }
        let was_full = std::mem::replace(&mut peer.told_full, heads.len() == HEADS);
        (was_full || !heads.is_empty()).then_some(Message::Heads(heads))
    }

    fn next_pull(&mut self, to: Origin, now: Now) -> Option<Message> {
        let Tuning { retry, patience, pull, .. } = self.tuning;
        let peer = &mut self.peers.get_mut(&to.node)?.peer;
        if let Some(pulling) = peer.pulling {
            if now.monotonic < pulling.at + retry {
                return None;
            }
            peer.pulling = None;
            if let Some(has) = peer.has.get_mut(&pulling.origin) {
                has.dry_at = Some(now.monotonic);
            }
        }
        if let Some((origin, block)) = peer.repairs.pop_front() {
            let (first, last) = (block * BLOCK + 1, (block + 1) * BLOCK);
            self.peer(to)?.pulling = Some(Pulling { origin, first, last, at: now.monotonic });
            return Some(Message::Pull { origin, first, last });
        }
        let range = self.behind.iter().find_map(|(origin, since)| {
            let has = self.peers.get(&to.node)?.peer.has.get(origin)?;
            let is_dry = has.dry_at.is_some_and(|at| now.monotonic < at + retry);
            let patient = *origin != to && now.monotonic < *since + patience;
            if is_dry || patient {
                return None;
            }
            let (first, last) =
                self.gap(*origin, has.lacks, has.head.highest.max(has.head.complete), pull)?;
            Some((*origin, first, last))
        });
        let (origin, first, last) = range?;
        self.counters.pulled += 1;
        self.peer(to)?.pulling = Some(Pulling { origin, first, last, at: now.monotonic });
        Some(Message::Pull { origin, first, last })
    }

    /// The first gap between `after` and `highest` that no pull under way covers.
    fn gap(&self, origin: Origin, after: u64, highest: u64, most: u64) -> Option<(u64, u64)> {
        let log = &self.logs.get(&origin)?.log;
        let asked: BTreeSet<_> = self
            .peers
            .values()
            .filter_map(|linked| linked.peer.pulling)
            .filter(|pulling| pulling.origin == origin)
            .map(|pulling| (pulling.first, pulling.last))
            .collect();
        let mut first = log.complete().max(after) + 1;
        for _ in 0..STEPS {
            if let Some((_, last)) = asked.iter().find(|(from, to)| (*from..=*to).contains(&first)) {
                first = last + 1;
            } else if log.holds(first) {
                first = log.next_missing(first);
            } else {
                break;
            }
        }
        let reach = log.complete().saturating_add(self.tuning.reach);
        let last = highest.min(reach).min(first.saturating_add(most - 1));
        let last = log.missing_until(first, last);
        // Not what others are asked for.
        let last =
            asked.iter().map(|(from, _)| *from).filter(|from| *from > first).fold(last, |a, b| a.min(b - 1));
        (first <= last).then_some((first, last))
    }

    fn next_ping(&mut self, to: Origin, now: Now) -> Option<Message> {
        let Tuning { ping: interval, retry, .. } = self.tuning;
        let peer = self.peer(to)?;
        let ping = &mut peer.ping;
        let unanswered = ping.sent_at.is_some_and(|at| now.monotonic < at + retry);
        if unanswered || now.monotonic < ping.next_at {
            return None;
        }
        peer.clock_due |= ping.nonce.is_multiple_of(CLOCKS);
        ping.next_at = now.monotonic + interval;
        ping.nonce += 1;
        ping.sent_at = Some(now.monotonic);
        Some(Message::Ping { nonce: ping.nonce })
    }

    fn next_answer(&mut self, to: Origin) -> Option<Message> {
        let batch = self.tuning.batch;
        let Self { logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        let answer = peer.answers.front_mut()?;
        let origin = answer.origin;
        let log = logs.get(&origin).map(|tracked| &tracked.log);
        if let Some((first, facts)) = log.and_then(|log| log.run(answer.next, answer.last, batch)) {
            answer.next = first + u64::try_from(facts.len()).unwrap_or(0);
            return Some(Message::Facts { origin, first, facts });
        }
        let last = answer.last;
        peer.answers.pop_front();
        let forgotten = log.map(Log::forgotten).unwrap_or_default();
        Some(Message::Pulled { origin, last, forgotten })
    }

    fn next_digests(&mut self, to: Origin, now: Now) -> Option<Message> {
        let interval = self.tuning.digests;
        let Self { logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        if peer.digesting.is_empty() {
            if now.monotonic < peer.digested_at + interval {
                return None;
            }
            peer.digested_at = now.monotonic;
            let whole = logs.iter().filter(|(_, tracked)| tracked.log.has_whole());
            let begun = whole.filter_map(|(origin, tracked)| Some((*origin, tracked.log.blocks()?.0)));
            peer.digesting = begun.collect();
            // Heads are sent again and gaps pulled again, in case a message was lost.
            peer.has.values_mut().for_each(Has::asked_anew);
            (peer.told, peer.told_at) = (0, None);
            peer.ack_due = true;
        }
        let (origin, first) = peer.digesting.pop_front()?;
        let log = &mut logs.get_mut(&origin)?.log;
        let (_, last) = log.blocks()?;
        let count = SUMS.min((last + 1).saturating_sub(first));
        let sums = log.sums(first, count);
        if first + count <= last {
            peer.digesting.push_front((origin, first + count));
        }
        Some(Message::Digests { origin, first, sums })
    }

    // What there is to be known.

    /// Of the other live nodes, how many have these own facts, and how many there are.
    #[must_use]
    pub fn visible(&self, first: u64, last: u64) -> (u32, u32) {
        self.count_live(|peer| peer.acked.covers(first, last))
    }

    /// Of the other live nodes, how many have these own facts on their disks, and how many there are.
    #[must_use]
    pub fn on_disk(&self, first: u64, last: u64) -> (u32, u32) {
        self.count_live(|peer| peer.kept.is_some_and(|(from, to)| from <= first && last <= to))
    }

    fn count_live(&self, has: impl Fn(&Peer) -> bool) -> (u32, u32) {
        let mut counts = (0, 0);
        for (node, known) in &self.members {
            // A link with a former life is about to break.
            let linked = self.peers.get(node).filter(|linked| linked.origin.incarnation == known.incarnation);
            let peer = linked.map(|linked| &linked.peer);
            // A link that has not said farewell is proof enough.
            let here = peer.map_or(known.alive && !known.left, |peer| !peer.leaving);
            if !here {
                continue;
            }
            counts.1 += 1;
            counts.0 += u32::from(peer.is_some_and(&has));
        }
        counts
    }

    /// When this node last knew everything that all others had taken away; `None` when that never was, or
    /// nobody else is known to be there. Who left has taken nothing away since, so it does not count when
    /// all that is known of its logs is applied.
    #[must_use]
    pub fn fresh_at(&self, now: Now) -> Option<Duration> {
        if self.members.values().all(|known| known.left) {
            return None;
        }
        let lacks = |node: &NodeId| self.behind.keys().any(|origin| origin.node == *node);
        let others = self.members.iter().filter(|(node, known)| !known.left || lacks(node));
        others.map(|(_, known)| known.fresh_at).try_fold(now.monotonic, |all, one| Some(all.min(one?)))
    }

    /// When everything that this node had taken away was known here last.
    #[must_use]
    pub fn fresh_at_of(&self, node: NodeId) -> Option<Duration> {
        self.members.get(&node)?.fresh_at
    }

    /// Whether this node said that it ends.
    #[must_use]
    pub fn has_left(&self, origin: Origin) -> bool {
        self.members
            .get(&origin.node)
            .is_some_and(|known| known.left && known.incarnation == origin.incarnation)
    }

    /// Whether every linked peer was told that this node ends.
    #[must_use]
    pub fn has_told_all(&self) -> bool {
        self.peers.values().all(|linked| linked.peer.told_leaving)
    }

    /// Whether everything that linked peers have is applied. What they heard of and do not have is not
    /// waited for.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        let has_more = |origin: &Origin, has: &Has| {
            let Some(Tracked { log, .. }) = self.logs.get(origin) else { return false };
            let highest = has.head.highest.max(has.head.complete);
            has.dry_at.is_none() && log.next_missing(log.complete().max(has.lacks) + 1) <= highest
        };
        let owed = |origin: &Origin| {
            let mut known = self.peers.values().filter_map(|linked| linked.peer.has.get(origin));
            known.any(|has| has_more(origin, has))
        };
        self.peers.values().all(|linked| linked.peer.heard) && !self.behind.keys().any(owed)
    }

    /// By how much the furthest time that another node's clock has shown is ahead of ours. It counts until our
    /// clock gets there, though that clock was corrected, or its node is gone: tokens may have been issued by it.
    #[must_use]
    pub fn clock_ahead(&self, now: Now) -> Duration {
        let ahead = self.furthest.since(now.wall);
        // The way takes a moment too.
        if ahead < LATENCY { Duration::ZERO } else { ahead.min(MAX_AHEAD) }
    }

    /// How far the slowest other clock is behind ours, at most [`MAX_AHEAD`]. A member counts until it is
    /// forgotten, linked or not. One that is alive and has not reported its clock counts as [`MAX_AHEAD`].
    #[must_use]
    pub fn clock_behind(&self) -> Duration {
        let is_sparse = self.is_sparse();
        let behind = self.members.iter().map(|(node, known)| match known.clock {
            Some(told) => told.behind,
            None if self.peers.contains_key(node) || (known.alive && !is_sparse) => MAX_AHEAD,
            None => Duration::ZERO,
        });
        let behind = behind.max().unwrap_or_default();
        if behind < LATENCY { Duration::ZERO } else { behind.min(MAX_AHEAD) }
    }

    /// Whether most linked peers report the same time as our clock.
    #[must_use]
    pub fn clock_agrees(&self, now: Now) -> bool {
        let linked = self.members.iter().filter(|(node, _)| self.peers.contains_key(*node));
        let told = linked.filter_map(|(_, known)| known.clock);
        let (agree, all) = told.fold((0, 0), |(agree, all), Told { at, heard, .. }| {
            let theirs = at.plus(now.monotonic.saturating_sub(heard));
            let differs = theirs.since(now.wall).max(now.wall.since(theirs));
            (agree + u32::from(differs < LATENCY), all + 1)
        });
        2 * agree > all
    }

    /// What is not held of a log any more.
    #[must_use]
    pub fn forgotten(&self, origin: Origin) -> Forgotten {
        self.logs.get(&origin).map(|tracked| tracked.log.forgotten()).unwrap_or_default()
    }

    /// The logs of others, and up to where they are complete here: for who writes them to the ledger.
    pub fn heard(&self) -> impl Iterator<Item = (Origin, u64)> + '_ {
        let complete = self.logs.iter().map(|(origin, tracked)| (*origin, tracked.log.complete()));
        complete.filter(|(origin, seq)| *origin != self.own && *seq > 0)
    }

    /// Entries of a log from `first` on, as far as they are held, at most so many.
    #[must_use]
    pub fn entries(&self, origin: Origin, first: u64, most: usize) -> Option<(u64, Vec<Fact>)> {
        let log = &self.logs.get(&origin)?.log;
        log.run(first, log.highest(), most)
    }

    /// How each linked peer stands.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerState> {
        let head = self.head();
        let state = |(node, linked): (&NodeId, &Linked)| {
            let tracked = self.logs.get(&linked.origin);
            PeerState {
                origin: linked.origin,
                version: linked.peer.version,
                lag: tracked.map_or(0, |tracked| tracked.known.saturating_sub(tracked.log.complete())),
                acknowledged_lag: head.saturating_sub(linked.peer.acked.complete),
                fresh_at: self.members.get(node).and_then(|known| known.fresh_at),
                pulling: linked.peer.pulling.is_some(),
            }
        };
        self.peers.iter().map(state).collect()
    }

    /// How each log stands.
    #[must_use]
    pub fn logs(&self) -> Vec<LogState> {
        let state = |(origin, tracked): (&Origin, &Tracked)| LogState {
            origin: *origin,
            applied: tracked.log.applied(),
            known: tracked.known.max(tracked.log.highest()),
            kept: tracked.log.kept(),
        };
        self.logs.iter().map(state).collect()
    }

    /// Entries held, of all logs.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }

    /// The memory that they take, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of how many logs it is noted what peers have, and what they were sent.
    #[cfg(test)]
    pub(super) fn notes(&self) -> (usize, usize) {
        let peers = || self.peers.values().map(|linked| &linked.peer);
        (peers().map(|peer| peer.has.len()).sum(), peers().map(|peer| peer.pushed.len()).sum())
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }
}

/// What gossip says of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It lives.
    Alive,
    /// It does not, or nobody can reach it.
    Dead,
    /// It said that it ends.
    Left,
}

fn tracked(logs: &mut BTreeMap<Origin, Tracked>, origin: Origin, most: usize) -> Option<&mut Tracked> {
    if logs.len() >= most && !logs.contains_key(&origin) {
        return None;
    }
    Some(logs.entry(origin).or_default())
}
