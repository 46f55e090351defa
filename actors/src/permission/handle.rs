//! The handle of the permission cache.

use std::sync::Arc;

use ractor::SpawnErr;
use schema::UserId;

use super::{
    Snapshot, Snapshots,
    actor::{PermissionCacheActor, PermissionMessage},
};
use crate::{ActorError, Context, shard::Shards};

/// Reads the permissions of users.
#[derive(Clone)]
pub struct PermissionHandle {
    snapshots: Arc<Snapshots>,
    shards: Shards<PermissionMessage>,
}

impl PermissionHandle {
    pub(crate) async fn start(context: Context) -> Result<Self, SpawnErr> {
        let snapshots = context.facts.snapshots().clone();
        let shards = Shards::start("permission", PermissionCacheActor { context }).await?;
        Ok(Self { snapshots, shards })
    }

    /// Reads the user's snapshot if it is cached, without a lock or a mailbox.
    pub fn with_published<T>(&self, user: UserId, read: impl FnOnce(&Snapshot) -> T) -> Option<T> {
        self.snapshots.with(user, read)
    }

    /// Reads the user's snapshot. A cached one needs no lock and no mailbox; otherwise the actor loads it.
    ///
    /// # Errors
    /// When the snapshot is not cached and cannot be loaded.
    pub async fn with<T>(&self, user: UserId, read: impl Fn(&Snapshot) -> T) -> Result<T, ActorError> {
        match self.snapshots.with(user, &read) {
            Some(answer) => Ok(answer),
            None => Ok(read(&*self.load(user).await?)),
        }
    }

    /// Loads the user's snapshot from the store. All callers that wait for it share one load.
    async fn load(&self, user: UserId) -> Result<Arc<Snapshot>, ActorError> {
        self.shards.ask(user.as_bytes(), |reply| PermissionMessage::Load(user, reply)).await
    }
}
