//! Endpoints of users: register, read, change, delete; their sessions, log-ins, roles and permissions.

pub mod combined;
mod confirm;
pub mod delete;
mod grants;
pub mod list;
pub mod logins;
pub mod password;
pub mod permissions;
pub mod profile;
pub mod register;
pub mod roles;
pub mod sessions;
pub mod unlock;
pub mod update;

use schema::{
    email::{Email, NotAnEmail},
    permission::{ALL_ALL, USERS_ADMIN},
    text::PersonName,
    user::User,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{extract::authority::Caller, respond::problem::Problem},
};

/// A user.
#[derive(Serialize, ToSchema)]
pub struct UserView {
    #[schema(value_type = uuid::Uuid)]
    uuid: schema::UserId,
    #[schema(example = "ann@example.org")]
    email: String,
    #[schema(required = true)]
    first_name: Option<String>,
    #[schema(required = true)]
    last_name: Option<String>,
    email_confirmed: bool,
    active: bool,
    /// RFC 3339, UTC.
    #[schema(format = "date-time")]
    created_at: String,
    /// Only for admins: the end of the account's lock, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time", required = false)]
    locked_until: Option<Option<String>>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            uuid: user.id,
            email: user.email.into(),
            first_name: user.first_name,
            last_name: user.last_name,
            email_confirmed: user.email_confirmed,
            active: user.active,
            created_at: user.created_at.to_string(),
            locked_until: None,
        }
    }
}

impl UserView {
    /// The view for this caller, which may be an admin.
    async fn for_caller(app: &App, caller: &Caller, user: User) -> Result<Self, Problem> {
        let admin = caller.has_any(&[USERS_ADMIN, ALL_ALL]).await?;
        Ok(if admin { Self::for_admin(app, user).await } else { user.into() })
    }

    /// The view for an admin, with `locked_until`.
    async fn for_admin(app: &App, user: User) -> Self {
        let locked_until = app.limits.locked_until(&user.email.folded()).await;
        Self { locked_until: Some(locked_until.map(|until| until.to_string())), ..user.into() }
    }
}

/// Parses an email from a body.
fn email(text: &str) -> Result<Email, Problem> {
    text.parse().map_err(|why: NotAnEmail| Problem::field("email", why.to_string()))
}

/// Parses a first or last name from a body. An empty name counts as none.
fn person_name(field: &str, name: Option<&str>) -> Result<Option<PersonName>, Problem> {
    let parsed = name.map(PersonName::parse).transpose();
    parsed.map(Option::flatten).map_err(|why| Problem::field(field, why.to_string()))
}

/// All four values, or one problem with the fields of all that failed.
pub fn all_valid<A, B, C, D>(
    a: Result<A, Problem>,
    b: Result<B, Problem>,
    c: Result<C, Problem>,
    d: Result<D, Problem>,
) -> Result<(A, B, C, D), Problem> {
    match (a, b, c, d) {
        (Ok(a), Ok(b), Ok(c), Ok(d)) => Ok((a, b, c, d)),
        (a, b, c, d) => {
            let wrong = [a.err(), b.err(), c.err(), d.err()];
            Err(wrong.into_iter().flatten().reduce(Problem::and).unwrap_or_else(Problem::not_found))
        }
    }
}
