//! `DELETE users/{id}`: delete a user and all its data.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use crate::{
    app::App,
    http::{
        extract::authority::ModifyUser,
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
    },
};

/// Delete a user
#[utoipa::path(
    delete, path = "/users/{id}", tag = "users", operation_id = "delete_user",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "The user and its data are deleted, and all its sessions revoked"),
        (status = 403, description = "Another user, and the caller may not manage that user", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    ModifyUser(on): ModifyUser,
) -> Result<WithReceipt<StatusCode>, Problem> {
    // Concurrent, so that the deletion does not wait for the read. Places that are not forgotten expire.
    let (user, deleted) = tokio::join!(app.stores.users.get(on.user), app.actors.users.delete(on.user));
    let receipt = deleted?;
    if let Ok(Some(user)) = user {
        app.limits.forget_places(&user.email.folded()).await;
    }
    tracing::info!(user = %on.user, by = %on.caller.claims.user, "user deleted");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}
