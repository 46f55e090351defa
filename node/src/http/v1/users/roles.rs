//! `users/{id}/roles`: the roles of a user.

use std::sync::Arc;

use axum::extract::State;
use schema::{Name, permission::Role};

use super::grants::{self, Views};
use crate::{
    app::App,
    http::{
        extract::authority::{Authorized, ModifyGrants, Named, ReadGrants},
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
        v1::{named::NameOf, roles::RoleView},
    },
};

/// List the roles of a user
#[utoipa::path(
    get, path = "/users/{id}/roles", tag = "grants", operation_id = "list_user_roles",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The roles of the user", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(State(app): State<Arc<App>>, on: ReadGrants) -> Result<Views<Role>, Problem> {
    grants::list::<Role>(&app, on).await
}

/// Give a user a role
#[utoipa::path(
    post, path = "/users/{id}/roles", tag = "grants", operation_id = "give_role",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    request_body = NameOf,
    responses(
        (status = 200, description = "The roles of the user", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "The user has the most grants that a user may have", body = ProblemBody),
    ),
)]
pub async fn give(
    State(app): State<Arc<App>>,
    Authorized(on, which): Authorized<ModifyGrants, NameOf>,
) -> Result<WithReceipt<Views<Role>>, Problem> {
    grants::give::<Role>(&app, on, &which).await
}

/// Revoke a role of a user
#[utoipa::path(
    delete, path = "/users/{id}/roles/{name}", tag = "grants", operation_id = "take_role",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The roles of the user", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn take(
    State(app): State<Arc<App>>,
    on: ModifyGrants,
    Named(name): Named<Name>,
) -> Result<WithReceipt<Views<Role>>, Problem> {
    grants::take::<Role>(&app, on, &name).await
}
