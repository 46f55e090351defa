//! Facts: revocations and permission changes.
//!
//! Facts are only added. Merging facts in any order and any number of times gives the same set, so a
//! revocation needs no queue, no lock and no consensus: a node applies a fact as soon as it receives it. A
//! fact refuses tokens or invalidates caches; no fact ever allows anything. It expires at [`Fact::until`]
//! plus [`CLOCK_SKEW`](crate::time::CLOCK_SKEW), when no token that it refuses can be valid any more.

use serde::{Deserialize, Serialize};

use crate::{
    id::{KeyId, PermissionId, RoleId, SessionId, TokenId, UserId},
    time::Timestamp,
};

/// A revocation or a change of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fact {
    /// What is revoked or changed.
    #[serde(flatten)]
    pub kind: FactKind,
    /// When the fact ends: every access token that it refuses has expired by then.
    pub until: Timestamp,
}

/// What a fact revokes or invalidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FactKind {
    /// Revokes every token of a session.
    SessionRevoked {
        /// The session's user, with which any node can end the session in the store.
        user: UserId,
        /// The session.
        session: SessionId,
    },
    /// Revokes one access token.
    TokenRevoked {
        /// The token.
        token: TokenId,
    },
    /// Revokes every token of a user with a lower version (`uv`). No clocks are compared.
    UserVersion {
        /// The user.
        user: UserId,
        /// The lowest version that is still accepted.
        at_least: u64,
    },
    /// Revokes every token that a key signed.
    KeyRetired {
        /// The key.
        key: KeyId,
    },
    /// Invalidates cached permissions. It refuses no token.
    PermissionsChanged {
        /// The user, role or permission that changed.
        subject: Subject,
    },
}

/// What changed, and so whose cached permissions are invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A user: its own permissions are invalid.
    User(UserId),
    /// A role: the permissions of all its holders are invalid.
    Role(RoleId),
    /// A permission: the permissions of all its holders are invalid.
    Permission(PermissionId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_of_a_fact_is_fixed() {
        let user = UserId::from_bytes([1; 16]);
        let fact =
            Fact { kind: FactKind::UserVersion { user, at_least: 7 }, until: Timestamp::from_millis(9) };
        let text =
            r#"{"kind":"user_version","user":"01010101-0101-0101-0101-010101010101","at_least":7,"until":9}"#;
        assert_eq!(serde_json::to_string(&fact).unwrap(), text);
        assert_eq!(serde_json::from_str::<Fact>(text).unwrap(), fact);
        let fact = Fact {
            kind: FactKind::PermissionsChanged { subject: Subject::User(user) },
            until: Timestamp::from_millis(9),
        };
        let text = serde_json::to_string(&fact).unwrap();
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact, "{text}");
    }
}
