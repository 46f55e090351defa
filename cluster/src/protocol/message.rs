//! The messages and their bytes.
//!
//! One message is one frame of a link, of at most [`MAX_BYTES`]. Numbers are big-endian. A decoder takes no
//! memory that the frame does not hold. A message of a kind that this version does not know is skipped
//! when its kind is [`OPTIONAL`] or above, and breaks the link else: later versions can say more, and say
//! whether it may be missed. A fact of a new kind is made only when every member speaks a version that
//! knows it, which their gossip says.
//!
//! Absurd values are refused here, so that nothing above has to reckon with them: a number beyond
//! [`MAX_SEQ`], an incarnation or an end beyond [`MAX_TIME`], a version beyond [`MAX_VERSION`], an id that
//! RFC 9562 gives to nobody (nil, max). No honest node makes them, so the link breaks.

use schema::{
    Fact, FactKind, NodeId, PermissionId, RoleId, SessionId, Subject, Timestamp, TokenId, UserId, id::KeyId,
    ledger::Origin, user::MAX_VERSION,
};

/// Longest message, in bytes.
pub const MAX_BYTES: usize = 60 * 1024;
/// Kinds from here on may be skipped by who does not know them.
pub const OPTIONAL: u8 = 128;
/// No log is longer. A million facts a second need nine years to get there.
pub const MAX_SEQ: u64 = 1 << 48;
/// No time and no incarnation, which is one, is later: the end of the year 9999, in milliseconds.
pub const MAX_TIME: u64 = 253_402_300_799_999;

/// Whether a node can have this id and incarnation.
#[must_use]
pub fn is_plausible(origin: Origin) -> bool {
    !NOBODIES.contains(origin.node.as_bytes()) && origin.incarnation <= MAX_TIME
}

/// Whether a peer would take this fact.
#[must_use]
pub fn is_sane(of: &Fact) -> bool {
    let mut bytes = Vec::with_capacity(48);
    fact(&mut bytes, of);
    Bytes(&bytes).fact().is_ok()
}

/// The ids that are given to nobody (RFC 9562, sections 5.9 and 5.10).
const NOBODIES: [[u8; 16]; 2] = [[0; 16], [0xff; 16]];

/// What one node says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// What the sender has of some logs.
    Heads(Vec<LogHead>),
    /// Entries of one log, numbered from `first` on.
    Facts {
        /// Whose log.
        origin: Origin,
        /// The number of the first.
        first: u64,
        /// What was taken away.
        facts: Vec<Fact>,
    },
    /// What the sender has applied of the receiver's log.
    Ack(Applied),
    /// Asks for entries of a log.
    Pull {
        /// Whose log.
        origin: Origin,
        /// The first one asked for.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// The end of what was pulled.
    Pulled {
        /// Whose log.
        origin: Origin,
        /// The last one that was asked for.
        last: u64,
        /// What the sender does not have any more.
        forgotten: Forgotten,
    },
    /// Asks for a [`Message::Pong`].
    Ping {
        /// Comes back.
        nonce: u64,
    },
    /// The head of the sender's own log, at a time after the ping was sent.
    Pong {
        /// That of the ping.
        nonce: u64,
        /// The number of the last fact.
        head: u64,
    },
    /// Sums of whole blocks of a log.
    Digests {
        /// Whose log.
        origin: Origin,
        /// The number of the first block.
        first: u64,
        /// One for each block; 0 for one that the sender does not hold whole.
        sums: Vec<u64>,
    },
    /// What the sender's clock says.
    Clock {
        /// The time there.
        at: Timestamp,
    },
    /// The sender ends; its log has no more than this.
    Leaving {
        /// The number of its last fact.
        head: u64,
    },
    /// The store does not take the sender's log: the receiver is asked to write these entries of it to its
    /// own disk. Since version 2.
    Keep {
        /// The number of the first.
        first: u64,
        /// The number of the last.
        last: u64,
    },
    /// These entries of the receiver's log are on the sender's disk. Since version 2.
    Kept {
        /// The number of the first.
        first: u64,
        /// The number of the last.
        last: u64,
    },
}

/// What somebody has of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// Whose log.
    pub origin: Origin,
    /// All up to this one.
    pub complete: u64,
    /// The highest one.
    pub highest: u64,
    /// When the last of its facts ends.
    pub until: Timestamp,
    /// What is not held any more.
    pub forgotten: Forgotten,
}

/// The beginning of a log that is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Up to this one.
    pub seq: u64,
    /// When the last of these facts ends.
    pub until: Timestamp,
}

/// What was applied of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// All up to this one.
    pub complete: u64,
    /// The newest ones above a gap, both included; `(0, 0)` when there is no gap.
    pub newest: (u64, u64),
}

