//! Grants: the roles and permissions of each user, and the holders of each role and permission.
//!
//! The rows of `grants` are the truth: a partition per user under one revision, which every change
//! raises in the same conditional batch. So changes are serialized, a change that was decided on one
//! revision fails on the next, and a late copy of a write changes nothing. Removing a grant that the
//! user does not have raises the revision as well, so that a concurrent grant fails.
//!
//! The rows of `holders` list the users that may hold a role or permission. They are written without a condition,
//! with the revision of the change as the write's timestamp, so that the highest revision wins whatever
//! the order of arrival. A grant lists its holder before, a removal unlists it after. A list row without
//! a grant is harmless. So is the grant of a deleted role or permission: its id means nothing, and is
//! never reused.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream, try_join};
use schema::{
    UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants},
};
use scylla::{DeserializeRow, value::CqlValue};
use store::{Added, GrantsStore, Result, StoreError};
use uuid::Uuid;

use crate::{
    cas::{CasOutcome, Values},
    catalogue::{Catalogue, kind_and_id},
    convert,
    statement::Cql,
    store::{At, CONCURRENT_STATEMENTS_MAX, Store},
};

mod held;
mod reconcile;

use held::{GrantCapacity, GrantRow, HeldGrants, REMOVALS_PER_BATCH_MAX};

/// Limit of attempts of one change while concurrent changes win.
const CHANGE_ATTEMPTS_MAX: usize = 40;
/// Number of partitions of the list of holders of one role or permission.
const HOLDER_PARTS: i32 = 16;

#[derive(DeserializeRow)]
struct Holder {
    user: Uuid,
}

#[async_trait]
impl GrantsStore for Store {
    async fn effective(&self, user: UserId) -> Result<Effective> {
        self.within(async {
            let (is_user, grants, revision) = try_join!(
                self.is_user(At::Quorum, user),
                self.grants_of(user),
                self.catalogue_revision(At::Quorum)
            )?;
            if !is_user || grants == Grants::default() {
                return Ok(Effective::default());
            }
            Ok(resolve(&grants, &*self.catalogue_of(revision).await?))
        })
        .await
    }

    async fn give(&self, user: UserId, grant: Grant) -> Result<Added> {
        self.within(self.give_one(user, grant)).await
    }

    async fn take(&self, user: UserId, grant: Grant) -> Result<bool> {
        self.within(self.take_one(user, grant)).await
    }

    async fn raw(&self, user: UserId) -> Result<Grants> {
        self.within(self.grants_of(user)).await
    }

    async fn holders(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>> {
        self.within(self.holders_of(grant, page)).await
    }
}

impl Store {
    async fn grants_of(&self, user: UserId) -> Result<Grants> {
        Ok(self.held(At::Quorum, user).await?.grants)
    }

    async fn held(&self, at: At, user: UserId) -> Result<HeldGrants> {
        Ok(HeldGrants::of(self.read::<GrantRow>(at, Cql::GrantsOf, (user.uuid(),)).await?))
    }

    async fn has_grant(&self, user: UserId, grant: Grant) -> Result<bool> {
        let (kind, id) = kind_and_id(grant);
        let row = self.row::<GrantRow>(At::Quorum, Cql::GrantOne, (user.uuid(), kind, id)).await?;
        Ok(row.is_some_and(|row| row.id.is_some()))
    }

