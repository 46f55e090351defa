//! What a user is given and deprived of.

use schema::{
    Subject, UserId,
    fact::FactKind,
    permission::{ALL_ALL, Grant, Permission, Role},
    power::Loss,
    store::Added,
};

use super::{UserError, revoke};
use crate::{Context, Receipt, superusers};

/// A role or a direct permission, to be given or taken.
#[derive(Debug, Clone)]
pub enum GrantChange {
    /// Give or take this role.
    Role(Role),
    /// Give or take this direct permission.
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

pub(super) async fn give(context: &Context, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
    let stores = &context.stores;
    let _one_at_a_time = context.power.lock().await;
    stores.users.get(user).await?.ok_or(UserError::NotFound)?;
    let given = stores.grants.give(user, change.grant()).await;
    let receipt = changed(context, user).await?;
    if given? == Added::Full {
        return Err(UserError::Full);
    }
    superusers::count(stores, &[user]).await?;
    Ok(receipt)
}

pub(super) async fn take(context: &Context, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
    let _one_at_a_time = context.power.lock().await;
    let loss = match &change {
        GrantChange::Role(role) => Loss::Role(user, role.id),
        GrantChange::Permission(permission) if permission.name.as_str() == ALL_ALL => {
            Loss::Permission(user, permission.id)
        }
        GrantChange::Permission(_) => return take_unasked(context, user, &change).await,
    };
    let taken = superusers::lose(context, loss, take_unasked(context, user, &change)).await?;
    taken.ok_or(UserError::LastSuperuser)
}

/// Takes everything that gives `all_all`; says whether there was any.
pub(super) async fn take_power(context: &Context, user: UserId, even_last: bool) -> Result<bool, UserError> {
    let stores = &context.stores;
    let _one_at_a_time = context.power.lock().await;
    let effective = stores.grants.effective(user).await?;
    let Some(all_all) = superusers::all_all(&effective) else { return Ok(false) };
    let direct = effective.direct.into_iter().filter(|permission| permission.id == all_all);
    let roles = effective.roles.into_iter().filter(|role| role.permissions.contains(&all_all));
    let all: Vec<_> = direct.map(GrantChange::Permission).chain(roles.map(GrantChange::Role)).collect();
    let take_all = async {
        for change in &all {
            take_unasked(context, user, change).await?;
        }
        Ok::<_, UserError>(())
    };
    if even_last {
        take_all.await?;
    } else {
        let taken = superusers::lose(context, Loss::User(user), take_all).await?;
        taken.ok_or(UserError::LastSuperuser)?;
    }
    superusers::recount(stores).await?;
    Ok(true)
}

async fn take_unasked(context: &Context, user: UserId, change: &GrantChange) -> Result<Receipt, UserError> {
    revoke::found(context, user).await?;
    let taken = context.stores.grants.take(user, change.grant()).await;
    let receipt = changed(context, user).await?;
    taken?;
    Ok(receipt)
}

/// To be called whatever came of the change: when the store did not answer it may have happened.
async fn changed(context: &Context, user: UserId) -> Result<Receipt, UserError> {
    let changed = FactKind::PermissionsChanged { subject: Subject::User(user) };
    Ok(context.facts.take_away(&[changed]).await?)
}
