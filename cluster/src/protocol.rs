//! The replication protocol: which messages nodes exchange over links so that none misses a fact.
//!
//! It is a state machine without I/O, clock or randomness. `PROTOCOL.md` describes the algorithm.
//!
//! Every origin numbers its facts without gaps, so what a node lacks is a range of numbers. Each node keeps
//! the logs that it knows ([`log`]) until their facts have expired, and can give them to other nodes, because
//! the origin may be dead. A node that joins needs no snapshot: it pulls all ranges of all logs.
//!
//! * **Push.** New facts of this node go to every peer at once. There is no queue: each peer has a cursor in
//!   the log, so facts gather while a write is in flight. A cursor that falls too far behind jumps ahead, and
//!   the peer pulls what was left out.
//! * **Acknowledge.** An acknowledgement names `complete` (all entries up to it are applied) and the newest
//!   range above a gap, so a node that still pulls the past acknowledges the present.
//! * **Pull.** Heads tell which node has what. A gap is pulled from its origin at once, from other peers
//!   after [`Tuning::pull_delay`].
//! * **Forget.** Facts that expired before the [`Horizon`] are dropped in whole blocks. A peer that pulls
//!   them is told until when they mattered and judges by its own horizon, so a clock that runs ahead on
//!   another node skips nothing here.
//! * **Clocks.** Peers report their clocks. The furthest time that a peer's clock has shown counts until this
//!   node's clock reaches it, because tokens may have been issued by it.
//! * **Digests.** Once a minute, nodes compare checksums of whole blocks and pull blocks that differ again.
//! * **Freshness.** A pong carries the head of the peer's log. When that is applied here, this node knew
//!   everything that the peer had published when the ping was *sent*.
//!
//! Above [`Tuning::mesh_max`] members, links are few and chosen at random, and every node forwards new
//! entries of every log.
//!
//! Promises: memory is bounded whatever peers send:
//!
//! | what | at most | by |
//! |---|---|---|
//! | entries of all logs | 128 MiB, and one log's last block of 12 KiB | [`Tuning::bytes_max`]; the largest log drops its oldest block |
//! | logs | 8,192, some 3 MiB | [`Tuning::logs_max`]; a linked peer's own log replaces one whose origin is gone |
//! | what peers have of logs, and were sent | 262,144 of each, 50 MiB | [`peer::TRACKED_LOGS_MAX`], an equal share for each link |
//! | heads and digests still to be sent | one number for each log and link, 50 MiB at 128 links | the runtime's limit of links |
//! | other nodes | 16,384, 2 MiB | `MEMBERS_MAX` |
//! | pulls, answers, repairs, ranges to keep of a link | 1, 4, 64, 2 | constants of [`peer`] |
//!
//! Never: a [`Replicator`] applies no fact. The task that runs it applies the facts of a frame and only then
//! passes the frame on, so nothing is acknowledged that this node does not refuse yet.
//!
//! | to find | look in |
//! |---|---|
//! | the messages and their bytes | [`message`] |
//! | one origin's log: what is held, what is forgotten | [`log`] |
//! | the rules above | [`replicator`] |
//! | what this node knows of one peer | [`peer`] |

pub mod log;
pub mod message;
pub mod peer;
pub mod range;
pub mod replicator;

use std::{ops::RangeInclusive, time::Duration};

use schema::{Horizon, Timestamp};

pub use message::Message;
pub use range::SeqRange;
pub use replicator::Replicator;

/// The protocol versions that this node speaks. Version 2 adds [`Message::Keep`] and [`Message::Kept`].
pub const VERSIONS: RangeInclusive<u8> = 1..=2;
/// The lowest version with [`Message::Keep`]: a peer that speaks it can be asked to write entries to its
/// disk.
const KEEP_VERSION_MIN: u8 = 2;

/// The time, as the caller of a [`Replicator`] passes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time since some moment of this process. It never jumps; time-outs and freshness are measured by
    /// it.
    pub monotonic: Duration,
    /// The wall clock, which this node reports to peers. Nothing expires by it.
    pub wall: Timestamp,
    /// The time by which facts expire and are forgotten.
    pub horizon: Horizon,
}

/// The limits and intervals of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// The maximum number of facts in one message.
    pub batch_max: usize,
    /// How many entries a push may lag behind the log before its cursor jumps ahead.
    pub push_window: u64,
    /// The maximum number of entries in one pull.
    pub pull_max: u64,
    /// The maximum memory for the entries of all logs together, in bytes.
    pub bytes_max: usize,
    /// How far beyond `complete` an entry may lie. An entry that lies further is refused; the entries before
    /// it are pulled first.
    pub reach_max: u64,
    /// The maximum number of logs.
    pub logs_max: usize,
    /// The time between pings.
    pub ping_interval: Duration,
    /// The time between messages of heads, when heads changed.
    pub heads_interval: Duration,
    /// How long a gap is left to its origin before other peers are asked.
    pub pull_delay: Duration,
    /// How long a pull or a ping may go unanswered before it is given up. A log of which a pull failed is not
    /// pulled from that peer again for the same time. Entries that a peer said it lacks are pulled from it
    /// again when its head shows more, or after the next digest.
    pub request_timeout: Duration,
    /// The time between digests.
    pub digest_interval: Duration,
    /// How long a member that vanished without leaving keeps counting against freshness, provided the ledger
    /// is readable.
    pub member_expiry: Duration,
    /// The maximum number of members for which every node is linked with every other.
    pub mesh_max: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            batch_max: 512,
            push_window: 8_192,
            pull_max: 65_536,
            bytes_max: 128 * 1024 * 1024,
            reach_max: 2_097_152,
            logs_max: 8_192,
            ping_interval: Duration::from_millis(250),
            heads_interval: Duration::from_secs(1),
            pull_delay: Duration::from_millis(100),
            request_timeout: Duration::from_secs(2),
            digest_interval: Duration::from_secs(60),
            member_expiry: Duration::from_secs(3_600),
            mesh_max: 64,
        }
    }
}

#[cfg(test)]
mod tests;
