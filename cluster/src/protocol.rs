//! What is said over links, and why nothing is missed: a state machine without I/O, clock or randomness.
//!
//! Every origin numbers its facts without gaps, so what a node lacks is a range of numbers. Each node
//! keeps the logs that it heard ([`log`]) as long as their facts matter, and can give them to others: the
//! origin may be dead. A newcomer's snapshot is nothing else than all ranges of all logs.
//!
//! * **Push.** What is new in this node's own log goes to every peer at once. There is no queue: a peer has
//!   a cursor in the log, so while one write is in flight the next facts gather. A cursor that falls too
//!   far behind jumps ahead, and the peer pulls what was left out.
//! * **Acknowledge.** `complete` (all up to here was applied) and the newest range above a gap: a newcomer
//!   that still pulls the past acknowledges the present.
//! * **Pull.** Heads tell who has what; a gap is asked from its origin at once, from others after a moment.
//! * **Forget.** What ended before the [`Horizon`] is dropped in whole blocks. A peer that asks for it
//!   is told until when it mattered and judges by its own horizon, so that a clock that runs ahead elsewhere
//!   skips nothing here.
//! * **Clocks.** Peers tell each other what their clocks say. The furthest time that a peer's clock has shown
//!   counts until this node's clock gets there: tokens may have been issued by it.
//! * **Digests.** Once a minute the sums of whole blocks are compared; what differs is pulled again.
//! * **Freshness.** A ping's answer carries the head of the peer's log. When that is applied here, this node
//!   knew everything of the peer's at the time when it *sent* the ping.
//!
//! Above [`Tuning::mesh`] members, links are few and chosen at random, and every node passes on what is new
//! in any log.
//!
//! A machine never applies a fact: who runs it applies what a frame holds and only then gives it to the
//! machine, so that nothing is acknowledged that does not refuse yet.
//!
//! What it holds is bounded in bytes, whatever peers say:
//!
//! | what | at most | by |
//! |---|---|---|
//! | entries of all logs | 128 MiB, and one log's last block of 12 KiB | [`Tuning::max_bytes`]; the largest log loses what is oldest |
//! | logs | 8,192, some 3 MiB | [`Tuning::max_logs`]; a linked peer's own log takes the place of one that nobody writes |
//! | what peers have of logs, and were sent | 262,144 of each, 50 MiB | [`peer::MAX_NOTES`], an equal share for each link |
//! | heads and digests still to be told | one number a log and link, 50 MiB at 128 links | as many links as its runner lets in |
//! | other nodes | 16,384, 2 MiB | `MAX_MEMBERS` |
//! | pulls, answers, repairs, ranges to keep of a link | 1, 4, 64, 2 | constants of [`peer`] |
//!
//! | to find | look in |
//! |---|---|
//! | the messages and their bytes | [`message`] |
//! | one origin's log, held and forgotten | [`log`] |
//! | the rules above | [`machine`] |
//! | what it knows of one peer | [`peer`] |

pub mod log;
pub mod machine;
pub mod message;
pub mod peer;

use std::{ops::RangeInclusive, time::Duration};

use schema::{Horizon, Timestamp};

pub use machine::Machine;
pub use message::Message;

/// The versions of the protocol that this node speaks: 2 has [`Message::Keep`] and [`Message::Kept`].
pub const VERSIONS: RangeInclusive<u8> = 1..=2;
/// From this version on a peer can be asked to write entries to its disk.
const KEEPS: u8 = 2;

/// The time, as given by who runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some moment of this process; it never jumps. Waits and freshness are measured by it.
    pub monotonic: Duration,
    /// What others are told that this node's clock says. Nothing ends by it.
    pub wall: Timestamp,
    /// By which facts end and are forgotten.
    pub horizon: Horizon,
}

/// The numbers of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Facts in one message.
    pub batch: usize,
    /// How far a cursor may fall behind before it jumps.
    pub window: u64,
    /// Entries in one pull.
    pub pull: u64,
    /// The memory for entries of all logs together, in bytes.
    pub max_bytes: usize,
    /// How far beyond what is complete of a log an entry may lie. One that lies further is not taken from
    /// who sends it; what is missing is asked for first.
    pub reach: u64,
    /// How many logs are followed.
    pub max_logs: usize,
    /// Between pings.
    pub ping: Duration,
    /// Between heads, when they changed.
    pub heads: Duration,
    /// How long a gap is left to its origin.
    pub patience: Duration,
    /// How long a pull or a ping may go unanswered before it is given up. A log of which a pull failed is not
    /// pulled from that peer again for as long. What a peer said that it lacks is asked for again when its head
    /// shows more, or after the next digest.
    pub retry: Duration,
    /// Between digests.
    pub digests: Duration,
    /// How long a member that did not leave is waited for by who wants to be fresh, as long as the ledger
    /// is read.
    pub forget: Duration,
    /// Up to so many members everybody is linked with everybody.
    pub mesh: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            batch: 512,
            window: 8_192,
            pull: 65_536,
            max_bytes: 128 * 1024 * 1024,
            reach: 2_097_152,
            max_logs: 8_192,
            ping: Duration::from_millis(250),
            heads: Duration::from_secs(1),
            patience: Duration::from_millis(100),
            retry: Duration::from_secs(2),
            digests: Duration::from_secs(60),
            forget: Duration::from_secs(3_600),
            mesh: 64,
        }
    }
}

#[cfg(test)]
mod tests;
