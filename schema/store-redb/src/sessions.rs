//! Sessions, with a count for each user and an index by their end.
//!
//! The index holds the end rounded up to the hour: a refresh moves the end by minutes, and mostly
//! only the session's own row is written then.

use std::time::Duration;

use async_trait::async_trait;
use schema::{
    Horizon, SessionId, Timestamp, UserId,
    page::{Page, PageOf},
    session::{SecretHash, Session},
    store::{Result, Rotated, Sessions},
    time::millis,
};

use crate::{
    rows::{Change, Rows, Span},
    store::Store,
    table::{SESSION_COUNTS, SESSION_ENDS, SESSIONS},
};

/// How coarse the index is.
const SWEPT_EVERY: Duration = Duration::from_secs(3600);

#[async_trait]
impl Sessions for Store {
    async fn open(&self, session: &Session, max: usize) -> Result<Vec<SessionId>> {
        let session = session.clone();
        self.change(move |change| open(change, &session, max)).await
    }

    async fn get(&self, user: UserId, id: SessionId) -> Result<Option<Session>> {
        self.read(move |rows| rows.get(&SESSIONS, &(user, id))).await
    }

    async fn latest(&self, user: UserId, id: SessionId) -> Result<Option<Session>> {
        self.get(user, id).await
    }

    async fn rotate(&self, previous: &Session, next: &Session) -> Result<Rotated> {
        let (expected, next) = (previous.live, next.clone());
        self.change(move |change| rotate(change, &expected, &next)).await
    }

    async fn end(&self, user: UserId, id: SessionId) -> Result<bool> {
        self.change(move |change| {
            let Some(session) = change.get(&SESSIONS, &(user, id))? else { return Ok(false) };
            remove(change, &session)?;
            count(change, user, |count| count.saturating_sub(1))?;
            Ok(true)
        })
        .await
    }

    async fn end_older(&self, user: UserId, version: u64) -> Result<()> {
        self.change(move |change| end_older(change, user, version)).await
    }

    async fn list(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>> {
        self.read(move |rows| {
            let seen = page.after.map(|id| (user, id));
            let span = Span::of(&user).before(seen.as_ref());
            let found = rows.scan_back(&SESSIONS, &span, page.limit.saturating_add(1))?;
            let sessions = found.into_iter().map(|(_, session)| session).collect();
            Ok(Page::cut(sessions, page.limit, |session: &Session| session.id))
        })
        .await
    }
}

/// The oldest make room, never the new one itself. Opened again with the same id: no change.
fn open(change: &Change<'_>, session: &Session, max: usize) -> Result<Vec<SessionId>> {
    let key = (session.user, session.id);
    if change.has(&SESSIONS, &key)? {
        return Ok(Vec::new());
    }
    let before = change.get(&SESSION_COUNTS, &session.user)?.unwrap_or(0);
    let too_many = (before + 1).saturating_sub(max.max(1));
    let oldest = match too_many {
        0 => Vec::new(),
        some => change.scan(&SESSIONS, &Span::of(&session.user), some)?,
    };
    for (_, old) in &oldest {
        remove(change, old)?;
    }
    change.put(&SESSIONS, &key, session)?;
    change.put(&SESSION_ENDS, &end_of(session), &())?;
    count(change, session.user, |count| (count + 1).saturating_sub(oldest.len()))?;
    Ok(oldest.into_iter().map(|((_, id), _)| id).collect())
}

fn rotate(change: &Change<'_>, expected: &SecretHash, next: &Session) -> Result<Rotated> {
    let key = (next.user, next.id);
    let Some(stored) = change.get(&SESSIONS, &key)? else { return Ok(Rotated::Gone) };
    if stored.live != *expected {
        return Ok(Rotated::Lost(Box::new(stored)));
    }
    if end_of(&stored) != end_of(next) {
        change.remove(&SESSION_ENDS, &end_of(&stored))?;
        change.put(&SESSION_ENDS, &end_of(next), &())?;
    }
    change.put(&SESSIONS, &key, next)?;
    Ok(Rotated::Done)
}

/// Ends a user's sessions of versions below this one.
pub(crate) fn end_older(change: &Change<'_>, user: UserId, version: u64) -> Result<()> {
    let mut older = change.scan(&SESSIONS, &Span::of(&user), usize::MAX)?;
    older.retain(|(_, session)| session.user_version < version);
    if older.is_empty() {
        return Ok(());
    }
    for (_, session) in &older {
        remove(change, session)?;
    }
    count(change, user, |count| count.saturating_sub(older.len()))
}

/// Removes sessions that have ended; says how many.
pub(crate) fn sweep(change: &Change<'_>, horizon: Horizon, limit: usize) -> Result<usize> {
    let ended = change.scan(&SESSION_ENDS, &Span::up_to(&horizon.time()), limit)?;
    for (end, ()) in &ended {
        let (_, user, id) = *end;
        change.remove(&SESSION_ENDS, end)?;
        if change.remove(&SESSIONS, &(user, id))? {
            count(change, user, |count| count.saturating_sub(1))?;
        }
    }
    Ok(ended.len())
}

fn remove(change: &Change<'_>, session: &Session) -> Result<()> {
    change.remove(&SESSIONS, &(session.user, session.id))?;
    change.remove(&SESSION_ENDS, &end_of(session))?;
    Ok(())
}

fn count(change: &Change<'_>, user: UserId, next: impl FnOnce(usize) -> usize) -> Result<()> {
    match next(change.get(&SESSION_COUNTS, &user)?.unwrap_or(0)) {
        0 => change.remove(&SESSION_COUNTS, &user).map(drop),
        count => change.put(&SESSION_COUNTS, &user, &count),
    }
}

/// Where a session is in the index.
fn end_of(session: &Session) -> (Timestamp, UserId, SessionId) {
    let step = millis(SWEPT_EVERY);
    let end = session.expires_at.as_millis().div_ceil(step).saturating_mul(step);
    (Timestamp::from_millis(end), session.user, session.id)
}
