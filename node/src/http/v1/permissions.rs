//! Endpoints of permissions: list, create, describe, delete.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::{
    Name, PermissionId,
    permission::{Permission, is_built_in},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    named::{NewDescription, NewNamed, added},
    privileges,
};
use crate::{
    app::App,
    http::{
        extract::authority::{Authorized, Named, PermissionsAdmin},
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
    },
};

/// A permission.
#[derive(Serialize, ToSchema)]
pub struct PermissionView {
    #[schema(value_type = uuid::Uuid)]
    uuid: PermissionId,
    #[schema(value_type = String, example = "films.read")]
    name: Name,
    #[schema(required = true)]
    description: Option<String>,
}

impl From<Permission> for PermissionView {
    fn from(permission: Permission) -> Self {
        Self { uuid: permission.id, name: permission.name, description: permission.description }
    }
}

/// The permission of this name.
pub async fn find(app: &App, name: &Name) -> Result<Permission, Problem> {
    app.stores.permissions.get(name).await?.ok_or_else(Problem::not_found)
}

/// List permissions
#[utoipa::path(
    get, path = "/permissions", tag = "permissions", operation_id = "list_permissions",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "All permissions", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    _: PermissionsAdmin,
) -> Result<Json<Vec<PermissionView>>, Problem> {
    let permissions = app.stores.permissions.list().await?;
    Ok(Json(permissions.into_iter().map(Into::into).collect()))
}

/// Create a permission
#[utoipa::path(
    post, path = "/permissions", tag = "permissions", operation_id = "create_permission",
    security(("bearer" = [])),
    request_body = NewNamed,
    responses(
        (status = 201, description = "The new permission", body = PermissionView),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "The name is taken", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Authorized(PermissionsAdmin(caller), new): Authorized<PermissionsAdmin, NewNamed>,
) -> Result<(StatusCode, Json<PermissionView>), Problem> {
    let (name, description) = new.parse()?;
    let id = PermissionId::new(app.clock.now(), app.entropy.id());
    let permission = Permission { id, name, description };
    // Before `app init` the built-in permissions do not exist, and callers must not create them here.
    privileges::over_permission(&caller, &permission).await?;
    added(app.stores.permissions.create(&permission).await?)?;
    tracing::info!(permission = %permission.name, by = %caller.claims.user, "permission created");
    Ok((StatusCode::CREATED, Json(permission.into())))
}

/// Describe a permission
#[utoipa::path(
    patch, path = "/permissions/{name}", tag = "permissions", operation_id = "update_permission",
    security(("bearer" = [])),
    params(("name" = String, Path)),
    request_body = NewDescription,
    responses(
        (status = 200, description = "The permission as it is now", body = PermissionView),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
    ),
)]
pub async fn update(
    State(app): State<Arc<App>>,
    allowed: Authorized<(PermissionsAdmin, Named<Name>), NewDescription>,
) -> Result<Json<PermissionView>, Problem> {
    let Authorized((PermissionsAdmin(caller), Named(name)), new) = allowed;
    let text = new.parse()?;
    let permission = find(&app, &name).await?;
    privileges::over_permission(&caller, &permission).await?;
    let Some(text) = text else { return Ok(Json(permission.into())) };
    let described = app.stores.permissions.describe(&name, text.as_deref()).await?;
    Ok(Json(described.ok_or_else(Problem::not_found)?.into()))
}

/// Delete a permission, and revoke it from all users and roles
#[utoipa::path(
    delete, path = "/permissions/{name}", tag = "permissions", operation_id = "delete_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "Deleted, and revoked from all users and roles"),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or the permission is built in", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    PermissionsAdmin(caller): PermissionsAdmin,
    Named(name): Named<Name>,
) -> Result<WithReceipt<StatusCode>, Problem> {
    if is_built_in(name.as_str()) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "built_in",
            "Built-in permissions are never deleted",
        ));
    }
    let permission = find(&app, &name).await?;
    let receipt = app.actors.catalogue.delete_permission(&permission).await?;
    tracing::info!(permission = %name, by = %caller.claims.user, "permission deleted");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}
