//! `GET users/{id}`: get a user.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::UserView;
use crate::{
    app::App,
    http::{
        extract::authority::ReadUser,
        respond::problem::{Problem, ProblemBody},
    },
};

/// Get a user
#[utoipa::path(
    get, path = "/users/{id}", tag = "users", operation_id = "get_user",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The user", body = UserView),
        (status = 403, description = "Another user, and the caller lacks `users_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn get(State(app): State<Arc<App>>, ReadUser(on): ReadUser) -> Result<Json<UserView>, Problem> {
    let user = app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(UserView::for_caller(&app, &on.caller, user).await?))
}
