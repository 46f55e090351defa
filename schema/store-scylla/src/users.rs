//! Users and their email claims.
//!
//! A claim is a row of `emails`: this user has this email, or is changing to it. It counts if the user
//! exists and has that email. Any other claim belongs to a change under way, or to one that stalled
//! there. A user that wants the email waits for [`STALLED_CLAIM_TIMEOUT`] and then takes the claim over,
//! in a way that depends on no clock: it first makes the other change impossible (a void row in place
//! of a user that does not exist yet, a raised revision of one that does), then replaces the claim if
//! it still has the same stamp.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::{
    UserId,
    email::FoldedEmail,
    page::{Page, PageOf},
    user::User,
};
use scylla::DeserializeRow;
use store::{
    Created, Replaced, Result, StoreError, Users,
    check::{Claim, Examined, Reclaimed},
};
use uuid::Uuid;

use crate::{
    cas::CasOutcome,
    convert,
    statement::Cql,
    store::{At, CONCURRENT_STATEMENTS_MAX, Store},
};

mod claim;
mod reconcile;
mod row;

use claim::Claimed;
use row::{UserRow, parse_row};

/// How long a claim without its user waits for the change that made it, before it counts as stalled.
const STALLED_CLAIM_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of attempts of a change that loses to concurrent ones.
const CHANGE_ATTEMPTS_MAX: usize = 40;

#[derive(DeserializeRow)]
struct OneUser {
    user: Uuid,
}

#[derive(DeserializeRow)]
struct OneDay {
    day: i32,
}

#[async_trait]
impl Users for Store {
    async fn create(&self, user: &User) -> Result<Created> {
        self.within(self.register(user)).await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.within(self.user(At::Quorum, id)).await
    }

    async fn by_email(&self, email: &FoldedEmail) -> Result<Option<User>> {
        self.within(self.find(email)).await
    }

    async fn replace(&self, next: &User) -> Result<Replaced> {
        self.within(self.change(next)).await
    }

    async fn delete(&self, id: UserId) -> Result<()> {
        self.within_long(self.remove(id)).await
    }

    async fn list(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>> {
        self.within(self.registered(page)).await
    }
}

impl Store {
    /// The user with this id; a void row counts as none.
    async fn user(&self, at: At, id: UserId) -> Result<Option<User>> {
        parse_row(self.user_row(at, id).await?)
    }

    /// The row with this id, which may be void.
    async fn user_row(&self, at: At, id: UserId) -> Result<Option<UserRow>> {
        self.row(at, Cql::UserById, (id.uuid(),)).await
    }

    /// Whether a user with this id exists.
    pub(crate) async fn is_user(&self, at: At, id: UserId) -> Result<bool> {
        Ok(self.user_row(at, id).await?.is_some_and(|row| !row.is_void()))
    }

