//! Sessions.
//!
//! The row of a session is the truth, changed conditionally; the list of a user's sessions is
//! written plainly and only says where to look. A list row always outlives its session: it lives
//! three times as long as the session's token did when it was written, and is written again when the
//! session has been used beyond another such life. So a refresh is one statement, mostly.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::{
    SessionId, StoreError, UserId,
    page::{Page, PageOf},
    session::Session,
    store::{Result, Rotated, Sessions},
};
use scylla::DeserializeRow;
use uuid::Uuid;

use crate::{
    cas::Settled,
    convert,
    statement::Cql,
    store::{AT_ONCE, At, ROOMS, Store},
};

mod judge;
mod row;

use row::{SessionRow, session};

/// A list row lives so many lives of its session's token.
const LIVES: u32 = 3;
/// Up to this cap, list rows of sessions that ended by themselves are told from those of sessions
/// that are there before one is ended. Beyond it they count until they go by themselves.
const EXACT: usize = 200;
/// List rows a read.
const LISTED: usize = 1_000;

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
            // No version is that high: all of them, whatever is stored.
            if version == u64::MAX {
                return self.end_all(user).await;
            }
            let ids = self.listed(user, usize::MAX).await?;
            stream::iter(ids)
                .map(|id| self.end_if_older(user, id, version))
                .buffer_unordered(AT_ONCE)
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
    /// A session that is there.
    async fn session(&self, at: At, user: UserId, id: SessionId) -> Result<Option<Session>> {
        let row = self.row::<SessionRow>(at, Cql::SessionById, (user.uuid(), id.uuid())).await?;
        row.map_or(Ok(None), session)
    }

    /// The list row comes second: before it nobody has tokens of the session.
    async fn begin(&self, new: &Session, max: usize) -> Result<Vec<SessionId>> {
        let ttl = convert::ttl_until(new.expires_at, self.settled());
        let added = self.cas(
            Cql::SessionAdd,
            row::all(new, ttl),
            || self.session(At::Serial, new.user, new.id),
            |there| judge::added(there.as_ref(), new),
        );
        // Opened again with the same id: no change, but the list row may have been missing.
        added.await?;
        self.enlist_session(new).await?;
        self.make_room(new.user, max.max(1)).await
    }

    async fn enlist_session(&self, session: &Session) -> Result<()> {
        let ttl = convert::ttl(life(session).saturating_mul(LIVES), self.settled());
        self.write(Cql::SessionListed, (session.user.uuid(), session.id.uuid(), ttl)).await
    }

    async fn unlist(&self, user: UserId, id: SessionId) -> Result<()> {
        self.write(Cql::SessionUnlisted, (user.uuid(), id.uuid())).await
    }

    /// Ends all but the newest `max`. Of several that begin at once, each applies the same order, so
    /// that exactly `max` stay and the last to look sees to it. That may be the new one, when others
    /// are newer by their ids.
    async fn make_room(&self, user: UserId, max: usize) -> Result<Vec<SessionId>> {
        if self.listed(user, max.saturating_add(1)).await?.len() <= max {
            return Ok(Vec::new());
        }
        let _turn = self.0.rooms[usize::from(user.as_bytes()[15]) % ROOMS].lock().await;
        let mut ids = self.listed(user, usize::MAX).await?;
        if max <= EXACT {
            ids = self.those_there(user, &ids, max).await?;
        }
        let too_many = ids.split_off(max.min(ids.len()));
        let ended: Vec<Option<SessionId>> = stream::iter(too_many)
            .map(|id| async move { Ok(self.end_one(user, id).await?.then_some(id)) })
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(ended.into_iter().flatten().collect())
    }

    /// Of these, newest first, the first `max` that are there, then all that were not looked at.
    async fn those_there(&self, user: UserId, ids: &[SessionId], max: usize) -> Result<Vec<SessionId>> {
        let mut there = Vec::new();
        let mut rest = ids;
        while there.len() < max && !rest.is_empty() {
            let (some, others) = rest.split_at((max - there.len()).min(rest.len()));
            rest = others;
            let found: Vec<Option<Session>> = self.found(user, some).try_collect().await?;
            there.extend(found.into_iter().flatten().map(|session| session.id));
        }
        there.extend(rest);
        Ok(there)
    }

    /// The sessions of these ids, in order; list rows of those that are not there are removed.
    /// One that cannot be read is left out.
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
            .buffered(AT_ONCE)
    }

    /// A quorum may not know of a session whose beginning was not answered, so `SERIAL` has the last
    /// word.
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

    /// At most so many ids of the list, newest first.
    async fn listed(&self, user: UserId, most: usize) -> Result<Vec<SessionId>> {
        let (mut ids, mut before) = (Vec::new(), Uuid::max());
        while ids.len() < most {
            let wanted = LISTED.min(most - ids.len());
            let some = self.listed_before(user, before, wanted).await?;
            let end = some.len() < wanted;
            before = some.last().map_or(before, |id| id.uuid());
            ids.extend(some);
            if end {
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
                |there| judge::rotated(there.as_ref(), previous, next),
            )
            .await?;
        match rotated {
            Settled::Not(None) => return Ok(Rotated::Gone),
            Settled::Not(Some(there)) => return Ok(Rotated::Lost(Box::new(there))),
            Settled::Done => {}
        }
        if lives(previous, life(previous)) != lives(next, life(previous)) || life(previous) != life(next) {
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
                |there| judge::ended(there.as_ref()),
            )
            .await?;
        self.unlist(user, id).await?;
        Ok(ended == Settled::Done)
    }

    /// One that cannot be read is older.
    async fn end_if_older(&self, user: UserId, id: SessionId, version: u64) -> Result<()> {
        match self.end_if_certainly_older(user, id, version).await {
            Err(StoreError::Inconsistent(_)) => self.end_one(user, id).await.map(drop),
            other => other,
        }
    }

    async fn end_if_certainly_older(&self, user: UserId, id: SessionId, version: u64) -> Result<()> {
        let ended = self
            .cas(
                Cql::SessionEndOlder,
                (user.uuid(), id.uuid(), convert::bigint(version)),
                || self.session(At::Serial, user, id),
                |there| judge::ended_if_older(there.as_ref(), version),
            )
            .await?;
        match ended {
            Settled::Done | Settled::Not(None) => self.unlist(user, id).await,
            Settled::Not(Some(_)) => Ok(()),
        }
    }

    /// The sessions of a user that cannot be read.
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
            .buffered(AT_ONCE);
        let found: Vec<Option<(String, String)>> = read.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Ends all sessions of a user that is deleted.
    pub(crate) async fn end_all(&self, user: UserId) -> Result<()> {
        let ids = self.listed(user, usize::MAX).await?;
        stream::iter(ids)
            .map(|id| async move { self.end_one(user, id).await.map(drop) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn sessions_of(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>> {
        let wanted = page.limit.saturating_add(1);
        let mut before = page.after.map_or(Uuid::max(), SessionId::uuid);
        let mut sessions: Vec<Session> = Vec::new();
        while sessions.len() < wanted {
            let lack = wanted - sessions.len();
            let ids = self.listed_before(user, before, lack).await?;
            before = ids.last().map_or(before, |id| id.uuid());
            let found: Vec<Option<Session>> = self.found(user, &ids).try_collect().await?;
            sessions.extend(found.into_iter().flatten());
            if ids.len() < lack {
                break;
            }
        }
        Ok(Page::cut(sessions, page.limit, |session: &Session| session.id))
    }
}

/// How long the live token lives.
fn life(session: &Session) -> Duration {
    // The end is in whole seconds, the use is not: rounded up, it is the same at every rotation.
    let exact = session.expires_at.since(session.last_used_at);
    Duration::from_secs((exact + Duration::from_nanos(999_999_999)).as_secs().max(1))
}

/// How many such lives a session was used for.
fn lives(session: &Session, life: Duration) -> u128 {
    session.last_used_at.since(session.created_at).as_millis() / life.as_millis().max(1)
}
