//! How a user claims an email, and how the claim of a stalled change is taken over.

use schema::{
    UserId,
    email::{Email, FoldedEmail},
};
use scylla::DeserializeRow;
use store::{Result, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

use super::{CHANGE_ATTEMPTS_MAX, STALLED_CLAIM_TIMEOUT, reconcile, row::UserRow};
use crate::{
    cas::CasOutcome,
    statement::Cql,
    store::{At, Store},
    timer,
};

/// Limit of the bytes of an email key. Servers reject longer keys; no email is nearly as long.
const EMAIL_KEY_BYTES_MAX: usize = 4_096;
/// Least wait before a claim under change is read again, in milliseconds; the jitter adds up to as much.
const CLAIM_POLL_INTERVAL_MS: u64 = 60;

/// A row of the table `emails`: the user has this email, or is changing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeRow)]
pub(super) struct Claim {
    pub(super) user: Uuid,
    /// The stamp: a new random id for every attempt to claim the email.
    pub(super) claim: Uuid,
}

/// The result of claiming an email.
pub(super) enum Claimed {
    /// The user holds the claim now, with this stamp.
    Now(Uuid),
    /// The user held the claim before, and has this email.
    Already,
    /// Another user has this email.
    Taken,
}

/// The state of the user that a claim names.
enum Holder {
    /// The user has this email: the claim counts.
    Owner,
    /// A void row: the user was never created, and cannot be any more.
    Void,
    /// There is no row: the registration is under way, or stalled.
    Absent,
    /// The user has another email, and this revision.
    OtherEmail(Option<i64>),
}

impl Store {
    /// The claim on an email key.
    pub(super) async fn claim_of(&self, at: At, key: &str) -> Result<Option<Claim>> {
        if key.is_empty() || key.len() > EMAIL_KEY_BYTES_MAX {
            return Ok(None);
        }
        self.row(at, Cql::EmailByText, (key,)).await
    }

    /// The claims on an email that this user holds: key and stamp of each.
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

    /// The other user that has this email by a claim made under an earlier folding of emails.
    pub(super) async fn earlier_holder(&self, email: &FoldedEmail, me: UserId) -> Result<Option<UserId>> {
        if !email.has_earlier_keys() {
            return Ok(None);
        }
        Ok(self.find(email).await?.map(|user| user.id).filter(|id| *id != me))
    }

    /// Claims an email key for a user that does not have the email. Waits for a change under way by
    /// the current holder for [`STALLED_CLAIM_TIMEOUT`], then takes the claim over.
    pub(super) async fn claim(&self, email: &str, me: UserId) -> Result<Claimed> {
        let mine = Claim { user: me.uuid(), claim: self.random_id() };
        let mut waiting: Option<(Claim, Instant)> = None;
        let mut current = match self.claim_free(email, mine).await? {
            CasOutcome::Applied => return Ok(Claimed::Now(mine.claim)),
            CasOutcome::Rejected(current) => current,
        };
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let Some(held) = current else {
                match self.claim_free(email, mine).await? {
                    CasOutcome::Applied => return Ok(Claimed::Now(mine.claim)),
                    CasOutcome::Rejected(changed) => current = changed,
                }
                continue;
            };
            let holder = self.holder(held, email).await?;
            let is_mine = held.user == mine.user;
            let can_take = match holder {
                Holder::Owner => return Ok(if is_mine { Claimed::Already } else { Claimed::Taken }),
                // Ours from a stalled attempt: a new stamp keeps others that saw it stall from taking it.
                _ if is_mine => true,
                Holder::Void => true,
                Holder::Absent | Holder::OtherEmail(_) => {
                    let since = match waiting {
                        Some((claim, since)) if claim == held => since,
                        _ => waiting.insert((held, timer::now())).1,
                    };
                    since.elapsed() >= STALLED_CLAIM_TIMEOUT && self.stop_holder(held, &holder, email).await?
                }
            };
            if !can_take {
                self.pause(CLAIM_POLL_INTERVAL_MS).await;
                current = self.claim_of(At::Serial, email).await?;
                continue;
            }
            match self.claim_from(email, held, mine).await? {
                CasOutcome::Applied => return Ok(Claimed::Now(mine.claim)),
                CasOutcome::Rejected(changed) => current = changed,
            }
        }
        Err(StoreError::unavailable_because("too many concurrent claims of one email"))
    }

    /// The state of the user that a claim on `key` names.
    async fn holder(&self, held: Claim, key: &str) -> Result<Holder> {
        let Some(row) = self.user_row(At::Serial, UserId::from_bytes(*held.user.as_bytes())).await? else {
            return Ok(Holder::Absent);
        };
        // Only the email matters: the rest of the row may not even parse.
        let Some(email) = row.email() else { return Ok(Holder::Void) };
        if !email.claims(key) {
            return Ok(Holder::OtherEmail(row.revision));
        }
        // A claim under an earlier folding is a leftover if the user holds the one under today's too.
        let today = email.folded();
        if today.as_str() != key
            && self.claim_of(At::Serial, today.as_str()).await?.is_some_and(|claim| claim.user == held.user)
        {
            return Ok(Holder::OtherEmail(row.revision));
        }
        Ok(Holder::Owner)
    }

    /// Makes the stalled change of a claim's holder fail if it goes on. Returns `false` if the holder
    /// changed in the meantime.
    async fn stop_holder(&self, held: Claim, holder: &Holder, email: &str) -> Result<bool> {
        let id = UserId::from_bytes(*held.user.as_bytes());
        let read_current = || self.user_row(At::Serial, id);
        let stopped = match *holder {
            Holder::Absent => {
                let reconcile = |current: &Option<UserRow>| reconcile::voided(current.as_ref());
                self.cas(Cql::UserVoid, (held.user,), read_current, reconcile).await?
            }
            Holder::OtherEmail(Some(revision)) => {
                let reconcile =
                    |current: &Option<UserRow>| reconcile::raised(current.as_ref(), revision, email);
                let values = (revision.saturating_add(1), held.user, revision);
                self.cas(Cql::UserRaise, values, read_current, reconcile).await?
            }
            Holder::OtherEmail(None) | Holder::Owner | Holder::Void => return Ok(false),
        };
        Ok(stopped == CasOutcome::Applied)
    }

    /// Claims an email without a claim.
    async fn claim_free(&self, email: &str, mine: Claim) -> Result<CasOutcome<Option<Claim>>> {
        self.cas(
            Cql::EmailClaim,
            (email, mine.user, mine.claim),
            || self.claim_of(At::Serial, email),
            |current| reconcile::claimed(*current, mine),
        )
        .await
    }

    /// Replaces the claim `held` by `mine`.
    async fn claim_from(&self, email: &str, held: Claim, mine: Claim) -> Result<CasOutcome<Option<Claim>>> {
        self.cas(
            Cql::EmailTake,
            (mine.user, mine.claim, email, held.user, held.claim),
            || self.claim_of(At::Serial, email),
            |current| reconcile::taken(*current, held, mine),
        )
        .await
    }

    /// Releases a claim if it still has this stamp.
    pub(super) async fn release(&self, email: &str, user: UserId, stamp: Uuid) -> Result<()> {
        let held = Claim { user: user.uuid(), claim: stamp };
        let released = self
            .cas(
                Cql::EmailRelease,
                (email, held.user, held.claim),
                || self.claim_of(At::Serial, email),
                |current| reconcile::released(*current, held),
            )
            .await?;
        match released {
            CasOutcome::Applied | CasOutcome::Rejected(_) => Ok(()),
        }
    }
}
