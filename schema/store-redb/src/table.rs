//! The tables, by noun. Their names carry no version: `migration` records the format of the file.

use std::{collections::BTreeSet, marker::PhantomData};

use redb::TableDefinition;
use schema::{
    LoginId, Name, PermissionId, RoleId, SessionId, Timestamp, UserId,
    fact::Fact,
    key::KeySet,
    ledger::Origin,
    login::Login,
    permission::{Grant, Grants, Permission, Role},
    place::{AccountKey, Place},
    session::Session,
    superusers::PendingRemoval,
    user::User,
};
use serde::{Deserialize, Serialize};

/// A table as redb sees it: bytes to bytes.
pub(crate) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A table with keys of type `K` and rows of type `R`.
pub(crate) struct Table<K, R> {
    name: &'static str,
    kinds: PhantomData<fn() -> (K, R)>,
}

impl<K, R> Table<K, R> {
    const fn named(name: &'static str) -> Self {
        Self { name, kinds: PhantomData }
    }

    /// The name of the table in the file. Part of the stored form.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// The table as redb sees it.
    pub(crate) const fn definition(&self) -> Definition {
        TableDefinition::new(self.name)
    }
}

/// Users by id.
pub(crate) const USERS: Table<UserId, User> = Table::named("users");
/// The claim on an email: its user, by a key of [`FoldedEmail`](schema::email::FoldedEmail).
pub(crate) const EMAILS: Table<String, UserId> = Table::named("emails");
/// Sessions by user and id: those of a user are adjacent, oldest first.
pub(crate) const SESSIONS: Table<(UserId, SessionId), Session> = Table::named("sessions");
/// The number of sessions of a user, so that the cap is checked without counting.
pub(crate) const SESSION_COUNTS: Table<UserId, usize> = Table::named("session_counts");
/// An index of sessions by the hour of their expiry (rounded up), for the sweep.
pub(crate) const SESSION_ENDS: Table<(Timestamp, UserId, SessionId), ()> = Table::named("session_ends");
/// Roles by name.
pub(crate) const ROLES: Table<Name, Role> = Table::named("roles");
/// The names of roles by id.
pub(crate) const ROLE_NAMES: Table<RoleId, Name> = Table::named("role_names");
/// Permissions by name.
pub(crate) const PERMISSIONS: Table<Name, Permission> = Table::named("permissions");
/// The names of permissions by id.
pub(crate) const PERMISSION_NAMES: Table<PermissionId, Name> = Table::named("permission_names");
/// The grants of a user. A user without grants has no row.
pub(crate) const GRANTS: Table<UserId, Grants> = Table::named("grants");
/// The holders of a role or permission: an index of [`GRANTS`].
pub(crate) const HOLDERS: Table<(Grant, UserId), ()> = Table::named("holders");
/// Deleted roles and permissions that users may still hold, for the sweep.
pub(crate) const DELETED: Table<Grant, ()> = Table::named("deleted");
/// The superusers: one row.
pub(crate) const SUPERUSERS: Table<(), SuperusersRow> = Table::named("superusers");
/// Login histories by user and id: those of a user are adjacent, oldest first.
pub(crate) const LOGINS: Table<(UserId, LoginId), Login> = Table::named("logins");
/// An index of logins by time, for the sweep.
pub(crate) const LOGIN_TIMES: Table<(Timestamp, UserId, LoginId), ()> = Table::named("login_times");
/// When the owner of an account last logged in from a place.
pub(crate) const LOGIN_PLACES: Table<(AccountKey, Place), Timestamp> = Table::named("login_places");
/// An index of [`LOGIN_PLACES`] by time, for the sweep.
pub(crate) const LOGIN_PLACE_TIMES: Table<(Timestamp, AccountKey, Place), ()> =
    Table::named("login_place_times");
/// The signing keys: one row.
pub(crate) const KEYS: Table<(), KeySet> = Table::named("keys");
/// The entries of the ledger.
pub(crate) const LEDGER: Table<(Origin, u64), Fact> = Table::named("ledger");
/// An index of ledger entries by the end of their facts, for the sweep.
pub(crate) const LEDGER_ENDS: Table<(Timestamp, Origin, u64), ()> = Table::named("ledger_ends");
/// The heads of the logs.
pub(crate) const HEADS: Table<Origin, u64> = Table::named("heads");

/// The tables of format 1.
pub(crate) const FORMAT_1: [Definition; 19] = [
    USERS.definition(),
    EMAILS.definition(),
    SESSIONS.definition(),
    SESSION_COUNTS.definition(),
    SESSION_ENDS.definition(),
    ROLES.definition(),
    ROLE_NAMES.definition(),
    PERMISSIONS.definition(),
    PERMISSION_NAMES.definition(),
    GRANTS.definition(),
    HOLDERS.definition(),
    DELETED.definition(),
    SUPERUSERS.definition(),
    LOGINS.definition(),
    LOGIN_TIMES.definition(),
    KEYS.definition(),
    LEDGER.definition(),
    LEDGER_ENDS.definition(),
    HEADS.definition(),
];

/// The tables that format 2 adds.
pub(crate) const FORMAT_2: [Definition; 2] = [LOGIN_PLACES.definition(), LOGIN_PLACE_TIMES.definition()];

/// The row of the superusers. Older files have `users` in place of `counted`, and no `leaving`.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct SuperusersRow {
    pub(crate) revision: u64,
    #[serde(alias = "users")]
    pub(crate) counted: BTreeSet<UserId>,
    #[serde(default, rename = "leaving")]
    pub(crate) pending: Vec<PendingRemoval>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_form_of_the_superusers_is_read() {
        let older = r#"{"revision":7,"users":["01010101-0101-0101-0101-010101010101"]}"#;
        let row: SuperusersRow = serde_json::from_str(older).unwrap();
        assert_eq!((row.revision, row.counted), (7, [UserId::from_bytes([1; 16])].into()));
        assert_eq!(row.pending, []);
    }
}
