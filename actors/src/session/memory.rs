//! What this node remembers of sessions, to save store calls and to survive outages of the store.
//!
//! **Known sessions** are rows as this node wrote them last, so that a refresh costs one statement of
//! the store. If the row has changed since, the compare-and-set that spends the token fails, and the
//! node reads the store. The node relies on the remembered user version as long as access tokens live,
//! because facts that contradict it are remembered that long.
//!
//! **Unanswered rotations**: the store did not say whether they happened, and when it is back, the
//! grace of the spent token may be over. Its owner never got the successor, so presenting the token
//! again is no theft, and the node returns the successor:
//! - on this node, as long as it runs;
//! - on nodes that saw the outage, within the grace after it;
//! - on every node for [`GRACE_EXTENSION`], once this node has extended the grace in the store
//!   ([`Memory::settle`]).
//!
//! This holds only for a token that this node spent, which the time in the row tells. A token that
//! another node spent, and answered, is a copy when it is presented again.
//!
//! Never: a refresh that rests on this memory alone. The store's compare-and-set decides.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schema::{
    SessionId, Timestamp,
    session::{SecretHash, Session, Spent},
};

use super::recent::Recent;
use crate::Context;

/// How many sessions the node remembers: some 10 MB.
const KNOWN_SESSIONS_MAX: usize = 10_000;
/// For how many tokens the node remembers unanswered rotations.
const UNANSWERED_TOKENS_MAX: usize = 20_000;
/// For how many tokens at a time a task extends the grace in the store. Further tokens rely on this node's
/// memory.
const SETTLING_TOKENS_MAX: usize = 256;
/// How many times such a task attempts it: for an hour.
const SETTLE_ATTEMPTS_MAX: u32 = 1_800;
/// The delay before the first attempt. It doubles up to four times this, 2 s.
const SETTLE_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// How long every node returns the successor of a token that was spent without an answer, from the time
/// the store is back. Then the grace starts.
pub const GRACE_EXTENSION: Duration = Duration::from_secs(600);
/// How many attempted rotations of one token the node remembers.
const ATTEMPT_TIMES_MAX: usize = 64;

/// The node's memory of sessions.
pub(super) struct Memory {
    known: Recent<SessionId, KnownSession>,
    /// Unanswered rotations by the hash of the spent token.
    unanswered: Recent<SecretHash, UnansweredRotations>,
    /// The tokens whose grace a task is extending.
    settling: Mutex<HashSet<SecretHash>>,
    /// The last outage of the store.
    outage: Mutex<Option<Outage>>,
}

/// An outage of the store as this node saw it, by its steady clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    pub(super) from: Timestamp,
    /// The end of the outage; `None` while it lasts.
    pub(super) to: Option<Timestamp>,
}

/// A session and its user's stored version, as read or written at some time.
#[derive(Clone)]
pub(super) struct KnownSession {
    pub(super) session: Session,
    pub(super) user_version: u64,
    /// When the user's version was read, by boot time: setting the wall clock back makes it no younger.
    pub(super) at: Duration,
}

/// Rotations of one token that the store did not answer.
#[derive(Clone, Default)]
struct UnansweredRotations {
    /// The times of the attempts. If one of them happened, the row carries its time.
    attempted_at: Vec<Timestamp>,
    /// When the node first returned the successor after all.
    returned_at: Option<Timestamp>,
}

impl UnansweredRotations {
    /// Whether one of these rotations spent the token, by the time in the session's row.
    fn explain(&self, session: &Session, spent: &SecretHash) -> bool {
        session.spent.iter().any(|entry| entry.hash == *spent && self.attempted_at.contains(&entry.at))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            known: Recent::with_capacity(KNOWN_SESSIONS_MAX),
            unanswered: Recent::with_capacity(UNANSWERED_TOKENS_MAX),
            settling: Mutex::default(),
            outage: Mutex::default(),
        }
    }
}

impl Memory {
    /// The remembered session, if `live` is its live token and the memory is younger than access tokens live.
    pub(super) fn known(&self, context: &Context, id: SessionId, live: &SecretHash) -> Option<KnownSession> {
        let known = self.known.get(&id).filter(|known| known.session.live == *live)?;
        let age = context.clock.monotonic().saturating_sub(known.at);
        (age < context.facts.lifetimes().access_ttl).then_some(known)
    }

