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

/// How many snapshots a shard keeps, and in how many bytes; the one that was loaded first goes first.
const KEPT: usize = 16_384;
const KEPT_BYTES: usize = 16 << 20;
/// How often a load is repeated because permissions changed under it.
const ATTEMPTS: usize = 16;

pub(super) enum PermissionMessage {
    Load(UserId, Reply<Arc<Snapshot>>),
    Loaded(UserId, Result<Loaded, ActorError>),
}

/// A snapshot, and the epoch in which it was read.
#[derive(Clone)]
pub(super) struct Loaded {
    epoch: u64,
    snapshot: Arc<Snapshot>,
}

#[derive(Clone)]
pub(super) struct PermissionCacheActor {
    pub(super) context: Context,
}

#[derive(Default)]
pub(super) struct State {
    waiting: HashMap<UserId, Vec<Reply<Arc<Snapshot>>>>,
    kept: Kept,
}

/// The snapshots that a shard keeps, in the order of loading, and how large they were; some may have been
/// invalidated since.
#[derive(Default)]
struct Kept {
    order: VecDeque<(UserId, usize)>,
    bytes: usize,
}

impl Kept {
    /// One more was loaded.
    fn add(&mut self, user: UserId, bytes: usize) {
        self.order.push_back((user, bytes));
        self.bytes += bytes;
    }

    /// The next one that has to go, if there are too many.
    fn surplus(&mut self) -> Option<UserId> {
        if self.order.len() <= KEPT && self.bytes <= KEPT_BYTES {
            return None;
        }
        let (user, bytes) = self.order.pop_front()?;
        self.bytes -= bytes;
        Some(user)
    }
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
                    self.start(myself, user);
                }
            }
            PermissionMessage::Loaded(user, Ok(loaded)) if self.is_old(user, &loaded) => {
                // Invalidated while this message was on its way; somebody may have asked since.
                self.start(myself, user);
            }
            PermissionMessage::Loaded(user, loaded) => {
                for reply in state.waiting.remove(&user).unwrap_or_default() {
                    reply.send(loaded.as_ref().map(|loaded| loaded.snapshot.clone()).map_err(|error| *error));
                }
                if let Ok(loaded) = &loaded {
                    state.kept.add(user, loaded.snapshot.bytes());
                }
                while let Some(oldest) = state.kept.surplus() {
                    self.context.facts.snapshots().evict(oldest);
                }
            }
        }
        Ok(())
    }
}

impl PermissionCacheActor {
    fn start(&self, myself: ActorRef<PermissionMessage>, user: UserId) {
        let context = self.context.clone();
        tokio::spawn(async move {
            let loaded = shard::isolated(load(context, user)).await;
            let _ = myself.send_message(PermissionMessage::Loaded(user, loaded));
        });
    }

    fn is_old(&self, user: UserId, loaded: &Loaded) -> bool {
        self.context.facts.snapshots().epoch_of(user) != loaded.epoch
    }
}

/// Reads what the user may do and publishes it; begins anew when it was invalidated meanwhile, so
/// that everybody who waits gets what was true after they asked.
async fn load(context: Context, user: UserId) -> Result<Loaded, ActorError> {
    let snapshots = context.facts.snapshots();
    for _ in 0..ATTEMPTS {
        let epoch = snapshots.epoch_of(user);
        let began = context.clock.monotonic();
        let (stored, effective) =
            tokio::try_join!(context.stores.users.get(user), context.stores.grants.effective(user))?;
        let snapshot = Arc::new(Snapshot::new(stored.is_some(), &effective, began, snapshots.names()));
        if snapshots.publish(user, epoch, snapshot.clone()) {
            return Ok(Loaded { epoch, snapshot });
        }
    }
    Err(ActorError::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_snapshots_are_bounded_by_number_and_by_bytes() {
        for (bytes, most) in [(100, KEPT), (KEPT_BYTES / 8, 8), (KEPT_BYTES + 1, 0)] {
            let mut kept = Kept::default();
            let mut inside = VecDeque::new();
            for n in 0..most as u128 + 10 {
                let user = UserId::from_bytes(n.to_be_bytes());
                kept.add(user, bytes);
                inside.push_back(user);
                while let Some(oldest) = kept.surplus() {
                    assert_eq!(Some(oldest), inside.pop_front(), "the one that was loaded first goes first");
                }
                assert!(inside.len() <= most);
            }
            assert_eq!((inside.len(), kept.bytes), (most, most * bytes));
        }
    }
}
