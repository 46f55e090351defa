//! The tables, by noun. Their names carry no version: `migration` knows which format the file has.

use std::marker::PhantomData;

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
    user::User,
};

use crate::superusers;

/// What redb knows of a table: bytes to bytes.
pub(crate) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Rows of one kind by keys of one kind.
pub(crate) struct Table<K, R> {
    name: &'static str,
    kinds: PhantomData<fn() -> (K, R)>,
}

impl<K, R> Table<K, R> {
    const fn named(name: &'static str) -> Self {
        Self { name, kinds: PhantomData }
    }

    /// Its name in the file.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// For redb.
    pub(crate) const fn definition(&self) -> Definition {
        TableDefinition::new(self.name)
    }
}

/// All users.
pub(crate) const USERS: Table<UserId, User> = Table::named("users");
/// Who has an email, by a key of [`FoldedEmail`](schema::email::FoldedEmail).
pub(crate) const EMAILS: Table<String, UserId> = Table::named("emails");
/// All sessions; those of a user lie together, oldest first.
pub(crate) const SESSIONS: Table<(UserId, SessionId), Session> = Table::named("sessions");
/// How many sessions a user has, so that the cap counts nothing.
pub(crate) const SESSION_COUNTS: Table<UserId, usize> = Table::named("session_counts");
/// Sessions by the hour in which they will have ended, for the sweep.
pub(crate) const SESSION_ENDS: Table<(Timestamp, UserId, SessionId), ()> = Table::named("session_ends");
/// All roles.
pub(crate) const ROLES: Table<Name, Role> = Table::named("roles");
/// The names of roles.
pub(crate) const ROLE_NAMES: Table<RoleId, Name> = Table::named("role_names");
/// All permissions.
pub(crate) const PERMISSIONS: Table<Name, Permission> = Table::named("permissions");
/// The names of permissions.
pub(crate) const PERMISSION_NAMES: Table<PermissionId, Name> = Table::named("permission_names");
/// What users were given; no row for who was given nothing.
pub(crate) const GRANTS: Table<UserId, Grants> = Table::named("grants");
/// The same from the other side.
pub(crate) const HOLDERS: Table<(Grant, UserId), ()> = Table::named("holders");
/// Roles and permissions that were deleted and may still be on record with users, for the sweep.
pub(crate) const DELETED: Table<Grant, ()> = Table::named("deleted");
/// The superusers: one row.
pub(crate) const SUPERUSERS: Table<(), superusers::Row> = Table::named("superusers");
/// Login histories; those of a user lie together, oldest first.
pub(crate) const LOGINS: Table<(UserId, LoginId), Login> = Table::named("logins");
/// Logins by time, for the sweep.
pub(crate) const LOGIN_TIMES: Table<(Timestamp, UserId, LoginId), ()> = Table::named("login_times");
/// When the owner of an account last logged in from a place.
pub(crate) const LOGIN_PLACES: Table<(AccountKey, Place), Timestamp> = Table::named("login_places");
/// The same by time, for the sweep.
pub(crate) const LOGIN_PLACE_TIMES: Table<(Timestamp, AccountKey, Place), ()> =
    Table::named("login_place_times");
/// The signing keys: one row.
pub(crate) const KEYS: Table<(), KeySet> = Table::named("keys");
/// The ledger.
pub(crate) const LEDGER: Table<(Origin, u64), Fact> = Table::named("ledger");
/// Entries of the ledger by the end of their facts, for the sweep.
pub(crate) const LEDGER_ENDS: Table<(Timestamp, Origin, u64), ()> = Table::named("ledger_ends");
/// The heads of the ledger.
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
