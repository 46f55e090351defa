//! The catalogue: changes of roles and permissions that change what users may do.
//!
//! Promises: every node that acknowledges has invalidated its cache before the caller gets the
//! answer, and the last superuser stays. Never: an actor; each change is one atomic change in the
//! store.

use schema::{
    Subject,
    fact::FactKind,
    permission::{ALL_ALL, Permission, Role},
};

use crate::{
    ActorError, Context, Receipt, shard,
    superusers::{self, Removal, RemovalError},
};

/// Why a change of the catalogue did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// There is no such role or permission.
    #[error("no such role or permission")]
    NotFound,
    /// The change would leave no active user with `all_all`.
    #[error("the last superuser stays")]
    LastSuperuser,
    /// The role has the maximum number of permissions.
    #[error("the role has the maximum number of permissions")]
    Full,
    /// An actor or the store did not carry out the change, or it is not known whether it happened.
    #[error(transparent)]
    Actor(#[from] ActorError),
}

impl RemovalError for CatalogueError {
    fn is_definite(&self) -> bool {
        !matches!(self, Self::Actor(_))
    }
}

impl From<store::StoreError> for CatalogueError {
    fn from(error: store::StoreError) -> Self {
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

    /// Adds a permission to a role. A permission that the role already has is no error.
    ///
    /// # Errors
    /// `NotFound`, `Full`, or `Actor`.
    pub async fn add(&self, role: &Role, permission: &Permission) -> Result<(Role, Receipt), CatalogueError> {
        let this = self.clone();
        let role = role.clone();
        let permission = permission.clone();
        isolated(async move {
            let stores = &this.context.stores;
            let _serialized = this.context.privileges.lock().await;
            let added = stores.roles.add(&role.name, &permission).await;
            let receipt = this.changed(Subject::Role(role.id)).await?;
            let role = added?.ok_or(CatalogueError::NotFound)?;
            if !role.permissions.contains(&permission.id) {
                // The role is full, or another call has deleted the permission.
                let current = stores.permissions.get(&permission.name).await?;
                let exists = current.is_some_and(|current| current.id == permission.id);
                return Err(if exists { CatalogueError::Full } else { CatalogueError::NotFound });
            }
            if permission.name.as_str() == ALL_ALL {
                superusers::add_holders(&this.context, &role).await?;
            }
            Ok((role, receipt))
        })
        .await
    }

    /// Removes a permission from a role. A permission that the role does not have is no error.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or `Actor`.
    pub async fn remove(
        &self,
        role: &Role,
        permission: &Permission,
    ) -> Result<(Role, Receipt), CatalogueError> {
        let this = self.clone();
        let role = role.clone();
        let permission = permission.clone();
        isolated(async move {
            let _serialized = this.context.privileges.lock().await;
            let remove = async {
                let removed = this.context.stores.roles.remove(&role.name, &permission).await;
                let receipt = this.changed(Subject::Role(role.id)).await?;
                Ok::<_, CatalogueError>((removed?.ok_or(CatalogueError::NotFound)?, receipt))
            };
            if permission.name.as_str() != ALL_ALL {
                return remove.await;
            }
            let removal = Removal::OfRole(role.id);
            let removed = superusers::with_reservation(&this.context, removal, remove).await?;
            removed.ok_or(CatalogueError::LastSuperuser)
        })
        .await
    }

    /// Deletes a role and takes it from all users that have it.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or `Actor`.
    pub async fn delete_role(&self, role: &Role) -> Result<Receipt, CatalogueError> {
        let this = self.clone();
        let role = role.clone();
        isolated(async move {
            let _serialized = this.context.privileges.lock().await;
            let delete = async {
                let deleted = this.context.stores.roles.delete(&role.name).await;
                let receipt = this.changed(Subject::Role(role.id)).await?;
                deleted?.ok_or(CatalogueError::NotFound)?;
                Ok::<_, CatalogueError>(receipt)
            };
            let removal = Removal::OfRole(role.id);
            let deleted = superusers::with_reservation(&this.context, removal, delete).await?;
            deleted.ok_or(CatalogueError::LastSuperuser)
        })
        .await
    }

    /// Deletes a permission and takes it from all users and roles that have it. The caller refuses to
    /// delete built-in permissions.
    ///
    /// # Errors
    /// `NotFound`, or `Actor`.
    pub async fn delete_permission(&self, permission: &Permission) -> Result<Receipt, CatalogueError> {
        let this = self.clone();
        let permission = permission.clone();
        isolated(async move {
            let deleted = this.context.stores.permissions.delete(&permission.name).await;
            let receipt = this.changed(Subject::Permission(permission.id)).await?;
            deleted?.ok_or(CatalogueError::NotFound)?;
            Ok(receipt)
        })
        .await
    }

    /// Publishes a change of the subject. The caller does this whatever the outcome of the change: when the
    /// store did not answer, the change may have happened.
    async fn changed(&self, subject: Subject) -> Result<Receipt, ActorError> {
        self.context.facts.apply_and_publish(&[FactKind::PermissionsChanged { subject }]).await
    }
}

/// Runs the change on a task of its own, which continues when the caller goes away: a closed connection
/// never leaves a change unpublished.
async fn isolated<T: Send + 'static>(
    work: impl Future<Output = Result<T, CatalogueError>> + Send + 'static,
) -> Result<T, CatalogueError> {
    shard::isolated(async move { Ok(work.await) }).await?
}
