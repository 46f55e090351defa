//! Roles by name, and their names by id.

use async_trait::async_trait;
use schema::{
    Name, RoleId,
    permission::{Grant, MAX_GRANTS, MAX_ROLES, Permission, Role},
};
use store::{Added, Result, Roles};

use crate::{
    cascade,
    rows::{Change, Row, Rows, Span},
    store::Store,
    table::{PERMISSION_NAMES, ROLE_NAMES, ROLES},
};

#[async_trait]
impl Roles for Store {
    async fn create(&self, role: &Role) -> Result<Added> {
        let role = role.clone();
        self.change(move |change| create(change, &role)).await
    }

    async fn get(&self, name: &Name) -> Result<Option<Role>> {
        let name = name.clone();
        self.read(move |rows| rows.get(&ROLES, &name)).await
    }

    async fn list(&self) -> Result<Vec<Role>> {
        self.read(|rows| {
            let found = rows.list(&ROLES, &Span::all(), MAX_ROLES)?;
            Ok(found.into_iter().map(|(_, role)| role).collect())
        })
        .await
    }

    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Role>> {
        let name = name.clone();
        let description = description.map(str::to_owned);
        self.change(move |change| {
            edit(change, &name, |role| {
                role.description.clone_from(&description);
                Ok(())
            })
        })
        .await
    }

    async fn add(&self, name: &Name, permission: &Permission) -> Result<Option<Role>> {
        let name = name.clone();
        let id = permission.id;
        self.change(move |change| {
            edit(change, &name, |role| {
                if role.permissions.contains(&id) || !change.has(&PERMISSION_NAMES, &id)? {
                    return Ok(());
                }
                if role.permissions.len() >= MAX_GRANTS {
                    cascade::retain_existing(change, &PERMISSION_NAMES, &mut role.permissions)?;
                }
                if role.permissions.len() < MAX_GRANTS {
                    role.permissions.insert(id);
                }
                Ok(())
            })
        })
        .await
    }

    async fn remove(&self, name: &Name, permission: &Permission) -> Result<Option<Role>> {
        let name = name.clone();
        let id = permission.id;
        self.change(move |change| {
            edit(change, &name, |role| {
                role.permissions.remove(&id);
                Ok(())
            })
        })
        .await
    }

    async fn delete(&self, name: &Name) -> Result<Option<Role>> {
        let name = name.clone();
        self.change(move |change| {
            let Some(stored) = change.get(&ROLES, &name)? else { return Ok(None) };
            change.remove(&ROLES, &name)?;
            change.remove(&ROLE_NAMES, &stored.id)?;
            cascade::mark_deleted(change, Grant::Role(stored.id))?;
            Ok(Some(stored))
        })
        .await
    }
}

fn create(change: &Change<'_>, role: &Role) -> Result<Added> {
    if change.has(&ROLES, &role.name)? {
        return Ok(Added::Exists);
    }
    if change.count(&ROLES)? >= MAX_ROLES as u64 {
        return Ok(Added::Full);
    }
    change.put(&ROLES, &role.name, role)?;
    change.put(&ROLE_NAMES, &role.id, &role.name)?;
    Ok(Added::Done)
}

/// Edits a role, and writes it only if the edit changed it.
fn edit(
    change: &Change<'_>,
    name: &Name,
    edit: impl FnOnce(&mut Role) -> Result<()>,
) -> Result<Option<Role>> {
    let Some(stored) = change.get(&ROLES, name)? else { return Ok(None) };
    let mut role = stored.clone();
    edit(&mut role)?;
    if role != stored {
        change.put(&ROLES, name, &role)?;
    }
    Ok(Some(role))
}

/// A role by id; `None` if it was deleted or does not parse.
pub(crate) fn by_id(rows: &impl Rows, id: RoleId) -> Result<Option<Role>> {
    match rows.get(&ROLE_NAMES, &id)? {
        Some(name) => Ok(rows.get_row(&ROLES, &name)?.and_then(Row::parsed)),
        None => Ok(None),
    }
}
