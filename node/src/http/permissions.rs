//! Permissions: listed, made, described, deleted.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::{
    Name, PermissionId,
    permission::{Permission, is_built_in},
    store::Added,
    text::Description,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    authority::{Authorized, Named, PermissionsAdmin},
    body::present,
    power,
    problem::{Problem, ProblemBody},
    taken::Taken,
};
use crate::app::App;

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

/// A new permission or role.
#[derive(Deserialize, ToSchema)]
pub struct NewNamed {
    /// `[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}`; never changed.
    #[schema(example = "films.read")]
    pub name: String,
    /// At most 500 characters.
    pub description: Option<String>,
}

/// A new description.
#[derive(Deserialize, ToSchema)]
pub struct NewDescription {
    /// At most 500 characters; null for none. Absent: it stays.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
}

/// The name of something that exists, to be put somewhere.
#[derive(Deserialize, ToSchema)]
pub struct NameOf {
    #[schema(example = "films.read")]
    pub name: String,
}

/// A name from a body.
pub fn name(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|error: schema::name::NotAName| Problem::field("name", error.to_string()))
}

/// A description from a body.
pub fn description(text: Option<&str>) -> Result<Option<String>, Problem> {
    let parsed = text.map(Description::parse).transpose();
    let parsed = parsed.map_err(|why| Problem::field("description", why.to_string()))?;
    Ok(parsed.map(Description::into_string))
}

/// What came of adding something with a name.
pub fn added(added: Added) -> Result<(), Problem> {
    match added {
        Added::Done => Ok(()),
        Added::Exists => Err(Problem::conflict("name_taken", "This name is taken")),
        Added::Full => Err(Problem::conflict("too_many", "There are as many as there may be")),
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

/// Make a permission
#[utoipa::path(
    post, path = "/permissions", tag = "permissions", operation_id = "create_permission",
    security(("bearer" = [])),
    request_body = NewNamed,
    responses(
        (status = 201, description = "The new permission", body = PermissionView),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
        (status = 409, description = "The name is taken", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Authorized(PermissionsAdmin(caller), new): Authorized<PermissionsAdmin, NewNamed>,
) -> Result<(StatusCode, Json<PermissionView>), Problem> {
    let permission = Permission {
        id: PermissionId::new(app.clock.now(), app.entropy.id()),
        name: name(&new.name)?,
        description: description(new.description.as_deref())?,
    };
    // Before `app init` the built-in ones do not exist; nobody makes them by this way.
    power::over_permission(&caller, &permission).await?;
    added(app.stores.permissions.create(&permission).await?)?;
    tracing::info!(permission = %permission.name, by = %caller.claims.user, "a permission was made");
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
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
    ),
)]
pub async fn update(
    State(app): State<Arc<App>>,
    allowed: Authorized<(PermissionsAdmin, Named<Name>), NewDescription>,
) -> Result<Json<PermissionView>, Problem> {
    let Authorized((PermissionsAdmin(caller), Named(name)), new) = allowed;
    let text = new.description.map(|text| description(text.as_deref())).transpose()?;
    let permission = find(&app, &name).await?;
    power::over_permission(&caller, &permission).await?;
    let Some(text) = text else { return Ok(Json(permission.into())) };
    let described = app.stores.permissions.describe(&name, text.as_deref()).await?;
    Ok(Json(described.ok_or_else(Problem::not_found)?.into()))
}

/// Delete a permission, from all who have it too
#[utoipa::path(
    delete, path = "/permissions/{name}", tag = "permissions", operation_id = "delete_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "Deleted, and taken from all who had it"),
        (status = 403, description = "The caller lacks `permissions_admin`, or it is built in", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    PermissionsAdmin(caller): PermissionsAdmin,
    Named(name): Named<Name>,
) -> Result<Taken<StatusCode>, Problem> {
    if is_built_in(name.as_str()) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "built_in",
            "Built-in permissions are never deleted",
        ));
    }
    let permission = find(&app, &name).await?;
    let receipt = app.actors.catalogue.delete_permission(&permission).await?;
    tracing::info!(permission = %name, by = %caller.claims.user, "a permission was deleted");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}
