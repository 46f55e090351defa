//! `users/{id}/permissions`: the direct permissions of a user.

use std::sync::Arc;

use axum::extract::State;
use schema::{Name, permission::Permission};

use super::grants::{self, Views};
use crate::{
    app::App,
    http::{
        extract::authority::{Authorized, ModifyGrants, Named, ReadGrants},
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
        v1::{named::NameOf, permissions::PermissionView},
    },
};

/// List the direct permissions of a user
#[utoipa::path(
    get, path = "/users/{id}/permissions", tag = "grants", operation_id = "list_user_permissions",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The direct permissions of the user", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(State(app): State<Arc<App>>, on: ReadGrants) -> Result<Views<Permission>, Problem> {
    grants::list::<Permission>(&app, on).await
}

/// Give a user a permission
#[utoipa::path(
    post, path = "/users/{id}/permissions", tag = "grants", operation_id = "give_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    request_body = NameOf,
    responses(
        (status = 200, description = "The direct permissions of the user", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "The user has the most grants that a user may have", body = ProblemBody),
    ),
)]
pub async fn give(
    State(app): State<Arc<App>>,
    Authorized(on, which): Authorized<ModifyGrants, NameOf>,
) -> Result<WithReceipt<Views<Permission>>, Problem> {
    grants::give::<Permission>(&app, on, &which).await
}

/// Revoke a permission of a user
#[utoipa::path(
    delete, path = "/users/{id}/permissions/{name}", tag = "grants", operation_id = "take_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The direct permissions of the user", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn take(
    State(app): State<Arc<App>>,
    on: ModifyGrants,
    Named(name): Named<Name>,
) -> Result<WithReceipt<Views<Permission>>, Problem> {
    grants::take::<Permission>(&app, on, &name).await
}
