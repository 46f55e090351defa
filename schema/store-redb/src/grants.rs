//! Who was given what, from both sides: what a user has, and who has a role or permission.
//!
//! A deleted role or permission is on record with its holders for a while and means nothing there:
//! its id is never used again. The sweep takes it away from them, some at a time.

use std::collections::BTreeSet;

use async_trait::async_trait;
use schema::{
    Name, UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, MAX_GRANTS},
    store::{Added, GrantsStore, Result},
};

use crate::{
    key::Key,
    permissions, roles,
    rows::{Change, Row, Rows, Span},
    store::Store,
    table::{DELETED, GRANTS, HOLDERS, PERMISSION_NAMES, ROLE_NAMES, Table, USERS},
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
        self.change(move |change| take(change, user, grant)).await
    }

    async fn raw(&self, user: UserId) -> Result<Grants> {
        self.read(move |rows| Ok(of(rows, user)?.unwrap_or_default())).await
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
    let Some(grants) = of(rows, user)? else { return Ok(Effective::default()) };
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

/// What is on record. A record that cannot be read gives nothing, and the next change replaces it.
fn of(rows: &impl Rows, user: UserId) -> Result<Option<Grants>> {
    Ok(rows.look(&GRANTS, &user)?.and_then(Row::good))
}

/// Giving what does not exist any more, or to nobody, is done by doing nothing: neither will ever
/// exist again.
fn give(change: &Change<'_>, user: UserId, grant: Grant) -> Result<Added> {
    if !exists(change, grant)? || !change.has(&USERS, &user)? {
        return Ok(Added::Done);
    }
    let mut grants = of(change, user)?.unwrap_or_default();
    if has(&grants, grant) {
        return Ok(Added::Exists);
    }
    if is_full(&grants, grant) {
        let gone = drop_deleted(change, &mut grants)?;
        for old in gone {
            change.remove(&HOLDERS, &(old, user))?;
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

fn take(change: &Change<'_>, user: UserId, grant: Grant) -> Result<bool> {
    let Some(mut grants) = of(change, user)? else { return Ok(false) };
    let had = match grant {
        Grant::Role(id) => grants.roles.remove(&id),
        Grant::Permission(id) => grants.permissions.remove(&id),
    };
    if had {
        if grants == Grants::default() {
            change.remove(&GRANTS, &user)?;
        } else {
            change.put(&GRANTS, &user, &grants)?;
        }
        change.remove(&HOLDERS, &(grant, user))?;
    }
    Ok(had)
}

/// Takes everything from a user that is deleted.
pub(crate) fn forget(change: &Change<'_>, user: UserId) -> Result<()> {
    match change.look(&GRANTS, &user)? {
        None => return Ok(()),
        Some(Row::Good(grants)) => {
            for grant in each(&grants) {
                change.remove(&HOLDERS, &(grant, user))?;
            }
        }
        // What it was given is found from the other side.
        Some(Row::Unreadable) => {
            for (key, ()) in change.scan(&HOLDERS, &Span::all(), usize::MAX)? {
                if key.1 == user {
                    change.remove(&HOLDERS, &key)?;
                }
            }
        }
    }
    change.remove(&GRANTS, &user)?;
    Ok(())
}

/// Notes that this is to be taken from all who have it.
pub(crate) fn deleted(change: &Change<'_>, grant: Grant) -> Result<()> {
    change.put(&DELETED, &grant, &())
}

/// Takes what was deleted from some who had it; says how many.
pub(crate) fn sweep(change: &Change<'_>, limit: usize) -> Result<usize> {
    let mut swept = 0;
    for (grant, ()) in change.scan(&DELETED, &Span::all(), limit)? {
        let holders = change.scan(&HOLDERS, &Span::of(&grant), limit - swept)?;
        swept += holders.len();
        for ((_, user), ()) in holders {
            if !take(change, user, grant)? {
                change.remove(&HOLDERS, &(grant, user))?;
            }
        }
        if swept >= limit {
            return Ok(swept);
        }
        change.remove(&DELETED, &grant)?;
    }
    Ok(swept)
}

/// Drops the ids that mean nothing any more.
pub(crate) fn keep_those_that_exist<K: Key + Copy + Ord>(
    rows: &impl Rows,
    names: &Table<K, Name>,
    ids: &mut BTreeSet<K>,
) -> Result<()> {
    let mut kept = BTreeSet::new();
    for id in &*ids {
        if rows.has(names, id)? {
            kept.insert(*id);
        }
    }
    *ids = kept;
    Ok(())
}

/// Drops what was deleted from a user's record; gives it.
fn drop_deleted(rows: &impl Rows, grants: &mut Grants) -> Result<Vec<Grant>> {
    let before = grants.clone();
    keep_those_that_exist(rows, &ROLE_NAMES, &mut grants.roles)?;
    keep_those_that_exist(rows, &PERMISSION_NAMES, &mut grants.permissions)?;
    Ok(each(&before).filter(|grant| !has(grants, *grant)).collect())
}

fn each(grants: &Grants) -> impl Iterator<Item = Grant> {
    let roles = grants.roles.iter().copied().map(Grant::Role);
    roles.chain(grants.permissions.iter().copied().map(Grant::Permission))
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
