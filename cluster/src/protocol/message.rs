//! The messages of the protocol and their bytes.
//!
//! One message is one frame of a link, of at most [`MESSAGE_BYTES_MAX`]. Numbers are big-endian. Decoding
//! takes no more memory than the frame justifies. A receiver skips a message of an unknown kind if its kind
//! is [`OPTIONAL_KIND_MIN`] or above, and closes the link otherwise. So later versions can add messages and
//! decide which of them may be missed. A node publishes a fact of a new kind only when every member speaks a
//! version that knows it, which gossip tells.
//!
//! Decoding refuses absurd values, so no other code meets them: a number beyond [`SEQ_MAX`], an incarnation
//! or an expiry beyond [`TIME_MAX_MS`], a user version beyond [`MAX_VERSION`], and an id that RFC 9562
//! reserves (nil, max). No honest node sends them, so the link is closed.

use schema::{
    Fact, FactKind, NodeId, PermissionId, RoleId, SessionId, Subject, Timestamp, TokenId, UserId, id::KeyId,
    ledger::Origin, version::MAX_VERSION,
};

/// The maximum size of a message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 60 * 1024;
/// A receiver may skip a message of an unknown kind from this one on.
pub const OPTIONAL_KIND_MIN: u8 = 128;
/// The maximum number of entries in a log. A million facts a second need nine years to reach it.
pub const SEQ_MAX: u64 = 1 << 48;
/// The latest time, and so the highest incarnation: the end of the year 9999, in milliseconds.
pub const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// Whether a node can have this id and incarnation.
#[must_use]
pub fn is_plausible(origin: Origin) -> bool {
    !RESERVED_IDS.contains(origin.node.as_bytes()) && origin.incarnation <= TIME_MAX_MS
}

/// Whether a peer would accept this fact.
#[must_use]
pub fn is_sane(fact: &Fact) -> bool {
    let mut bytes = Vec::with_capacity(48);
    encode_fact(&mut bytes, fact);
    Bytes(&bytes).fact().is_ok()
}

/// The ids that no object can have (RFC 9562, sections 5.9 and 5.10).
const RESERVED_IDS: [[u8; 16]; 2] = [[0; 16], [0xff; 16]];

/// What one node sends to another over a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// What the sender has of some logs.
    Heads(Vec<LogHead>),
    /// Entries of one log, numbered from `first` on.
    Facts {
        /// The origin of the log.
        origin: Origin,
        /// The number of the first entry.
        first: u64,
        /// The facts of the entries.
        facts: Vec<Fact>,
    },
    /// What the sender has applied of the receiver's log.
    Ack(Applied),
    /// Asks for entries of a log.
    Pull {
        /// The origin of the log.
        origin: Origin,
        /// The number of the first entry.
        first: u64,
        /// The number of the last entry.
        last: u64,
    },
    /// The end of the answer to a pull.
    Pulled {
        /// The origin of the log.
        origin: Origin,
        /// The number of the last entry that was asked for.
        last: u64,
        /// The beginning of the log that the sender no longer holds.
        forgotten: Forgotten,
    },
    /// Asks for a [`Message::Pong`].
    Ping {
        /// The number that the answer repeats.
        nonce: u64,
    },
    /// The head of the sender's own log, at a time after the ping was sent.
    Pong {
        /// The nonce of the ping.
        nonce: u64,
        /// The number of the sender's last fact.
        head: u64,
    },
    /// Checksums of whole blocks of a log.
    Digests {
        /// The origin of the log.
        origin: Origin,
        /// The number of the first block.
        first: u64,
        /// A checksum for each block; 0 for a block that the sender does not hold whole.
        sums: Vec<u64>,
    },
    /// The sender's wall clock, or the furthest time that it has shown.
    Clock {
        /// The time.
        at: Timestamp,
    },
    /// The sender stops; its log ends here.
    Leaving {
        /// The number of the sender's last fact.
        head: u64,
    },
    /// Asks the receiver to write these entries of the sender's log to its disk, because the store does not
    /// accept writes. Since version 2.
    Keep {
        /// The number of the first entry.
        first: u64,
        /// The number of the last entry.
        last: u64,
    },
    /// Confirms that these entries of the receiver's log are on the sender's disk. Since version 2.
    Kept {
        /// The number of the first entry.
        first: u64,
        /// The number of the last entry.
        last: u64,
    },
}

