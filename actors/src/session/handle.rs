//! The handle of sessions.

use std::sync::Arc;

use ractor::SpawnErr;
use schema::{SessionId, Timestamp, UserId, session::Session};

use super::{
    actor::{SessionActor, SessionMessage},
    end,
    memory::{Memory, Outage},
    refresh::{RefreshRefusal, RefreshRequest, Refreshed},
};
use crate::{
    ActorError, Context, Receipt,
    shard::{self, Shards},
};

/// Opens, refreshes and ends sessions.
#[derive(Clone)]
pub struct SessionHandle {
    context: Context,
    memory: Arc<Memory>,
    shards: Shards<SessionMessage>,
}

impl SessionHandle {
    pub(crate) async fn start(context: Context) -> Result<Self, SpawnErr> {
        let memory = Arc::<Memory>::default();
        let actor = SessionActor { context: context.clone(), memory: memory.clone() };
        Ok(Self { context, memory, shards: Shards::start("session", actor).await? })
    }

    /// Notes an outage of the store, by the steady clock; `to` is `None` while it lasts. Refreshes during the
    /// outage may have got no answer, so their callers can repeat them within the grace after it.
    pub fn store_was_away(&self, from: Timestamp, to: Option<Timestamp>) {
        self.memory.note_outage(Outage { from, to });
    }

    /// Opens a session; it is durable when this returns. Beyond
    /// [`MAX_SESSIONS`](schema::session::MAX_SESSIONS) the user's oldest session ends.
    ///
    /// # Errors
    /// When the shard is full or the store does not answer.
    pub async fn open(&self, session: Session) -> Result<(), ActorError> {
        let user = session.user;
        self.shards.ask(user.as_bytes(), |reply| SessionMessage::Open(Box::new(session), reply)).await
    }

    /// Spends a refresh token; for one that is within its grace, returns what it was spent for.
    ///
    /// # Errors
    /// When the shard is full or the store does not answer; the caller can present the token again.
    pub async fn refresh(
        &self,
        request: RefreshRequest,
    ) -> Result<Result<Refreshed, RefreshRefusal>, ActorError> {
        let user = request.user;
        self.shards.ask(user.as_bytes(), |reply| SessionMessage::Refresh(Box::new(request), reply)).await
    }

    /// Ends one session. This node refuses it before the call waits for anything.
    ///
    /// # Errors
    /// When the fact could not be made durable.
    pub async fn end(&self, user: UserId, session: SessionId) -> Result<Receipt, ActorError> {
        self.revoke(Timestamp::EPOCH, user, &[session]).await
    }

    /// As [`Self::end`], for a caller with a token of the session that expires at `expiry`: this node refuses
    /// the session at least until then, however far ahead the clock of the token's issuer was.
    ///
    /// # Errors
    /// When the fact could not be made durable.
    pub async fn end_beyond(
        &self,
        expiry: Timestamp,
        user: UserId,
        session: SessionId,
    ) -> Result<Receipt, ActorError> {
        self.revoke(expiry, user, &[session]).await
    }

    /// Ends every session of the user but `keep`.
    ///
    /// # Errors
    /// When the sessions cannot be read, or the facts could not be made durable.
    pub async fn end_others(&self, user: UserId, keep: SessionId) -> Result<Receipt, ActorError> {
        let others = end::others(&self.context, user, keep).await?;
        self.revoke(Timestamp::EPOCH, user, &others).await
    }

    /// Denies the sessions at once; publishing continues when the caller goes away.
    async fn revoke(
        &self,
        expiry: Timestamp,
        user: UserId,
        sessions: &[SessionId],
    ) -> Result<Receipt, ActorError> {
        let facts = self.context.facts.clone();
        let denied = end::deny(&self.context, expiry, user, sessions);
        shard::isolated(async move { facts.publish(denied).await }).await
    }
}