impl Applied {
    /// Whether all of these were.
    #[must_use]
    pub const fn covers(&self, first: u64, last: u64) -> bool {
        let (from, to) = self.newest;
        last <= self.complete || (from > 0 && from <= first && last <= to)
    }
}

/// Bytes that are no message. The link they came from is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer sent {0}")]
pub struct Malformed(pub &'static str);

const HEADS: u8 = 1;
const FACTS: u8 = 2;
const ACK: u8 = 3;
const PULL: u8 = 4;
const PULLED: u8 = 5;
const PING: u8 = 6;
const PONG: u8 = 7;
const DIGESTS: u8 = 8;
const LEAVING: u8 = 9;
const CLOCK: u8 = OPTIONAL;
const KEEP: u8 = OPTIONAL + 1;
const KEPT: u8 = OPTIONAL + 2;

const SESSION_REVOKED: u8 = 1;
const TOKEN_REVOKED: u8 = 2;
const USER_VERSION: u8 = 3;
const KEY_RETIRED: u8 = 4;
const PERMISSIONS_OF_USER: u8 = 5;
const PERMISSIONS_OF_ROLE: u8 = 6;
const PERMISSIONS_WITH: u8 = 7;

impl Message {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Heads(heads) => {
                out.push(HEADS);
                for head in heads {
                    origin(out, head.origin);
                    numbers(out, &[head.complete, head.highest, head.until.as_millis()]);
                    forgotten(out, head.forgotten);
                }
            }
            Self::Facts { origin: of, first, facts } => {
                out.push(FACTS);
                origin(out, *of);
                numbers(out, &[*first]);
                facts.iter().for_each(|one| fact(out, one));
            }
            Self::Ack(applied) => {
                out.push(ACK);
                numbers(out, &[applied.complete, applied.newest.0, applied.newest.1]);
            }
            Self::Pull { origin: of, first, last } => {
                out.push(PULL);
                origin(out, *of);
                numbers(out, &[*first, *last]);
            }
            Self::Pulled { origin: of, last, forgotten: gone } => {
                out.push(PULLED);
                origin(out, *of);
                numbers(out, &[*last]);
                forgotten(out, *gone);
            }
            Self::Ping { nonce } => {
                out.push(PING);
                numbers(out, &[*nonce]);
            }
            Self::Pong { nonce, head } => {
                out.push(PONG);
                numbers(out, &[*nonce, *head]);
            }
            Self::Digests { origin: of, first, sums } => {
                out.push(DIGESTS);
                origin(out, *of);
                numbers(out, &[*first]);
                numbers(out, sums);
            }
            Self::Clock { at } => {
                out.push(CLOCK);
                numbers(out, &[at.as_millis()]);
            }
            Self::Leaving { head } => {
                out.push(LEAVING);
                numbers(out, &[*head]);
            }
            Self::Keep { first, last } => {
                out.push(KEEP);
                numbers(out, &[*first, *last]);
            }
            Self::Kept { first, last } => {
                out.push(KEPT);
                numbers(out, &[*first, *last]);
            }
        }
    }

    /// Reads one; `None` when it is of a kind that may be skipped.
    ///
    /// # Errors
    /// When the bytes are no message.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut bytes = Bytes(bytes);
        let message = match bytes.byte()? {
            HEADS => {
                let mut heads = Vec::new();
                while !bytes.is_empty() {
                    heads.push(bytes.head()?);
                }
                Self::Heads(heads)
            }
            FACTS => {
                let (origin, first, mut facts) = (bytes.origin()?, bytes.seq()?, Vec::new());
                while !bytes.is_empty() {
                    facts.push(bytes.fact()?);
                }
                let last = first.checked_add(u64::try_from(facts.len()).unwrap_or(u64::MAX));
                if first == 0 || last.is_none_or(|last| last > MAX_SEQ) {
                    return Err(TOO_LONG);
                }
                Self::Facts { origin, first, facts }
            }
            ACK => Self::Ack(Applied { complete: bytes.seq()?, newest: (bytes.seq()?, bytes.seq()?) }),
            PULL => Self::Pull { origin: bytes.origin()?, first: bytes.seq()?, last: bytes.seq()? },
            PULLED => {
                Self::Pulled { origin: bytes.origin()?, last: bytes.seq()?, forgotten: bytes.forgotten()? }
            }
            PING => Self::Ping { nonce: bytes.number()? },
            PONG => Self::Pong { nonce: bytes.number()?, head: bytes.seq()? },
            DIGESTS => {
                let (origin, first, mut sums) = (bytes.origin()?, bytes.seq()?, Vec::new());
                while !bytes.is_empty() {
                    sums.push(bytes.number()?);
                }
                Self::Digests { origin, first, sums }
            }
            // What a clock says is compared, and nothing more.
            CLOCK => Self::Clock { at: Timestamp::from_millis(bytes.number()?) },
            LEAVING => Self::Leaving { head: bytes.seq()? },
            KEEP => Self::Keep { first: bytes.seq()?, last: bytes.seq()? },
            KEPT => Self::Kept { first: bytes.seq()?, last: bytes.seq()? },
            kind if kind >= OPTIONAL => return Ok(None),
            _ => return Err(Malformed("a message of a kind that this version does not know")),
        };
        if bytes.is_empty() { Ok(Some(message)) } else { Err(Malformed("a message with more than it has")) }
    }
}

