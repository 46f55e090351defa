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
        self.within(async {
            let claim = self.claim_of(At::Quorum, email).await?;
            // Also for nobody, so that the time does not say who is there.
            let id = claim.map_or_else(|| self.random_id(), |claim| claim.user);
            let user = self.user(At::Quorum, UserId::from_bytes(*id.as_bytes())).await?;
            Ok(user.filter(|user| user.email.folded() == *email))
        })
        .await
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

    async fn register(&self, user: &User) -> Result<Created> {
        let email = user.email.folded();
        self.enlist(user.id).await?;
        let stamp = match self.claim(&email, user.id).await? {
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
                if who(Some(row))?.is_none_or(|there| there.email.folded() != email) {
                    self.release(&email, user.id, stamp).await?;
                }
                Ok(Created::Done)
            }
            // Somebody took us for one who stopped, and has the email now.
            Settled::Not(_) => {
                self.release(&email, user.id, stamp).await?;
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
        let (old, new) = (there.email.folded(), next.email.folded());
        if old == new {
            return self.put(next).await;
        }
        // The old claim as it is before we change anything: should it be made anew meanwhile (we
        // come back to this email), it is another, and stays.
        let held = self.claim_of(At::Serial, &old).await?.filter(|held| held.user == next.id.uuid());
        let stamp = match self.claim(&new, next.id).await? {
            Claimed::Taken => return Ok(Replaced::EmailTaken),
            Claimed::Now(stamp) => Some(stamp),
            // A change to that email came before us; ours will be refused.
            Claimed::Already => None,
        };
        let replaced = self.put(next).await?;
        match (&replaced, held, stamp) {
            (Replaced::Done, Some(held), _) => self.release(&old, next.id, held.claim).await?,
            (Replaced::Done, None, _) | (_, _, None) => {}
            (_, _, Some(stamp)) => self.release_unless_used(&new, next.id, stamp).await?,
        }
        Ok(replaced)
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
    async fn release_unless_used(&self, email: &FoldedEmail, id: UserId, stamp: Uuid) -> Result<()> {
        match self.user(At::Serial, id).await? {
            Some(user) if user.email.folded() == *email => Ok(()),
            _ => self.release(email, id, stamp).await,
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

    /// Removes a user and its claim.
    async fn remove_row(&self, id: UserId) -> Result<()> {
        for _ in 0..TRIES {
            let Some(row) = self.user_row(At::Serial, id).await? else { return Ok(()) };
            let email = match who(Some(row.clone()))? {
                Some(user) => user.email.folded(),
                // Nobody, and it goes by itself.
                None => return Ok(()),
            };
            let removed = self
                .cas(
                    Cql::UserRemove,
                    (id.uuid(), row.revision),
                    || self.user_row(At::Serial, id),
                    |there| judge::removed(there.as_ref(), row.revision),
                )
                .await?;
            if removed == Settled::Done || removed == Settled::Not(None) {
                let held = self.claim_of(At::Serial, &email).await?;
                if let Some(held) = held.filter(|held| held.user == id.uuid()) {
                    self.release(&email, id, held.claim).await?;
                }
                return Ok(());
            }
        }
        Err(StoreError::unavailable_because("too many change a user that is deleted"))
    }

    async fn registered(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>> {
        let wanted = page.limit.saturating_add(1);
        let mut after = page.after.map_or(Uuid::nil(), UserId::uuid);
        let mut users: Vec<User> = Vec::new();
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
                let some: Vec<Option<User>> = stream::iter(ids)
                    .map(|row| self.user(At::Quorum, UserId::from_bytes(*row.user.as_bytes())))
                    .buffered(AT_ONCE)
                    .try_collect()
                    .await?;
                users.extend(some.into_iter().flatten());
                if end || users.len() >= wanted {
                    break;
                }
            }
            if users.len() >= wanted {
                break;
            }
        }
        Ok(Page::cut(users, page.limit, |user: &User| user.id))
    }
}

/// What a row that contradicts itself is.
fn inconsistent(id: Uuid) -> StoreError {
    StoreError::Inconsistent(format!("user {id} has a row that does not parse"))
}
