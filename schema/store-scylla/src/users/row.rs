//! The row of a user.

use schema::{
    UserId,
    email::Email,
    store::Result,
    user::{PasswordHash, User},
};
use scylla::{DeserializeRow, SerializeRow, value::CqlTimestamp};
use uuid::Uuid;

use super::inconsistent;
use crate::convert;

/// As stored. Without an email it is nobody.
#[derive(Clone, PartialEq, DeserializeRow)]
pub(super) struct UserRow {
    id: Uuid,
    pub(super) email: Option<String>,
    email_confirmed: Option<bool>,
    password: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    active: Option<bool>,
    version: Option<i64>,
    pub(super) revision: Option<i64>,
    created_at: Option<CqlTimestamp>,
}

impl UserRow {
    /// Whether it only stops somebody who was about to make it.
    pub(super) const fn is_void(&self) -> bool {
        self.email.is_none()
    }

    /// Whether it can be read as a user.
    pub(super) fn is_readable(&self) -> bool {
        matches!(parse(self.clone()), Ok(Some(_)))
    }

    /// Whose it is.
    pub(super) const fn id(&self) -> UserId {
        UserId::from_bytes(self.id.into_bytes())
    }

    /// The email, whatever else the row holds.
    pub(super) fn email(&self) -> Option<Email> {
        self.email.clone().map(Email::from_stored)
    }

    /// Whether this is the row of this user, whole.
    pub(super) fn is(&self, user: &User) -> bool {
        matches!(parse(self.clone()), Ok(Some(there)) if there == *user)
    }
}

#[cfg(test)]
impl UserRow {
    /// The row of a user.
    pub(super) fn of(user: &User) -> Self {
        Self {
            id: user.id.uuid(),
            email: Some(user.email.as_str().to_owned()),
            email_confirmed: Some(user.email_confirmed),
            password: user.password.as_ref().map(|password| password.expose().to_owned()),
            first_name: user.first_name.clone(),
            last_name: user.last_name.clone(),
            active: Some(user.active),
            version: Some(convert::bigint(user.version)),
            revision: Some(convert::bigint(user.revision)),
            created_at: Some(convert::time(user.created_at)),
        }
    }

    /// The row of nobody.
    pub(super) const fn void() -> Self {
        Self {
            id: Uuid::nil(),
            email: None,
            email_confirmed: None,
            password: None,
            first_name: None,
            last_name: None,
            active: None,
            version: None,
            revision: None,
            created_at: None,
        }
    }
}

/// The user of a row; `None` of one that is nobody's.
pub(super) fn who(row: Option<UserRow>) -> Result<Option<User>> {
    row.map_or(Ok(None), parse)
}

fn parse(row: UserRow) -> Result<Option<User>> {
    let Some(email) = row.email else { return Ok(None) };
    let id = row.id;
    let strange = || inconsistent(id);
    Ok(Some(User {
        id: UserId::from_bytes(*id.as_bytes()),
        email: Email::from_stored(email),
        email_confirmed: row.email_confirmed.ok_or_else(strange)?,
        password: row.password.map(PasswordHash::new),
        first_name: row.first_name,
        last_name: row.last_name,
        active: row.active.ok_or_else(strange)?,
        version: row.version.map(convert::version).ok_or_else(strange)?,
        revision: row.revision.map(convert::number).ok_or_else(strange)?,
        created_at: row.created_at.map(convert::timestamp).ok_or_else(strange)?,
    }))
}

/// The columns of a user, for a row that is added or replaced.
#[derive(SerializeRow)]
pub(super) struct Columns<'a> {
    id: Uuid,
    email: &'a str,
    email_confirmed: bool,
    password: Option<&'a str>,
    first_name: Option<&'a str>,
    last_name: Option<&'a str>,
    active: bool,
    version: i64,
    revision: i64,
    created_at: CqlTimestamp,
}

/// All columns.
pub(super) fn all(user: &User) -> Columns<'_> {
    Columns {
        id: user.id.uuid(),
        email: user.email.as_str(),
        email_confirmed: user.email_confirmed,
        password: user.password.as_ref().map(PasswordHash::expose),
        first_name: user.first_name.as_deref(),
        last_name: user.last_name.as_deref(),
        active: user.active,
        version: convert::bigint(user.version),
        revision: convert::bigint(user.revision),
        created_at: convert::time(user.created_at),
    }
}

/// All columns but the key, in the order of the statement, with the revision that must be there.
pub(super) type Replacement<'a> = (
    &'a str,
    bool,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
    bool,
    i64,
    i64,
    CqlTimestamp,
    Uuid,
    i64,
);

/// See [`Replacement`].
pub(super) fn replacement(user: &User, before: i64) -> Replacement<'_> {
    let all = all(user);
    (
        all.email,
        all.email_confirmed,
        all.password,
        all.first_name,
        all.last_name,
        all.active,
        all.version,
        all.revision,
        all.created_at,
        all.id,
        before,
    )
}
