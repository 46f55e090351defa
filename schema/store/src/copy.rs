//! Copies one store into another: `palisade store copy`.
//!
//! Promises: ids, versions, password hashes, live sessions and unexpired revocations stay what they are, so tokens
//! and refresh tokens go on at the new store. A copy that was interrupted goes on when it is run again: a row that
//! the target has already is left alone if it is the same, and ends the copy if it is another one. The signing keys
//! are copied last. [`compare`] then reads both stores and counts what differs.
//!
//! Never: a change of the source; a copy while a node serves from one of the stores, which the caller prevents.
//! Not copied: from where accounts logged in (the next log-in notes it again), and rows that have expired.

use std::{collections::BTreeSet, time::Duration};

use schema::{
    Clock,
    id::UserId,
    key::KeySet,
    login::{LOGIN_RETENTION, Login, MAX_LOGINS},
    page::{MAX_LIMIT, Page, PageOf},
    permission::{Grant, Permission, Role},
    session::{MAX_SESSIONS, Session},
    user::User,
};
use serde::Serialize;

use crate::{Added, Created, StoreError, Stores, check};

/// Entries of the ledger that are copied at a time.
const ENTRIES_PER_STEP: usize = 500;
/// A row that expires sooner may be gone when the stores are compared.
const EXPIRY_MARGIN: Duration = Duration::from_secs(600);