/// What a node has of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// The origin of the log.
    pub origin: Origin,
    /// Every entry up to this number was applied or has expired.
    pub complete: u64,
    /// The highest entry applied.
    pub highest: u64,
    /// When the last of its facts expires.
    pub until: Timestamp,
    /// The beginning of the log that is no longer held.
    pub forgotten: Forgotten,
}

/// The beginning of a log that a node no longer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// The number of the last entry that is no longer held; 0 if all are.
    pub seq: u64,
    /// When the last of these facts expires.
    pub until: Timestamp,
}

/// What a node has applied of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Every entry up to this number was applied or has expired.
    pub complete: u64,
    /// The first and the last number of the newest run above a gap; `(0, 0)` when there is no gap.
    pub newest: (u64, u64),
}

impl Applied {
    /// Whether all entries from `first` to `last` were applied.
    #[must_use]
    pub const fn covers(&self, first: u64, last: u64) -> bool {
        let (from, to) = self.newest;
        last <= self.complete || (from > 0 && from <= first && last <= to)
    }
}

/// A frame that is no valid message. The link that it came from is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent {0}")]
pub struct Malformed(pub &'static str);

// The first byte of a message.
const KIND_HEADS: u8 = 1;
const KIND_FACTS: u8 = 2;
const KIND_ACK: u8 = 3;
const KIND_PULL: u8 = 4;
const KIND_PULLED: u8 = 5;
const KIND_PING: u8 = 6;
const KIND_PONG: u8 = 7;
const KIND_DIGESTS: u8 = 8;
const KIND_LEAVING: u8 = 9;
const KIND_CLOCK: u8 = OPTIONAL_KIND_MIN;
const KIND_KEEP: u8 = OPTIONAL_KIND_MIN + 1;
const KIND_KEPT: u8 = OPTIONAL_KIND_MIN + 2;

// The first byte of a fact.
const FACT_SESSION_REVOKED: u8 = 1;
const FACT_TOKEN_REVOKED: u8 = 2;
const FACT_USER_VERSION: u8 = 3;
const FACT_KEY_RETIRED: u8 = 4;
const FACT_PERMISSIONS_OF_USER: u8 = 5;
const FACT_PERMISSIONS_OF_ROLE: u8 = 6;
const FACT_PERMISSIONS_WITH: u8 = 7;

impl Message {
    /// Appends the message's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Heads(heads) => {
                out.push(KIND_HEADS);
                for head in heads {
                    encode_origin(out, head.origin);
                    encode_numbers(out, &[head.complete, head.highest, head.until.as_millis()]);
                    encode_forgotten(out, head.forgotten);
                }
            }
            Self::Facts { origin, first, facts } => {
                out.push(KIND_FACTS);
                encode_origin(out, *origin);
                encode_numbers(out, &[*first]);
                facts.iter().for_each(|fact| encode_fact(out, fact));
            }
            Self::Ack(applied) => {
                out.push(KIND_ACK);
                encode_numbers(out, &[applied.complete, applied.newest.0, applied.newest.1]);
            }
            Self::Pull { origin, first, last } => {
                out.push(KIND_PULL);
                encode_origin(out, *origin);
                encode_numbers(out, &[*first, *last]);
            }
            Self::Pulled { origin, last, forgotten } => {
                out.push(KIND_PULLED);
                encode_origin(out, *origin);
                encode_numbers(out, &[*last]);
                encode_forgotten(out, *forgotten);
            }
            Self::Ping { nonce } => {
                out.push(KIND_PING);
                encode_numbers(out, &[*nonce]);
            }
            Self::Pong { nonce, head } => {
                out.push(KIND_PONG);
                encode_numbers(out, &[*nonce, *head]);
            }
            Self::Digests { origin, first, sums } => {
                out.push(KIND_DIGESTS);
                encode_origin(out, *origin);
                encode_numbers(out, &[*first]);
                encode_numbers(out, sums);
            }
            Self::Clock { at } => {
                out.push(KIND_CLOCK);
                encode_numbers(out, &[at.as_millis()]);
            }
            Self::Leaving { head } => {
                out.push(KIND_LEAVING);
                encode_numbers(out, &[*head]);
            }
            Self::Keep { first, last } => {
                out.push(KIND_KEEP);
                encode_numbers(out, &[*first, *last]);
            }
            Self::Kept { first, last } => {
                out.push(KIND_KEPT);
                encode_numbers(out, &[*first, *last]);
            }
        }
    }

    /// Reads a message; `None` if it is of an unknown kind that may be skipped.
    ///
    /// # Errors
    /// When the bytes are no valid message.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut bytes = Bytes(bytes);
        let message = match bytes.byte()? {
            KIND_HEADS => {
                let mut heads = Vec::new();
                while !bytes.is_empty() {
                    heads.push(bytes.head()?);
                }
                Self::Heads(heads)
            }
            KIND_FACTS => {
                let origin = bytes.origin()?;
                let first = bytes.seq()?;
                let mut facts = Vec::new();
                while !bytes.is_empty() {
                    facts.push(bytes.fact()?);
                }
                let last = first.checked_add(u64::try_from(facts.len()).unwrap_or(u64::MAX));
                if first == 0 || last.is_none_or(|last| last > SEQ_MAX) {
                    return Err(TOO_LONG);
                }
                Self::Facts { origin, first, facts }
            }
            KIND_ACK => Self::Ack(Applied { complete: bytes.seq()?, newest: (bytes.seq()?, bytes.seq()?) }),
            KIND_PULL => Self::Pull { origin: bytes.origin()?, first: bytes.seq()?, last: bytes.seq()? },
            KIND_PULLED => {
                Self::Pulled { origin: bytes.origin()?, last: bytes.seq()?, forgotten: bytes.forgotten()? }
            }
            KIND_PING => Self::Ping { nonce: bytes.number()? },
            KIND_PONG => Self::Pong { nonce: bytes.number()?, head: bytes.seq()? },
            KIND_DIGESTS => {
                let origin = bytes.origin()?;
                let first = bytes.seq()?;
                let mut sums = Vec::new();
                while !bytes.is_empty() {
                    sums.push(bytes.number()?);
                }
                Self::Digests { origin, first, sums }
            }
            // Any time is allowed: a clock is only compared.
            KIND_CLOCK => Self::Clock { at: Timestamp::from_millis(bytes.number()?) },
            KIND_LEAVING => Self::Leaving { head: bytes.seq()? },
            KIND_KEEP => Self::Keep { first: bytes.seq()?, last: bytes.seq()? },
            KIND_KEPT => Self::Kept { first: bytes.seq()?, last: bytes.seq()? },
            kind if kind >= OPTIONAL_KIND_MIN => return Ok(None),
            _ => return Err(Malformed("a message of a kind that this version does not know")),
        };
        if bytes.is_empty() { Ok(Some(message)) } else { Err(Malformed("a message with trailing bytes")) }
    }
}

