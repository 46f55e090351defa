//! Who was given what, from both sides.
//!
//! The rows of `grants` are the truth: one partition a user under one revision, which every change
//! raises in the same conditional batch. So changes come one after the other, what was decided on one
//! revision is refused on the next, and a change that is late changes nothing. A take of what is not
//! there raises the revision as well: a give that is on its way must not come after it.
//!
//! The rows of `holders` say whom to ask. They are written plainly, with the revision of the change
//! as the time of the write, so that the highest wins whichever comes last: who gives lists before,
//! who takes removes after. A list row without a grant is harmless. So is a grant of what was
//! deleted: its id means nothing, and is never used again.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream, try_join};
use schema::{
    StoreError, UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, MAX_GRANTS},
    store::{Added, GrantsStore, Result},
};
use scylla::{DeserializeRow, value::CqlValue};
use uuid::Uuid;

use crate::{
    cas::{Settled, Values, Verdict},
    catalogue::{Catalogue, grant, kind_and_id},
    convert,
    statement::Cql,
    store::{AT_ONCE, At, ROOMS, Store},
};

/// How often a change is tried that others come before.
const TRIES: usize = 40;
/// Rows that one change removes.
const TOGETHER: usize = 50;
/// The list of who has something is in so many parts.
const PARTS: i32 = 16;

/// A row without kind and id is that of a user who has nothing.
#[derive(DeserializeRow)]
struct GrantRow {
    kind: Option<String>,
    id: Option<Uuid>,
    revision: Option<i64>,
}

/// What a user was given, and the number of its last change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    /// `None` before the first change.
    revision: Option<i64>,
    grants: Grants,
}

impl Held {
    fn of(rows: Vec<GrantRow>) -> Self {
        let mut held = Self { revision: rows.first().and_then(|row| row.revision), ..Self::default() };
        for (kind, id) in rows.into_iter().filter_map(|row| row.kind.zip(row.id)) {
            match grant(&kind, id) {
                Grant::Role(id) => held.grants.roles.insert(id),
                Grant::Permission(id) => held.grants.permissions.insert(id),
            };
        }
        held
    }

    /// The number of the next change.
    fn next(&self) -> i64 {
        self.revision.unwrap_or(0).saturating_add(1)
    }

    fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Role(id) => self.grants.roles.contains(&id),
            Grant::Permission(id) => self.grants.permissions.contains(&id),
        }
    }

    /// What there is of the kind of this one.
    fn like(&self, grant: Grant) -> Vec<Grant> {
        match grant {
            Grant::Role(_) => self.grants.roles.iter().copied().map(Grant::Role).collect(),
            Grant::Permission(_) => self.grants.permissions.iter().copied().map(Grant::Permission).collect(),
        }
    }

    fn forget(&mut self, grant: Grant) {
        match grant {
            Grant::Role(id) => self.grants.roles.remove(&id),
            Grant::Permission(id) => self.grants.permissions.remove(&id),
        };
    }

    fn all(&self) -> Vec<Grant> {
        let roles = self.grants.roles.iter().copied().map(Grant::Role);
        roles.chain(self.grants.permissions.iter().copied().map(Grant::Permission)).collect()
    }

    /// What giving comes to, and what was deleted and makes room for it.
    fn room(&self, wanted: Grant, catalogue: &Catalogue) -> Room {
        if self.has(wanted) {
            return Room::Exists;
        }
        let like = self.like(wanted);
        if like.len() < MAX_GRANTS {
            return Room::After(Vec::new());
        }
        let there = like.iter().filter(|grant| catalogue.has(**grant)).count();
        if there >= MAX_GRANTS {
            return Room::Full;
        }
        // Enough of them: with each there is one more place than before.
        Room::After(like.into_iter().filter(|grant| !catalogue.has(*grant)).take(TOGETHER).collect())
    }
}

/// Whether there is room for one more.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// It is there already.
    Exists,
    /// There is none.
    Full,
    /// When these are gone.
    After(Vec<Grant>),
}

/// What is there, seen from a give of what was not there at a revision.
fn given(there: &Held, before: &Held, grant: Grant) -> Verdict {
    if there.revision == before.revision {
        return Verdict::Before;
    }
    if there.has(grant) {
        // By us or, in the same moment, by another: it was not there, and is.
        return Verdict::Done;
    }
    if there.revision == Some(before.next()) {
        // The one change since then was another's.
        return Verdict::Otherwise;
    }
    // Perhaps it was given by us and taken by another: it must not be given again.
    Verdict::Unsure
}

/// What is there, seen from a take.
fn taken(there: &Held, before: &Held, grant: Grant) -> Verdict {
    if there.revision == before.revision {
        Verdict::Before
    } else if there.has(grant) {
        Verdict::Otherwise
    } else {
        // It is not there, and by whomever: what was on its way is refused.
        Verdict::Done
    }
}

