//! Grants: the roles and permissions of each user, and the holders of each role and permission.

use async_trait::async_trait;
use schema::{
    UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, MAX_GRANTS},
};
use store::{Added, GrantsStore, Result};

use crate::{
    cascade::{all_of, grants_of, remove_grant, retain_existing},
    permissions, roles,
    rows::{Change, Rows, Span},
    store::Store,
    table::{GRANTS, HOLDERS, PERMISSION_NAMES, ROLE_NAMES, USERS},
};

#[async_trait]
impl GrantsStore for Store {
    async fn effective(&self, user: UserId) -> Result<Effective> {
        self.read(move |rows| effective(rows, user)).await
    }

    async fn give(&self, user: UserId, grant: Grant) -> Result<Added> {
        self.change(move |change| give(change, user, grant)).await
    }

    async fn take(&self, user: UserId, grant: Grant) -> Result<bool> {
        self.change(move |change| remove_grant(change, user, grant)).await
    }

    async fn raw(&self, user: UserId) -> Result<Grants> {
        self.read(move |rows| Ok(grants_of(rows, user)?.unwrap_or_default())).await
    }

    async fn holders(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>> {
        self.read(move |rows| {
            if !exists(rows, grant)? {
                return Ok(Page { items: Vec::new(), next: None });
            }
            let seen = page.after.map(|user| (grant, user));
            let span = Span::of(&grant).after(seen.as_ref());
            let found = rows.scan(&HOLDERS, &span, page.limit.saturating_add(1))?;
            let users = found.into_iter().map(|((_, user), ())| user).collect();
            Ok(Page::cut(users, page.limit, |user| *user))
        })
        .await
    }
}

fn effective(rows: &impl Rows, user: UserId) -> Result<Effective> {
    let Some(grants) = grants_of(rows, user)? else { return Ok(Effective::default()) };
    if !rows.has(&USERS, &user)? {
        return Ok(Effective::default());
    }
    let mut effective = Effective::default();
    let mut all = grants.permissions.clone();
    for id in grants.roles {
        if let Some(role) = roles::by_id(rows, id)? {
            all.extend(&role.permissions);
            effective.roles.push(role);
        }
    }
    for id in all {
        if let Some(permission) = permissions::by_id(rows, id)? {
            if grants.permissions.contains(&id) {
                effective.direct.push(permission.clone());
            }
            effective.combined.push(permission);
        }
    }
    effective.roles.sort_by(|a, b| a.name.cmp(&b.name));
    effective.direct.sort_by(|a, b| a.name.cmp(&b.name));
    effective.combined.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(effective)
}

/// Gives a role or permission to a user. If either does not exist any more, there is nothing to do:
/// neither will ever exist again.
fn give(change: &Change<'_>, user: UserId, grant: Grant) -> Result<Added> {
    if !exists(change, grant)? || !change.has(&USERS, &user)? {
        return Ok(Added::Done);
    }
    let mut grants = grants_of(change, user)?.unwrap_or_default();
    if has(&grants, grant) {
        return Ok(Added::Exists);
    }
    if is_full(&grants, grant) {
        let removed = remove_deleted(change, &mut grants)?;
        for grant in removed {
            change.remove(&HOLDERS, &(grant, user))?;
        }
    }
    if is_full(&grants, grant) {
        return Ok(Added::Full);
    }
    match grant {
        Grant::Role(id) => grants.roles.insert(id),
        Grant::Permission(id) => grants.permissions.insert(id),
    };
    change.put(&GRANTS, &user, &grants)?;
    change.put(&HOLDERS, &(grant, user), &())?;
    Ok(Added::Done)
}

/// Removes deleted roles and permissions from a user's grants, and returns them.
fn remove_deleted(rows: &impl Rows, grants: &mut Grants) -> Result<Vec<Grant>> {
    let before = grants.clone();
    retain_existing(rows, &ROLE_NAMES, &mut grants.roles)?;
    retain_existing(rows, &PERMISSION_NAMES, &mut grants.permissions)?;
    Ok(all_of(&before).filter(|grant| !has(grants, *grant)).collect())
}

fn exists(rows: &impl Rows, grant: Grant) -> Result<bool> {
    match grant {
        Grant::Role(id) => rows.has(&ROLE_NAMES, &id),
        Grant::Permission(id) => rows.has(&PERMISSION_NAMES, &id),
    }
}

fn has(grants: &Grants, grant: Grant) -> bool {
    match grant {
        Grant::Role(id) => grants.roles.contains(&id),
        Grant::Permission(id) => grants.permissions.contains(&id),
    }
}

fn is_full(grants: &Grants, grant: Grant) -> bool {
    match grant {
        Grant::Role(_) => grants.roles.len() >= MAX_GRANTS,
        Grant::Permission(_) => grants.permissions.len() >= MAX_GRANTS,
    }
}
