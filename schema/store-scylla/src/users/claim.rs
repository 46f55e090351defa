//! Claims of an email.

use schema::{
    StoreError, UserId,
    email::{Email, FoldedEmail},
    store::Result,
};
use scylla::DeserializeRow;
use tokio::time::Instant;
use uuid::Uuid;

use super::{CLAIM_PATIENCE, TRIES, judge, row::UserRow};
use crate::{
    cas::Settled,
    statement::Cql,
    store::{At, Store},
};

/// Longest key that a server takes; no email is nearly as long.
const MAX_KEY: usize = 4_096;
/// How long we wait before another look at one that is in the middle of a change, in milliseconds:
/// so much to twice as much.
const LOOK: u64 = 60;

/// Who has an email, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeRow)]
pub(super) struct Claim {
    pub(super) user: Uuid,
    /// New with every attempt to take it.
    pub(super) claim: Uuid,
}

/// What came of claiming.
pub(super) enum Claimed {
    /// Ours, with this stamp.
    Now(Uuid),
    /// It was ours, and the user has this email.
    Already,
    /// Somebody else's.
    Taken,
}

/// Who holds a claim.
enum Holder {
    /// A user who has this email.
    Rightly,
    /// Nobody; a row without email keeps it so.
    Void,
    /// Nobody yet.
    Absent,
    /// A user with another email, of this revision.
    Elsewhere(Option<i64>),
}

impl Store {
    /// The claim of a key of an email.
    pub(super) async fn claim_of(&self, at: At, key: &str) -> Result<Option<Claim>> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Ok(None);
        }
        self.row(at, Cql::EmailByText, (key,)).await
    }

    /// The claims of an email that are this user's, with their keys.
    pub(super) async fn held_claims(&self, email: &Email, me: UserId) -> Result<Vec<(String, Uuid)>> {
        let mut held = Vec::new();
        for key in email.folded().keys() {
            if let Some(claim) = self.claim_of(At::Serial, key).await?.filter(|claim| claim.user == me.uuid())
            {
                held.push((key.to_owned(), claim.claim));
            }
        }
        Ok(held)
    }

    /// Who but this user has this email by a claim that an earlier version made.
    pub(super) async fn earlier_holder(&self, email: &FoldedEmail, me: UserId) -> Result<Option<UserId>> {
        if !email.has_earlier_keys() {
            return Ok(None);
        }
        Ok(self.find(email).await?.map(|user| user.id).filter(|id| *id != me))
    }

    /// Claims the key of an email for a user that does not have it.
    pub(super) async fn claim(&self, email: &str, me: UserId) -> Result<Claimed> {
        let mine = Claim { user: me.uuid(), claim: self.random_id() };
        let mut waiting: Option<(Claim, Instant)> = None;
        let mut there = match self.claim_free(email, mine).await? {
            Settled::Done => return Ok(Claimed::Now(mine.claim)),
            Settled::Not(there) => there,
        };
        for _ in 0..TRIES {
            let Some(held) = there else {
                match self.claim_free(email, mine).await? {
                    Settled::Done => return Ok(Claimed::Now(mine.claim)),
                    Settled::Not(now) => there = now,
                }
                continue;
            };
            let holder = self.holder(held, email).await?;
            let ours = held.user == mine.user;
            let ready = match holder {
                Holder::Rightly => return Ok(if ours { Claimed::Already } else { Claimed::Taken }),
                // Ours from before: stamped anew, so that who saw it stop cannot take it any more.
                _ if ours => true,
                Holder::Void => true,
                Holder::Absent | Holder::Elsewhere(_) => {
                    let since = match waiting {
                        Some((claim, since)) if claim == held => since,
                        _ => waiting.insert((held, Instant::now())).1,
                    };
                    since.elapsed() >= CLAIM_PATIENCE && self.stop(held, &holder, email).await?
                }
            };
            if !ready {
                self.pause(LOOK).await;
                there = self.claim_of(At::Serial, email).await?;
                continue;
            }
            match self.claim_from(email, held, mine).await? {
                Settled::Done => return Ok(Claimed::Now(mine.claim)),
                Settled::Not(now) => there = now,
            }
        }
        Err(StoreError::unavailable_because("an email is wanted by too many at once"))
    }

    /// Who holds a claim.
    async fn holder(&self, held: Claim, key: &str) -> Result<Holder> {
        let Some(row) = self.user_row(At::Serial, UserId::from_bytes(*held.user.as_bytes())).await? else {
            return Ok(Holder::Absent);
        };
        // Whatever else the row holds.
        let Some(email) = row.email() else { return Ok(Holder::Void) };
        if !email.claims(key) {
            return Ok(Holder::Elsewhere(row.revision));
        }
        // One of an earlier version is left over when the user holds today's too.
        let today = email.folded();
        if today.as_str() != key
            && self.claim_of(At::Serial, today.as_str()).await?.is_some_and(|claim| claim.user == held.user)
        {
            return Ok(Holder::Elsewhere(row.revision));
        }
        Ok(Holder::Rightly)
    }

    /// Makes it impossible that the holder of a claim completes what it was about to do; `false`
    /// when it did something meanwhile.
    async fn stop(&self, held: Claim, holder: &Holder, email: &str) -> Result<bool> {
        let id = UserId::from_bytes(*held.user.as_bytes());
        let look = || self.user_row(At::Serial, id);
        let stopped = match *holder {
            Holder::Absent => {
                let judge = |there: &Option<UserRow>| judge::voided(there.as_ref());
                self.cas(Cql::UserVoid, (held.user,), look, judge).await?
            }
            Holder::Elsewhere(Some(revision)) => {
                let judge = |there: &Option<UserRow>| judge::raised(there.as_ref(), revision, email);
                let values = (revision.saturating_add(1), held.user, revision);
                self.cas(Cql::UserRaise, values, look, judge).await?
            }
            Holder::Elsewhere(None) | Holder::Rightly | Holder::Void => return Ok(false),
        };
        Ok(stopped == Settled::Done)
    }

    /// Claims an email that nobody claims.
    async fn claim_free(&self, email: &str, mine: Claim) -> Result<Settled<Option<Claim>>> {
        self.cas(
            Cql::EmailClaim,
            (email, mine.user, mine.claim),
            || self.claim_of(At::Serial, email),
            |there| judge::claimed(*there, mine),
        )
        .await
    }

    /// Claims an email in place of this claim.
    async fn claim_from(&self, email: &str, held: Claim, mine: Claim) -> Result<Settled<Option<Claim>>> {
        self.cas(
            Cql::EmailTake,
            (mine.user, mine.claim, email, held.user, held.claim),
            || self.claim_of(At::Serial, email),
            |there| judge::taken(*there, held, mine),
        )
        .await
    }

    /// Gives up a claim, if it is still this one.
    pub(super) async fn release(&self, email: &str, user: UserId, stamp: Uuid) -> Result<()> {
        let held = Claim { user: user.uuid(), claim: stamp };
        let released = self
            .cas(
                Cql::EmailRelease,
                (email, held.user, held.claim),
                || self.claim_of(At::Serial, email),
                |there| judge::released(*there, held),
            )
            .await?;
        match released {
            Settled::Done | Settled::Not(_) => Ok(()),
        }
    }
}
