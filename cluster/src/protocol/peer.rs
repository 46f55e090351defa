//! What this node knows of one linked peer: what it was sent, what it has, what it was asked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use schema::{Fact, Timestamp, ledger::Origin};

use super::{
    log::Log,
    message::{Applied, Forgotten, LogHead},
    range::SeqRange,
};

/// The maximum number of pulls of one peer that are answered at a time. A well-behaved peer sends one at a
/// time.
pub(super) const PULL_RESPONSES_MAX: usize = 4;
/// The maximum number of differing blocks that wait to be pulled again from one peer.
pub(super) const REPAIRS_MAX: usize = 64;
/// The maximum number of logs whose state is tracked over all peers: for what peers have, and for what they
/// were sent.
pub const TRACKED_LOGS_MAX: usize = 262_144;

/// The protocol's state of one link.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) version: u8,
    /// Up to which number each log was pushed: this node's own, and when links are few all others.
    pub(super) pushed: BTreeMap<Origin, u64>,
    /// Logs with entries that were not pushed yet.
    pub(super) unsent_logs: BTreeSet<Origin>,
    /// What the peer has acknowledged of this node's log.
    pub(super) acked: Applied,
    /// The newest range of this node's log that the peer has on its disk.
    pub(super) kept: Option<SeqRange>,
    /// The range of this node's log that the peer must still be asked to write to its disk.
    pub(super) keep_due: Option<SeqRange>,
    /// The range of the peer's log that is on this node's disk and must still be confirmed.
    pub(super) kept_due: Option<SeqRange>,
    pub(super) ack_due: bool,
    /// The nonce of the ping that must still be answered.
    pub(super) pong_due: Option<u64>,
    pub(super) clock_due: bool,
    /// The furthest time of this node's clock that the peer was sent after the clock was set back.
    pub(super) furthest_clock_sent: Timestamp,
    pub(super) ping: Ping,
    /// Heads that changed up to this revision were sent.
    pub(super) heads_sent_rev: u64,
    pub(super) heads_sent_at: Option<Duration>,
    /// Logs whose heads are still to be sent.
    pub(super) heads_to_send: VecDeque<Origin>,
    /// Whether the last message of heads was full, so that the peer cannot know that it was the last.
    pub(super) last_batch_full: bool,
    /// What the peer has of each log, its own included.
    pub(super) heads: BTreeMap<Origin, PeerHead>,
    /// Whether the peer has sent all its heads once.
    pub(super) heads_received: bool,
    /// The pull under way.
    pub(super) pull: Option<PullRequest>,
    /// The peer's pulls that are being answered.
    pub(super) responses: VecDeque<PullResponse>,
    /// Counts messages, to take turns between pushes and all else.
    pub(super) turn: u8,
    pub(super) digests_sent_at: Duration,
    /// Logs whose digests are still to be sent, each from the given block on.
    pub(super) digests_to_send: VecDeque<BlockRef>,
    /// Blocks that differ and are still to be pulled again.
    pub(super) repairs: VecDeque<BlockRef>,
    /// Whether the peer announced that it stops.
    pub(super) is_leaving: bool,
    /// Whether the peer was sent the announcement that this node stops.
    pub(super) leaving_sent: bool,
}

/// What a peer has of one log.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerHead {
    pub(super) head: LogHead,
    /// Entries up to this number that are missing here are missing at the peer too.
    pub(super) lacks: u64,
    /// After a failed pull, the log is not pulled from this peer again before this time.
    pub(super) empty_until: Option<Duration>,
}

impl PeerHead {
    pub(super) const fn new(head: LogHead) -> Self {
        Self { head, lacks: 0, empty_until: None }
    }

    /// The highest number that the peer claims.
    pub(super) fn highest(&self) -> u64 {
        self.head.highest.max(self.head.complete)
    }

    /// Allows another pull: the peer may have received entries since. Entries that it has forgotten do not
    /// return.
    pub(super) fn allow_pull(&mut self) {
        self.lacks = self.lacks.min(self.head.forgotten.seq);
        self.empty_until = None;
    }
}

