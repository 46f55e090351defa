//! `GET users/{id}`.

use std::sync::Arc;

use axum::{Json, extract::State};
use schema::permission::{ALL_ALL, USERS_ADMIN};

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
    get, path = "/users/{id}", tag = "users",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "UUID or `me`")),
    responses((status = 200, body = UserView), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)),
)]
pub async fn get(State(app): State<Arc<App>>, Reading(on): Reading) -> Result<Json<UserView>, Problem> {
    let user = app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    let view = if on.caller.has_any(&[USERS_ADMIN, ALL_ALL]).await? {
        UserView::for_admin(&app, user).await
    } else {
        user.into()
    };
    Ok(Json(view))
}
