//! The permission-cache actor: one load for all callers that wait for the same user.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::UserId;
use store::cas::{self, Attempt, Pacing, ROW_ATTEMPTS_MAX};
use tracing::Instrument as _;

use super::Snapshot;
use crate::{
    ActorError, Context,
    shard::{self, Reply},
};

/// How many snapshots a shard keeps. It evicts the one that was loaded first.
const SNAPSHOTS_MAX: usize = 16_384;
/// How many bytes the snapshots of a shard take.
const SNAPSHOT_BYTES_MAX: usize = 16 << 20;

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

/// The snapshots that a shard keeps, in the order of loading, and their sizes in bytes. Some may have
/// been invalidated since.
#[derive(Default)]
struct Kept {
    order: VecDeque<KeptSnapshot>,
    bytes: usize,
}

struct KeptSnapshot {
    user: UserId,
    bytes: usize,
}

impl Kept {
    /// Adds a snapshot that was loaded.
    fn add(&mut self, user: UserId, bytes: usize) {
        self.order.push_back(KeptSnapshot { user, bytes });
        self.bytes += bytes;
    }

    /// Removes and returns the next user to evict, if the shard keeps too much.
    fn surplus(&mut self) -> Option<UserId> {
        if self.order.len() <= SNAPSHOTS_MAX && self.bytes <= SNAPSHOT_BYTES_MAX {
            return None;
        }
        let oldest = self.order.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest.user)
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
            PermissionMessage::Loaded(user, Ok(loaded)) if self.is_stale(user, &loaded) => {
                // Invalidated while this message was on its way; a caller may have asked since.
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
        let load = async move {
            let loaded = shard::isolated(load(context, user)).await;
            let _ = myself.send_message(PermissionMessage::Loaded(user, loaded));
        };
        tokio::spawn(load.in_current_span());
    }

    fn is_stale(&self, user: UserId, loaded: &Loaded) -> bool {
        self.context.facts.snapshots().epoch_of(user) != loaded.epoch
    }
}

/// Loads the user's permissions and publishes them. An invalidation during the load repeats it, so that
/// every caller gets permissions that were true after its request.
async fn load(context: Context, user: UserId) -> Result<Loaded, ActorError> {
    let Context { stores, clock, facts, .. } = &context;
    let snapshots = facts.snapshots();
    cas::retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), (), |()| async {
        let epoch = snapshots.epoch_of(user);
        let began = clock.monotonic();
        let (stored, effective) = tokio::try_join!(stores.users.get(user), stores.grants.effective(user))?;
        let snapshot = Arc::new(Snapshot::new(stored.is_some(), &effective, began, snapshots.names()));
        let is_published = snapshots.publish(user, epoch, snapshot.clone());
        Ok(if is_published { Attempt::Done(Loaded { epoch, snapshot }) } else { Attempt::Lost(()) })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_snapshots_are_bounded_in_number_and_bytes() {
        for (bytes, most) in [(100, SNAPSHOTS_MAX), (SNAPSHOT_BYTES_MAX / 8, 8), (SNAPSHOT_BYTES_MAX + 1, 0)]
        {
            let mut kept = Kept::default();
            let mut inside = VecDeque::new();
            for n in 0..most as u128 + 10 {
                let user = UserId::from_bytes(n.to_be_bytes());
                kept.add(user, bytes);
                inside.push_back(user);
                while let Some(oldest) = kept.surplus() {
                    assert_eq!(
                        Some(oldest),
                        inside.pop_front(),
                        "the shard evicts the one that was loaded first"
                    );
                }
                assert!(inside.len() <= most);
            }
            assert_eq!((inside.len(), kept.bytes), (most, most * bytes));
        }
    }
}