const TOO_LONG: Malformed = Malformed("a number that no log reaches");
const TOO_LATE: Malformed = Malformed("a time after the year 9999");
const TOO_HIGH: Malformed = Malformed("a version that no user reaches");
const NOBODY: Malformed = Malformed("an id that is given to nobody");

fn numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

fn origin(out: &mut Vec<u8>, origin: Origin) {
    out.extend_from_slice(origin.node.as_bytes());
    numbers(out, &[origin.incarnation]);
}

fn forgotten(out: &mut Vec<u8>, forgotten: Forgotten) {
    numbers(out, &[forgotten.seq, forgotten.until.as_millis()]);
}

fn fact(out: &mut Vec<u8>, fact: &Fact) {
    kind(out, &fact.kind);
    numbers(out, &[fact.until.as_millis()]);
}

/// What was taken away, without how long it matters.
pub(super) fn kind(out: &mut Vec<u8>, kind: &FactKind) {
    let (tag, id): (u8, &[u8; 16]) = match kind {
        FactKind::SessionRevoked { session, .. } => (SESSION_REVOKED, session.as_bytes()),
        FactKind::TokenRevoked { token } => (TOKEN_REVOKED, token.as_bytes()),
        FactKind::UserVersion { user, .. } => (USER_VERSION, user.as_bytes()),
        FactKind::KeyRetired { key } => (KEY_RETIRED, key.as_bytes()),
        FactKind::PermissionsChanged { subject } => match subject {
            Subject::User(user) => (PERMISSIONS_OF_USER, user.as_bytes()),
            Subject::Role(role) => (PERMISSIONS_OF_ROLE, role.as_bytes()),
            Subject::Permission(permission) => (PERMISSIONS_WITH, permission.as_bytes()),
        },
    };
    out.push(tag);
    out.extend_from_slice(id);
    match kind {
        FactKind::SessionRevoked { user, .. } => out.extend_from_slice(user.as_bytes()),
        FactKind::UserVersion { at_least, .. } => numbers(out, &[*at_least]),
        _ => {}
    }
}

/// What is left of a frame.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed("a message that ends early"))?;
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
        Some(self.number()?).filter(|seq| *seq <= MAX_SEQ).ok_or(TOO_LONG)
    }

    fn time(&mut self) -> Result<Timestamp, Malformed> {
        let millis = Some(self.number()?).filter(|millis| *millis <= MAX_TIME).ok_or(TOO_LATE)?;
        Ok(Timestamp::from_millis(millis))
    }

    fn id(&mut self) -> Result<[u8; 16], Malformed> {
        Some(self.take()?).filter(|id| !NOBODIES.contains(id)).ok_or(NOBODY)
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
        let (tag, id) = (self.byte()?, self.id()?);
        let kind = match tag {
            SESSION_REVOKED => FactKind::SessionRevoked {
                session: SessionId::from_bytes(id),
                user: UserId::from_bytes(self.id()?),
            },
            TOKEN_REVOKED => FactKind::TokenRevoked { token: TokenId::from_bytes(id) },
            USER_VERSION => FactKind::UserVersion { user: UserId::from_bytes(id), at_least: self.version()? },
            KEY_RETIRED => FactKind::KeyRetired { key: KeyId::from_bytes(id) },
            PERMISSIONS_OF_USER => changed(Subject::User(UserId::from_bytes(id))),
            PERMISSIONS_OF_ROLE => changed(Subject::Role(RoleId::from_bytes(id))),
            PERMISSIONS_WITH => changed(Subject::Permission(PermissionId::from_bytes(id))),
            _ => return Err(Malformed("a fact of a kind that this version does not know")),
        };
        Ok(Fact { kind, until: self.time()? })
    }
}

const fn changed(subject: Subject) -> FactKind {
    FactKind::PermissionsChanged { subject }
}
