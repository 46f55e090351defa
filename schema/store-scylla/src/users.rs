//! Users and their email claims.
//!
//! A claim is a row of `emails`: this user has this email, or is about to. It counts when the user
//! is there and has that email. A claim of anybody else is of somebody in the middle of a change, or
//! of one that stopped there; who wants the email waits for [`CLAIM_PATIENCE`] and then takes it, in
//! a way that no clock can spoil: first it is made impossible that the other completes (who is not
//! there yet gets a row without email, who is there gets its revision raised), then the claim is
//! taken, if it is still the same one.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::{
    StoreError, UserId,
    check::{Claim, Examined, Reclaimed},
    email::FoldedEmail,
    page::{Page, PageOf},
    store::{Created, Replaced, Result, Users},
    user::User,
};
use scylla::DeserializeRow;
use uuid::Uuid;

use crate::{
    cas::Settled,
    convert,
    statement::Cql,
    store::{AT_ONCE, At, Store},
};

mod claim;
mod judge;
mod row;

use claim::Claimed;
use row::{UserRow, who};

/// How long who is in the middle of a change is waited for.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
/// How often a change is tried that others come before.
const TRIES: usize = 40;

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
    /// A user that is there.
    async fn user(&self, at: At, id: UserId) -> Result<Option<User>> {
        who(self.user_row(at, id).await?)
    }

    /// The row, which may be nobody's.
    async fn user_row(&self, at: At, id: UserId) -> Result<Option<UserRow>> {
        self.row(at, Cql::UserById, (id.uuid(),)).await
    }

    /// Whether there is such a user.
    pub(crate) async fn is_user(&self, at: At, id: UserId) -> Result<bool> {
        Ok(self.user_row(at, id).await?.is_some_and(|row| !row.is_void()))
    }

    /// The user of an email.
    async fn find(&self, email: &FoldedEmail) -> Result<Option<User>> {
        for key in email.keys() {
            let claim = self.claim_of(At::Quorum, key).await?;
            // Also for nobody, so that the time does not say who is there.
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
                |there| judge::added(there.as_ref(), user),
            )
            .await?;
        match added {
            Settled::Done => Ok(Created::Done),
            // Created before with the same id. If it has another email now, we claimed for nothing.
            Settled::Not(Some(row)) if !row.is_void() => {
                if row.email().is_none_or(|there| !there.claims(email)) {
                    self.release(email, user.id, stamp).await?;
                }
                Ok(Created::Done)
            }
            // Somebody took us for one who stopped, and has the email now.
            Settled::Not(_) => {
                self.release(email, user.id, stamp).await?;
                Ok(Created::EmailTaken)
            }
        }
    }

    /// Notes that a user registered, for the lists, which look whether it is there.
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
        let Some(there) = self.before(next).await? else { return Ok(Replaced::Gone) };
        if there.revision.checked_add(1) != Some(next.revision) {
            return Ok(Replaced::Changed(Box::new(there)));
        }
        // An email that stays keeps its claim, whatever that is: nothing else may depend on it.
        if there.email == next.email {
            return self.put(next).await;
        }
        let new = next.email.folded();
        if self.earlier_holder(&new, next.id).await?.is_some() {
            return Ok(Replaced::EmailTaken);
        }
        // The old claims as they are before we change anything: should one be made anew meanwhile (we
        // come back to this email), it is another, and stays.
        let mut held = self.held_claims(&there.email, next.id).await?;
        held.retain(|(key, _)| key != new.as_str());
        let stamp = match self.claim(new.as_str(), next.id).await? {
            Claimed::Taken => return Ok(Replaced::EmailTaken),
            Claimed::Now(stamp) => Some(stamp),
            // Only its letters change; or a change to that email came before us, and ours will be refused.
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

    /// The user as it is before a change to `next`. A quorum may not know of a change that was not
    /// answered, so who is told that it changed or is gone is told by `SERIAL`.
    async fn before(&self, next: &User) -> Result<Option<User>> {
        match self.user(At::Quorum, next.id).await? {
            Some(there) if there.revision.checked_add(1) == Some(next.revision) => Ok(Some(there)),
            _ => self.user(At::Serial, next.id).await,
        }
    }

    /// Puts a user in place of its revision before.
    async fn put(&self, next: &User) -> Result<Replaced> {
        let before = convert::bigint(next.revision) - 1;
        let put = self
            .cas(
                Cql::UserReplace,
                row::replacement(next, before),
                || self.user_row(At::Serial, next.id),
                |there| judge::replaced(there.as_ref(), before, next),
            )
            .await?;
        Ok(match put {
            Settled::Done => Replaced::Done,
            Settled::Not(there) => match who(there)? {
                Some(there) => Replaced::Changed(Box::new(there)),
                None => Replaced::Gone,
            },
        })
    }

    /// Gives up a claim whose change did not come about; not when the user has that email by another
    /// change.
    async fn release_unless_used(&self, key: &str, id: UserId, stamp: Uuid) -> Result<()> {
        match self.user(At::Serial, id).await? {
            Some(user) if user.email.claims(key) => Ok(()),
            _ => self.release(key, id, stamp).await,
        }
    }

    /// First what is the user's, then the user, then its claim: whoever stops can begin again. Grants
    /// once more at the end: who was about to give something may have seen the user.
    async fn remove(&self, id: UserId) -> Result<()> {
        let sessions = async { self.end_all(id).await };
        let grants = async { self.take_all(id, false).await };
        let logins = async { self.forget_logins(id).await };
        futures_util::try_join!(sessions, grants, logins)?;
        self.remove_row(id).await?;
        self.take_all(id, true).await?;
        let day = convert::day(convert::made_at(id.as_bytes()));
        self.write(Cql::RegistrationRemove, (day, id.uuid())).await
    }

    /// Removes a user and its claims, whatever else its row holds.
    async fn remove_row(&self, id: UserId) -> Result<()> {
        for _ in 0..TRIES {
            let Some(row) = self.user_row(At::Serial, id).await? else { return Ok(()) };
            // Nobody, and it goes by itself.
            let Some(email) = row.email() else { return Ok(()) };
            let removed = self
                .cas(
                    Cql::UserRemove,
                    (id.uuid(), row.revision),
                    || self.user_row(At::Serial, id),
                    |there| judge::removed(there.as_ref(), row.revision),
                )
                .await?;
            if removed == Settled::Done || removed == Settled::Not(None) {
                let held = self.held_claims(&email, id).await?;
                return self.release_all(id, held).await;
            }
        }
        Err(StoreError::unavailable_because("too many change a user that is deleted"))
    }

    /// Users by id. A row that cannot be read takes nothing but itself out of a list.
    async fn registered(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>> {
        let keep = |row: &UserRow| {
            let keep = row.is_readable();
            if !keep && !row.is_void() {
                tracing::error!(user = %row.id(), "a user cannot be read; `palisade store check` names it");
            }
            keep
        };
        let page = self.registered_rows(page, keep).await?;
        let users = page.items.into_iter().filter_map(|row| who(Some(row)).ok().flatten()).collect();
        Ok(Page { items: users, next: page.next })
    }

    /// The rows of users by id, those that are to be kept.
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
                let lack = wanted - users.len();
                let values = (day, after, convert::limit(lack));
                let ids = self.read::<OneUser>(At::Quorum, Cql::RegistrationsAfter, values).await?;
                let Some(last) = ids.last() else { break };
                after = last.user;
                let end = ids.len() < lack;
                let some: Vec<Option<UserRow>> = stream::iter(ids)
                    .map(|row| self.user_row(At::Quorum, UserId::from_bytes(*row.user.as_bytes())))
                    .buffered(AT_ONCE)
                    .try_collect()
                    .await?;
                users.extend(some.into_iter().flatten().filter(&keep));
                if end || users.len() >= wanted {
                    break;
                }
            }
            if users.len() >= wanted {
                break;
            }
        }
        Ok(Page::cut(users, page.limit, UserRow::id))
    }

    /// The next users as they are stored.
    pub(crate) async fn examined(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>> {
        let rows = self.registered_rows(page, |row| !row.is_void()).await?;
        let mut items = Vec::new();
        for row in rows.items {
            let id = row.id();
            let user = who(Some(row)).ok().flatten();
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

    /// Who but this user holds today's key.
    async fn today_holder(&self, email: &FoldedEmail, me: UserId) -> Result<Option<UserId>> {
        let claim = self.claim_of(At::Serial, email.as_str()).await?;
        Ok(claim.map(|claim| UserId::from_bytes(*claim.user.as_bytes())).filter(|id| *id != me))
    }

    /// Moves the claim of a user's email to today's key. Whoever stops half-way leaves the user with
    /// both claims, of which the earlier one counts no more.
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
        // Its email was changed meanwhile: what we claimed is of no use.
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

/// What a row that contradicts itself is.
fn inconsistent(id: Uuid) -> StoreError {
    StoreError::Inconsistent(format!("user {id} has a row that does not parse"))
}
