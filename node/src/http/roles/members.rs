//! `roles/{name}/permissions`: what a role gives.

use std::sync::Arc;

use axum::{Json, extract::State};
use schema::Name;

use super::{find, keeps_superuser, view};
use crate::{
    app::App,
    http::{
        authority::{Authorized, InPath, Named, PermissionsAdmin},
        permissions::{self, NameOf, PermissionView},
        power,
        problem::{Problem, ProblemBody},
        taken::Taken,
    },
};

/// The `{permission}` of a path.
pub struct PermissionName(Name);

impl InPath for PermissionName {
    const PARAMETER: &'static str = "permission";
    fn read(text: &str) -> Option<Self> {
        Name::to_look_up(text).map(Self)
    }
}

type Members = Taken<Json<Vec<PermissionView>>>;

/// Put a permission in a role
#[utoipa::path(
    post, path = "/roles/{name}/permissions", tag = "roles", operation_id = "add_role_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path)),
    request_body = NameOf,
    responses(
        (status = 200, description = "The permissions of the role", body = Vec<PermissionView>),
        (status = 403, description = "The caller lacks the authority, or hands out power that it lacks", body = ProblemBody),
        (status = 409, description = "The role has as many as may be", body = ProblemBody),
    ),
)]
pub async fn add(
    State(app): State<Arc<App>>,
    allowed: Authorized<(PermissionsAdmin, Named<Name>), NameOf>,
) -> Result<Members, Problem> {
    let Authorized((PermissionsAdmin(caller), Named(name)), which) = allowed;
    let role = find(&app, &name).await?;
    let permission = permissions::find(&app, &permissions::name(&which.name)?).await?;
    power::over_role(&app, &caller, &role).await?;
    power::over_permission(&caller, &permission).await?;
    let (role, receipt) = app.actors.catalogue.add(&role, &permission).await?;
    tracing::info!(role = %name, permission = %permission.name, by = %caller.claims.user, "a role was given a permission");
    Ok(Taken(receipt, Json(view(&app, role).await?.0.permissions)))
}

/// Take a permission out of a role
#[utoipa::path(
    delete, path = "/roles/{name}/permissions/{permission}", tag = "roles", operation_id = "remove_role_permission",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("name" = String, Path), ("permission" = String, Path)),
    responses(
        (status = 200, description = "The permissions of the role", body = Vec<PermissionView>),
        (status = 403, description = "Power that the caller lacks, or all_all of the role superuser", body = ProblemBody),
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
    power::over_role(&app, &caller, &role).await?;
    power::over_permission(&caller, &permission).await?;
    keeps_superuser(&role, permission.name.as_str())?;
    let (role, receipt) = app.actors.catalogue.remove(&role, &permission).await?;
    tracing::info!(role = %name, permission = %permission.name, by = %caller.claims.user, "a role lost a permission");
    Ok(Taken(receipt, Json(view(&app, role).await?.0.permissions)))
}
