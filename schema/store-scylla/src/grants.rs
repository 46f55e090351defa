//! Who was given what, from both sides.
//!
//! The row of `grants` is the truth; that of `holders` says whom to ask. Each side of a race sees to
//! it that a grant is listed: who gives looks after the grant is there, who takes looks after the
//! list row is gone. A list row without a grant is harmless. So is a grant of what was deleted: its
//! id means nothing, and is never used again.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream, try_join};
use schema::{
    UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, MAX_GRANTS},
    store::{Added, GrantsStore, Result},
};
use scylla::DeserializeRow;
use uuid::Uuid;

use crate::{
    cas::{Settled, Verdict},
    catalogue::{Catalogue, grant, kind_and_id},
    convert,
    statement::Cql,
    store::{AT_ONCE, At, Store},
};

/// The list of who has something is in so many parts.
const PARTS: i32 = 16;

#[derive(DeserializeRow)]
struct GrantRow {
    kind: String,
    id: Uuid,
}

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
        let mut grants = Grants::default();
        for row in self.read::<GrantRow>(At::Quorum, Cql::GrantsOf, (user.uuid(),)).await? {
            match grant(&row.kind, row.id) {
                Grant::Role(id) => grants.roles.insert(id),
                Grant::Permission(id) => grants.permissions.insert(id),
            };
        }
        Ok(grants)
    }

    async fn has_grant(&self, at: At, user: UserId, grant: Grant) -> Result<bool> {
        let (kind, id) = kind_and_id(grant);
        let row = self.row::<GrantRow>(at, Cql::GrantOne, (user.uuid(), kind, id)).await?;
        Ok(row.is_some())
    }

    async fn is_listed(&self, user: UserId, grant: Grant) -> Result<bool> {
        let (kind, id) = kind_and_id(grant);
        let values = (kind, id, part(user), user.uuid());
        Ok(self.row::<Holder>(At::Serial, Cql::HolderOne, values).await?.is_some())
    }

    /// Giving what does not exist any more, or to nobody, is done by doing nothing: neither will ever
    /// exist again.
    async fn give_one(&self, user: UserId, grant: Grant) -> Result<Added> {
        let (is_user, catalogue, grants) =
            try_join!(self.is_user(At::Quorum, user), self.catalogue(), self.grants_of(user))?;
        let catalogue = if catalogue.has(grant) { catalogue } else { self.latest_catalogue().await? };
        if !catalogue.has(grant) || !(is_user || self.is_user(At::Serial, user).await?) {
            return Ok(Added::Done);
        }
        if !has(&grants, grant) && !self.has_room(user, &grants, grant, &catalogue).await? {
            return Ok(Added::Full);
        }
        self.list_holder(user, grant).await?;
        let (kind, id) = kind_and_id(grant);
        let look = || self.has_grant(At::Serial, user, grant);
        let judge = |there: &bool| if *there { Verdict::Done } else { Verdict::Before };
        let given = self.cas(Cql::GrantAdd, (user.uuid(), kind, id), look, judge).await?;
        // Somebody who took it may have removed the list row after we wrote it.
        if !self.is_listed(user, grant).await? {
            self.list_holder(user, grant).await?;
        }
        Ok(if given == Settled::Done { Added::Done } else { Added::Exists })
    }

    /// Whether there is room for one more. What was deleted and is in the way goes.
    async fn has_room(
        &self,
        user: UserId,
        grants: &Grants,
        wanted: Grant,
        catalogue: &Catalogue,
    ) -> Result<bool> {
        let of_kind: Vec<Grant> = match wanted {
            Grant::Role(_) => grants.roles.iter().copied().map(Grant::Role).collect(),
            Grant::Permission(_) => grants.permissions.iter().copied().map(Grant::Permission).collect(),
        };
        if of_kind.len() < MAX_GRANTS {
            return Ok(true);
        }
        let gone: Vec<Grant> = of_kind.iter().copied().filter(|grant| !catalogue.has(*grant)).collect();
        let room = of_kind.len() - gone.len() < MAX_GRANTS;
        self.take_these(user, gone).await?;
        Ok(room)
    }

    async fn take_one(&self, user: UserId, grant: Grant) -> Result<bool> {
        let (kind, id) = kind_and_id(grant);
        let look = || self.has_grant(At::Serial, user, grant);
        let judge = |there: &bool| if *there { Verdict::Before } else { Verdict::Done };
        let taken = self.cas(Cql::GrantRemove, (user.uuid(), kind, id), look, judge).await?;
        self.unlist_holder(user, grant).await?;
        // Somebody who gave it again may have counted on the list row that we removed.
        if self.has_grant(At::Serial, user, grant).await? {
            self.list_holder(user, grant).await?;
        }
        Ok(taken == Settled::Done)
    }

    async fn take_these(&self, user: UserId, grants: Vec<Grant>) -> Result<()> {
        stream::iter(grants)
            .map(|grant| async move { self.take_one(user, grant).await.map(drop) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Takes everything from a user that is deleted.
    pub(crate) async fn take_all(&self, user: UserId) -> Result<()> {
        let grants = self.grants_of(user).await?;
        let roles = grants.roles.into_iter().map(Grant::Role);
        let permissions = grants.permissions.into_iter().map(Grant::Permission);
        self.take_these(user, roles.chain(permissions).collect()).await
    }

    async fn list_holder(&self, user: UserId, grant: Grant) -> Result<()> {
        let (kind, id) = kind_and_id(grant);
        let look = || self.is_listed(user, grant);
        let judge = |there: &bool| if *there { Verdict::Done } else { Verdict::Before };
        self.cas(Cql::HolderAdd, (kind, id, part(user), user.uuid()), look, judge).await.map(drop)
    }

    async fn unlist_holder(&self, user: UserId, grant: Grant) -> Result<()> {
        let (kind, id) = kind_and_id(grant);
        let look = || self.is_listed(user, grant);
        let judge = |there: &bool| if *there { Verdict::Before } else { Verdict::Done };
        self.cas(Cql::HolderRemove, (kind, id, part(user), user.uuid()), look, judge).await.map(drop)
    }

    async fn holders_of(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>> {
        if !self.catalogue().await?.has(grant) && !self.latest_catalogue().await?.has(grant) {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let wanted = page.limit.saturating_add(1);
        let mut after = page.after.map_or(Uuid::nil(), UserId::uuid);
        let mut users = Vec::new();
        while users.len() < wanted {
            let lack = wanted - users.len();
            let some = self.listed_holders(grant, after, lack).await?;
            after = some.last().map_or(after, |user| user.uuid());
            let end = some.len() < lack;
            let there: Vec<Option<UserId>> = stream::iter(some)
                .map(|user| async move {
                    Ok::<_, schema::StoreError>(
                        self.has_grant(At::Quorum, user, grant).await?.then_some(user),
                    )
                })
                .buffered(AT_ONCE)
                .try_collect()
                .await?;
            users.extend(there.into_iter().flatten());
            if end {
                break;
            }
        }
        Ok(Page::cut(users, page.limit, |user| *user))
    }

    /// The next so many of the list, by id, from all its parts.
    async fn listed_holders(&self, grant: Grant, after: Uuid, limit: usize) -> Result<Vec<UserId>> {
        let (kind, id) = kind_and_id(grant);
        let parts = (0..PARTS).map(|part| {
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

/// The part of a user in a list; its last bits are random.
fn part(user: UserId) -> i32 {
    i32::from(user.as_bytes()[15]) % PARTS
}

fn has(grants: &Grants, grant: Grant) -> bool {
    match grant {
        Grant::Role(id) => grants.roles.contains(&id),
        Grant::Permission(id) => grants.permissions.contains(&id),
    }
}

/// What these grants mean: only what exists, by name, each once.
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
