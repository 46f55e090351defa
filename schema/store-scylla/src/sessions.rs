//! Sessions.
//!
//! The row of a session is the truth and changes only by conditional writes. The list of a user's
//! sessions is written plainly and only says where to look. A list row always outlives its session: its
//! TTL is three lifetimes of the session's token, and it is written again when the session has been used
//! for another such lifetime. So most refreshes are one statement.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::{
    SessionId, UserId,
    page::{Page, PageOf},
    session::Session,
};
use scylla::DeserializeRow;
use store::{Result, Rotated, Sessions, StoreError};
use uuid::Uuid;

use crate::{
    cas::CasOutcome,
    convert,
    statement::Cql,
    store::{At, CONCURRENT_STATEMENTS_MAX, Store},
};

mod reconcile;
mod row;

use row::{SessionRow, session};

/// The TTL of a list row, in lifetimes of its session's token.
const LIST_ROW_LIFETIMES: u32 = 3;
/// Limit of the session cap up to which list rows of expired sessions are sorted out before a session is
/// ended. With a higher cap they count until they expire.
const EXACT_CAP_MAX: usize = 200;
/// Limit of list rows per read.
const LIST_READ_ROWS_MAX: usize = 1_000;

#[derive(DeserializeRow)]
struct OneSession {
    id: Uuid,
}

#[async_trait]
impl Sessions for Store {
    async fn open(&self, session: &Session, max: usize) -> Result<Vec<SessionId>> {
        self.within(self.begin(session, max)).await
    }

    async fn get(&self, user: UserId, id: SessionId) -> Result<Option<Session>> {
        self.within(self.session(At::Quorum, user, id)).await
    }

    async fn latest(&self, user: UserId, id: SessionId) -> Result<Option<Session>> {
        self.within(self.session(At::Serial, user, id)).await
    }

    async fn rotate(&self, previous: &Session, next: &Session) -> Result<Rotated> {
        self.within(self.refresh(previous, next)).await
    }

    async fn end(&self, user: UserId, id: SessionId) -> Result<bool> {
        self.within(self.end_one(user, id)).await
    }

    async fn end_older(&self, user: UserId, version: u64) -> Result<()> {
        self.within_long(async {
            // Every version is lower, so every session ends, even one that does not parse.
            if version == u64::MAX {
                return self.end_all(user).await;
            }
            let ids = self.listed(user, usize::MAX).await?;
            stream::iter(ids)
                .map(|id| self.end_if_older(user, id, version))
                .buffer_unordered(CONCURRENT_STATEMENTS_MAX)
                .try_collect()
                .await
        })
        .await
    }

    async fn list(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>> {
        self.within(self.sessions_of(user, page)).await
    }

    async fn ids(&self, user: UserId) -> Result<Vec<SessionId>> {
        self.within(self.listed(user, usize::MAX)).await
    }
}

impl Store {
    /// The session with this id, unless it has ended.
    async fn session(&self, at: At, user: UserId, id: SessionId) -> Result<Option<Session>> {
        let row = self.row::<SessionRow>(at, Cql::SessionById, (user.uuid(), id.uuid())).await?;
        row.map_or(Ok(None), session)
    }

    /// Adds the session, then its list row: until the call returns, no client has tokens of the session.
    async fn begin(&self, new: &Session, max: usize) -> Result<Vec<SessionId>> {
        let ttl = convert::ttl_until(new.expires_at, self.settled());
        let added = self.cas(
            Cql::SessionAdd,
            row::all(new, ttl),
            || self.session(At::Serial, new.user, new.id),
            |current| reconcile::added(current.as_ref(), new),
        );
        // A repeated call with the same id changes no session, but its list row may have been missing.
        added.await?;
        self.enlist_session(new).await?;
        self.end_excess_sessions(new.user, max.max(1)).await
    }

    async fn enlist_session(&self, session: &Session) -> Result<()> {
        let ttl = convert::ttl(lifetime(session).saturating_mul(LIST_ROW_LIFETIMES), self.settled());
        self.write(Cql::SessionListed, (session.user.uuid(), session.id.uuid(), ttl)).await
    }

    async fn unlist(&self, user: UserId, id: SessionId) -> Result<()> {
        self.write(Cql::SessionUnlisted, (user.uuid(), id.uuid())).await
    }

