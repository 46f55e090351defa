//! What this node remembers of sessions. Nothing in here is true because it is here.
//!
//! **Known sessions** are rows as this node wrote them last, so that a refresh costs one statement of
//! the store: the compare-and-set that spends the token finds out when the row is another one, and
//! then the store is asked. What was known about the user then is believed for as long as facts that
//! say otherwise are remembered: as long as access tokens live.
//!
//! **Unanswered rotations**: the store did not say what became of them, and by the time it can, the
//! grace of the spent token may be over. Its owner never got the successor, so showing the token again
//! is no theft: it gets the successor. Here as long as this node runs; where the outage was seen, within
//! the grace after it; and everywhere for [`OWED`], once this node has said so in the store
//! ([`Memory::settle`]). Only when it was this node that spent it,
//! which the time in the row tells: what another one spent and answered is shown again by a thief.

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

/// How many sessions are known: some 10 MB at most.
const KNOWN: usize = 10_000;
/// How many unanswered rotations are remembered.
const UNANSWERED: usize = 20_000;
/// How many of them are looked after at a time; more rely on this node's memory.
const SETTLING: usize = 256;
/// How often, and after how long for the first time; then twice as long, up to 2 s, for an hour.
const SETTLE_TRIES: u32 = 1_800;
const SETTLE_FIRST: Duration = Duration::from_millis(500);
/// For so long after the store is back the spent token gets its successor on every node, and then for
/// the grace.
pub const OWED: Duration = Duration::from_secs(600);
/// How many tries of one token are remembered.
const TRIED: usize = 64;

/// What this node remembers.
pub(super) struct Memory {
    known: Recent<SessionId, Known>,
    /// By the spent token.
    unanswered: Recent<SecretHash, Unanswered>,
    settling: Mutex<HashSet<SecretHash>>,
    away: Mutex<Option<Away>>,
}

/// When the store was away, as this node saw it by its steady clock.
#[derive(Debug, Clone, Copy)]
struct Away {
    from: Timestamp,
    /// `None` as long as it is.
    to: Option<Timestamp>,
}

/// A session and its user's stored version, at some time.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) session: Session,
    pub(super) user_version: u64,
    /// By boot time: what is known does not stay young when the wall clock is set back.
    pub(super) at: Duration,
}

/// Rotations of one token that were not answered.
#[derive(Clone, Default)]
struct Unanswered {
    /// When it was tried: one that was made has one of these times.
    tried: Vec<Timestamp>,
    /// When its successor was given at last, if it was.
    given: Option<Timestamp>,
}

impl Unanswered {
    /// Whether one of them made the session what it is.
    fn made(&self, session: &Session, spent: &SecretHash) -> bool {
        session.spent.iter().any(|entry| entry.hash == *spent && self.tried.contains(&entry.at))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            known: Recent::with_capacity(KNOWN),
            unanswered: Recent::with_capacity(UNANSWERED),
            settling: Mutex::default(),
            away: Mutex::default(),
        }
    }
}

impl Memory {
    /// The session, when this is its live token and what is known is not too old.
    pub(super) fn known(&self, context: &Context, id: SessionId, live: &SecretHash) -> Option<Known> {
        let known = self.known.get(&id).filter(|known| known.session.live == *live)?;
        let age = context.clock.monotonic().saturating_sub(known.at);
        (age < context.facts.lifetimes().access_ttl).then_some(known)
    }

    /// The store has been away since then, until then or still.
    pub(super) fn store_was_away(&self, from: Timestamp, to: Option<Timestamp>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = Some(Away { from, to });
    }

    /// Whether the token was spent while the store was away, by whatever node: perhaps nobody was
    /// answered, so its grace begins when the store is back.
    pub(super) fn was_spent_in_outage(
        &self,
        session: &Session,
        spent: &SecretHash,
        now: Timestamp,
        grace: Duration,
    ) -> bool {
        let away = *self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Away { from, to }) = away else { return false };
        let until = to.unwrap_or(now);
        let in_outage = |entry: &Spent| entry.hash == *spent && from <= entry.at && entry.at <= until;
        session.spent.iter().any(in_outage) && now.since(until) < grace
    }

    /// The session is like this now, and the store has said so.
    pub(super) fn know(&self, known: Known) {
        if let Some(spent) = known.session.spent.first() {
            self.unanswered.remove(&spent.hash);
        }
        self.known.insert(known.session.id, known);
    }

    /// The rotation that spends this token was tried now, and not answered.
    pub(super) fn was_unanswered(&self, spent: SecretHash, now: Timestamp) {
        let mut unanswered = self.unanswered.get(&spent).unwrap_or_default();
        if unanswered.tried.len() >= TRIED {
            // The first ones may have been made before the store was known to be away.
            unanswered.tried.remove(TRIED / 2);
        }
        unanswered.tried.push(now);
        self.unanswered.insert(spent, unanswered);
    }

    /// Whether the token was spent without an answer, so that it gets its successor still.
    pub(super) fn is_owed(
        &self,
        session: &Session,
        spent: &SecretHash,
        now: Timestamp,
        grace: Duration,
    ) -> bool {
        let Some(unanswered) = self.unanswered.get(spent) else { return false };
        if !unanswered.made(session, spent) {
            return false;
        }
        match unanswered.given {
            Some(at) => now.since(at) < grace,
            None => {
                self.unanswered.insert(*spent, Unanswered { given: Some(now), ..unanswered });
                true
            }
        }
    }

    /// The rotation was not answered: begins its grace anew, and later, when the store is back.
    pub(super) async fn settle(&self, context: &Context, previous: &Session, successor: SecretHash) {
        let settling = || self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = {
            let mut settling = settling();
            settling.len() < SETTLING && settling.insert(previous.live)
        };
        if begins {
            self.renew_grace(context, previous, successor).await;
            settling().remove(&previous.live);
        }
    }

    async fn renew_grace(&self, context: &Context, previous: &Session, successor: SecretHash) {
        let spent = previous.live;
        let sessions = &context.stores.sessions;
        for attempt in 0..SETTLE_TRIES {
            tokio::time::sleep(SETTLE_FIRST.saturating_mul(1 << attempt.min(2))).await;
            let Ok(latest) = sessions.latest(previous.user, previous.id).await else { continue };
            let Some(current) = latest else { return };
            let Some(unanswered) = self.unanswered.get(&spent) else { return };
            if current.live != successor || !unanswered.made(&current, &spent) {
                return;
            }
            let mut next = current.clone();
            let owed = context.clock.steady().plus(OWED);
            self.was_unanswered(spent, owed);
            next.spent.iter_mut().filter(|entry| entry.hash == spent).for_each(|entry| entry.at = owed);
            if sessions.rotate(&current, &next).await.is_ok() {
                return;
            }
        }
    }
}