/// Why a copy ended.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source failed.
    #[error("the source: {0}")]
    From(#[source] StoreError),
    /// The target failed.
    #[error("the target: {0}")]
    To(#[source] StoreError),
    /// The target is no empty store and no interrupted copy of the source.
    #[error("the target has {0}; copy into an empty store")]
    Conflict(String),
    /// The source has a row that cannot be read.
    #[error("the source has a row that cannot be read, {0}; see `palisade store check`")]
    Unreadable(String),
}

type Result<T> = std::result::Result<T, CopyError>;

/// How many rows were copied or compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each field counts the thing of its name")]
pub struct Rows {
    pub users: usize,
    pub sessions: usize,
    pub grants: usize,
    pub logins: usize,
    pub permissions: usize,
    pub roles: usize,
    pub facts: usize,
}

/// Copies everything.
///
/// # Errors
/// When a store fails, or the target holds something else.
pub async fn copy(from: &Stores, to: &Stores, clock: &dyn Clock) -> Result<Rows> {
    let mut rows = Rows::default();
    keys_are_free(from, to).await?;
    is_readable(from).await?;
    let catalogue = Catalogue::of(from).await.map_err(CopyError::From)?;
    for permission in catalogue.permissions.clone() {
        let added = to.permissions.create(&permission).await.map_err(CopyError::To)?;
        let stored = to.permissions.get(&permission.name).await.map_err(CopyError::To)?;
        same(added == Added::Done || stored.as_ref() == Some(&permission), "another permission of a name")?;
        rows.permissions += 1;
    }
    for role in catalogue.roles.clone() {
        let added = to.roles.create(&role).await.map_err(CopyError::To)?;
        let stored = to.roles.get(&role.name).await.map_err(CopyError::To)?;
        same(added == Added::Done || stored.as_ref() == Some(&role), "another role of a name")?;
        rows.roles += 1;
    }
    let mut after = None;
    loop {
        let page = from.users.list(PageOf { after, limit: MAX_LIMIT }).await.map_err(CopyError::From)?;
        for user in &page.items {
            copy_user(from, to, user, &catalogue, clock, &mut rows).await?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    copy_superusers(from, to).await?;
    copy_ledger(from, to, &mut rows).await?;
    // Last: a node that finds no keys in a store makes its own.
    let keys = from.keys.load().await.map_err(CopyError::From)?;
    if keys.revision > 0 && to.keys.load().await.map_err(CopyError::To)?.revision == 0 {
        let first = KeySet { revision: 1, ..keys };
        same(to.keys.swap(&first).await.map_err(CopyError::To)?, "signing keys of its own")?;
    }
    Ok(rows)
}

/// The permissions and roles of a store, without what they or users still name after its deletion.
struct Catalogue {
    permissions: Vec<Permission>,
    roles: Vec<Role>,
}

impl Catalogue {
    async fn of(stores: &Stores) -> crate::Result<Self> {
        let permissions = stores.permissions.list().await?;
        let mut roles = stores.roles.list().await?;
        for role in &mut roles {
            role.permissions.retain(|id| permissions.iter().any(|permission| permission.id == *id));
        }
        Ok(Self { permissions, roles })
    }

    /// The grants of a user in a store, of roles and permissions in this catalogue.
    async fn grants_of(&self, stores: &Stores, user: UserId) -> crate::Result<BTreeSet<Grant>> {
        let grants = stores.grants.raw(user).await?;
        let roles = self.roles.iter().map(|role| role.id).filter(|id| grants.roles.contains(id));
        let permissions = self.permissions.iter().map(|permission| permission.id);
        let permissions = permissions.filter(|id| grants.permissions.contains(id));
        Ok(roles.map(Grant::Role).chain(permissions.map(Grant::Permission)).collect())
    }
}

/// Fails if rows of the source cannot be read: no list has them, so they would be lost.
async fn is_readable(from: &Stores) -> Result<()> {
    let mut after = None;
    loop {
        let step = check::step(from, after, false).await.map_err(CopyError::From)?;
        if let Some(found) = step.findings.iter().find(|finding| finding.field == "row") {
            return Err(CopyError::Unreadable(format!("{} {}", found.table, found.id)));
        }
        after = step.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Fails early if a node has already made keys in the target.
async fn keys_are_free(from: &Stores, to: &Stores) -> Result<()> {
    let source = from.keys.load().await.map_err(CopyError::From)?;
    let target = to.keys.load().await.map_err(CopyError::To)?;
    same(target.revision == 0 || target.keys == source.keys, "signing keys of its own")
}

fn same(is_same: bool, what: &str) -> Result<()> {
    if is_same { Ok(()) } else { Err(CopyError::Conflict(what.to_owned())) }
}

async fn copy_user(
    from: &Stores,
    to: &Stores,
    user: &User,
    catalogue: &Catalogue,
    clock: &dyn Clock,
    rows: &mut Rows,
) -> Result<()> {
    let created = to.users.create(user).await.map_err(CopyError::To)?;
    same(created == Created::Done, "another user with an email")?;
    let stored = to.users.get(user.id).await.map_err(CopyError::To)?;
    same(stored.as_ref() == Some(user), "a user that has changed")?;
    rows.users += 1;
    for session in sessions(from, user.id).await.map_err(CopyError::From)? {
        if session.expires_at <= clock.now() {
            continue;
        }
        match to.sessions.get(user.id, session.id).await.map_err(CopyError::To)? {
            Some(stored) => same(stored == session, "a session that has changed")?,
            None => drop(to.sessions.open(&session, MAX_SESSIONS).await.map_err(CopyError::To)?),
        }
        rows.sessions += 1;
    }
    for grant in catalogue.grants_of(from, user.id).await.map_err(CopyError::From)? {
        let given = to.grants.give(user.id, grant).await.map_err(CopyError::To)?;
        same(given != Added::Full, "other grants of a user")?;
        rows.grants += 1;
    }
    for login in logins(from, user.id).await.map_err(CopyError::From)?.into_iter().rev() {
        if login.time.plus(LOGIN_RETENTION) > clock.now() {
            to.logins.record(&login, MAX_LOGINS).await.map_err(CopyError::To)?;
            rows.logins += 1;
        }
    }
    Ok(())
}

async fn copy_superusers(from: &Stores, to: &Stores) -> Result<()> {
    let source = from.superusers.load().await.map_err(CopyError::From)?;
    let target = to.superusers.load().await.map_err(CopyError::To)?;
    if source.value == target.value {
        return Ok(());
    }
    same(target.revision == 0, "other superusers")?;
    let is_swapped = to.superusers.swap(0, &source.value).await.map_err(CopyError::To)?;
    same(is_swapped, "other superusers")
}

async fn copy_ledger(from: &Stores, to: &Stores, rows: &mut Rows) -> Result<()> {
    for head in from.ledger.heads().await.map_err(CopyError::From)? {
        let mut after = 0;
        loop {
            let entries = from.ledger.entries(head.origin, after, ENTRIES_PER_STEP).await;
            let entries = entries.map_err(CopyError::From)?;
            let Some(last) = entries.last() else { break };
            after = last.seq;
            to.ledger.append(&entries, &[]).await.map_err(CopyError::To)?;
            rows.facts += entries.len();
        }
        to.ledger.append(&[], &[head]).await.map_err(CopyError::To)?;
    }
    Ok(())
}

/// Compares the stores after a copy. Returns how many rows are in one of them only, or different; rows that are about
/// to expire are left out.
///
/// # Errors
/// When a store fails, or the signing keys or superusers differ.
pub async fn compare(from: &Stores, to: &Stores, clock: &dyn Clock) -> Result<Rows> {
    let mut different = Rows::default();
    let source = Catalogue::of(from).await.map_err(CopyError::From)?;
    let target = Catalogue::of(to).await.map_err(CopyError::To)?;
    different.permissions = differences(&source.permissions, &target.permissions);
    different.roles = differences(&source.roles, &target.roles);
    let mut after = None;
    loop {
        let page = from.users.list(PageOf { after, limit: MAX_LIMIT }).await.map_err(CopyError::From)?;
        for user in &page.items {
            compare_user(from, to, user, &source, clock, &mut different).await?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let page = to.users.list(PageOf { after, limit: MAX_LIMIT }).await.map_err(CopyError::To)?;
        for user in &page.items {
            let is_extra = from.users.get(user.id).await.map_err(CopyError::From)?.is_none();
            different.users += usize::from(is_extra);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    different.facts = compare_ledger(from, to, clock).await?;
    let source = from.superusers.load().await.map_err(CopyError::From)?;
    let target = to.superusers.load().await.map_err(CopyError::To)?;
    same(source.value == target.value, "other superusers")?;
    let source = from.keys.load().await.map_err(CopyError::From)?;
    let target = to.keys.load().await.map_err(CopyError::To)?;
    same(target == KeySet { revision: target.revision, ..source }, "signing keys of its own")?;
    Ok(different)
}

/// How many items are in one of the lists only.
fn differences<T: PartialEq>(source: &[T], target: &[T]) -> usize {
    let missing = source.iter().filter(|item| !target.contains(item)).count();
    missing + target.iter().filter(|item| !source.contains(item)).count()
}

async fn compare_user(
    from: &Stores,
    to: &Stores,
    user: &User,
    catalogue: &Catalogue,
    clock: &dyn Clock,
    different: &mut Rows,
) -> Result<()> {
    let soon = clock.now().plus(EXPIRY_MARGIN);
    let stored = to.users.get(user.id).await.map_err(CopyError::To)?;
    different.users += usize::from(stored.as_ref() != Some(user));
    let mut source = sessions(from, user.id).await.map_err(CopyError::From)?;
    let mut target = sessions(to, user.id).await.map_err(CopyError::To)?;
    source.retain(|session| session.expires_at > soon);
    target.retain(|session| session.expires_at > soon);
    different.sessions += differences(&source, &target);
    let source = catalogue.grants_of(from, user.id).await.map_err(CopyError::From)?;
    let target = catalogue.grants_of(to, user.id).await.map_err(CopyError::To)?;
    different.grants += source.symmetric_difference(&target).count();
    let mut source = logins(from, user.id).await.map_err(CopyError::From)?;
    let target = logins(to, user.id).await.map_err(CopyError::To)?;
    source.retain(|login| login.time.plus(LOGIN_RETENTION) > soon);
    different.logins += source.iter().filter(|login| !target.contains(login)).count();
    Ok(())
}

/// How many entries of the source's ledger the target lacks.
async fn compare_ledger(from: &Stores, to: &Stores, clock: &dyn Clock) -> Result<usize> {
    let soon = clock.now().plus(EXPIRY_MARGIN);
    let mut lacking = 0;
    for head in from.ledger.heads().await.map_err(CopyError::From)? {
        let mut after = 0;
        loop {
            let source = from.ledger.entries(head.origin, after, ENTRIES_PER_STEP).await;
            let source = source.map_err(CopyError::From)?;
            let Some(last) = source.last() else { break };
            let target = to.ledger.entries(head.origin, after, ENTRIES_PER_STEP).await;
            let target = target.map_err(CopyError::To)?;
            let lasting = source.iter().filter(|entry| entry.fact.until > soon);
            lacking += lasting.filter(|entry| !target.contains(entry)).count();
            after = last.seq;
        }
    }
    Ok(lacking)
}

/// All sessions of a user.
async fn sessions(stores: &Stores, user: UserId) -> crate::Result<Vec<Session>> {
    all_pages(|page| stores.sessions.list(user, page)).await
}

/// The login history of a user, newest first.
async fn logins(stores: &Stores, user: UserId) -> crate::Result<Vec<Login>> {
    all_pages(|page| stores.logins.list(user, page)).await
}

/// The items of all pages of a list.
async fn all_pages<T, Id, L>(list: impl Fn(PageOf<Id>) -> L) -> crate::Result<Vec<T>>
where
    L: Future<Output = crate::Result<Page<T, Id>>>,
{
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let Page { items, next } = list(PageOf { after, limit: MAX_LIMIT }).await?;
        all.extend(items);
        after = next;
        if after.is_none() {
            return Ok(all);
        }
    }
}