    /// The user with this email.
    async fn find(&self, email: &FoldedEmail) -> Result<Option<User>> {
        for key in email.keys() {
            let claim = self.claim_of(At::Quorum, key).await?;
            // Read a row also without a claim, so that the time does not reveal which emails exist.
            let id = claim.map_or_else(|| self.random_id(), |claim| claim.user);
            let user = self.user(At::Quorum, UserId::from_bytes(*id.as_bytes())).await?;
            if let Some(user) = user.filter(|user| email.finds(key, &user.email)) {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }

    async fn register(&self, user: &User) -> Result<Created> {
        let email = user.email.folded();
        if self.earlier_holder(&email, user.id).await?.is_some() {
            return Ok(Created::EmailTaken);
        }
        let email = email.as_str();
        self.enlist(user.id).await?;
        let stamp = match self.claim(email, user.id).await? {
            Claimed::Taken => return Ok(Created::EmailTaken),
            Claimed::Already => return Ok(Created::Done),
            Claimed::Now(stamp) => stamp,
        };
        let added = self
            .cas(
                Cql::UserAdd,
                row::all(user),
                || self.user_row(At::Serial, user.id),
                |current| reconcile::added(current.as_ref(), user),
            )
            .await?;
        match added {
            CasOutcome::Applied => Ok(Created::Done),
            // Created before with the same id. If it has another email now, the claim is of no use.
            CasOutcome::Rejected(Some(row)) if !row.is_void() => {
                if row.email().is_none_or(|stored| !stored.claims(email)) {
                    self.release(email, user.id, stamp).await?;
                }
                Ok(Created::Done)
            }
            // Another registration took this one for stalled, and has the email now.
            CasOutcome::Rejected(_) => {
                self.release(email, user.id, stamp).await?;
                Ok(Created::EmailTaken)
            }
        }
    }

    /// Adds a user to the list of registrations. Readers of the list check that the user exists.
    async fn enlist(&self, id: UserId) -> Result<()> {
        let day = convert::day(convert::made_at(id.as_bytes()));
        let listed = async {
            if self.known_days().contains(&day) {
                return Ok(());
            }
            self.write(Cql::DayAdd, (day,)).await?;
            self.known_days().insert(day);
            Ok(())
        };
        let registered = self.write(Cql::RegistrationAdd, (day, id.uuid()));
        futures_util::try_join!(listed, registered).map(drop)
    }

    async fn change(&self, next: &User) -> Result<Replaced> {
        let Some(current) = self.before(next).await? else { return Ok(Replaced::Gone) };
        if current.revision.checked_add(1) != Some(next.revision) {
            return Ok(Replaced::Changed(Box::new(current)));
        }
        // An unchanged email keeps its claim, whatever that is: nothing else may depend on it.
        if current.email == next.email {
            return self.put(next).await;
        }
        let new = next.email.folded();
        if self.earlier_holder(&new, next.id).await?.is_some() {
            return Ok(Replaced::EmailTaken);
        }
        // The old claims are read before anything changes: a claim that is created in the meantime (the
        // user returns to this email) has another stamp, and stays.
        let mut held = self.held_claims(&current.email, next.id).await?;
        held.retain(|(key, _)| key != new.as_str());
        let stamp = match self.claim(new.as_str(), next.id).await? {
            Claimed::Taken => return Ok(Replaced::EmailTaken),
            Claimed::Now(stamp) => Some(stamp),
            // Only the letter case changes; or a change to that email came first, and ours will fail.
            Claimed::Already => None,
        };
        let replaced = self.put(next).await?;
        if replaced == Replaced::Done {
            self.release_all(next.id, held).await?;
        } else if let Some(stamp) = stamp {
            self.release_unless_used(new.as_str(), next.id, stamp).await?;
        }
        Ok(replaced)
    }

    async fn release_all(&self, id: UserId, held: Vec<(String, Uuid)>) -> Result<()> {
        for (key, stamp) in held {
            self.release(&key, id, stamp).await?;
        }
        Ok(())
    }

    /// The user as it is before a change to `next`. A quorum may not know of an unanswered change, so a
    /// caller learns only from a `SERIAL` read that the user changed or is gone.
    async fn before(&self, next: &User) -> Result<Option<User>> {
        match self.user(At::Quorum, next.id).await? {
            Some(user) if user.revision.checked_add(1) == Some(next.revision) => Ok(Some(user)),
            _ => self.user(At::Serial, next.id).await,
        }
    }

    /// Replaces the row of a user if it still has the previous revision.
    async fn put(&self, next: &User) -> Result<Replaced> {
        let before = convert::bigint(next.revision) - 1;
        let put = self
            .cas(
                Cql::UserReplace,
                row::replacement(next, before),
                || self.user_row(At::Serial, next.id),
                |current| reconcile::replaced(current.as_ref(), before, next),
            )
            .await?;
        Ok(match put {
            CasOutcome::Applied => Replaced::Done,
            CasOutcome::Rejected(current) => match parse_row(current)? {
                Some(current) => Replaced::Changed(Box::new(current)),
                None => Replaced::Gone,
            },
        })
    }

    /// Releases a claim whose change failed, unless the user has that email by another change.
    async fn release_unless_used(&self, key: &str, id: UserId, stamp: Uuid) -> Result<()> {
        match self.user(At::Serial, id).await? {
            Some(user) if user.email.claims(key) => Ok(()),
            _ => self.release(key, id, stamp).await,
        }
    }

    /// Deletes what belongs to the user, then the user, then its claim, so that a stalled deletion can be
    /// repeated from the start. Grants are deleted once more at the end: a concurrent grant may have
    /// seen the user.
    async fn remove(&self, id: UserId) -> Result<()> {
        let sessions = async { self.end_all(id).await };
        let grants = async { self.take_all(id, false).await };
        let logins = async { self.delete_logins(id).await };
        futures_util::try_join!(sessions, grants, logins)?;
        self.remove_row(id).await?;
        self.take_all(id, true).await?;
        let day = convert::day(convert::made_at(id.as_bytes()));
        self.write(Cql::RegistrationRemove, (day, id.uuid())).await
    }

    /// Removes the row of a user and its claims, even if the row does not parse.
    async fn remove_row(&self, id: UserId) -> Result<()> {
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let Some(row) = self.user_row(At::Serial, id).await? else { return Ok(()) };
            // A void row expires by its TTL.
            let Some(email) = row.email() else { return Ok(()) };
            let removed = self
                .cas(
                    Cql::UserRemove,
                    (id.uuid(), row.revision),
                    || self.user_row(At::Serial, id),
                    |current| reconcile::removed(current.as_ref(), row.revision),
                )
                .await?;
            if removed == CasOutcome::Applied || removed == CasOutcome::Rejected(None) {
                let held = self.held_claims(&email, id).await?;
                return self.release_all(id, held).await;
            }
        }
        Err(StoreError::unavailable_because("too many concurrent changes of a user under deletion"))
    }

    /// A page of users by id. A row that does not parse is left out and logged.
    async fn registered(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>> {
        let keep = |row: &UserRow| {
            let keep = row.is_readable();
            if !keep && !row.is_void() {
                tracing::error!(user = %row.id(), "a user cannot be read; `palisade store check` names it");
            }
            keep
        };
        let page = self.registered_rows(page, keep).await?;
        let users = page.items.into_iter().filter_map(|row| parse_row(Some(row)).ok().flatten()).collect();
        Ok(Page { items: users, next: page.next })
    }

    /// A page of the rows of users by id, those that `keep` accepts.
    async fn registered_rows(
        &self,
        page: PageOf<UserId>,
        keep: impl Fn(&UserRow) -> bool + Send + Sync,
    ) -> Result<Page<UserRow, UserId>> {
        let wanted = page.limit.saturating_add(1);
        let mut after = page.after.map_or(Uuid::nil(), UserId::uuid);
        let mut users: Vec<UserRow> = Vec::new();
        let first = convert::day(convert::made_at(after.as_bytes()));
        let mut days = self.read_pages::<OneDay>(At::Quorum, Cql::DaysFrom, (first,)).await?;
        days.sort_unstable_by_key(|row| row.day);
        for OneDay { day } in days {
            loop {
                let missing = wanted - users.len();
                let values = (day, after, convert::limit(missing));
                let ids = self.read::<OneUser>(At::Quorum, Cql::RegistrationsAfter, values).await?;
                let Some(last) = ids.last() else { break };
                after = last.user;
                let is_last = ids.len() < missing;
                let rows: Vec<Option<UserRow>> = stream::iter(ids)
                    .map(|row| self.user_row(At::Quorum, UserId::from_bytes(*row.user.as_bytes())))
                    .buffered(CONCURRENT_STATEMENTS_MAX)
                    .try_collect()
                    .await?;
                users.extend(rows.into_iter().flatten().filter(&keep));
                if is_last || users.len() >= wanted {
                    break;
                }
            }
            if users.len() >= wanted {
                break;
            }
        }
        Ok(Page::cut(users, page.limit, UserRow::id))
    }

    /// A page of users as they are stored, with what is wrong with each.
    pub(crate) async fn examined(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>> {
        let rows = self.registered_rows(page, |row| !row.is_void()).await?;
        let mut items = Vec::new();
        for row in rows.items {
            let id = row.id();
            let user = parse_row(Some(row)).ok().flatten();
            let claim = match &user {
                Some(user) => self.claim_state(user).await?,
                None => Claim::Missing(None),
            };
            let mut unreadable = self.unreadable_sessions(id).await?;
            unreadable.extend(self.unreadable_logins(id).await?);
            items.push(Examined { id, user, claim, unreadable });
        }
        Ok(Page { items, next: rows.next })
    }

    async fn claim_state(&self, user: &User) -> Result<Claim> {
        let email = user.email.folded();
        let held = self.held_claims(&user.email, user.id).await?;
        if held.iter().any(|(key, _)| key == email.as_str()) {
            return Ok(Claim::Today);
        }
        let other = match self.earlier_holder(&email, user.id).await? {
            Some(other) => Some(other),
            None => self.today_holder(&email, user.id).await?,
        };
        Ok(if held.is_empty() { Claim::Missing(other) } else { Claim::Earlier(other) })
    }

    /// The other user that holds the claim under today's folding.
    async fn today_holder(&self, email: &FoldedEmail, me: UserId) -> Result<Option<UserId>> {
        let claim = self.claim_of(At::Serial, email.as_str()).await?;
        Ok(claim.map(|claim| UserId::from_bytes(*claim.user.as_bytes())).filter(|id| *id != me))
    }

    /// Moves the claim of a user's email to the key under today's folding. A stall half-way leaves the
    /// user with both claims, of which the earlier one does not count any more.
    pub(crate) async fn reclaimed(&self, id: UserId) -> Result<Reclaimed> {
        let Some(user) = self.user_row(At::Serial, id).await?.and_then(|row| row.email()) else {
            return Ok(Reclaimed::Gone);
        };
        let email = user.folded();
        if let Some(other) = self.earlier_holder(&email, id).await? {
            return Ok(Reclaimed::Held(other));
        }
        let mut held = self.held_claims(&user, id).await?;
        held.retain(|(key, _)| key != email.as_str());
        let stamp = match self.claim(email.as_str(), id).await? {
            Claimed::Taken => {
                let other = self.today_holder(&email, id).await?;
                return Ok(other.map_or(Reclaimed::Gone, Reclaimed::Held));
            }
            Claimed::Now(stamp) => Some(stamp),
            Claimed::Already => None,
        };
        // The email changed in the meantime: the new claim is of no use.
        if self.user_row(At::Serial, id).await?.and_then(|row| row.email()).as_ref() != Some(&user) {
            if let Some(stamp) = stamp {
                self.release_unless_used(email.as_str(), id, stamp).await?;
            }
            return Ok(Reclaimed::Gone);
        }
        self.release_all(id, held).await?;
        Ok(Reclaimed::Done)
    }
}

/// The error for a row that does not parse.
fn inconsistent(id: Uuid) -> StoreError {
    StoreError::Inconsistent(format!("user {id} has a row that does not parse"))
}
