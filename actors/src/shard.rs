//! Shards: a fixed number of actors of one kind, chosen by id, supervised, with bounded admission.
//!
//! Promises: requests for one id go to one actor; at most [`SHARD_REQUESTS_MAX`] requests of a shard
//! wait or run, and the next gets [`ActorError::Busy`] at once; an actor that crashes is restarted, and
//! the callers that waited for it get [`ActorError::Unavailable`]. Never: a retry of a request.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, Message, SpawnErr, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{Instrument as _, Span};

use crate::ActorError;

/// The number of shards of each kind of actor: more than the cores of a usual machine, few enough to watch.
pub const SHARD_COUNT: usize = 8;
/// How many requests a shard admits at a time. At half a millisecond for a commit that all of them
/// share, the last one waits less than a second.
pub const SHARD_REQUESTS_MAX: usize = 1_024;
/// The delay before the next attempt to start an actor that did not start.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// The reply port of a request. While it lives, the request counts as admitted.
#[derive(Debug)]
pub struct Reply<T> {
    port: oneshot::Sender<Result<T, ActorError>>,
    _admitted: OwnedSemaphorePermit,
}

impl<T> Reply<T> {
    /// Sends the answer. A caller that has gone away is no error.
    pub fn send(self, answer: Result<T, ActorError>) {
        let _ = self.port.send(answer);
    }
}

struct Shard<M> {
    actor: ArcSwapOption<ActorRef<M>>,
    admission: Arc<Semaphore>,
}

/// The actors of one kind.
pub struct Shards<M> {
    kind: &'static str,
    by_index: Arc<[Shard<M>]>,
}

impl<M> Clone for Shards<M> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, by_index: self.by_index.clone() }
    }
}

impl<M: Message> Shards<M> {
    /// Starts the actors and their supervisor.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start<A>(kind: &'static str, actor: A) -> Result<Self, SpawnErr>
    where
        A: Actor<Msg = M, Arguments = ()> + Clone,
    {
        let shard = |_| Shard {
            actor: ArcSwapOption::empty(),
            admission: Arc::new(Semaphore::new(SHARD_REQUESTS_MAX)),
        };
        let shards = Self { kind, by_index: (0..SHARD_COUNT).map(shard).collect() };
        Actor::spawn(None, Supervisor { actor, shards: shards.clone() }, ()).await?;
        Ok(shards)
    }

    /// Sends a request to the actor of this id and waits for its answer.
    ///
    /// # Errors
    /// `Busy` when the shard is full, `Unavailable` when the actor crashed before it answered, or the
    /// error in the answer.
    pub async fn ask<T>(&self, id: &[u8; 16], message: impl FnOnce(Reply<T>) -> M) -> Result<T, ActorError> {
        let shard = &self.by_index[shard_of(id)];
        let admitted = shard.admission.clone().try_acquire_owned().map_err(|_| ActorError::Busy)?;
        let (port, answer) = oneshot::channel();
        let actor = shard.actor.load_full().ok_or(ActorError::Unavailable)?;
        let span = tracing::info_span!("actor", otel.name = format_args!("actor {}", self.kind));
        // The message carries a span to the actor. Of a request that is not traced it is that of its log lines.
        let span = if span.is_disabled() { Span::current() } else { span };
        let sent = span.in_scope(|| actor.send_message(message(Reply { port, _admitted: admitted })));
        sent.map_err(|_| ActorError::Unavailable)?;
        answer.instrument(span).await.map_err(|_| ActorError::Unavailable)?
    }
}

/// The shard of an id. The random end of a UUIDv7 spreads ids evenly.
const fn shard_of(id: &[u8; 16]) -> usize {
    id[15] as usize % SHARD_COUNT
}

struct Supervisor<A: Actor> {
    actor: A,
    shards: Shards<A::Msg>,
}

/// The message that starts the actor of this shard.
struct Start(usize);

