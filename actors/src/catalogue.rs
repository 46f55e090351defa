//! The catalogue: changes of roles and permissions that change what people may do.
//!
//! They need no actor: each is one atomic change in the store. What they need is that a change is
//! known everywhere before it is answered, and that the last superuser stays.

use schema::{
    Subject,
    fact::FactKind,
    permission::{ALL_ALL, Permission, Role},
    power::Loss,
};

use crate::{
    ActorError, Context, Receipt, shard,
    superusers::{self, Refusal},
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

impl Refusal for CatalogueError {
    fn is_certain(&self) -> bool {
        !matches!(self, Self::Actor(_))
    }
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
    pub async fn add(&self, role: &Role, permission: &Permission) -> Result<(Role, Receipt), CatalogueError> {
        let (this, role, permission) = (self.clone(), role.clone(), permission.clone());
        isolated(async move {
            let stores = &this.context.stores;
            let _one_at_a_time = this.context.power.lock().await;
            let added = stores.roles.add(&role.name, &permission).await;
            let receipt = this.changed(Subject::Role(role.id)).await?;
            let role = added?.ok_or(CatalogueError::NotFound)?;
            if !role.permissions.contains(&permission.id) {
                // Full, or the permission was deleted meanwhile.
                let there = stores.permissions.get(&permission.name).await?;
                let there = there.is_some_and(|there| there.id == permission.id);
                return Err(if there { CatalogueError::Full } else { CatalogueError::NotFound });
            }
            if permission.name.as_str() == ALL_ALL {
                superusers::count_holders(stores, &role).await?;
            }
            Ok((role, receipt))
        })
        .await
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
        let (this, role, permission) = (self.clone(), role.clone(), permission.clone());
        isolated(async move {
            let _one_at_a_time = this.context.power.lock().await;
            let remove = async {
                let removed = this.context.stores.roles.remove(&role.name, &permission).await;
                let receipt = this.changed(Subject::Role(role.id)).await?;
                Ok::<_, CatalogueError>((removed?.ok_or(CatalogueError::NotFound)?, receipt))
            };
            if permission.name.as_str() != ALL_ALL {
                return remove.await;
            }
            let removed = superusers::lose(&this.context, Loss::OfRole(role.id), remove).await?;
            removed.ok_or(CatalogueError::LastSuperuser)
        })
        .await
    }

    /// Deletes a role, from all who have it too.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn delete_role(&self, role: &Role) -> Result<Receipt, CatalogueError> {
        let (this, role) = (self.clone(), role.clone());
        isolated(async move {
            let _one_at_a_time = this.context.power.lock().await;
            let delete = async {
                let deleted = this.context.stores.roles.delete(&role.name).await;
                let receipt = this.changed(Subject::Role(role.id)).await?;
                deleted?.ok_or(CatalogueError::NotFound)?;
                Ok::<_, CatalogueError>(receipt)
            };
            let deleted = superusers::lose(&this.context, Loss::OfRole(role.id), delete).await?;
            deleted.ok_or(CatalogueError::LastSuperuser)
        })
        .await
    }

    /// Deletes a permission, from all who have it too. Built-in ones are the caller's to refuse.
    ///
    /// # Errors
    /// `NotFound`, or it was not done.
    pub async fn delete_permission(&self, permission: &Permission) -> Result<Receipt, CatalogueError> {
        let (this, permission) = (self.clone(), permission.clone());
        isolated(async move {
            let deleted = this.context.stores.permissions.delete(&permission.name).await;
            let receipt = this.changed(Subject::Permission(permission.id)).await?;
            deleted?.ok_or(CatalogueError::NotFound)?;
            Ok(receipt)
        })
        .await
    }

    /// To be called whatever came of the change: when the store did not answer it may have happened.
    async fn changed(&self, subject: Subject) -> Result<Receipt, ActorError> {
        self.context.facts.take_away(&[FactKind::PermissionsChanged { subject }]).await
    }
}

/// Goes on when the caller is gone: a change is never left unknown because a connection closed.
async fn isolated<T: Send + 'static>(
    work: impl Future<Output = Result<T, CatalogueError>> + Send + 'static,
) -> Result<T, CatalogueError> {
    shard::isolated(async move { Ok(work.await) }).await?
}