const TOO_LONG: Malformed = Malformed("a number beyond the maximum length of a log");
const TOO_LATE: Malformed = Malformed("a time after the year 9999");
const TOO_HIGH: Malformed = Malformed("a user version above the maximum");
const RESERVED_ID: Malformed = Malformed("a reserved id");

fn encode_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

fn encode_origin(out: &mut Vec<u8>, origin: Origin) {
    out.extend_from_slice(origin.node.as_bytes());
    encode_numbers(out, &[origin.incarnation]);
}

fn encode_forgotten(out: &mut Vec<u8>, forgotten: Forgotten) {
    encode_numbers(out, &[forgotten.seq, forgotten.until.as_millis()]);
}

fn encode_fact(out: &mut Vec<u8>, fact: &Fact) {
    encode_kind(out, &fact.kind);
    encode_numbers(out, &[fact.until.as_millis()]);
}

/// Encodes a fact without its expiry.
pub(super) fn encode_kind(out: &mut Vec<u8>, kind: &FactKind) {
    let (tag, id): (u8, &[u8; 16]) = match kind {
        FactKind::SessionRevoked { session, .. } => (FACT_SESSION_REVOKED, session.as_bytes()),
        FactKind::TokenRevoked { token } => (FACT_TOKEN_REVOKED, token.as_bytes()),
        FactKind::UserVersion { user, .. } => (FACT_USER_VERSION, user.as_bytes()),
        FactKind::KeyRetired { key } => (FACT_KEY_RETIRED, key.as_bytes()),
        FactKind::PermissionsChanged { subject } => match subject {
            Subject::User(user) => (FACT_PERMISSIONS_OF_USER, user.as_bytes()),
            Subject::Role(role) => (FACT_PERMISSIONS_OF_ROLE, role.as_bytes()),
            Subject::Permission(permission) => (FACT_PERMISSIONS_WITH, permission.as_bytes()),
        },
    };
    out.push(tag);
    out.extend_from_slice(id);
    match kind {
        FactKind::SessionRevoked { user, .. } => out.extend_from_slice(user.as_bytes()),
        FactKind::UserVersion { at_least, .. } => encode_numbers(out, &[*at_least]),
        _ => {}
    }
}