/// What is there, seen from the removal of so many of a user who is deleted.
fn removed(there: &Held, before: &Held) -> Verdict {
    if there.revision == before.revision { Verdict::Before } else { Verdict::Otherwise }
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
        Ok(self.held(At::Quorum, user).await?.grants)
    }

    async fn held(&self, at: At, user: UserId) -> Result<Held> {
        Ok(Held::of(self.read::<GrantRow>(at, Cql::GrantsOf, (user.uuid(),)).await?))
    }

    async fn has_grant(&self, user: UserId, grant: Grant) -> Result<bool> {
        let (kind, id) = kind_and_id(grant);
        let row = self.row::<GrantRow>(At::Quorum, Cql::GrantOne, (user.uuid(), kind, id)).await?;
        Ok(row.is_some_and(|row| row.id.is_some()))
    }

    /// A user's changes on this node come one after the other, so that they do not fight.
    async fn turn(&self, user: UserId) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.giving[usize::from(user.as_bytes()[15]) % ROOMS].lock().await
    }

    /// Giving what does not exist any more, or to nobody, is done by doing nothing: neither will ever
    /// exist again.
    async fn give_one(&self, user: UserId, grant: Grant) -> Result<Added> {
        let _turn = self.turn(user).await;
        let (mut held, catalogue) = try_join!(self.held(At::Quorum, user), self.catalogue())?;
        let catalogue = if catalogue.has(grant) { catalogue } else { self.latest_catalogue().await? };
        if !catalogue.has(grant) {
            return Ok(Added::Done);
        }
        for _ in 0..TRIES {
            // After the revision was read: who deletes the user raises it after the user is gone.
            if !(self.is_user(At::Quorum, user).await? || self.is_user(At::Serial, user).await?) {
                return Ok(Added::Done);
            }
            let gone = match held.room(grant, &catalogue) {
                Room::Exists => return Ok(Added::Exists),
                Room::Full => return Ok(Added::Full),
                Room::After(gone) => gone,
            };
            let revision = held.next();
            self.list_holder(user, grant, revision).await?;
            let removed = gone.iter().map(|gone| (Cql::GrantRemove, key(user, *gone)));
            let batch: Vec<_> = std::iter::once(raise(Cql::GrantsRaise, user, &held))
                .chain(removed)
                .chain(std::iter::once((Cql::GrantPut, key(user, grant))))
                .collect();
            let look = || self.held(At::Serial, user);
            match self.cas_batch(&batch, look, |there| given(there, &held, grant)).await? {
                Settled::Done => {
                    self.unlist_holders(user, gone, revision).await?;
                    return Ok(Added::Done);
                }
                Settled::Not(there) => held = there,
            }
            self.pause(10).await;
        }
        Err(too_many())
    }

    async fn take_one(&self, user: UserId, grant: Grant) -> Result<bool> {
        let _turn = self.turn(user).await;
        let mut held = self.held(At::Quorum, user).await?;
        for _ in 0..TRIES {
            let (revision, had) = (held.next(), held.has(grant));
            let batch = [raise(Cql::GrantsRaise, user, &held), (Cql::GrantRemove, key(user, grant))];
            let look = || self.held(At::Serial, user);
            match self.cas_batch(&batch, look, |there| taken(there, &held, grant)).await? {
                Settled::Done => {
                    self.unlist_holders(user, vec![grant], revision).await?;
                    return Ok(had);
                }
                Settled::Not(there) => held = there,
            }
            self.pause(10).await;
        }
        Err(too_many())
    }

    /// Takes everything from a user. With `forever` the user is gone: then the revision is raised also
    /// when there is nothing, so that what is about to be given is refused, and goes a day later.
    pub(crate) async fn take_all(&self, user: UserId, forever: bool) -> Result<()> {
        let _turn = self.turn(user).await;
        let mut held = self.held(At::Quorum, user).await?;
        if !forever && held.all().is_empty() {
            return Ok(());
        }
        let cql = if forever { Cql::GrantsEnd } else { Cql::GrantsRaise };
        for _ in 0..TRIES {
            let (revision, all) = (held.next(), held.all());
            let (some, more) = all.split_at(TOGETHER.min(all.len()));
            let batch: Vec<_> = std::iter::once(raise(cql, user, &held))
                .chain(some.iter().map(|grant| (Cql::GrantRemove, key(user, *grant))))
                .collect();
            let look = || self.held(At::Serial, user);
            match self.cas_batch(&batch, look, |there| removed(there, &held)).await? {
                Settled::Done => {
                    self.unlist_holders(user, some.to_vec(), revision).await?;
                    if more.is_empty() {
                        return Ok(());
                    }
                    for grant in some {
                        held.forget(*grant);
                    }
                    held.revision = Some(revision);
                }
                Settled::Not(there) => {
                    held = there;
                    self.pause(10).await;
                }
            }
        }
        Err(too_many())
    }

    /// Lists who is about to have something at this revision.
    async fn list_holder(&self, user: UserId, grant: Grant, revision: i64) -> Result<()> {
        let (kind, id) = kind_and_id(grant);
        self.write(Cql::HolderPut, (kind, id, part(user), user.uuid(), revision)).await
    }

    /// Unlists who has these no more since this revision.
    async fn unlist_holders(&self, user: UserId, grants: Vec<Grant>, revision: i64) -> Result<()> {
        stream::iter(grants)
            .map(|grant| async move {
                let (kind, id) = kind_and_id(grant);
                self.write(Cql::HolderRemove, (revision, kind, id, part(user), user.uuid())).await
            })
            .buffer_unordered(AT_ONCE)
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
            let lack = wanted - users.len();
            let some = self.listed_holders(grant, after, lack).await?;
            after = some.last().map_or(after, |user| user.uuid());
            let end = some.len() < lack;
            let there: Vec<Option<UserId>> =
                stream::iter(some)
                    .map(|user| async move {
                        Ok::<_, StoreError>(self.has_grant(user, grant).await?.then_some(user))
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

/// The statement that raises the revision, if it is still that one.
fn raise(cql: Cql, user: UserId, held: &Held) -> (Cql, Values) {
    let values = vec![
        Some(CqlValue::BigInt(held.next())),
        Some(CqlValue::Uuid(user.uuid())),
        held.revision.map(CqlValue::BigInt),
    ];
    (cql, values)
}

/// The key of a row.
fn key(user: UserId, grant: Grant) -> Values {
    let (kind, id) = kind_and_id(grant);
    vec![Some(CqlValue::Uuid(user.uuid())), Some(CqlValue::Text(kind.to_owned())), Some(CqlValue::Uuid(id))]
}

fn too_many() -> StoreError {
    StoreError::unavailable_because("too many change the grants of one user at once")
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

#[cfg(test)]
mod tests {
    use schema::{PermissionId, RoleId};

    use super::*;
    use Verdict::{Before, Done, Otherwise, Unsure};

    fn role(n: u128) -> Grant {
        Grant::Role(RoleId::from_bytes(n.to_be_bytes()))
    }

    fn held(revision: i64, grants: &[Grant]) -> Held {
        let mut rows = vec![GrantRow { kind: None, id: None, revision: Some(revision) }];
        rows.extend(grants.iter().map(|grant| {
            let (kind, id) = kind_and_id(*grant);
            GrantRow { kind: Some(kind.to_owned()), id: Some(id), revision: Some(revision) }
        }));
        Held::of(rows)
    }

    #[test]
    fn rows_are_what_a_user_has() {
        let both = [role(1), Grant::Permission(PermissionId::from_bytes([2; 16]))];
        assert_eq!(held(7, &both).all(), both);
        assert_eq!((held(7, &both).revision, held(7, &both).next()), (Some(7), 8));
        assert_eq!(Held::of(Vec::new()), Held::default());
        assert_eq!(Held::default().next(), 1);
        let mut some = held(7, &both);
        some.forget(role(1));
        assert_eq!(some, held(7, &both[1..]));
    }

    #[test]
    fn of_a_give_and_a_take_that_were_not_answered() {
        let (one, two) = (role(1), role(2));
        let before = held(4, &[two]);
        for (there, give) in [
            (held(4, &[two]), Before),
            (held(5, &[one, two]), Done),
            (held(9, &[one]), Done),
            (held(5, &[]), Otherwise),
            (held(6, &[two]), Unsure),
        ] {
            assert_eq!(given(&there, &before, one), give, "{there:?}");
        }
        assert_eq!(given(&Held::default(), &Held::default(), one), Before);
        assert_eq!(given(&held(1, &[one]), &Held::default(), one), Done);
        let before = held(4, &[one, two]);
        for (there, take) in [
            (held(4, &[one, two]), Before),
            (held(5, &[two]), Done),
            (held(9, &[]), Done),
            (held(5, &[one]), Otherwise),
            (held(9, &[one, two]), Otherwise),
        ] {
            assert_eq!(taken(&there, &before, one), take, "{there:?}");
        }
        let before = held(4, &[]);
        for (there, nothing) in [(held(4, &[]), Before), (held(5, &[]), Done), (held(5, &[one]), Otherwise)] {
            assert_eq!(taken(&there, &before, one), nothing, "of what was not there: {there:?}");
            assert_eq!(removed(&there, &before), if nothing == Before { Before } else { Otherwise });
        }
    }

    #[test]
    fn what_was_deleted_makes_room() {
        let grants: Vec<_> = (0..MAX_GRANTS as u128).map(role).collect();
        let full = held(1, &grants);
        let wanted = role(99_999);
        assert_eq!(full.room(role(3), &Catalogue::default()), Room::Exists);
        assert_eq!(held(1, &grants[1..]).room(wanted, &Catalogue::default()), Room::After(Vec::new()));
        // None of them is in the catalogue.
        assert_eq!(full.room(wanted, &Catalogue::default()), Room::After(grants[..TOGETHER].to_vec()));
        let permission = Grant::Permission(PermissionId::from_bytes([1; 16]));
        assert_eq!(full.room(permission, &Catalogue::default()), Room::After(Vec::new()), "of another kind");
    }
}