    /// Gives a role or permission to a user. If either does not exist any more, there is nothing to do:
    /// neither will ever exist again.
    async fn give_one(&self, user: UserId, grant: Grant) -> Result<Added> {
        let _lock = self.0.grant_locks.lock(user).await;
        let (mut held, catalogue) = try_join!(self.held(At::Quorum, user), self.catalogue())?;
        let catalogue = if catalogue.has(grant) { catalogue } else { self.latest_catalogue().await? };
        if !catalogue.has(grant) {
            return Ok(Added::Done);
        }
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            // Checked after the revision was read: a deletion raises the revision after the user is gone.
            if !(self.is_user(At::Quorum, user).await? || self.is_user(At::Serial, user).await?) {
                return Ok(Added::Done);
            }
            let dangling = match held.capacity(grant, &catalogue) {
                GrantCapacity::AlreadyHeld => return Ok(Added::Exists),
                GrantCapacity::Full => return Ok(Added::Full),
                GrantCapacity::AfterRemoving(dangling) => dangling,
            };
            let revision = held.next_revision();
            self.list_holder(user, grant, revision).await?;
            let removed = dangling.iter().map(|grant| (Cql::GrantRemove, key(user, *grant)));
            let batch: Vec<_> = std::iter::once(raise(Cql::GrantsRaise, user, &held))
                .chain(removed)
                .chain(std::iter::once((Cql::GrantPut, key(user, grant))))
                .collect();
            let read_current = || self.held(At::Serial, user);
            match self
                .cas_batch(&batch, read_current, |current| reconcile::given(current, &held, grant))
                .await?
            {
                CasOutcome::Applied => {
                    self.unlist_holders(user, dangling, revision).await?;
                    return Ok(Added::Done);
                }
                CasOutcome::Rejected(current) => held = current,
            }
            self.pause(10).await;
        }
        Err(too_many_changes())
    }

