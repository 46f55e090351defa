//! `users/{id}/permissions`: what a user was given directly.

use std::sync::Arc;

use actors::user::GrantChange;
use axum::{Json, extract::State};
use schema::{Name, UserId};

use crate::{
    app::App,
    http::{
        authority::{Authorized, Granting, Named, ReadingGrants},
        permissions::{NameOf, PermissionView, find, name},
        power,
        problem::{Problem, ProblemBody},
        taken::Taken,
    },
};

type Permissions = Json<Vec<PermissionView>>;

async fn of(app: &App, user: UserId) -> Result<Permissions, Problem> {
    let effective = app.stores.grants.effective(user).await?;
    Ok(Json(effective.direct.into_iter().map(Into::into).collect()))
}

/// See a user's direct permissions
#[utoipa::path(
    get, path = "/users/{id}/permissions", tag = "grants", operation_id = "list_user_permissions",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The direct permissions of the user", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    ReadingGrants(on): ReadingGrants,
) -> Result<Permissions, Problem> {
    app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    of(&app, on.user).await
}

/// Give a permission
#[utoipa::path(
    post, path = "/users/{id}/permissions", tag = "grants", operation_id = "give_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    request_body = NameOf,
    responses(
        (status = 200, description = "The direct permissions of the user", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
        (status = 409, description = "The user has as many as may be", body = ProblemBody),
    ),
)]
pub async fn give(
    State(app): State<Arc<App>>,
    Authorized(Granting(on), which): Authorized<Granting, NameOf>,
) -> Result<Taken<Permissions>, Problem> {
    let permission = find(&app, &name(&which.name)?).await?;
    power::over_permission(&on.caller, &permission).await?;
    let receipt = app.actors.users.give(on.user, GrantChange::Permission(permission)).await?;
    tracing::info!(user = %on.user, permission = which.name, by = %on.caller.claims.user, "a permission was given");
    Ok(Taken(receipt, of(&app, on.user).await?))
}

/// Take a permission back
#[utoipa::path(
    delete, path = "/users/{id}/permissions/{name}", tag = "grants", operation_id = "take_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The direct permissions of the user", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn take(
    State(app): State<Arc<App>>,
    Granting(on): Granting,
    Named(name): Named<Name>,
) -> Result<Taken<Permissions>, Problem> {
    let permission = find(&app, &name).await?;
    power::over_permission(&on.caller, &permission).await?;
    let receipt = app.actors.users.take(on.user, GrantChange::Permission(permission)).await?;
    tracing::info!(user = %on.user, permission = %name, by = %on.caller.claims.user, "a permission was taken back");
    Ok(Taken(receipt, of(&app, on.user).await?))
}
