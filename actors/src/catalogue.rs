//! The catalogue: changes of roles and permissions that change what people may do.
//!
//! They need no actor: each is one atomic change in the store. What they need is that a change is
//! known everywhere before it is answered, and that the last superuser stays.

use schema::{
    Name, Subject,
    fact::FactKind,
    permission::{ALL_ALL, Permission, Role},
};

use crate::{
    ActorError, Context, Receipt,
    superusers::{self, Leave, Loss},
};

/// Why a change of the catalogue did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// There is no such role or permission.
    #[error("no such role or permission")]
    NotFound,
    /// Nobody active would have `all_all` any more.
    #[error("the last superuser stays")]
    LastSuperuser,
    /// The role has as many permissions as may be.
    #[error("no more permissions in one role")]
    Full,
    /// It was not done.
    #[error(transparent)]
    Actor(#[from] ActorError),
}

impl From<schema::StoreError> for CatalogueError {
    fn from(error: schema::StoreError) -> Self {
        Self::Actor(error.into())
    }
}

/// Changes roles and permissions.
#[derive(Clone)]
pub struct Catalogue {
    context: Context,
}

impl Catalogue {
    pub(crate) const fn new(context: Context) -> Self {
        Self { context }
    }

    /// Puts a permission in a role. In it already is no error.
    ///
    /// # Errors
    /// `NotFound`, `Full`, or it was not done.
    pub async fn add(&self, role: &Name, permission: &Permission) -> Result<(Role, Receipt), CatalogueError> {
        let stores = &self.context.stores;
        let role = stores.roles.add(role, permission).await?.ok_or(CatalogueError::NotFound)?;
        if !role.permissions.contains(&permission.id) {
            // Full, or the permission was deleted meanwhile.
            let there = stores.permissions.get(&permission.name).await?;
            let there = there.is_some_and(|there| there.id == permission.id);
            return Err(if there { CatalogueError::Full } else { CatalogueError::NotFound });
        }
        if permission.name.as_str() == ALL_ALL {
            superusers::count_holders(stores, &role).await?;
        }
        let receipt = self.changed(Subject::Role(role.id)).await?;
        Ok((role, receipt))
    }

    /// Takes a permission out of a role. Not in it is no error.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn remove(
        &self,
        role: &Role,
        permission: &Permission,
    ) -> Result<(Role, Receipt), CatalogueError> {
        if permission.name.as_str() == ALL_ALL && role.permissions.contains(&permission.id) {
            self.may_lose_power(role).await?;
        }
        let removed = self.context.stores.roles.remove(&role.name, permission).await?;
        let role = removed.ok_or(CatalogueError::NotFound)?;
        let receipt = self.changed(Subject::Role(role.id)).await?;
        Ok((role, receipt))
    }

    /// Deletes a role, from all who have it too.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn delete_role(&self, role: &Role) -> Result<Receipt, CatalogueError> {
        if superusers::is_powerful(&self.context.stores, role).await? {
            self.may_lose_power(role).await?;
        }
        let deleted = self.context.stores.roles.delete(&role.name).await?;
        let deleted = deleted.ok_or(CatalogueError::NotFound)?;
        Ok(self.changed(Subject::Role(deleted.id)).await?)
    }

    /// Deletes a permission, from all who have it too. Built-in ones are the caller's to refuse.
    ///
    /// # Errors
    /// `NotFound`, or it was not done.
    pub async fn delete_permission(&self, name: &Name) -> Result<Receipt, CatalogueError> {
        let deleted = self.context.stores.permissions.delete(name).await?;
        let deleted = deleted.ok_or(CatalogueError::NotFound)?;
        Ok(self.changed(Subject::Permission(deleted.id)).await?)
    }

    async fn may_lose_power(&self, role: &Role) -> Result<(), CatalogueError> {
        match superusers::leave(&self.context.stores, Loss::OfRole(role.id)).await? {
            Leave::Granted => Ok(()),
            Leave::LastOne => Err(CatalogueError::LastSuperuser),
        }
    }

    async fn changed(&self, subject: Subject) -> Result<Receipt, ActorError> {
        self.context.facts.take_away(&[FactKind::PermissionsChanged { subject }]).await
    }
}