    async fn take_one(&self, user: UserId, grant: Grant) -> Result<bool> {
        let _lock = self.0.grant_locks.lock(user).await;
        let mut held = self.held(At::Quorum, user).await?;
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let revision = held.next_revision();
            let had = held.has(grant);
            let batch = [raise(Cql::GrantsRaise, user, &held), (Cql::GrantRemove, key(user, grant))];
            let read_current = || self.held(At::Serial, user);
            match self
                .cas_batch(&batch, read_current, |current| reconcile::taken(current, &held, grant))
                .await?
            {
                CasOutcome::Applied => {
                    self.unlist_holders(user, vec![grant], revision).await?;
                    return Ok(had);
                }
                CasOutcome::Rejected(current) => held = current,
            }
            self.pause(10).await;
        }
        Err(too_many_changes())
    }

    /// Removes all grants of a user. `forever` means that the user is deleted: then the revision is raised
    /// even if there are no grants, so that grants under way fail, and the row expires a day later.
    pub(crate) async fn take_all(&self, user: UserId, forever: bool) -> Result<()> {
        let _lock = self.0.grant_locks.lock(user).await;
        let mut held = self.held(At::Quorum, user).await?;
        if !forever && held.all().is_empty() {
            return Ok(());
        }
        let cql = if forever { Cql::GrantsEnd } else { Cql::GrantsRaise };
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let revision = held.next_revision();
            let all = held.all();
            let (removals, rest) = all.split_at(REMOVALS_PER_BATCH_MAX.min(all.len()));
            let batch: Vec<_> = std::iter::once(raise(cql, user, &held))
                .chain(removals.iter().map(|grant| (Cql::GrantRemove, key(user, *grant))))
                .collect();
            let read_current = || self.held(At::Serial, user);
            match self.cas_batch(&batch, read_current, |current| reconcile::removed(current, &held)).await? {
                CasOutcome::Applied => {
                    self.unlist_holders(user, removals.to_vec(), revision).await?;
                    if rest.is_empty() {
                        return Ok(());
                    }
                    for grant in removals {
                        held.remove(*grant);
                    }
                    held.revision = Some(revision);
                }
                CasOutcome::Rejected(current) => {
                    held = current;
                    self.pause(10).await;
                }
            }
        }
        Err(too_many_changes())
    }

    /// Lists a user as holder of `grant` at the revision of the change under way.
    async fn list_holder(&self, user: UserId, grant: Grant, revision: i64) -> Result<()> {
        let (kind, id) = kind_and_id(grant);
        self.write(Cql::HolderPut, (kind, id, part(user), user.uuid(), revision)).await
    }

    /// Removes a user from the lists of holders of `grants`, which were revoked at this revision.
    async fn unlist_holders(&self, user: UserId, grants: Vec<Grant>, revision: i64) -> Result<()> {
        stream::iter(grants)
            .map(|grant| async move {
                let (kind, id) = kind_and_id(grant);
                self.write(Cql::HolderRemove, (revision, kind, id, part(user), user.uuid())).await
            })
            .buffer_unordered(CONCURRENT_STATEMENTS_MAX)
            .try_collect()
            .await
    }

    async fn holders_of(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>> {
        if !self.catalogue().await?.has(grant) && !self.latest_catalogue().await?.has(grant) {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let wanted = page.limit.saturating_add(1);
        let mut after = page.after.map_or(Uuid::nil(), UserId::uuid);
        let mut users = Vec::new();
        while users.len() < wanted {
            let missing = wanted - users.len();
            let listed = self.listed_holders(grant, after, missing).await?;
            after = listed.last().map_or(after, |user| user.uuid());
            let is_last = listed.len() < missing;
            let holding: Vec<Option<UserId>> =
                stream::iter(listed)
                    .map(|user| async move {
                        Ok::<_, StoreError>(self.has_grant(user, grant).await?.then_some(user))
                    })
                    .buffered(CONCURRENT_STATEMENTS_MAX)
                    .try_collect()
                    .await?;
            users.extend(holding.into_iter().flatten());
            if is_last {
                break;
            }
        }
        Ok(Page::cut(users, page.limit, |user| *user))
    }

    /// The next `limit` users of the list of holders by id, merged from all its partitions.
    async fn listed_holders(&self, grant: Grant, after: Uuid, limit: usize) -> Result<Vec<UserId>> {
        let (kind, id) = kind_and_id(grant);
        let parts = (0..HOLDER_PARTS).map(|part| {
            let values = (kind, id, part, after, convert::limit(limit));
            self.read::<Holder>(At::Quorum, Cql::HoldersAfter, values)
        });
        let parts = try_join_all(parts).await?;
        let mut users: Vec<UserId> =
            parts.into_iter().flatten().map(|row| UserId::from_bytes(*row.user.as_bytes())).collect();
        users.sort_unstable();
        users.truncate(limit);
        Ok(users)
    }
}

/// The partition of a user in a list of holders. The last bits of an id are random.
fn part(user: UserId) -> i32 {
    i32::from(user.as_bytes()[15]) % HOLDER_PARTS
}

/// The statement of a batch that raises the revision, on the condition that it did not change.
fn raise(cql: Cql, user: UserId, held: &HeldGrants) -> (Cql, Values) {
    let values = vec![
        Some(CqlValue::BigInt(held.next_revision())),
        Some(CqlValue::Uuid(user.uuid())),
        held.revision.map(CqlValue::BigInt),
    ];
    (cql, values)
}

/// The key of the row of a grant.
fn key(user: UserId, grant: Grant) -> Values {
    let (kind, id) = kind_and_id(grant);
    vec![Some(CqlValue::Uuid(user.uuid())), Some(CqlValue::Text(kind.to_owned())), Some(CqlValue::Uuid(id))]
}

fn too_many_changes() -> StoreError {
    StoreError::unavailable_because("too many concurrent changes of the grants of one user")
}

/// The roles and permissions that these grants amount to, by name, without duplicates and without those
/// that do not exist any more.
fn resolve(grants: &Grants, catalogue: &Catalogue) -> Effective {
    let mut effective = Effective::default();
    let mut all = grants.permissions.clone();
    for role in grants.roles.iter().filter_map(|id| catalogue.role(*id)) {
        all.extend(&role.permissions);
        effective.roles.push(role.clone());
    }
    for permission in all.into_iter().filter_map(|id| catalogue.permission(id)) {
        if grants.permissions.contains(&permission.id) {
            effective.direct.push(permission.clone());
        }
        effective.combined.push(permission.clone());
    }
    effective.roles.sort_by(|a, b| a.name.cmp(&b.name));
    effective.direct.sort_by(|a, b| a.name.cmp(&b.name));
    effective.combined.sort_by(|a, b| a.name.cmp(&b.name));
    effective
}
