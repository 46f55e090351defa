//! Grants of roles and direct permissions: given to a user and taken back.

use schema::{
    Subject, UserId,
    fact::FactKind,
    permission::{ALL_ALL, Grant, Permission, Role},
};
use store::Added;

use super::{UserError, revoke};
use crate::{
    Context, Receipt,
    superusers::{self, Removal},
};

/// A role or a direct permission that a call gives or takes.
#[derive(Debug, Clone)]
pub enum GrantChange {
    /// This role.
    Role(Role),
    /// This direct permission.
    Permission(Permission),
}

impl GrantChange {
    const fn grant(&self) -> Grant {
        match self {
            Self::Role(role) => Grant::Role(role.id),
            Self::Permission(permission) => Grant::Permission(permission.id),
        }
    }
}

/// Gives a grant; adds the user to the superusers if the grant makes it one.
pub(super) async fn give(context: &Context, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
    let stores = &context.stores;
    let _serialized = context.privileges.lock().await;
    stores.users.get(user).await?.ok_or(UserError::NotFound)?;
    let given = stores.grants.give(user, change.grant()).await;
    let receipt = changed(context, user).await?;
    if given? == Added::Full {
        return Err(UserError::Full);
    }
    superusers::add(context, &[user]).await?;
    Ok(receipt)
}

/// Takes a grant, unless that would remove the last superuser.
pub(super) async fn take(context: &Context, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
    let _serialized = context.privileges.lock().await;
    let removal = match &change {
        GrantChange::Role(role) => Removal::Role(user, role.id),
        GrantChange::Permission(permission) if permission.name.as_str() == ALL_ALL => {
            Removal::Permission(user, permission.id)
        }
        GrantChange::Permission(_) => return take_unguarded(context, user, &change).await,
    };
    let taken =
        superusers::with_reservation(context, removal, take_unguarded(context, user, &change)).await?;
    taken.ok_or(UserError::LastSuperuser)
}

/// Takes every grant that gives `all_all` and returns whether there was any. With `even_last` it also
/// takes them from the last superuser.
pub(super) async fn take_privileges(
    context: &Context,
    user: UserId,
    even_last: bool,
) -> Result<bool, UserError> {
    let stores = &context.stores;
    let _serialized = context.privileges.lock().await;
    let effective = stores.grants.effective(user).await?;
    let Some(all_all) = superusers::all_all(&effective) else { return Ok(false) };
    let direct = effective.direct.into_iter().filter(|permission| permission.id == all_all);
    let roles = effective.roles.into_iter().filter(|role| role.permissions.contains(&all_all));
    let all: Vec<_> = direct.map(GrantChange::Permission).chain(roles.map(GrantChange::Role)).collect();
    let take_all = async {
        for change in &all {
            take_unguarded(context, user, change).await?;
        }
        Ok::<_, UserError>(())
    };
    if even_last {
        take_all.await?;
    } else {
        let taken = superusers::with_reservation(context, Removal::User(user), take_all).await?;
        taken.ok_or(UserError::LastSuperuser)?;
    }
    superusers::prune(context).await?;
    Ok(true)
}

/// Takes a grant without regard to the last superuser.
async fn take_unguarded(context: &Context, user: UserId, change: &GrantChange) -> Result<Receipt, UserError> {
    revoke::find(context, user).await?;
    let taken = context.stores.grants.take(user, change.grant()).await;
    let receipt = changed(context, user).await?;
    taken?;
    Ok(receipt)
}

/// Publishes a change of the user's permissions. The caller does this whatever the outcome of the change:
/// when the store did not answer, the change may have happened.
async fn changed(context: &Context, user: UserId) -> Result<Receipt, UserError> {
    let changed = FactKind::PermissionsChanged { subject: Subject::User(user) };
    Ok(context.facts.apply_and_publish(&[changed]).await?)
}
