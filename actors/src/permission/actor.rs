//! The permission-cache actor: one load for all who ask.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::UserId;

use super::Snapshot;
use crate::{
    ActorError, Context,
    shard::{self, Reply},
};

/// How many snapshots a shard keeps; the one that was loaded first goes first.
const KEPT: usize = 16_384;
/// How often a load is repeated because permissions changed under it.
const ATTEMPTS: usize = 16;

pub(super) enum PermissionMessage {
    Load(UserId, Reply<Arc<Snapshot>>),
    Loaded(UserId, Result<Arc<Snapshot>, ActorError>),
}

#[derive(Clone)]
pub(super) struct PermissionCacheActor {
    pub(super) context: Context,
}

#[derive(Default)]
pub(super) struct State {
    waiting: HashMap<UserId, Vec<Reply<Arc<Snapshot>>>>,
    /// In the order of loading; may name snapshots that were invalidated since.
    order: VecDeque<UserId>,
}

impl Actor for PermissionCacheActor {
    type Msg = PermissionMessage;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: PermissionMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PermissionMessage::Load(user, reply) => {
                let waiting = state.waiting.entry(user).or_default();
                waiting.push(reply);
                if waiting.len() == 1 {
                    let context = self.context.clone();
                    tokio::spawn(async move {
                        let loaded = shard::isolated(load(context, user)).await;
                        let _ = myself.send_message(PermissionMessage::Loaded(user, loaded));
                    });
                }
            }
            PermissionMessage::Loaded(user, loaded) => {
                for reply in state.waiting.remove(&user).unwrap_or_default() {
                    reply.send(loaded.clone());
                }
                if loaded.is_ok() {
                    state.order.push_back(user);
                }
                while state.order.len() > KEPT {
                    if let Some(oldest) = state.order.pop_front() {
                        self.context.facts.snapshots().evict(oldest);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads what the user may do and publishes it; begins anew when it was invalidated meanwhile, so
/// that everybody who waits gets what was true after they asked.
async fn load(context: Context, user: UserId) -> Result<Arc<Snapshot>, ActorError> {
    let snapshots = context.facts.snapshots();
    for _ in 0..ATTEMPTS {
        let epoch = snapshots.epoch_of(user);
        let (stored, effective) =
            tokio::try_join!(context.stores.users.get(user), context.stores.grants.effective(user))?;
        let snapshot = Arc::new(Snapshot::new(stored.is_some(), &effective));
        if snapshots.publish(user, epoch, snapshot.clone()) {
            return Ok(snapshot);
        }
    }
    Err(ActorError::Busy)
}