    /// Ends all sessions but the newest `max`, and returns the ids of those it ended. Concurrent logins
    /// apply the same order, so that exactly `max` sessions stay after the last of them has looked. The
    /// new session itself may be ended, if others have later ids.
    async fn end_excess_sessions(&self, user: UserId, max: usize) -> Result<Vec<SessionId>> {
        if self.listed(user, max.saturating_add(1)).await?.len() <= max {
            return Ok(Vec::new());
        }
        let _lock = self.0.session_locks.lock(user).await;
        let mut ids = self.listed(user, usize::MAX).await?;
        if max <= EXACT_CAP_MAX {
            ids = self.without_ended(user, &ids, max).await?;
        }
        let excess = ids.split_off(max.min(ids.len()));
        let ended: Vec<Option<SessionId>> = stream::iter(excess)
            .map(|id| async move { self.end_one(user, id).await.map(|ended| ended.then_some(id)) })
            .buffered(CONCURRENT_STATEMENTS_MAX)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(ended.into_iter().flatten().collect())
    }

    /// Of `ids`, newest first: the first `max` whose sessions have not ended, then all ids that were not
    /// looked up.
    async fn without_ended(&self, user: UserId, ids: &[SessionId], max: usize) -> Result<Vec<SessionId>> {
        let mut kept = Vec::new();
        let mut rest = ids;
        while kept.len() < max && !rest.is_empty() {
            let (batch, others) = rest.split_at((max - kept.len()).min(rest.len()));
            rest = others;
            let found: Vec<Option<Session>> = self.found(user, batch).try_collect().await?;
            kept.extend(found.into_iter().flatten().map(|session| session.id));
        }
        kept.extend(rest);
        Ok(kept)
    }

