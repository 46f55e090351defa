//! `DELETE users/{id}`: the user and all it has.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use crate::{
    app::App,
    http::{
        authority::Changing,
        problem::{Problem, ProblemBody},
        taken::Taken,
    },
};

/// Delete a user
#[utoipa::path(
    delete, path = "/users/{id}", tag = "users", operation_id = "delete_user",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "Deleted, with all sessions"),
        (status = 403, description = "Another user, and the caller may not manage users", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    Changing(on): Changing,
) -> Result<Taken<StatusCode>, Problem> {
    // Beside the deletion, which waits for nothing: places that stay end by themselves.
    let (user, deleted) = tokio::join!(app.stores.users.get(on.user), app.actors.users.delete(on.user));
    let receipt = deleted?;
    if let Ok(Some(user)) = user {
        app.limits.forget_places(&user.email.folded()).await;
    }
    tracing::info!(user = %on.user, by = %on.caller.claims.user, "a user was deleted");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}
