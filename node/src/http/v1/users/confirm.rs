//! Confirmation of the caller's password, for handlers that require it again.

use axum::http::StatusCode;
use schema::user::PasswordHash;

use crate::{
    accounts::{
        Client,
        confirm::{Confirmation, NotConfirmed},
    },
    app::App,
    http::{extract::authority::Caller, respond::problem::Problem},
};

/// Succeeds if this is the caller's password; returns the hash that it was checked against.
///
/// # Errors
/// 403 if it is not, 429 after too many failures.
pub async fn confirm(
    app: &App,
    caller: &Caller,
    client: &Client,
    password: &str,
) -> Result<PasswordHash, Problem> {
    match app.accounts().confirm_password(caller.claims.user, client, password).await? {
        Confirmation::Right(hash) => Ok(hash),
        Confirmation::Refused(why) => Err(why.into()),
    }
}

impl From<NotConfirmed> for Problem {
    fn from(why: NotConfirmed) -> Self {
        match why {
            NotConfirmed::Wrong => {
                Self::new(StatusCode::FORBIDDEN, "wrong_password", "The password is wrong")
            }
            NotConfirmed::Locked(wait) => Self::locked(wait),
            NotConfirmed::NoUser => Self::not_found(),
        }
    }
}
