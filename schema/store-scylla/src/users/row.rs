//! The row of a user.

use schema::{
    UserId,
    email::Email,
    user::{PasswordHash, User},
};
use scylla::{DeserializeRow, SerializeRow, value::CqlTimestamp};
use store::Result;
use uuid::Uuid;

use super::inconsistent;
use crate::convert;

/// A row of the table `users`. A row without an email is void: it holds no user.
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
    /// Whether the row is void: it has no email and only makes a stalled registration with this id fail.
    pub(super) const fn is_void(&self) -> bool {
        self.email.is_none()
    }

    /// Whether the row parses as a user.
    pub(super) fn is_readable(&self) -> bool {
        matches!(parse(self.clone()), Ok(Some(_)))
    }

    /// The user's id.
    pub(super) const fn id(&self) -> UserId {
        UserId::from_bytes(self.id.into_bytes())
    }

    /// The user's email, even if the rest of the row does not parse; `None` if the row is void.
    pub(super) fn email(&self) -> Option<Email> {
        self.email.clone().map(Email::from_stored)
    }

    /// Whether the row holds exactly this user.
    pub(super) fn is(&self, user: &User) -> bool {
        matches!(parse(self.clone()), Ok(Some(stored)) if stored == *user)
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

    /// A void row.
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

/// Parses a row; `None` if it is void.
///
/// # Errors
/// `Inconsistent` if a column is missing.
pub(super) fn parse_row(row: Option<UserRow>) -> Result<Option<User>> {
    row.map_or(Ok(None), parse)
}

fn parse(row: UserRow) -> Result<Option<User>> {
    let Some(email) = row.email else { return Ok(None) };
    let id = row.id;
    let malformed = || inconsistent(id);
    Ok(Some(User {
        id: UserId::from_bytes(*id.as_bytes()),
        email: Email::from_stored(email),
        email_confirmed: row.email_confirmed.ok_or_else(malformed)?,
        password: row.password.map(PasswordHash::new),
        first_name: row.first_name,
        last_name: row.last_name,
        active: row.active.ok_or_else(malformed)?,
        version: row.version.map(convert::version).ok_or_else(malformed)?,
        revision: row.revision.map(convert::number).ok_or_else(malformed)?,
        created_at: row.created_at.map(convert::timestamp).ok_or_else(malformed)?,
    }))
}

/// The columns of a user, in the order of the statement that adds a row.
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

/// The values of all columns.
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

/// The values of the statement that replaces a row: all columns but the key, the key, and the revision
/// that must be stored.
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

/// The values that replace the row of `user` at revision `before`. See [`Replacement`].
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
