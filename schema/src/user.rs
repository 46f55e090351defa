//! Users.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::version::MAX_VERSION;
use crate::{email::Email, id::UserId, time::Timestamp, version::stored_version};

/// Limit of the length of a first or last name, in characters.
pub const MAX_PERSON_NAME_CHARS: usize = 100;

/// A user, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The email: unique, compared in its folded form.
    pub email: Email,
    /// Whether the user has proved to own the address.
    pub email_confirmed: bool,
    /// The Argon2id hash in PHC form; `None` for a user that logs in only by a social account.
    pub password: Option<PasswordHash>,
    /// The first name, at most [`MAX_PERSON_NAME_CHARS`].
    pub first_name: Option<String>,
    /// The last name, at most [`MAX_PERSON_NAME_CHARS`].
    pub last_name: Option<String>,
    /// Whether the user may log in.
    pub active: bool,
    /// The user version: tokens and sessions with a lower one are refused. It only rises, up to
    /// [`MAX_VERSION`].
    #[serde(deserialize_with = "stored_version")]
    pub version: u64,
    /// Rises by one with every change of this record: the condition of `Users::replace`.
    pub revision: u64,
    /// When the user registered.
    pub created_at: Timestamp,
}

/// A password hash. `Debug` hides it, because it does not belong in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The hash with this PHC string.
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
    use crate::version::MAX_VERSION;

    #[test]
    fn stored_version_saturates_at_the_highest() {
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
