//! Endpoints of roles: list, create, read, describe, delete; and the permissions in them.

pub mod members;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State, http::StatusCode};
use schema::{
    Name, PermissionId, RoleId,
    permission::{ALL_ALL, Effective, Permission, Role, SUPERUSER},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    named::{NewDescription, NewNamed, added},
    permissions::PermissionView,
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

/// A role.
#[derive(Serialize, ToSchema)]
pub struct RoleView {
    #[schema(value_type = uuid::Uuid)]
    uuid: RoleId,
    #[schema(value_type = String, example = "editor")]
    name: Name,
    #[schema(required = true)]
    description: Option<String>,
    /// Sorted by name.
    permissions: Vec<PermissionView>,
}

/// The views of roles, with their permissions.
pub async fn views(app: &App, roles: Vec<Role>) -> Result<Vec<RoleView>, Problem> {
    Ok(join_permissions(&app.stores.permissions.list().await?, roles))
}

/// The views of a user's roles. `effective` contains all their permissions.
pub fn views_of(effective: Effective) -> Vec<RoleView> {
    join_permissions(&effective.combined, effective.roles)
}

/// The views of roles, each with its own among these permissions.
fn join_permissions(permissions: &[Permission], roles: Vec<Role>) -> Vec<RoleView> {
    let known: HashMap<PermissionId, _> =
        permissions.iter().map(|permission| (permission.id, permission)).collect();
    let view = |role: Role| {
        // Ids of deleted permissions are skipped.
        let mut permissions: Vec<_> =
            role.permissions.iter().filter_map(|id| known.get(id).copied()).collect();
        permissions.sort_by(|a, b| a.name.cmp(&b.name));
        let permissions = permissions.into_iter().cloned().map(Into::into).collect();
        RoleView { uuid: role.id, name: role.name, description: role.description, permissions }
    };
    roles.into_iter().map(view).collect()
}

/// The view of one role.
pub async fn view(app: &App, role: Role) -> Result<Json<RoleView>, Problem> {
    views(app, vec![role]).await?.pop().map(Json).ok_or_else(Problem::not_found)
}

/// The role of this name.
pub async fn find(app: &App, name: &Name) -> Result<Role, Problem> {
    app.stores.roles.get(name).await?.ok_or_else(Problem::not_found)
}

/// List roles
#[utoipa::path(
    get, path = "/roles", tag = "roles", operation_id = "list_roles",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "All roles", body = Vec<RoleView>),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(State(app): State<Arc<App>>, _: PermissionsAdmin) -> Result<Json<Vec<RoleView>>, Problem> {
    let roles = app.stores.roles.list().await?;
    Ok(Json(views(&app, roles).await?))
}

/// Create a role
#[utoipa::path(
    post, path = "/roles", tag = "roles", operation_id = "create_role",
    security(("bearer" = [])),
    request_body = NewNamed,
    responses(
        (status = 201, description = "The new role", body = RoleView),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
        (status = 409, description = "The name is taken", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Authorized(PermissionsAdmin(caller), new): Authorized<PermissionsAdmin, NewNamed>,
) -> Result<(StatusCode, Json<RoleView>), Problem> {
    let (name, description) = new.parse()?;
    let id = RoleId::new(app.clock.now(), app.entropy.id());
    let role = Role { id, name, description, permissions: BTreeSet::new() };
    privileges::over_role(&app, &caller, &role).await?;
    added(app.stores.roles.create(&role).await?)?;
    tracing::info!(role = %role.name, by = %caller.claims.user, "role created");
    Ok((StatusCode::CREATED, view(&app, role).await?))
}

/// Get a role
#[utoipa::path(
    get, path = "/roles/{name}", tag = "roles", operation_id = "get_role",
    security(("bearer" = [])),
    params(("name" = String, Path)),
    responses(
        (status = 200, description = "The role", body = RoleView),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn get(
    State(app): State<Arc<App>>,
    _: PermissionsAdmin,
    Named(name): Named<Name>,
) -> Result<Json<RoleView>, Problem> {
    view(&app, find(&app, &name).await?).await
}

/// Describe a role
#[utoipa::path(
    patch, path = "/roles/{name}", tag = "roles", operation_id = "update_role",
    security(("bearer" = [])),
    params(("name" = String, Path)),
    request_body = NewDescription,
    responses(
        (status = 200, description = "The role as it is now", body = RoleView),
        (status = 403, description = "The caller lacks `permissions_admin` and `all_all`, or a privilege that it would hand out", body = ProblemBody),
    ),
)]
pub async fn update(
    State(app): State<Arc<App>>,
    allowed: Authorized<(PermissionsAdmin, Named<Name>), NewDescription>,
) -> Result<Json<RoleView>, Problem> {
    let Authorized((PermissionsAdmin(caller), Named(name)), new) = allowed;
    let text = new.parse()?;
    let role = find(&app, &name).await?;
    privileges::over_role(&app, &caller, &role).await?;
    let Some(text) = text else { return view(&app, role).await };
    let described = app.stores.roles.describe(&name, text.as_deref()).await?;
    view(&app, described.ok_or_else(Problem::not_found)?).await
}

/// Delete a role, and revoke it from all users
#[utoipa::path(
    delete, path = "/roles/{name}", tag = "roles", operation_id = "delete_role",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "Deleted, and revoked from all users"),
        (status = 403, description = "The caller lacks the authority or a privilege of the role, or it is the role superuser", body = ProblemBody),
        (status = 409, description = "This would leave no active superuser", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    PermissionsAdmin(caller): PermissionsAdmin,
    Named(name): Named<Name>,
) -> Result<WithReceipt<StatusCode>, Problem> {
    let role = find(&app, &name).await?;
    privileges::over_role(&app, &caller, &role).await?;
    keeps_superuser(&role, ALL_ALL)?;
    let receipt = app.actors.catalogue.delete_role(&role).await?;
    tracing::info!(role = %name, by = %caller.claims.user, "role deleted");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}

/// Refuses to delete the role `superuser`, or to remove `all_all` from it.
fn keeps_superuser(role: &Role, losing: &str) -> Result<(), Problem> {
    if role.name.as_str() == SUPERUSER && losing == ALL_ALL {
        let msg = "The role superuser always holds all_all";
        return Err(Problem::new(StatusCode::FORBIDDEN, "built_in", msg));
    }
    Ok(())
}