/// A pull under way, sent to this peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct PullRequest {
    pub(super) origin: Origin,
    pub(super) range: SeqRange,
    /// When the pull was sent, or entries of it last arrived.
    pub(super) progress_at: Duration,
}

/// A pull of this peer that is being answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct PullResponse {
    pub(super) origin: Origin,
    /// The number of the next entry to send.
    pub(super) next: u64,
    pub(super) last: u64,
}

/// One block of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRef {
    pub(super) origin: Origin,
    pub(super) block: u64,
}

/// Pings to this peer, and what their answers are still good for.
#[derive(Debug, Default)]
pub(super) struct Ping {
    pub(super) nonce: u64,
    /// When the last ping was sent; `None` once it was answered.
    pub(super) sent_at: Option<Duration>,
    pub(super) next_at: Duration,
    /// The head of a pong that is not applied yet.
    pub(super) awaiting_head: Option<AwaitedHead>,
}

/// A head that must be applied before this node is fresh of the peer as of `sent_at`.
#[derive(Debug, Clone, Copy)]
pub(super) struct AwaitedHead {
    pub(super) head: u64,
    /// When the ping was sent.
    pub(super) sent_at: Duration,
}

impl Peer {
    pub(super) fn new(version: u8, now: Duration) -> Self {
        Self {
            version,
            pushed: BTreeMap::new(),
            unsent_logs: BTreeSet::new(),
            acked: Applied::default(),
            kept: None,
            keep_due: None,
            kept_due: None,
            ack_due: true,
            pong_due: None,
            clock_due: true,
            furthest_clock_sent: Timestamp::EPOCH,
            ping: Ping { next_at: now, ..Ping::default() },
            heads_sent_rev: 0,
            heads_sent_at: None,
            heads_to_send: VecDeque::new(),
            last_batch_full: false,
            heads: BTreeMap::new(),
            heads_received: false,
            pull: None,
            responses: VecDeque::new(),
            turn: 0,
            digests_sent_at: now,
            digests_to_send: VecDeque::new(),
            repairs: VecDeque::new(),
            is_leaving: false,
            leaving_sent: false,
        }
    }

    /// Notes that the peer sent entry `seq` of a log, so it has it and need not be sent it. At most
    /// `logs_max` logs are tracked.
    pub(super) fn note_has(&mut self, origin: Origin, seq: u64, logs_max: usize) {
        if has_room(&self.pushed, &origin, logs_max) {
            let pushed = self.pushed.entry(origin).or_default();
            *pushed = (*pushed).max(seq);
        }
        if !has_room(&self.heads, &origin, logs_max) {
            return;
        }
        let head = LogHead {
            origin,
            complete: 0,
            highest: seq,
            until: Timestamp::EPOCH,
            forgotten: Forgotten::default(),
        };
        let peer_head = self.heads.entry(origin).or_insert(PeerHead::new(head));
        peer_head.head.highest = peer_head.head.highest.max(seq);
    }

    /// The next entries of a log to push, at most `count_max`, with the number of the first. Moves the cursor
    /// behind them. A cursor that is more than `window` entries behind jumps ahead.
    pub(super) fn next_push(
        &mut self,
        origin: Origin,
        log: &Log,
        window: u64,
        count_max: usize,
    ) -> Option<(u64, Vec<Fact>)> {
        let highest = log.highest();
        let cursor = self.pushed.entry(origin).or_insert(highest);
        *cursor = (*cursor).max(highest.saturating_sub(window));
        let run = log.run(*cursor + 1, highest, count_max);
        *cursor = run
            .as_ref()
            .map_or(highest, |(first, facts)| first + u64::try_from(facts.len()).unwrap_or(0) - 1);
        if *cursor >= highest {
            self.unsent_logs.remove(&origin);
        }
        run
    }
}

/// Whether this log is tracked, or fewer than `logs_max` are.
pub(super) fn has_room<T>(tracked: &BTreeMap<Origin, T>, origin: &Origin, logs_max: usize) -> bool {
    tracked.len() < logs_max || tracked.contains_key(origin)
}
