//! Facts: what has been taken away.
//!
//! A fact is only ever added. Merging facts in any order, any number of times, gives the same set,
//! so denying needs no queue, no lock and no agreement: whoever hears a fact applies it at once.
//! A fact refuses or invalidates; none ever allows. It is forgotten after [`Fact::until`] plus
//! [`CLOCK_SKEW`](crate::time::CLOCK_SKEW), when nothing that it refuses can be valid any more.

use serde::{Deserialize, Serialize};

use crate::{
    id::{KeyId, PermissionId, RoleId, SessionId, TokenId, UserId},
    time::Timestamp,
};

/// Something was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fact {
    /// What.
    #[serde(flatten)]
    pub kind: FactKind,
    /// How long it matters: no access token that it refuses lives longer.
    pub until: Timestamp,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FactKind {
    /// Every token of the session.
    SessionRevoked {
        /// Whose it is: who hears of it later can end it in the store.
        user: UserId,
        /// The session.
        session: SessionId,
    },
    /// This one access token.
    TokenRevoked {
        /// The token.
        token: TokenId,
    },
    /// Every token of the user whose `uv` is lower. No clocks are compared.
    UserVersion {
        /// The user.
        user: UserId,
        /// The lowest version that is still good.
        at_least: u64,
    },
    /// Every token that the key signed.
    KeyRetired {
        /// The key.
        key: KeyId,
    },
    /// What the subject may do is to be read anew. It refuses no token.
    PermissionsChanged {
        /// Whose.
        subject: Subject,
    },
}

/// Whose change makes cached permissions old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One user's.
    User(UserId),
    /// Those of everybody who has the role.
    Role(RoleId),
    /// Those of everybody who has the permission.
    Permission(PermissionId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_fixed() {
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
