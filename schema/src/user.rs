//! Users.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{email::Email, id::UserId, time::Timestamp};

/// Longest first or last name, in characters.
pub const MAX_PERSON_NAME_CHARS: usize = 100;

/// The highest version that a user has. Each step is a call of a user or an admin, so nobody gets there
/// honestly; a higher number is damage, or a lie of a peer.
///
/// A fact that names it refuses every token of the user, also those of this version
/// ([`Denials::refuses_version`](crate::Denials::refuses_version)), so that a user whose stored version is
/// the highest can still log out everywhere.
pub const MAX_VERSION: u64 = 1 << 48;

/// The version after this one, at most [`MAX_VERSION`].
#[must_use]
pub const fn next_version(version: u64) -> u64 {
    if version < MAX_VERSION { version + 1 } else { MAX_VERSION }
}

/// What the fact `UserVersion` with `at_least` ends: sessions of versions below this one
/// ([`Sessions::end_older`](crate::store::Sessions::end_older)).
#[must_use]
pub const fn ended_below(at_least: u64) -> u64 {
    if at_least < MAX_VERSION { at_least } else { u64::MAX }
}

/// Reads a version; one beyond [`MAX_VERSION`] counts as that, so that a damaged row breaks nothing.
pub(crate) fn stored_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    u64::deserialize(deserializer).map(|version| version.min(MAX_VERSION))
}

/// A user, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// Unique, compared folded.
    pub email: Email,
    /// Whether the address is known to be the user's.
    pub email_confirmed: bool,
    /// Argon2id in PHC form; none for who only comes by a social account.
    pub password: Option<PasswordHash>,
    /// At most [`MAX_PERSON_NAME_CHARS`].
    pub first_name: Option<String>,
    /// At most [`MAX_PERSON_NAME_CHARS`].
    pub last_name: Option<String>,
    /// Whether the user may log in.
    pub active: bool,
    /// Tokens and sessions of a lower version are dead. It only rises, to [`MAX_VERSION`] at most.
    #[serde(deserialize_with = "stored_version")]
    pub version: u64,
    /// Raised by each change of this record: the compare-and-set of [`Users::replace`].
    ///
    /// [`Users::replace`]: crate::store::Users::replace
    pub revision: u64,
    /// When the user registered.
    pub created_at: Timestamp,
}

/// A password hash. It is no password, but it is not for logs either.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// From a PHC string.
    #[must_use]
    pub const fn new(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_to_the_highest_and_no_further() {
        assert_eq!([0, 6].map(next_version), [1, 7]);
        for version in [MAX_VERSION - 1, MAX_VERSION, MAX_VERSION + 1, u64::MAX] {
            assert_eq!(next_version(version), MAX_VERSION);
        }
        assert_eq!([0, 6, MAX_VERSION - 1].map(ended_below), [0, 6, MAX_VERSION - 1]);
        assert_eq!([MAX_VERSION, u64::MAX].map(ended_below), [u64::MAX; 2]);
    }

    #[test]
    fn stored_version_beyond_the_highest_counts_as_that() {
        let text = |version: u64| {
            let id = "01010101-0101-0101-0101-010101010101";
            format!(
                r#"{{"id":"{id}","email":"a@example.org","email_confirmed":false,"password":null,
                "first_name":null,"last_name":null,"active":true,"version":{version},"revision":0,"created_at":0}}"#
            )
        };
        for (stored, read) in [(7, 7), (MAX_VERSION, MAX_VERSION), (u64::MAX, MAX_VERSION)] {
            assert_eq!(serde_json::from_str::<User>(&text(stored)).unwrap().version, read);
        }
    }
}
