//! Permissions, as edits of the catalogue.

use async_trait::async_trait;
use schema::{
    Name,
    permission::{MAX_PERMISSIONS, Permission},
};
use store::{Added, Permissions, Result};

use crate::{catalogue::Edit, store::Store};

#[async_trait]
impl Permissions for Store {
    async fn create(&self, permission: &Permission) -> Result<Added> {
        self.within(self.edit(|catalogue| {
            if catalogue.permissions.contains_key(&permission.name) {
                (Added::Exists, Vec::new())
            } else if catalogue.permissions.len() >= MAX_PERMISSIONS {
                (Added::Full, Vec::new())
            } else {
                (Added::Done, vec![Edit::PutPermission(permission.clone())])
            }
        }))
        .await
    }

    async fn get(&self, name: &Name) -> Result<Option<Permission>> {
        self.within(async { Ok(self.catalogue().await?.permissions.get(name).cloned()) }).await
    }

    async fn list(&self) -> Result<Vec<Permission>> {
        self.within(async { Ok(self.catalogue().await?.permissions.values().cloned().collect()) }).await
    }

    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Permission>> {
        self.within(self.edit(|catalogue| {
            let Some(stored) = catalogue.permissions.get(name) else { return (None, Vec::new()) };
            let next = Permission { description: description.map(str::to_owned), ..stored.clone() };
            let edits = if next == *stored { Vec::new() } else { vec![Edit::PutPermission(next.clone())] };
            (Some(next), edits)
        }))
        .await
    }

    async fn delete(&self, name: &Name) -> Result<Option<Permission>> {
        self.within(self.edit(|catalogue| match catalogue.permissions.get(name) {
            None => (None, Vec::new()),
            Some(permission) => (Some(permission.clone()), catalogue.without_permission(permission)),
        }))
        .await
    }
}
