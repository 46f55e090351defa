//! Shards: a fixed number of actors of one kind, chosen by id, supervised, with bounded admission.
//!
//! Promises: requests for one id go to one actor; at most [`ADMITTED`] requests a shard wait or
//! run, the next is answered [`ActorError::Busy`] at once; an actor that crashes is started anew,
//! and who waited for it is answered [`ActorError::Unavailable`].

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, Message, SpawnErr, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::ActorError;

/// How many shards each kind has. More than the cores of a usual machine, few enough to watch.
pub const SHARDS: usize = 8;
/// How many requests a shard admits at a time. At half a millisecond a commit shared by all of
/// them this is less than a second of waiting.
pub const ADMITTED: usize = 1_024;
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Where the answer to a request goes. While it lives, the request counts as admitted.
#[derive(Debug)]
pub struct Reply<T> {
    port: oneshot::Sender<Result<T, ActorError>>,
    _admitted: OwnedSemaphorePermit,
}

impl<T> Reply<T> {
    /// Answers. The asker may be gone; that is no error.
    pub fn send(self, answer: Result<T, ActorError>) {
        let _ = self.port.send(answer);
    }
}

struct Seat<M> {
    actor: ArcSwapOption<ActorRef<M>>,
    admission: Arc<Semaphore>,
}

/// The actors of one kind.
pub struct Shards<M> {
    seats: Arc<[Seat<M>]>,
}

impl<M> Clone for Shards<M> {
    fn clone(&self) -> Self {
        Self { seats: self.seats.clone() }
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
        let seat = |_| Seat { actor: ArcSwapOption::empty(), admission: Arc::new(Semaphore::new(ADMITTED)) };
        let shards = Self { seats: (0..SHARDS).map(seat).collect() };
        Actor::spawn(None, Supervisor { kind, actor, shards: shards.clone() }, ()).await?;
        Ok(shards)
    }

    /// Asks the actor of this id and waits for its answer.
    ///
    /// # Errors
    /// `Busy` when the shard is full, `Unavailable` when the actor crashed meanwhile, or the
    /// answer's own.
    pub async fn ask<T>(&self, id: &[u8; 16], message: impl FnOnce(Reply<T>) -> M) -> Result<T, ActorError> {
        let seat = &self.seats[shard_of(id)];
        let admitted = seat.admission.clone().try_acquire_owned().map_err(|_| ActorError::Busy)?;
        let (port, answer) = oneshot::channel();
        let actor = seat.actor.load_full().ok_or(ActorError::Unavailable)?;
        actor
            .send_message(message(Reply { port, _admitted: admitted }))
            .map_err(|_| ActorError::Unavailable)?;
        answer.await.map_err(|_| ActorError::Unavailable)?
    }
}

/// The random end of a UUIDv7 spreads evenly.
const fn shard_of(id: &[u8; 16]) -> usize {
    id[15] as usize % SHARDS
}

struct Supervisor<A: Actor> {
    kind: &'static str,
    actor: A,
    shards: Shards<A::Msg>,
}

/// Start the actor of this shard.
struct Start(usize);

impl<A: Actor<Arguments = ()> + Clone> Supervisor<A> {
    async fn seat(
        &self,
        shard: usize,
        myself: &ActorRef<Start>,
        ids: &mut [Option<ActorId>],
    ) -> Result<(), SpawnErr> {
        let (actor, _) = Actor::spawn_linked(None, self.actor.clone(), (), myself.get_cell()).await?;
        ids[shard] = Some(actor.get_id());
        self.shards.seats[shard].actor.store(Some(Arc::new(actor)));
        Ok(())
    }
}

impl<A: Actor<Arguments = ()> + Clone> Actor for Supervisor<A> {
    type Msg = Start;
    type State = [Option<ActorId>; SHARDS];
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Start>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let mut ids = [None; SHARDS];
        for shard in 0..SHARDS {
            self.seat(shard, &myself, &mut ids).await?;
        }
        Ok(ids)
    }

    async fn handle(
        &self,
        myself: ActorRef<Start>,
        Start(shard): Start,
        ids: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(error) = self.seat(shard, &myself, ids).await {
            tracing::error!(kind = self.kind, shard, %error, "an actor does not start; trying again");
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
        let (actor, why) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, why) => (actor, why.unwrap_or_default()),
            _ => return Ok(()),
        };
        if let Some(shard) = ids.iter().position(|id| *id == Some(actor.get_id())) {
            tracing::error!(kind = self.kind, shard, why, "an actor ended; starting it anew");
            myself.send_message(Start(shard))?;
        }
        Ok(())
    }
}

/// Runs work on a task of its own. A panic in it is an `Unavailable`, not a lost answer.
pub(crate) async fn isolated<T: Send + 'static>(
    work: impl Future<Output = Result<T, ActorError>> + Send + 'static,
) -> Result<T, ActorError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "work of an actor did not end well");
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
    async fn a_crashed_actor_is_started_anew_and_its_askers_are_told() {
        let shards = Shards::start("echo", Echo).await.unwrap();
        let held = {
            let shards = shards.clone();
            tokio::spawn(async move { shards.ask(&ID, EchoMessage::Hold).await })
        };
        while shards.seats[3].admission.available_permits() == ADMITTED {
            tokio::task::yield_now().await;
        }
        assert_eq!(shards.ask(&ID, EchoMessage::Crash).await, Err(ActorError::Unavailable));
        assert_eq!(held.await.unwrap(), Err(ActorError::Unavailable));
        while shards.ask(&ID, |reply| EchoMessage::Say(7, reply)).await != Ok(7) {
            tokio::task::yield_now().await;
        }
        assert_eq!(shards.seats[3].admission.available_permits(), ADMITTED, "admission came back");
    }

    #[tokio::test]
    async fn beyond_admission_is_busy_at_once() {
        let shards = Shards::start("echo", Echo).await.unwrap();
        let waiting: Vec<_> = (0..ADMITTED)
            .map(|_| {
                let shards = shards.clone();
                tokio::spawn(async move { shards.ask(&ID, EchoMessage::Hold).await })
            })
            .collect();
        while shards.seats[3].admission.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(shards.ask(&ID, EchoMessage::Hold).await, Err(ActorError::Busy));
        let other = [4; 16];
        assert_eq!(shards.ask(&other, |reply| EchoMessage::Say(1, reply)).await, Ok(1), "another shard");
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
