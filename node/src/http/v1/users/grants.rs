//! What the grants of roles and of direct permissions have in common: they are listed, given and revoked alike.

use actors::user::GrantChange;
use axum::Json;
use schema::{
    Name, UserId,
    permission::{Effective, Permission, Role},
};

use crate::{
    app::App,
    http::{
        extract::authority::{Caller, ModifyGrants, ReadGrants},
        respond::{problem::Problem, receipt::WithReceipt},
        v1::{
            named::NameOf,
            permissions::{self, PermissionView},
            privileges,
            roles::{self, RoleView},
        },
    },
};

/// A role or a permission, as a thing that a user is given.
pub trait Grantable: Sized {
    /// How the API shows it.
    type View;

    /// The one of this name; 404 if there is none.
    async fn find(app: &App, name: &Name) -> Result<Self, Problem>;
    /// Succeeds if the caller may give and revoke it.
    async fn require_privilege(&self, app: &App, caller: &Caller) -> Result<(), Problem>;
    /// The change that gives or revokes it.
    fn into_change(self) -> GrantChange;
    /// Logs that `by` changed the grant of this name for the user: "given" or "revoked".
    fn log(change: &str, name: &Name, user: UserId, by: UserId);
    /// Those that a user has, directly.
    fn views_of(effective: Effective) -> Vec<Self::View>;
}

impl Grantable for Role {
    type View = RoleView;

    async fn find(app: &App, name: &Name) -> Result<Self, Problem> {
        roles::find(app, name).await
    }

    async fn require_privilege(&self, app: &App, caller: &Caller) -> Result<(), Problem> {
        privileges::over_role(app, caller, self).await
    }

    fn into_change(self) -> GrantChange {
        GrantChange::Role(self)
    }

    fn log(change: &str, name: &Name, user: UserId, by: UserId) {
        tracing::info!(%user, role = %name, %by, "role {change}");
    }

    fn views_of(effective: Effective) -> Vec<RoleView> {
        roles::views_of(effective)
    }
}

impl Grantable for Permission {
    type View = PermissionView;

    async fn find(app: &App, name: &Name) -> Result<Self, Problem> {
        permissions::find(app, name).await
    }

    async fn require_privilege(&self, _: &App, caller: &Caller) -> Result<(), Problem> {
        privileges::over_permission(caller, self).await
    }

    fn into_change(self) -> GrantChange {
        GrantChange::Permission(self)
    }

    fn log(change: &str, name: &Name, user: UserId, by: UserId) {
        tracing::info!(%user, permission = %name, %by, "permission {change}");
    }

    fn views_of(effective: Effective) -> Vec<PermissionView> {
        effective.direct.into_iter().map(Into::into).collect()
    }
}

/// The roles or the direct permissions of a user.
pub type Views<G> = Json<Vec<<G as Grantable>::View>>;

async fn of<G: Grantable>(app: &App, user: UserId) -> Result<Views<G>, Problem> {
    Ok(Json(G::views_of(app.stores.grants.effective(user).await?)))
}

/// Lists those that the user has.
pub(super) async fn list<G: Grantable>(app: &App, ReadGrants(on): ReadGrants) -> Result<Views<G>, Problem> {
    app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    of::<G>(app, on.user).await
}

/// Gives one to the user, and lists those that the user has then.
pub(super) async fn give<G: Grantable>(
    app: &App,
    ModifyGrants(on): ModifyGrants,
    which: &NameOf,
) -> Result<WithReceipt<Views<G>>, Problem> {
    let name = which.parse()?;
    let grant = G::find(app, &name).await?;
    grant.require_privilege(app, &on.caller).await?;
    let receipt = app.actors.users.give(on.user, grant.into_change()).await?;
    G::log("given", &name, on.user, on.caller.claims.user);
    Ok(WithReceipt(receipt, of::<G>(app, on.user).await?))
}

/// Revokes one of the user, and lists those that the user has then.
pub(super) async fn take<G: Grantable>(
    app: &App,
    ModifyGrants(on): ModifyGrants,
    name: &Name,
) -> Result<WithReceipt<Views<G>>, Problem> {
    let grant = G::find(app, name).await?;
    grant.require_privilege(app, &on.caller).await?;
    let receipt = app.actors.users.take(on.user, grant.into_change()).await?;
    G::log("revoked", name, on.user, on.caller.claims.user);
    Ok(WithReceipt(receipt, of::<G>(app, on.user).await?))
}
