//! `users/{id}/roles`: the roles of a user.

use std::sync::Arc;

use actors::user::GrantChange;
use axum::{Json, extract::State};
use schema::{Name, UserId};

use crate::{
    app::App,
    http::{
        authority::{Authorized, Granting, Named, ReadingGrants},
        permissions::{NameOf, name},
        power,
        problem::{Problem, ProblemBody},
        roles::{RoleView, find, views_of},
        taken::Taken,
    },
};

type Roles = Json<Vec<RoleView>>;

async fn of(app: &App, user: UserId) -> Result<Roles, Problem> {
    Ok(Json(views_of(app.stores.grants.effective(user).await?)))
}

/// See a user's roles
#[utoipa::path(
    get, path = "/users/{id}/roles", tag = "grants", operation_id = "list_user_roles",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The roles of the user", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(State(app): State<Arc<App>>, ReadingGrants(on): ReadingGrants) -> Result<Roles, Problem> {
    app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    of(&app, on.user).await
}

/// Give a role
#[utoipa::path(
    post, path = "/users/{id}/roles", tag = "grants", operation_id = "give_role",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    request_body = NameOf,
    responses(
        (status = 200, description = "The roles of the user", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
        (status = 409, description = "The user has as many as may be", body = ProblemBody),
    ),
)]
pub async fn give(
    State(app): State<Arc<App>>,
    Authorized(Granting(on), which): Authorized<Granting, NameOf>,
) -> Result<Taken<Roles>, Problem> {
    let role = find(&app, &name(&which.name)?).await?;
    power::over_role(&app, &on.caller, &role).await?;
    let receipt = app.actors.users.give(on.user, GrantChange::Role(role)).await?;
    tracing::info!(user = %on.user, role = which.name, by = %on.caller.claims.user, "a role was given");
    Ok(Taken(receipt, of(&app, on.user).await?))
}

/// Take a role back
#[utoipa::path(
    delete, path = "/users/{id}/roles/{name}", tag = "grants", operation_id = "take_role",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The roles of the user", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn take(
    State(app): State<Arc<App>>,
    Granting(on): Granting,
    Named(name): Named<Name>,
) -> Result<Taken<Roles>, Problem> {
    let role = find(&app, &name).await?;
    power::over_role(&app, &on.caller, &role).await?;
    let receipt = app.actors.users.take(on.user, GrantChange::Role(role)).await?;
    tracing::info!(user = %on.user, role = %name, by = %on.caller.claims.user, "a role was taken back");
    Ok(Taken(receipt, of(&app, on.user).await?))
}
