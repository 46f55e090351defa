//! Users.

use serde::{Deserialize, Serialize};

use crate::{email::Email, id::UserId, time::Timestamp};

/// Longest first or last name, in characters.
pub const MAX_PERSON_NAME_CHARS: usize = 100;

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
    /// Tokens and sessions of a lower version are dead. It only rises.
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
