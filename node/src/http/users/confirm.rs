//! Showing one's password once more: an access token alone does not take an account over.

use axum::http::StatusCode;
use schema::user::PasswordHash;

use crate::{
    app::App,
    http::{authority::Caller, client::Client, problem::Problem},
    passwords::{Normalized, Verdict},
};

/// Goes on when this is the caller's password, and gives the hash that it was checked against.
/// Guessing has the limits of logging in.
///
/// # Errors
/// 403 for another one, 429 after too many.
pub async fn confirm(
    app: &App,
    caller: &Caller,
    client: &Client,
    password: &str,
) -> Result<PasswordHash, Problem> {
    let user = app.stores.users.get(caller.claims.user).await?.ok_or_else(Problem::not_found)?;
    let email = user.email.folded();
    app.limits.may_log_in(&email, client.ip_address).await.map_err(Problem::locked)?;
    let verdict = match (Normalized::typed(password), user.password.clone()) {
        (Some(typed), Some(hash)) => app.passwords.verify(typed, hash, client.source).await?,
        _ => Verdict::Wrong,
    };
    // Asked again, as at a log-in: a lock hides whether it was right.
    app.limits.may_log_in(&email, client.ip_address).await.map_err(Problem::locked)?;
    match (verdict, user.password.clone()) {
        (Verdict::Good | Verdict::GoodButOld, Some(hash)) => Ok(hash),
        _ => {
            if let Some(locked) = app.limits.failed(&email, client.ip_address).await {
                let (user, ip) = (user.id, client.ip_address);
                tracing::warn!(%user, %ip, locked_s = locked.as_secs(), "an account is locked");
            }
            Err(Problem::new(StatusCode::FORBIDDEN, "wrong_password", "The password is wrong"))
        }
    }
}
