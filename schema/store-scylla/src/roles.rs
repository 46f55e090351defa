//! Roles, as edits of the catalogue.

use async_trait::async_trait;
use schema::{
    Name,
    permission::{MAX_GRANTS, MAX_ROLES, Permission, Role},
};
use store::{Added, Result, Roles};

use crate::{
    catalogue::{Catalogue, Edit},
    store::Store,
};

#[async_trait]
impl Roles for Store {
    async fn create(&self, role: &Role) -> Result<Added> {
        self.within(self.edit(|catalogue| {
            if catalogue.roles.contains_key(&role.name) {
                (Added::Exists, Vec::new())
            } else if catalogue.roles.len() >= MAX_ROLES {
                (Added::Full, Vec::new())
            } else {
                (Added::Done, vec![Edit::PutRole(role.clone())])
            }
        }))
        .await
    }

    async fn get(&self, name: &Name) -> Result<Option<Role>> {
        self.within(async { Ok(self.catalogue().await?.roles.get(name).cloned()) }).await
    }

    async fn list(&self) -> Result<Vec<Role>> {
        self.within(async { Ok(self.catalogue().await?.roles.values().cloned().collect()) }).await
    }

    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Role>> {
        let describe = |_: &Catalogue, role: &mut Role| role.description = description.map(str::to_owned);
        self.within(self.edit(|catalogue| edited(catalogue, name, describe))).await
    }

    async fn add(&self, name: &Name, permission: &Permission) -> Result<Option<Role>> {
        let add = |catalogue: &Catalogue, role: &mut Role| {
            if catalogue.permission(permission.id).is_some() && role.permissions.len() < MAX_GRANTS {
                role.permissions.insert(permission.id);
            }
        };
        self.within(self.edit(|catalogue| edited(catalogue, name, add))).await
    }

    async fn remove(&self, name: &Name, permission: &Permission) -> Result<Option<Role>> {
        let remove = |_: &Catalogue, role: &mut Role| {
            role.permissions.remove(&permission.id);
        };
        self.within(self.edit(|catalogue| edited(catalogue, name, remove))).await
    }

    async fn delete(&self, name: &Name) -> Result<Option<Role>> {
        self.within(self.edit(|catalogue| match catalogue.roles.get(name) {
            None => (None, Vec::new()),
            Some(role) => (Some(role.clone()), vec![Edit::RemoveRole(name.clone(), role.id)]),
        }))
        .await
    }
}

/// The role after an edit, and the edits of the catalogue: none if the role did not change.
fn edited(
    catalogue: &Catalogue,
    name: &Name,
    edit: impl Fn(&Catalogue, &mut Role),
) -> (Option<Role>, Vec<Edit>) {
    let Some(stored) = catalogue.roles.get(name) else { return (None, Vec::new()) };
    let mut role = stored.clone();
    edit(catalogue, &mut role);
    let edits = if role == *stored { Vec::new() } else { vec![Edit::PutRole(role.clone())] };
    (Some(role), edits)
}
