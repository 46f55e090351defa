//! Permissions by name, and their names by id.

use async_trait::async_trait;
use schema::{
    Name, PermissionId,
    permission::{Grant, MAX_PERMISSIONS, Permission},
};
use store::{Added, Permissions, Result};

use crate::{
    cascade,
    rows::{Change, Row, Rows, Span},
    store::Store,
    table::{PERMISSION_NAMES, PERMISSIONS},
};

#[async_trait]
impl Permissions for Store {
    async fn create(&self, permission: &Permission) -> Result<Added> {
        let permission = permission.clone();
        self.change(move |change| create(change, &permission)).await
    }

    async fn get(&self, name: &Name) -> Result<Option<Permission>> {
        let name = name.clone();
        self.read(move |rows| rows.get(&PERMISSIONS, &name)).await
    }

    async fn list(&self) -> Result<Vec<Permission>> {
        self.read(|rows| {
            let found = rows.list(&PERMISSIONS, &Span::all(), MAX_PERMISSIONS)?;
            Ok(found.into_iter().map(|(_, permission)| permission).collect())
        })
        .await
    }

    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Permission>> {
        let name = name.clone();
        let description = description.map(str::to_owned);
        self.change(move |change| {
            let Some(stored) = change.get(&PERMISSIONS, &name)? else { return Ok(None) };
            if stored.description == description {
                return Ok(Some(stored));
            }
            let next = Permission { description: description.clone(), ..stored };
            change.put(&PERMISSIONS, &name, &next)?;
            Ok(Some(next))
        })
        .await
    }

    async fn delete(&self, name: &Name) -> Result<Option<Permission>> {
        let name = name.clone();
        self.change(move |change| {
            let Some(stored) = change.get(&PERMISSIONS, &name)? else { return Ok(None) };
            change.remove(&PERMISSIONS, &name)?;
            change.remove(&PERMISSION_NAMES, &stored.id)?;
            cascade::mark_deleted(change, Grant::Permission(stored.id))?;
            Ok(Some(stored))
        })
        .await
    }
}

fn create(change: &Change<'_>, permission: &Permission) -> Result<Added> {
    if change.has(&PERMISSIONS, &permission.name)? {
        return Ok(Added::Exists);
    }
    if change.count(&PERMISSIONS)? >= MAX_PERMISSIONS as u64 {
        return Ok(Added::Full);
    }
    change.put(&PERMISSIONS, &permission.name, permission)?;
    change.put(&PERMISSION_NAMES, &permission.id, &permission.name)?;
    Ok(Added::Done)
}

/// A permission by id; `None` if it was deleted or does not parse.
pub(crate) fn by_id(rows: &impl Rows, id: PermissionId) -> Result<Option<Permission>> {
    match rows.get(&PERMISSION_NAMES, &id)? {
        Some(name) => Ok(rows.get_row(&PERMISSIONS, &name)?.and_then(Row::parsed)),
        None => Ok(None),
    }
}