impl<A: Actor<Arguments = ()> + Clone> Supervisor<A> {
    async fn spawn(
        &self,
        shard: usize,
        myself: &ActorRef<Start>,
        ids: &mut [Option<ActorId>],
    ) -> Result<(), SpawnErr> {
        let (actor, _) = Actor::spawn_linked(None, self.actor.clone(), (), myself.get_cell()).await?;
        ids[shard] = Some(actor.get_id());
        self.shards.by_index[shard].actor.store(Some(Arc::new(actor)));
        Ok(())
    }
}

impl<A: Actor<Arguments = ()> + Clone> Actor for Supervisor<A> {
    type Msg = Start;
    type State = [Option<ActorId>; SHARD_COUNT];
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Start>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let mut ids = [None; SHARD_COUNT];
        for shard in 0..SHARD_COUNT {
            self.spawn(shard, &myself, &mut ids).await?;
        }
        Ok(ids)
    }

    async fn handle(
        &self,
        myself: ActorRef<Start>,
        Start(shard): Start,
        ids: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(error) = self.spawn(shard, &myself, ids).await {
            tracing::error!(kind = self.shards.kind, shard, %error, "actor failed to start; retrying");
            myself.send_after(RESTART_DELAY, move || Start(shard));
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Start>,
        event: SupervisionEvent,
        ids: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, reason) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => (actor, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        if let Some(shard) = ids.iter().position(|id| *id == Some(actor.get_id())) {
            tracing::error!(kind = self.shards.kind, shard, reason, "actor ended; restarting it");
            myself.send_message(Start(shard))?;
        }
        Ok(())
    }
}

/// Runs work on a task of its own. A panic in the work becomes `Unavailable`, not a lost answer.
pub(crate) async fn isolated<T: Send + 'static>(
    work: impl Future<Output = Result<T, ActorError>> + Send + 'static,
) -> Result<T, ActorError> {
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a task of an actor ended without a result");
        Err(ActorError::Unavailable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Echo;

    enum EchoMessage {
        Say(u32, Reply<u32>),
        Hold(Reply<()>),
        Crash(Reply<()>),
    }

    impl Actor for Echo {
        type Msg = EchoMessage;
        type State = Vec<Reply<()>>;
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<EchoMessage>,
            (): (),
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(Vec::new())
        }

        async fn handle(
            &self,
            _: ActorRef<EchoMessage>,
            message: EchoMessage,
            held: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            match message {
                EchoMessage::Say(n, reply) => reply.send(Ok(n)),
                EchoMessage::Hold(reply) => held.push(reply),
                EchoMessage::Crash(reply) => {
                    let _held = reply;
                    panic!("as asked")
                }
            }
            Ok(())
        }
    }

    const ID: [u8; 16] = [3; 16];

    #[tokio::test]
    async fn crashed_actor_restarts_and_its_callers_get_an_error() {
        let shards = Shards::start("echo", Echo).await.unwrap();
        let held = {
            let shards = shards.clone();
            tokio::spawn(async move { shards.ask(&ID, EchoMessage::Hold).await })
        };
        while shards.by_index[3].admission.available_permits() == SHARD_REQUESTS_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(shards.ask(&ID, EchoMessage::Crash).await, Err(ActorError::Unavailable));
        assert_eq!(held.await.unwrap(), Err(ActorError::Unavailable));
        while shards.ask(&ID, |reply| EchoMessage::Say(7, reply)).await != Ok(7) {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            shards.by_index[3].admission.available_permits(),
            SHARD_REQUESTS_MAX,
            "admission came back"
        );
    }

    #[tokio::test]
    async fn request_beyond_the_limit_is_busy_at_once() {
        let shards = Shards::start("echo", Echo).await.unwrap();
        let waiting: Vec<_> = (0..SHARD_REQUESTS_MAX)
            .map(|_| {
                let shards = shards.clone();
                tokio::spawn(async move { shards.ask(&ID, EchoMessage::Hold).await })
            })
            .collect();
        while shards.by_index[3].admission.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(shards.ask(&ID, EchoMessage::Hold).await, Err(ActorError::Busy));
        let other = [4; 16];
        assert_eq!(shards.ask(&other, |reply| EchoMessage::Say(1, reply)).await, Ok(1), "another shard");
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
