//! Nobody hands out power they lack.
//!
//! The built-in permissions, and roles that contain them, are given, taken and changed only by who
//! holds them or `all_all`; `all_all` and the role `superuser` only by `all_all`.

use schema::permission::{ALL_ALL, Permission, Role, SUPERUSER, is_built_in};

use super::{authority::Caller, problem::Problem};
use crate::app::App;

/// Goes on when the caller may hand this permission out.
///
/// # Errors
/// 403, or when that is not known.
pub async fn over_permission(caller: &Caller, permission: &Permission) -> Result<(), Problem> {
    let name = permission.name.as_str();
    if is_built_in(name) { caller.certainly_has_any(&[name, ALL_ALL]).await } else { Ok(()) }
}

/// Goes on when the caller may hand this role out, or change it.
///
/// # Errors
/// 403, or when that is not known.
pub async fn over_role(app: &App, caller: &Caller, role: &Role) -> Result<(), Problem> {
    if role.name.as_str() == SUPERUSER {
        return caller.certainly_has_any(&[ALL_ALL]).await;
    }
    let permissions = app.stores.permissions.list().await?;
    let inside = permissions.iter().filter(|permission| role.permissions.contains(&permission.id));
    for permission in inside {
        over_permission(caller, permission).await?;
    }
    Ok(())
}
