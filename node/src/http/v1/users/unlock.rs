//! `POST users/{id}/unlock`: unlock an account, for admins.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use schema::permission::{ALL_ALL, USERS_ADMIN};

use crate::{
    app::App,
    http::{
        extract::authority::ModifyUser,
        respond::problem::{Problem, ProblemBody},
    },
};

/// Unlock an account
#[utoipa::path(
    post, path = "/users/{id}/unlock", tag = "users", operation_id = "unlock_user",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "The account is not locked"),
        (status = 403, description = "The caller lacks `users_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn unlock(State(app): State<Arc<App>>, ModifyUser(on): ModifyUser) -> Result<StatusCode, Problem> {
    on.caller.require_any(&[USERS_ADMIN, ALL_ALL]).await?;
    let user = app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    app.limits.unlock(&user.email.folded()).await;
    tracing::info!(user = %on.user, by = %on.caller.claims.user, "account unlocked");
    Ok(StatusCode::NO_CONTENT)
}