/// The bytes of a frame that were not read yet.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed("a message that is too short"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take::<1>()?[0])
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn seq(&mut self) -> Result<u64, Malformed> {
        Some(self.number()?).filter(|seq| *seq <= SEQ_MAX).ok_or(TOO_LONG)
    }

    fn time(&mut self) -> Result<Timestamp, Malformed> {
        let millis = Some(self.number()?).filter(|millis| *millis <= TIME_MAX_MS).ok_or(TOO_LATE)?;
        Ok(Timestamp::from_millis(millis))
    }

    fn id(&mut self) -> Result<[u8; 16], Malformed> {
        Some(self.take()?).filter(|id| !RESERVED_IDS.contains(id)).ok_or(RESERVED_ID)
    }

    fn version(&mut self) -> Result<u64, Malformed> {
        Some(self.number()?).filter(|version| *version <= MAX_VERSION).ok_or(TOO_HIGH)
    }

    fn origin(&mut self) -> Result<Origin, Malformed> {
        Ok(Origin { node: NodeId::from_bytes(self.id()?), incarnation: self.time()?.as_millis() })
    }

    fn forgotten(&mut self) -> Result<Forgotten, Malformed> {
        Ok(Forgotten { seq: self.seq()?, until: self.time()? })
    }

    fn head(&mut self) -> Result<LogHead, Malformed> {
        Ok(LogHead {
            origin: self.origin()?,
            complete: self.seq()?,
            highest: self.seq()?,
            until: self.time()?,
            forgotten: self.forgotten()?,
        })
    }

    fn fact(&mut self) -> Result<Fact, Malformed> {
        let tag = self.byte()?;
        let id = self.id()?;
        let kind = match tag {
            FACT_SESSION_REVOKED => FactKind::SessionRevoked {
                session: SessionId::from_bytes(id),
                user: UserId::from_bytes(self.id()?),
            },
            FACT_TOKEN_REVOKED => FactKind::TokenRevoked { token: TokenId::from_bytes(id) },
            FACT_USER_VERSION => {
                FactKind::UserVersion { user: UserId::from_bytes(id), at_least: self.version()? }
            }
            FACT_KEY_RETIRED => FactKind::KeyRetired { key: KeyId::from_bytes(id) },
            FACT_PERMISSIONS_OF_USER => changed(Subject::User(UserId::from_bytes(id))),
            FACT_PERMISSIONS_OF_ROLE => changed(Subject::Role(RoleId::from_bytes(id))),
            FACT_PERMISSIONS_WITH => changed(Subject::Permission(PermissionId::from_bytes(id))),
            _ => return Err(Malformed("a fact of a kind that this version does not know")),
        };
        Ok(Fact { kind, until: self.time()? })
    }
}

const fn changed(subject: Subject) -> FactKind {
    FactKind::PermissionsChanged { subject }
}