    /// Replaces the last outage of the store.
    pub(super) fn note_outage(&self, outage: Outage) {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = Some(outage);
    }

    /// Whether the token was spent during an outage of the store, on any node. Its caller may have got no
    /// answer, so its grace starts when the store is back.
    pub(super) fn was_spent_in_outage(
        &self,
        session: &Session,
        spent: &SecretHash,
        now: Timestamp,
        grace: Duration,
    ) -> bool {
        let outage = *self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Outage { from, to }) = outage else { return false };
        let until = to.unwrap_or(now);
        let in_outage = |entry: &Spent| entry.hash == *spent && from <= entry.at && entry.at <= until;
        session.spent.iter().any(in_outage) && now.since(until) < grace
    }

    /// Remembers a session that the store has confirmed.
    pub(super) fn remember(&self, known: KnownSession) {
        if let Some(spent) = known.session.spent.first() {
            self.unanswered.remove(&spent.hash);
        }
        self.known.insert(known.session.id, known);
    }

    /// Remembers that the store did not answer a rotation that spends this token, attempted at `now`.
    pub(super) fn note_unanswered(&self, spent: SecretHash, now: Timestamp) {
        let mut unanswered = self.unanswered.get(&spent).unwrap_or_default();
        if unanswered.attempted_at.len() >= ATTEMPT_TIMES_MAX {
            // The first attempts stay: they may have happened before the node noticed the outage.
            unanswered.attempted_at.remove(ATTEMPT_TIMES_MAX / 2);
        }
        unanswered.attempted_at.push(now);
        self.unanswered.insert(spent, unanswered);
    }

    /// Whether a rotation without an answer spent the token, so that its caller still gets the successor. The
    /// first call starts the grace for repeated ones.
    pub(super) fn is_owed(
        &self,
        session: &Session,
        spent: &SecretHash,
        now: Timestamp,
        grace: Duration,
    ) -> bool {
        let Some(unanswered) = self.unanswered.get(spent) else { return false };
        if !unanswered.explain(session, spent) {
            return false;
        }
        match unanswered.returned_at {
            Some(at) => now.since(at) < grace,
            None => {
                let returned = UnansweredRotations { returned_at: Some(now), ..unanswered };
                self.unanswered.insert(*spent, returned);
                true
            }
        }
    }

    /// Extends the grace of a token whose rotation was not answered, when the store is back. Does nothing if
    /// too many such tasks run, or one for this token.
    pub(super) async fn settle(&self, context: &Context, previous: &Session, successor: SecretHash) {
        let settling = || self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = {
            let mut settling = settling();
            settling.len() < SETTLING_TOKENS_MAX && settling.insert(previous.live)
        };
        if starts {
            self.extend_grace(context, previous, successor).await;
            settling().remove(&previous.live);
        }
    }

    /// Retries until the row carries the extended grace, or shows that the rotation did not happen or that
    /// the session went on.
    async fn extend_grace(&self, context: &Context, previous: &Session, successor: SecretHash) {
        let spent = previous.live;
        let sessions = &context.stores.sessions;
        for attempt in 0..SETTLE_ATTEMPTS_MAX {
            tokio::time::sleep(SETTLE_INTERVAL_MIN.saturating_mul(1 << attempt.min(2))).await;
            let Ok(latest) = sessions.latest(previous.user, previous.id).await else { continue };
            let Some(current) = latest else { return };
            let Some(unanswered) = self.unanswered.get(&spent) else { return };
            if current.live != successor || !unanswered.explain(&current, &spent) {
                return;
            }
            let mut next = current.clone();
            let spent_at = context.clock.steady().plus(GRACE_EXTENSION);
            // This write may get no answer either, and then the row carries this time.
            self.note_unanswered(spent, spent_at);
            next.spent.iter_mut().filter(|entry| entry.hash == spent).for_each(|entry| entry.at = spent_at);
            if sessions.rotate(&current, &next).await.is_ok() {
                return;
            }
        }
    }
}
