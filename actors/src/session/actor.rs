//! The session actor: starts the work, and gives one result to all callers that wait for it.

use std::{collections::HashMap, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::{
    fact::FactKind,
    session::{MAX_SESSIONS, SecretHash, Session},
};
use tracing::Instrument as _;

use super::{
    memory::{KnownSession, Memory},
    refresh::{self, Refresh, RefreshRequest},
};
use crate::{
    ActorError, Context,
    shard::{self, Reply},
};

pub(super) enum SessionMessage {
    Open(Box<Session>, Reply<()>),
    Refresh(Box<RefreshRequest>, Reply<Refresh>),
    Refreshed(SecretHash, Result<Refresh, ActorError>),
}

#[derive(Clone)]
pub(super) struct SessionActor {
    pub(super) context: Context,
    /// The memory that all shards share.
    pub(super) memory: Arc<Memory>,
}

impl Actor for SessionActor {
    type Msg = SessionMessage;
    /// The callers that wait for the rotation of a token, by the token's hash. Bounded by admission.
    type State = HashMap<SecretHash, Vec<Reply<Refresh>>>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(HashMap::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SessionMessage,
        waiting: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SessionMessage::Open(session, reply) => {
                let context = self.context.clone();
                let memory = self.memory.clone();
                let open = async move { reply.send(open(&context, &memory, *session).await) };
                tokio::spawn(open.in_current_span());
            }
            SessionMessage::Refresh(request, reply) => {
                let presented = request.presented;
                let callers = waiting.entry(presented).or_default();
                callers.push(reply);
                if callers.len() == 1 {
                    let context = self.context.clone();
                    let memory = self.memory.clone();
                    let refresh = async move {
                        let refresh = async move { refresh::refresh(&context, &memory, &request).await };
                        let result = shard::isolated(refresh).await;
                        let _ = myself.send_message(SessionMessage::Refreshed(presented, result));
                    };
                    tokio::spawn(refresh.in_current_span());
                }
            }
            SessionMessage::Refreshed(presented, result) => {
                for reply in waiting.remove(&presented).unwrap_or_default() {
                    reply.send(result);
                }
            }
        }
        Ok(())
    }
}

/// Adds the session and revokes the sessions that it displaces before the answer.
async fn open(context: &Context, memory: &Memory, session: Session) -> Result<(), ActorError> {
    let at = context.clock.monotonic();
    let displaced = context.stores.sessions.open(&session, MAX_SESSIONS).await?;
    let user = session.user;
    // A log-in issues tokens for the user's stored version.
    memory.remember(KnownSession { user_version: session.user_version, session, at });
    if !displaced.is_empty() {
        let kinds: Vec<_> =
            displaced.into_iter().map(|session| FactKind::SessionRevoked { user, session }).collect();
        context.facts.apply_and_publish(&kinds).await?;
    }
    Ok(())
}
