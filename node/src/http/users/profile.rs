//! `GET users/{id}`.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::UserView;
use crate::{
    app::App,
    http::{
        authority::Reading,
        problem::{Problem, ProblemBody},
    },
};

/// See a user
#[utoipa::path(
    get, path = "/users/{id}", tag = "users", operation_id = "get_user",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The user", body = UserView),
        (status = 403, description = "Another user, and the caller may not manage users", body = ProblemBody),
    ),
)]
pub async fn get(State(app): State<Arc<App>>, Reading(on): Reading) -> Result<Json<UserView>, Problem> {
    let user = app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(UserView::for_caller(&app, &on.caller, user).await?))
}
