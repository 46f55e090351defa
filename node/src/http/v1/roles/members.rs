//! `roles/{name}/permissions`: the permissions of a role.

use std::sync::Arc;

use axum::{Json, extract::State};
use schema::Name;

use super::{find, keeps_superuser, view};
use crate::{
    app::App,
    http::{
        extract::authority::{Authorized, InPath, Named, PermissionsAdmin},
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
        v1::{
            named::NameOf,
            permissions::{self, PermissionView},
            privileges,
        },
    },
};

/// The permission that `{permission}` in a path names.
pub struct PermissionName(Name);

impl InPath for PermissionName {
    const PARAMETER: &'static str = "permission";
    fn read(text: &str) -> Option<Self> {
        Name::to_look_up(text).map(Self)
    }
}

type Members = WithReceipt<Json<Vec<PermissionView>>>;

/// Add a permission to a role
#[utoipa::path(
    post, path = "/roles/{name}/permissions", tag = "roles", operation_id = "add_role_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path)),
    request_body = NameOf,
    responses(
        (status = 200, description = "The permissions of the role", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "The role has the most permissions that a role may have", body = ProblemBody),
    ),
)]
pub async fn add(
    State(app): State<Arc<App>>,
    allowed: Authorized<(PermissionsAdmin, Named<Name>), NameOf>,
) -> Result<Members, Problem> {
    let Authorized((PermissionsAdmin(caller), Named(name)), which) = allowed;
    let role = find(&app, &name).await?;
    let permission = permissions::find(&app, &which.parse()?).await?;
    privileges::over_role(&app, &caller, &role).await?;
    privileges::over_permission(&caller, &permission).await?;
    let (role, receipt) = app.actors.catalogue.add(&role, &permission).await?;
    tracing::info!(role = %name, permission = %permission.name, by = %caller.claims.user, "permission added to role");
    Ok(WithReceipt(receipt, Json(view(&app, role).await?.0.permissions)))
}

/// Remove a permission from a role
#[utoipa::path(
    delete, path = "/roles/{name}/permissions/{permission}", tag = "roles", operation_id = "remove_role_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path), ("permission" = String, Path)),
    responses(
        (status = 200, description = "The permissions of the role", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks the authority or the privilege, or it is all_all of the role superuser", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn remove(
    State(app): State<Arc<App>>,
    PermissionsAdmin(caller): PermissionsAdmin,
    Named(name): Named<Name>,
    Named(PermissionName(permission)): Named<PermissionName>,
) -> Result<Members, Problem> {
    let role = find(&app, &name).await?;
    let permission = permissions::find(&app, &permission).await?;
    privileges::over_role(&app, &caller, &role).await?;
    privileges::over_permission(&caller, &permission).await?;
    keeps_superuser(&role, permission.name.as_str())?;
    let (role, receipt) = app.actors.catalogue.remove(&role, &permission).await?;
    tracing::info!(role = %name, permission = %permission.name, by = %caller.claims.user, "permission removed from role");
    Ok(WithReceipt(receipt, Json(view(&app, role).await?.0.permissions)))
}
