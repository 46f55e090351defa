//! Sessions, with a count per user and an index by their expiry.
//!
//! The index holds the expiry rounded up to the hour: most refreshes move the expiry within the hour and
//! write only the session's own row.

use std::time::Duration;

use async_trait::async_trait;
use schema::{
    Horizon, SessionId, Timestamp, UserId,
    page::{Page, PageOf},
    session::{SecretHash, Session},
    time::millis,
};
use store::{Result, Rotated, Sessions};

use crate::{
    rows::{Change, Row, Rows, Span},
    store::{REMOVALS_PER_CHANGE_MAX, Store},
    table::{SESSION_COUNTS, SESSION_ENDS, SESSIONS},
};

/// The granularity of the index. Part of the stored form.
const INDEX_GRANULARITY: Duration = Duration::from_secs(3600);

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
            let Some(row) = change.get_row(&SESSIONS, &(user, id))? else { return Ok(false) };
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
            let found = rows.scan_rows(&SESSIONS, &Span::of(&user), usize::MAX)?;
            Ok(found.into_iter().map(|((_, id), _)| id).collect())
        })
        .await
    }
}

/// Adds a session and ends the oldest ones beyond `max`, never the new one. A repeated call with the same
/// id changes nothing.
fn open(change: &Change<'_>, session: &Session, max: usize) -> Result<Vec<SessionId>> {
    let key = (session.user, session.id);
    if change.has(&SESSIONS, &key)? {
        return Ok(Vec::new());
    }
    let before = change.get(&SESSION_COUNTS, &session.user)?.unwrap_or(0);
    let excess = (before + 1).saturating_sub(max.max(1));
    let oldest = match excess {
        0 => Vec::new(),
        excess => change.scan_rows(&SESSIONS, &Span::of(&session.user), excess)?,
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

/// Ends, of a batch of a user's sessions, those whose user version is below `version`. Returns the id to
/// continue after, if there is more. A session that does not parse is below every version.
fn end_older(
    change: &Change<'_>,
    user: UserId,
    version: u64,
    after: Option<SessionId>,
) -> Result<Option<SessionId>> {
    let seen = after.map(|id| (user, id));
    let batch =
        change.scan_rows(&SESSIONS, &Span::of(&user).after(seen.as_ref()), REMOVALS_PER_CHANGE_MAX)?;
    let next =
        if batch.len() < REMOVALS_PER_CHANGE_MAX { None } else { batch.last().map(|((_, id), _)| *id) };
    let is_older = |row: &Row<Session>| match row {
        Row::Parsed(session) => session.user_version < version,
        Row::Unreadable => true,
    };
    let older: Vec<_> = batch.into_iter().filter(|(_, row)| is_older(row)).collect();
    for (key, row) in &older {
        remove(change, *key, row)?;
    }
    if !older.is_empty() {
        count(change, user, |count| count.saturating_sub(older.len()))?;
    }
    Ok(next)
}

/// Removes at most `limit` sessions of a user. Returns their number.
pub(crate) fn remove_some(change: &Change<'_>, user: UserId, limit: usize) -> Result<usize> {
    let batch = change.scan_rows(&SESSIONS, &Span::of(&user), limit)?;
    for (key, row) in &batch {
        remove(change, *key, row)?;
    }
    if batch.len() < limit {
        change.remove(&SESSION_COUNTS, &user)?;
    } else {
        count(change, user, |count| count.saturating_sub(batch.len()))?;
    }
    Ok(batch.len())
}

/// Removes at most `limit` expired sessions. Returns their number.
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

/// Removes a session. If it does not parse, the sweep removes its index row.
fn remove(change: &Change<'_>, key: (UserId, SessionId), row: &Row<Session>) -> Result<()> {
    change.remove(&SESSIONS, &key)?;
    if let Row::Parsed(session) = row {
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

/// The key of a session in the index by expiry.
fn end_of(session: &Session) -> (Timestamp, UserId, SessionId) {
    let granularity = millis(INDEX_GRANULARITY);
    let end = session.expires_at.as_millis().div_ceil(granularity).saturating_mul(granularity);
    (Timestamp::from_millis(end), session.user, session.id)
}
