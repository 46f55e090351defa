//! The session actor: starts the work, and hands one result to all who wait for the same.

use std::{collections::HashMap, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::{
    fact::FactKind,
    session::{MAX_SESSIONS, SecretHash, Session},
};

use super::{
    memory::{Known, Memory},
    refresh::{self, RefreshRefusal, RefreshRequest, Refreshed},
};
use crate::{
    ActorError, Context,
    shard::{self, Reply},
};

pub(super) type Refresh = Result<Refreshed, RefreshRefusal>;

pub(super) enum SessionMessage {
    Open(Box<Session>, Reply<()>),
    Refresh(Box<RefreshRequest>, Reply<Refresh>),
    Refreshed(SecretHash, Result<Refresh, ActorError>),
}

#[derive(Clone)]
pub(super) struct SessionActor {
    pub(super) context: Context,
    /// Of all shards.
    pub(super) memory: Arc<Memory>,
}

impl Actor for SessionActor {
    type Msg = SessionMessage;
    /// Who waits for the rotation of which token. Bounded by admission.
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
                let (context, memory) = (self.context.clone(), self.memory.clone());
                tokio::spawn(async move { reply.send(open(&context, &memory, *session).await) });
            }
            SessionMessage::Refresh(request, reply) => {
                let presented = request.presented;
                let together = waiting.entry(presented).or_default();
                together.push(reply);
                if together.len() == 1 {
                    let (context, memory) = (self.context.clone(), self.memory.clone());
                    tokio::spawn(async move {
                        let refresh = async move { refresh::refresh(&context, &memory, &request).await };
                        let result = shard::isolated(refresh).await;
                        let _ = myself.send_message(SessionMessage::Refreshed(presented, result));
                    });
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

/// Adds the session; what it displaces is revoked before the answer.
async fn open(context: &Context, memory: &Memory, session: Session) -> Result<(), ActorError> {
    let at = context.clock.monotonic();
    let displaced = context.stores.sessions.open(&session, MAX_SESSIONS).await?;
    let user = session.user;
    // Tokens are made for a user's version that is stored.
    memory.know(Known { user_version: session.user_version, session, at });
    if !displaced.is_empty() {
        let kinds: Vec<_> =
            displaced.into_iter().map(|session| FactKind::SessionRevoked { user, session }).collect();
        context.facts.take_away(&kinds).await?;
    }
    Ok(())
}
