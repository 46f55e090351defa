//! What a user is given and deprived of.

use schema::{
    Subject, UserId,
    fact::FactKind,
    permission::{ALL_ALL, Grant, Permission, Role},
    store::Added,
};

use super::UserError;
use crate::{
    Context, Receipt,
    superusers::{self, Leave, Loss},
};

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
    stores.users.get(user).await?.ok_or(UserError::NotFound)?;
    if stores.grants.give(user, change.grant()).await? == Added::Full {
        return Err(UserError::Full);
    }
    superusers::count(stores, &[user]).await?;
    changed(context, user).await
}

pub(super) async fn take(context: &Context, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
    let stores = &context.stores;
    stores.users.get(user).await?.ok_or(UserError::NotFound)?;
    let loss = match &change {
        GrantChange::Role(role) if superusers::is_powerful(stores, role).await? => {
            Some(Loss::Role(user, role.id))
        }
        GrantChange::Permission(permission) if permission.name.as_str() == ALL_ALL => {
            Some(Loss::Permission(user, permission.id))
        }
        _ => None,
    };
    if let Some(loss) = loss
        && superusers::leave(stores, loss).await? == Leave::LastOne
    {
        return Err(UserError::LastSuperuser);
    }
    stores.grants.take(user, change.grant()).await?;
    changed(context, user).await
}

pub(super) async fn take_even_last(
    context: &Context,
    user: UserId,
    change: GrantChange,
) -> Result<Receipt, UserError> {
    let stores = &context.stores;
    stores.users.get(user).await?.ok_or(UserError::NotFound)?;
    stores.grants.take(user, change.grant()).await?;
    superusers::recount(stores).await?;
    changed(context, user).await
}

async fn changed(context: &Context, user: UserId) -> Result<Receipt, UserError> {
    let changed = FactKind::PermissionsChanged { subject: Subject::User(user) };
    Ok(context.facts.take_away(&[changed]).await?)
}
