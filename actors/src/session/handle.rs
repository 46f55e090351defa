//! What others see of sessions.

use std::sync::Arc;

use ractor::SpawnErr;
use schema::{SessionId, Timestamp, UserId, session::Session};

use super::{
    actor::{SessionActor, SessionMessage},
    end,
    memory::Memory,
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

    /// The store has been away since then, until then or still: refreshes of that time may not have been
    /// answered, and can be asked for again.
    pub fn store_was_away(&self, from: Timestamp, to: Option<Timestamp>) {
        self.memory.store_was_away(from, to);
    }

    /// Begins a session; it is durable when this returns. Beyond
    /// [`MAX_SESSIONS`](schema::session::MAX_SESSIONS) the user's oldest ends.
    ///
    /// # Errors
    /// When it is shed or the store does not answer.
    pub async fn open(&self, session: Session) -> Result<(), ActorError> {
        let user = session.user;
        self.shards.ask(user.as_bytes(), |reply| SessionMessage::Open(Box::new(session), reply)).await
    }

    /// Spends a refresh token, or finds what it was spent for.
    ///
    /// # Errors
    /// When it is shed or the store does not answer; the token can be shown again.
    pub async fn refresh(
        &self,
        request: RefreshRequest,
    ) -> Result<Result<Refreshed, RefreshRefusal>, ActorError> {
        let user = request.user;
        self.shards.ask(user.as_bytes(), |reply| SessionMessage::Refresh(Box::new(request), reply)).await
    }

    /// Ends one session. It is refused here before anything is waited for.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn end(&self, user: UserId, session: SessionId) -> Result<Receipt, ActorError> {
        self.finish(Timestamp::EPOCH, user, &[session]).await
    }

    /// The same, for a caller that shows a token of the session which ends at `expiry`: the session is refused
    /// at least until then, however far ahead the clock of the issuer was.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn end_beyond(
        &self,
        expiry: Timestamp,
        user: UserId,
        session: SessionId,
    ) -> Result<Receipt, ActorError> {
        self.finish(expiry, user, &[session]).await
    }

    /// Ends every session of the user but `keep`.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn end_others(&self, user: UserId, keep: SessionId) -> Result<Receipt, ActorError> {
        let others = end::others(&self.context, user, keep).await?;
        self.finish(Timestamp::EPOCH, user, &others).await
    }

    /// Denies here and now; the rest goes on when the caller is gone.
    async fn finish(
        &self,
        expiry: Timestamp,
        user: UserId,
        sessions: &[SessionId],
    ) -> Result<Receipt, ActorError> {
        let (facts, denied) = (self.context.facts.clone(), end::deny(&self.context, expiry, user, sessions));
        shard::isolated(async move { facts.publish(denied).await }).await
    }
}
