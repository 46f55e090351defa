//! The rule that callers hand out only privileges that they hold themselves.
//!
//! A built-in permission, or a role that contains one, can be given, revoked or changed only by a caller that
//! holds the permission or `all_all`. For `all_all` and the role `superuser` the caller needs `all_all`.

use schema::permission::{ALL_ALL, Permission, Role, SUPERUSER, is_built_in};

use crate::{
    app::App,
    http::{extract::authority::Caller, respond::problem::Problem},
};

/// Succeeds if the caller may give and revoke this permission.
///
/// # Errors
/// 403, or when that is not known.
pub async fn over_permission(caller: &Caller, permission: &Permission) -> Result<(), Problem> {
    let name = permission.name.as_str();
    if is_built_in(name) { caller.require_any_now(&[name, ALL_ALL]).await } else { Ok(()) }
}

/// Succeeds if the caller may give, revoke and change this role.
///
/// # Errors
/// 403, or when that is not known.
pub async fn over_role(app: &App, caller: &Caller, role: &Role) -> Result<(), Problem> {
    if role.name.as_str() == SUPERUSER {
        return caller.require_any_now(&[ALL_ALL]).await;
    }
    let permissions = app.stores.permissions.list().await?;
    let inside = permissions.iter().filter(|permission| role.permissions.contains(&permission.id));
    for permission in inside {
        over_permission(caller, permission).await?;
    }
    Ok(())
}
