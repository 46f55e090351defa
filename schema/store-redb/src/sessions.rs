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
    rows::{Change, Row, Rows, Span},
    store::{STEP, Store},
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
            let Some(row) = change.look(&SESSIONS, &(user, id))? else { return Ok(false) };
            remove(change, (user, id), &row)?;
            count(change, user, |count| count.saturating_sub(1))?;
            Ok(true)
        })
        .await
    }

    async fn end_older(&self, user: UserId, version: u64) -> Result<()> {
        let mut after = None;
        loop {
            after = self.change(move |change| end_older(change, user, version, after)).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn list(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>> {
        self.read(move |rows| {
            let seen = page.after.map(|id| (user, id));
            let span = Span::of(&user).before(seen.as_ref());
            let found = rows.list_back(&SESSIONS, &span, page.limit.saturating_add(1))?;
            let sessions = found.into_iter().map(|(_, session)| session).collect();
            Ok(Page::cut(sessions, page.limit, |session: &Session| session.id))
        })
        .await
    }

    async fn ids(&self, user: UserId) -> Result<Vec<SessionId>> {
        self.read(move |rows| {
            let found = rows.look_at(&SESSIONS, &Span::of(&user), usize::MAX)?;
            Ok(found.into_iter().map(|((_, id), _)| id).collect())
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
        some => change.look_at(&SESSIONS, &Span::of(&session.user), some)?,
    };
    for (key, old) in &oldest {
        remove(change, *key, old)?;
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

/// Ends those of a user's next sessions whose versions are below this one; says after which to go on. A
/// session that cannot be read is below every version.
fn end_older(
    change: &Change<'_>,
    user: UserId,
    version: u64,
    after: Option<SessionId>,
) -> Result<Option<SessionId>> {
    let seen = after.map(|id| (user, id));
    let some = change.look_at(&SESSIONS, &Span::of(&user).after(seen.as_ref()), STEP)?;
    let next = if some.len() < STEP { None } else { some.last().map(|((_, id), _)| *id) };
    let is_older = |row: &Row<Session>| match row {
        Row::Good(session) => session.user_version < version,
        Row::Unreadable => true,
    };
    let older: Vec<_> = some.into_iter().filter(|(_, row)| is_older(row)).collect();
    for (key, row) in &older {
        remove(change, *key, row)?;
    }
    if !older.is_empty() {
        count(change, user, |count| count.saturating_sub(older.len()))?;
    }
    Ok(next)
}

/// Ends sessions of a user who is deleted, at most so many; says how many there were.
pub(crate) fn forget(change: &Change<'_>, user: UserId, most: usize) -> Result<usize> {
    let some = change.look_at(&SESSIONS, &Span::of(&user), most)?;
    for (key, row) in &some {
        remove(change, *key, row)?;
    }
    if some.len() < most {
        change.remove(&SESSION_COUNTS, &user)?;
    } else {
        count(change, user, |count| count.saturating_sub(some.len()))?;
    }
    Ok(some.len())
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

/// Of a session that cannot be read, the sweep removes what is in the index.
fn remove(change: &Change<'_>, key: (UserId, SessionId), row: &Row<Session>) -> Result<()> {
    change.remove(&SESSIONS, &key)?;
    if let Row::Good(session) = row {
        change.remove(&SESSION_ENDS, &end_of(session))?;
    }
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
