//! What this node remembers of sessions. Nothing in here is true because it is here.
//!
//! **Known sessions** are rows as this node wrote them last, so that a refresh costs one statement of
//! the store: the compare-and-set that spends the token finds out when the row is another one, and
//! then the store is asked. What was known about the user then is believed for as long as facts that
//! say otherwise are remembered: as long as access tokens live.
//!
//! **Unanswered rotations**: the store did not say what became of them, and by the time it can, the
//! grace of the spent token may be over. Its owner never got the successor, so showing the token again
//! is no theft: it gets the successor, here as long as this node runs, and elsewhere because the grace
//! begins anew when the store is back ([`Memory::settle`]). Only when it was this node that spent it,
//! which the time in the row tells: what another one spent and answered is shown again by a thief.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schema::{
    SessionId, Timestamp,
    session::{SecretHash, Session},
    store::Rotated,
};

use super::{recent::Recent, refresh::NO_TOKEN};
use crate::Context;

/// How many sessions are known: some 10 MB at most.
const KNOWN: usize = 10_000;
/// How many unanswered rotations are remembered.
const UNANSWERED: usize = 20_000;
/// How many of them are looked after at a time; more rely on this node's memory.
const SETTLING: usize = 256;
/// How long, and how often.
const SETTLE_FOR: Duration = Duration::from_secs(3600);
const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// What this node remembers.
pub(super) struct Memory {
    known: Recent<SessionId, Known>,
    /// By the spent token.
    unanswered: Recent<SecretHash, Unanswered>,
    settling: Mutex<HashSet<SecretHash>>,
}

/// A session and its user's stored version, at some time.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) session: Session,
    pub(super) user_version: u64,
    pub(super) at: Timestamp,
}

/// Rotations of one token that were not answered.
#[derive(Clone, Copy)]
struct Unanswered {
    /// When it was tried first and last: one that was made has a time between them.
    tried: (Timestamp, Timestamp),
    /// When its successor was given at last, if it was.
    given: Option<Timestamp>,
}

impl Unanswered {
    /// Whether one of them made the session what it is.
    fn made(&self, session: &Session, spent: &SecretHash) -> bool {
        let (first, last) = self.tried;
        session.spent.iter().any(|entry| entry.hash == *spent && first <= entry.at && entry.at <= last)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            known: Recent::with_capacity(KNOWN),
            unanswered: Recent::with_capacity(UNANSWERED),
            settling: Mutex::default(),
        }
    }
}

impl Memory {
    /// The session, when this is its live token and what is known is not too old.
    pub(super) fn known(&self, context: &Context, id: SessionId, live: &SecretHash) -> Option<Known> {
        let known = self.known.get(&id).filter(|known| known.session.live == *live)?;
        let age = context.clock.now().since(known.at);
        (age < context.facts.lifetimes().access_ttl).then_some(known)
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
        let before = self.unanswered.get(&spent);
        let first = before.map_or(now, |before| before.tried.0);
        let given = before.and_then(|before| before.given);
        self.unanswered.insert(spent, Unanswered { tried: (first, now), given });
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

    /// The rotation was not answered: begins its grace anew when the store is back.
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
        let tries = SETTLE_FOR.as_millis() / SETTLE_EVERY.as_millis();
        for _ in 0..tries {
            tokio::time::sleep(SETTLE_EVERY).await;
            let unknown = Session { live: NO_TOKEN, ..previous.clone() };
            let Ok(rotated) = context.stores.sessions.rotate(&unknown, previous).await else { continue };
            let Rotated::Lost(current) = rotated else { return };
            let Some(unanswered) = self.unanswered.get(&spent) else { return };
            if current.live != successor || !unanswered.made(&current, &spent) {
                return;
            }
            let mut next = (*current).clone();
            let now = context.clock.now();
            self.was_unanswered(spent, now);
            next.spent.iter_mut().filter(|entry| entry.hash == spent).for_each(|entry| entry.at = now);
            if context.stores.sessions.rotate(&current, &next).await.is_ok() {
                return;
            }
        }
    }
}