    /// The sessions with these ids, in order. Removes the list rows of sessions that have ended, and
    /// leaves out sessions that do not parse.
    fn found<'a>(
        &'a self,
        user: UserId,
        ids: &'a [SessionId],
    ) -> impl StreamExt<Item = Result<Option<Session>>> + Send + 'a {
        stream::iter(ids)
            .map(move |id| async move {
                match self.session_or_unlist(user, *id).await {
                    Err(error @ StoreError::Inconsistent(_)) => {
                        tracing::error!(%user, session = %id, %error, "a session cannot be read; `palisade store check` names it");
                        Ok(None)
                    }
                    other => other,
                }
            })
            .buffered(CONCURRENT_STATEMENTS_MAX)
    }

    /// The session with this id; removes its list row if it has ended. A quorum may not know of a
    /// session whose insertion got no answer, so a `SERIAL` read decides.
    async fn session_or_unlist(&self, user: UserId, id: SessionId) -> Result<Option<Session>> {
        if let Some(session) = self.session(At::Quorum, user, id).await? {
            return Ok(Some(session));
        }
        let session = self.session(At::Serial, user, id).await?;
        if session.is_none() {
            self.unlist(user, id).await?;
        }
        Ok(session)
    }

    /// At most `limit` ids of the list, newest first.
    async fn listed(&self, user: UserId, limit: usize) -> Result<Vec<SessionId>> {
        let mut ids = Vec::new();
        let mut before = Uuid::max();
        while ids.len() < limit {
            let wanted = LIST_READ_ROWS_MAX.min(limit - ids.len());
            let read = self.listed_before(user, before, wanted).await?;
            let is_last = read.len() < wanted;
            before = read.last().map_or(before, |id| id.uuid());
            ids.extend(read);
            if is_last {
                break;
            }
        }
        Ok(ids)
    }

    async fn listed_before(&self, user: UserId, before: Uuid, limit: usize) -> Result<Vec<SessionId>> {
        let values = (user.uuid(), before, convert::limit(limit));
        let rows = self.read::<OneSession>(At::Quorum, Cql::SessionsBefore, values).await?;
        Ok(rows.into_iter().map(|row| SessionId::from_bytes(*row.id.as_bytes())).collect())
    }

    async fn refresh(&self, previous: &Session, next: &Session) -> Result<Rotated> {
        let ttl = convert::ttl_until(next.expires_at, self.settled());
        let rotated = self
            .cas(
                Cql::SessionRotate,
                row::rotation(previous, next, ttl),
                || self.session(At::Serial, next.user, next.id),
                |current| reconcile::rotated(current.as_ref(), previous, next),
            )
            .await?;
        match rotated {
            CasOutcome::Rejected(None) => return Ok(Rotated::Gone),
            CasOutcome::Rejected(Some(current)) => return Ok(Rotated::Lost(Box::new(current))),
            CasOutcome::Applied => {}
        }
        let span = lifetime(previous);
        if lifetimes_used(previous, span) != lifetimes_used(next, span) || span != lifetime(next) {
            self.enlist_session(next).await?;
        }
        Ok(Rotated::Done)
    }

    async fn end_one(&self, user: UserId, id: SessionId) -> Result<bool> {
        let ended = self
            .cas(
                Cql::SessionEnd,
                (user.uuid(), id.uuid()),
                || self.session(At::Serial, user, id),
                |current| reconcile::ended(current.as_ref()),
            )
            .await?;
        self.unlist(user, id).await?;
        Ok(ended == CasOutcome::Applied)
    }

    /// Ends a session whose user version is below `version`. A session that does not parse counts as
    /// older.
    async fn end_if_older(&self, user: UserId, id: SessionId, version: u64) -> Result<()> {
        match self.end_readable_if_older(user, id, version).await {
            Err(StoreError::Inconsistent(_)) => self.end_one(user, id).await.map(drop),
            other => other,
        }
    }

    async fn end_readable_if_older(&self, user: UserId, id: SessionId, version: u64) -> Result<()> {
        let ended = self
            .cas(
                Cql::SessionEndOlder,
                (user.uuid(), id.uuid(), convert::bigint(version)),
                || self.session(At::Serial, user, id),
                |current| reconcile::ended_if_older(current.as_ref(), version),
            )
            .await?;
        match ended {
            CasOutcome::Applied | CasOutcome::Rejected(None) => self.unlist(user, id).await,
            CasOutcome::Rejected(Some(_)) => Ok(()),
        }
    }

    /// The sessions of a user that do not parse: table and id of each.
    pub(crate) async fn unreadable_sessions(&self, user: UserId) -> Result<Vec<(String, String)>> {
        let ids = self.listed(user, usize::MAX).await?;
        let read = stream::iter(ids)
            .map(|id| async move {
                match self.session(At::Quorum, user, id).await {
                    Ok(_) => Ok(None),
                    Err(StoreError::Inconsistent(_)) => Ok(Some(("sessions".to_owned(), id.to_string()))),
                    Err(error) => Err(error),
                }
            })
            .buffered(CONCURRENT_STATEMENTS_MAX);
        let found: Vec<Option<(String, String)>> = read.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Ends all sessions of a user, even those that do not parse.
    pub(crate) async fn end_all(&self, user: UserId) -> Result<()> {
        let ids = self.listed(user, usize::MAX).await?;
        stream::iter(ids)
            .map(|id| async move { self.end_one(user, id).await.map(drop) })
            .buffer_unordered(CONCURRENT_STATEMENTS_MAX)
            .try_collect()
            .await
    }

    async fn sessions_of(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>> {
        let wanted = page.limit.saturating_add(1);
        let mut before = page.after.map_or(Uuid::max(), SessionId::uuid);
        let mut sessions: Vec<Session> = Vec::new();
        while sessions.len() < wanted {
            let missing = wanted - sessions.len();
            let ids = self.listed_before(user, before, missing).await?;
            before = ids.last().map_or(before, |id| id.uuid());
            let found: Vec<Option<Session>> = self.found(user, &ids).try_collect().await?;
            sessions.extend(found.into_iter().flatten());
            if ids.len() < missing {
                break;
            }
        }
        Ok(Page::cut(sessions, page.limit, |session: &Session| session.id))
    }
}

/// The lifetime of the live token, in whole seconds.
fn lifetime(session: &Session) -> Duration {
    // The expiry is in whole seconds, the last use is not: rounded up, it is the same at every rotation.
    let exact = session.expires_at.since(session.last_used_at);
    Duration::from_secs((exact + Duration::from_nanos(999_999_999)).as_secs().max(1))
}

/// For how many spans of time `span` the session has been in use.
fn lifetimes_used(session: &Session, span: Duration) -> u128 {
    session.last_used_at.since(session.created_at).as_millis() / span.as_millis().max(1)
}
