//! Sessions, and what becomes of a refresh token that is shown.
//!
//! A session holds the hash of its one live refresh token and, for the time of the grace, those
//! that were spent, so that callers who refresh at the same time all get the same successor.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{SessionId, UserId},
    time::Timestamp,
};

/// How many sessions a user may have; the oldest ends when one more begins.
pub const MAX_SESSIONS: usize = 10_000;
/// How many spent tokens a session remembers for its grace. A client that refreshes this often
/// within the grace and then shows the oldest one again is taken for a thief.
pub const MAX_SPENT: usize = 16;
/// Longest `device`, in characters.
pub const MAX_DEVICE_CHARS: usize = 200;
/// A longer `User-Agent` is cut, in characters.
pub const MAX_USER_AGENT_CHARS: usize = 400;

/// SHA-256 of a refresh token's secret, in hex in the store. The secret has 256 random bits, so
/// the hash gives nothing away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// From the 32 bytes of the digest.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 32 bytes.
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
    /// Whose it is.
    pub user: UserId,
    /// The user's version when it began or last changed its password. A session of a lower
    /// version than its user's is dead.
    #[serde(deserialize_with = "crate::user::stored_version")]
    pub user_version: u64,
    /// What the client calls itself.
    pub device: Option<String>,
    /// Where the log-in came from.
    pub ip_address: IpAddr,
    /// Of the log-in.
    pub user_agent: Option<String>,
    /// When it began.
    pub created_at: Timestamp,
    /// When it last got tokens.
    pub last_used_at: Timestamp,
    /// The end of its live refresh token.
    pub expires_at: Timestamp,
    /// The live refresh token.
    pub live: SecretHash,
    /// Those spent within the grace, newest first, at most [`MAX_SPENT`].
    pub spent: Vec<Spent>,
}

/// A refresh token that was spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The token.
    pub hash: SecretHash,
    /// When it was spent.
    pub at: Timestamp,
    /// The end of the successor that it was spent for, so that the successor can be made again.
    pub successor_expires_at: Timestamp,
}

/// What a refresh token of a session turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// The live one: it may be spent.
    Live,
    /// Spent within the grace: its successor, with this end, is given again.
    Grace {
        /// Of the successor.
        successor_expires_at: Timestamp,
    },
    /// Spent before: somebody has a copy.
    Reused,
}

impl Session {
    /// What the token with this hash is. The token is known to be one that was issued for this
    /// session (its tag is good), so what is neither live nor in its grace was spent before.
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

    /// This session after its live token was spent for a successor.
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
    fn the_live_token_then_grace_then_reuse() {
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
    fn what_is_remembered_is_bounded() {
        let mut session = session();
        for n in 1..=40 {
            session = session.rotated(hash(n), at(2_000), at(100), GRACE);
        }
        assert_eq!(session.spent.len(), MAX_SPENT);
        assert_eq!(session.rotated(hash(99), at(2_000), at(111), GRACE).spent.len(), 1);
    }

    #[test]
    fn a_hash_is_hex_in_the_store() {
        let text = serde_json::to_string(&hash(0xa7)).unwrap();
        assert_eq!(text, format!("\"{}\"", "a7".repeat(32)));
        assert_eq!(serde_json::from_str::<SecretHash>(&text).unwrap(), hash(0xa7));
        for bad in ["\"\"", "\"a7\"", &format!("\"{}\"", "g".repeat(64)), &format!("\"{}\"", "é".repeat(32))]
        {
            assert!(serde_json::from_str::<SecretHash>(bad).is_err(), "{bad}");
        }
    }
}
