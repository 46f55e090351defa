//! Sessions, and the check of a presented refresh token.
//!
//! A session holds the hash of its single live refresh token and, during the grace period, the hashes of the
//! spent ones, so that clients that refresh concurrently all get the same successor.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{SessionId, UserId},
    time::Timestamp,
};

/// Limit of the sessions of a user. The oldest ends when another begins.
pub const MAX_SESSIONS: usize = 10_000;
/// Limit of spent tokens that a session remembers during their grace. A client that refreshes more often than
/// this within the grace, and then presents the oldest token again, is taken for a thief.
pub const MAX_SPENT: usize = 16;
/// Limit of the length of a `device`, in characters.
pub const MAX_DEVICE_CHARS: usize = 200;
/// Limit of the length of a stored `User-Agent`, in characters; a longer one is cut.
pub const MAX_USER_AGENT_CHARS: usize = 400;

/// The SHA-256 of a refresh token's secret, stored in hex. The secret has 256 random bits, so the hash discloses
/// nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash with this digest.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 32 bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(HEX[usize::from(half)]);
        hash.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "not 64 hexadecimal digits";
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(WRONG);
        }
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(Self(digest))
    }
}

/// A session, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// The session's user.
    pub user: UserId,
    /// The user's version when the session began or last changed the password. A session with a lower version
    /// than its user is revoked.
    #[serde(deserialize_with = "crate::version::stored_version")]
    pub user_version: u64,
    /// The name that the client gave itself.
    pub device: Option<String>,
    /// The client's address at the log-in.
    pub ip_address: IpAddr,
    /// The client's `User-Agent` at the log-in.
    pub user_agent: Option<String>,
    /// When the session began.
    pub created_at: Timestamp,
    /// When the session last received tokens.
    pub last_used_at: Timestamp,
    /// When the live refresh token expires.
    pub expires_at: Timestamp,
    /// The hash of the live refresh token.
    pub live: SecretHash,
    /// The tokens that were spent within the grace, newest first, at most [`MAX_SPENT`].
    pub spent: Vec<Spent>,
}

/// A refresh token that was spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The hash of the token.
    pub hash: SecretHash,
    /// When it was spent.
    pub at: Timestamp,
    /// When the successor expires that it was spent for, so that the same successor can be made again.
    pub successor_expires_at: Timestamp,
}

/// The state of a presented refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// The live token: it may be spent.
    Live,
    /// Spent within the grace: the client gets the same successor again.
    Grace {
        /// When the successor expires.
        successor_expires_at: Timestamp,
    },
    /// Spent before the grace: the token was copied.
    Reused,
}

impl Session {
    /// The state of the token with this hash. The caller has checked by its tag that it was issued for this
    /// session, so a token that is neither live nor within its grace was spent before.
    #[must_use]
    pub fn presented(&self, hash: &SecretHash, now: Timestamp, grace: Duration) -> Presented {
        if self.live == *hash {
            return Presented::Live;
        }
        match self.spent.iter().find(|spent| spent.hash == *hash && now.since(spent.at) < grace) {
            Some(spent) => Presented::Grace { successor_expires_at: spent.successor_expires_at },
            None => Presented::Reused,
        }
    }

    /// This session after its live token was spent for `successor`.
    #[must_use]
    pub fn rotated(
        &self,
        successor: SecretHash,
        expires_at: Timestamp,
        now: Timestamp,
        grace: Duration,
    ) -> Self {
        let newest = Spent { hash: self.live, at: now, successor_expires_at: expires_at };
        let recent = self.spent.iter().filter(|spent| now.since(spent.at) < grace).cloned();
        let spent = std::iter::once(newest).chain(recent).take(MAX_SPENT).collect();
        Self { live: successor, spent, expires_at, last_used_at: now, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn hash(n: u8) -> SecretHash {
        SecretHash::new([n; 32])
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn session() -> Session {
        Session {
            id: SessionId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            user_version: 0,
            device: None,
            ip_address: [127, 0, 0, 1].into(),
            user_agent: None,
            created_at: at(0),
            last_used_at: at(0),
            expires_at: at(1_000),
            live: hash(0),
            spent: Vec::new(),
        }
    }

    #[test]
    fn token_is_live_then_in_grace_then_reused() {
        let session = session();
        assert_eq!(session.presented(&hash(0), at(1), GRACE), Presented::Live);
        let next = session.rotated(hash(1), at(2_000), at(100), GRACE);
        let grace = Presented::Grace { successor_expires_at: at(2_000) };
        assert_eq!(next.presented(&hash(1), at(100), GRACE), Presented::Live);
        assert_eq!(next.presented(&hash(0), at(109), GRACE), grace);
        assert_eq!(next.presented(&hash(0), at(110), GRACE), Presented::Reused);
        assert_eq!(next.presented(&hash(9), at(100), GRACE), Presented::Reused);
    }

    #[test]
    fn older_generations_keep_their_own_grace() {
        let mut session = session();
        for n in 1..=3 {
            session = session.rotated(hash(n), at(1_000 + u64::from(n)), at(100 + u64::from(n)), GRACE);
        }
        let grace = Presented::Grace { successor_expires_at: at(1_001) };
        assert_eq!(session.presented(&hash(0), at(105), GRACE), grace);
        assert_eq!(session.presented(&hash(0), at(111), GRACE), Presented::Reused);
        assert_ne!(session.presented(&hash(2), at(111), GRACE), Presented::Reused);
    }

    #[test]
    fn remembered_spent_tokens_are_bounded() {
        let mut session = session();
        for n in 1..=40 {
            session = session.rotated(hash(n), at(2_000), at(100), GRACE);
        }
        assert_eq!(session.spent.len(), MAX_SPENT);
        assert_eq!(session.rotated(hash(99), at(2_000), at(111), GRACE).spent.len(), 1);
    }

    #[test]
    fn hash_is_stored_in_hex() {
        let text = serde_json::to_string(&hash(0xa7)).unwrap();
        assert_eq!(text, format!("\"{}\"", "a7".repeat(32)));
        assert_eq!(serde_json::from_str::<SecretHash>(&text).unwrap(), hash(0xa7));
        for bad in ["\"\"", "\"a7\"", &format!("\"{}\"", "g".repeat(64)), &format!("\"{}\"", "é".repeat(32))]
        {
            assert!(serde_json::from_str::<SecretHash>(bad).is_err(), "{bad}");
        }
    }
}
