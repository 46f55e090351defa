//! What the machine knows of one linked peer: what it was told, what it has, what it was asked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use schema::{Timestamp, ledger::Origin};

use super::{
    log::Log,
    message::{Applied, Forgotten, LogHead},
};

/// How many pulls of one peer are answered at the same time; a peer has one under way.
pub(super) const MAX_ANSWERS: usize = 4;
/// How many differing blocks wait to be pulled again.
pub(super) const MAX_REPAIRS: usize = 64;
/// Of how many logs, over all peers, it is known what the peer has; and what it was sent.
pub const MAX_NOTES: usize = 262_144;

/// One linked peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) version: u8,
    /// Up to where logs were sent: this node's own, and when links are few all others.
    pub(super) pushed: BTreeMap<Origin, u64>,
    /// Logs with more than was sent.
    pub(super) dirty: BTreeSet<Origin>,
    /// What it has of this node's log.
    pub(super) acked: Applied,
    /// What of this node's log it has on its disk: the newest range of which it said so.
    pub(super) kept: Option<(u64, u64)>,
    /// What of this node's log it is to be asked to write to its disk.
    pub(super) keep_due: Option<(u64, u64)>,
    /// What of its own log is on this node's disk, which it has not been told yet.
    pub(super) kept_due: Option<(u64, u64)>,
    pub(super) ack_due: bool,
    pub(super) pong_due: Option<u64>,
    pub(super) clock_due: bool,
    /// The furthest time of this node's clock that it was told after that was set back.
    pub(super) told_furthest: Timestamp,
    pub(super) ping: Ping,
    /// Heads that changed up to this count were told, last at this time.
    pub(super) told: u64,
    pub(super) told_at: Option<Duration>,
    /// Logs whose heads are being told.
    pub(super) telling: VecDeque<Origin>,
    /// The last message of heads was full, so it is not known there that it was the last.
    pub(super) told_full: bool,
    /// What it has of other logs, of its own too.
    pub(super) has: BTreeMap<Origin, Has>,
    /// Whether it has told all its heads once.
    pub(super) heard: bool,
    pub(super) pulling: Option<Pulling>,
    pub(super) answers: VecDeque<Answer>,
    pub(super) turn: u8,
    pub(super) digested_at: Duration,
    /// Digests that are still to be sent, as log and first block.
    pub(super) digesting: VecDeque<(Origin, u64)>,
    /// Ranges that differ here and there.
    pub(super) repairs: VecDeque<(Origin, u64)>,
    pub(super) leaving: bool,
    pub(super) told_leaving: bool,
}

/// What a peer has of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Has {
    pub(super) head: LogHead,
    /// Entries up to this number that are missing here are missing there too.
    pub(super) lacks: u64,
    /// When a pull of it last failed.
    pub(super) dry_at: Option<Duration>,
}

impl Has {
    /// Allows another pull: the peer may have received entries since. What it has forgotten does not return.
    pub(super) fn asked_anew(&mut self) {
        self.lacks = self.lacks.min(self.head.forgotten.seq);
        self.dry_at = None;
    }
}

/// A pull under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulling {
    pub(super) origin: Origin,
    pub(super) first: u64,
    pub(super) last: u64,
    /// When something of it came last.
    pub(super) at: Duration,
}

/// A pull that is being answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) origin: Origin,
    pub(super) next: u64,
    pub(super) last: u64,
}

/// Questions about the head of its log.
#[derive(Debug, Default)]
pub(super) struct Ping {
    pub(super) nonce: u64,
    /// When the last one was sent; answered when `None`.
    pub(super) sent_at: Option<Duration>,
    pub(super) next_at: Duration,
    /// The head of an answer that is not applied yet, and when its question was sent.
    pub(super) owed: Option<(u64, Duration)>,
}

impl Peer {
    pub(super) fn new(version: u8, now: Duration) -> Self {
        Self {
            version,
            pushed: BTreeMap::new(),
            dirty: BTreeSet::new(),
            acked: Applied::default(),
            kept: None,
            keep_due: None,
            kept_due: None,
            ack_due: true,
            pong_due: None,
            clock_due: true,
            told_furthest: Timestamp::EPOCH,
            ping: Ping { next_at: now, ..Ping::default() },
            told: 0,
            told_at: None,
            telling: VecDeque::new(),
            told_full: false,
            has: BTreeMap::new(),
            heard: false,
            pulling: None,
            answers: VecDeque::new(),
            turn: 0,
            digested_at: now,
            digesting: VecDeque::new(),
            repairs: VecDeque::new(),
            leaving: false,
            told_leaving: false,
        }
    }

    /// It sent this entry, so it has it and needs it from nobody. Noted of at most so many logs.
    pub(super) fn has_up_to(&mut self, origin: Origin, seq: u64, most: usize) {
        if let Some(pushed) =
            room(&self.pushed, &origin, most).then(|| self.pushed.entry(origin).or_default())
        {
            *pushed = (*pushed).max(seq);
        }
        if !room(&self.has, &origin, most) {
            return;
        }
        let head = LogHead {
            origin,
            complete: 0,
            highest: seq,
            until: Timestamp::EPOCH,
            forgotten: Forgotten::default(),
        };
        let has = self.has.entry(origin).or_insert(Has { head, lacks: 0, dry_at: None });
        has.head.highest = has.head.highest.max(seq);
    }

    /// The next entries of a log to send, and where the cursor is after them. A cursor that is too far
    /// behind jumps.
    pub(super) fn next_push(
        &mut self,
        origin: Origin,
        log: &Log,
        window: u64,
        batch: usize,
    ) -> Option<(u64, Vec<schema::Fact>)> {
        let highest = log.highest();
        let cursor = self.pushed.entry(origin).or_insert(highest);
        *cursor = (*cursor).max(highest.saturating_sub(window));
        let run = log.run(*cursor + 1, highest, batch);
        *cursor = run
            .as_ref()
            .map_or(highest, |(first, facts)| first + u64::try_from(facts.len()).unwrap_or(0) - 1);
        if *cursor >= highest {
            self.dirty.remove(&origin);
        }
        run
    }
}

/// Whether there is room for what is noted of this log.
pub(super) fn room<T>(notes: &BTreeMap<Origin, T>, origin: &Origin, most: usize) -> bool {
    notes.len() < most || notes.contains_key(origin)
}

/// The range with another one: both, when they touch; else the other one, which is newer.
pub(super) fn joined(range: Option<(u64, u64)>, other: (u64, u64)) -> (u64, u64) {
    match range {
        Some((first, last)) if first <= other.1.saturating_add(1) && other.0 <= last.saturating_add(1) => {
            (first.min(other.0), last.max(other.1))
        }
        _ => other,
    }
}
