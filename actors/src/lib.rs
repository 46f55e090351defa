//! Actors that own state, and the views that they publish to readers.
//!
//! Some things must happen once: spending a refresh token, claiming an email, granting a role.
//! Actors own these; each kind runs in a fixed number of shards by id ([`shard`]). Readers never
//! wait for an actor: they read [`Denials`](schema::Denials) and [`Snapshots`], which are published
//! without a lock.
//!
//! Invariants:
//! 1. **Denying never waits in a mailbox.** [`Facts::apply_and_publish`] applies a fact on the caller's
//!    thread before anything else happens.
//! 2. **An actor's loop never awaits I/O.** It starts the work; the result comes back as a message.
//! 3. **A grant becomes visible after it is durable; a revocation takes effect before the answer.**
//! 4. **Admission is bounded.** ractor's mailboxes have no bound, so a handle admits a bounded
//!    number of requests and sheds the rest with [`ActorError::Busy`].
//! 5. **A crash of an actor loses nothing that was answered.** The truth is in the store, and the
//!    supervisor restarts the shard.
//!
//! Absent on purpose: an actor per session or user (7–8 KB each, and a mailbox on the read path).
//! This crate does not know of HTTP, keys or peers; `node` joins them by [`FactSink`] (facts out)
//! and [`Facts::apply`] (facts in).

pub mod catalogue;
pub mod facts;
pub mod permission;
pub mod session;
pub mod shard;
pub mod superusers;
pub mod user;

use std::sync::Arc;

use schema::{Clocks, Entropy};
use store::{GrantsStore, StoreError, Stores, cas::Contended};

pub use catalogue::{Catalogue, CatalogueError};
pub use facts::{
    Durability, FactSink, Facts, Lifetimes, Receipt, SharedCache, StoredSessions, delete_revoked_rows,
};
pub use permission::{Compiled, Names, PermissionHandle, Snapshot, Snapshots};
pub use session::SessionHandle;
pub use user::UserHandle;

/// Why an actor did not carry out a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ActorError {
    /// The shard has admitted as many requests as it may, or other writers won every compare-and-set.
    /// The caller may retry.
    #[error("too many requests wait")]
    Busy,
    /// The store did not answer; it is not known whether the change happened. The caller may retry.
    #[error("the store is unavailable")]
    Unavailable,
    /// Stored data contradicts itself. An operator must look at it; a retry does not help.
    #[error("the store is inconsistent")]
    Inconsistent,
}

impl From<Contended> for ActorError {
    fn from(_: Contended) -> Self {
        Self::Busy
    }
}

/// Logs the cause, once; callers need only know what they can do.
impl From<StoreError> for ActorError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "store unavailable");
                Self::Unavailable
            }
            StoreError::Inconsistent(what) => {
                tracing::error!(what, "stored data is inconsistent");
                Self::Inconsistent
            }
        }
    }
}

/// The dependencies of all actors of a node.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Context {
    pub stores: Stores,
    pub facts: Arc<Facts>,
    pub clock: Arc<Clocks>,
    pub entropy: Arc<dyn Entropy>,
    pub refresh: session::RefreshPolicy,
    pub privileges: superusers::PrivilegeLock,
}

/// The handles of all actors of a node, and its catalogue.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the handle of its name")]
pub struct Actors {
    pub sessions: SessionHandle,
    pub users: UserHandle,
    pub permissions: PermissionHandle,
    pub catalogue: Catalogue,
}

impl Actors {
    /// Starts all shards and their supervisors.
    ///
    /// # Errors
    /// When an actor does not start, which is a defect of the node.
    pub async fn start(context: Context) -> Result<Self, ractor::SpawnErr> {
        let grants = context.stores.grants.clone();
        Self::start_reading(context, grants).await
    }

    /// As [`Self::start`], but permission snapshots are loaded from `grants`, which may be a cache.
    /// Decisions about superusers always read the store itself.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_reading(
        context: Context,
        grants: Arc<dyn GrantsStore>,
    ) -> Result<Self, ractor::SpawnErr> {
        let reading = Context { stores: Stores { grants, ..context.stores.clone() }, ..context.clone() };
        Ok(Self {
            sessions: SessionHandle::start(context.clone()).await?,
            permissions: PermissionHandle::start(reading).await?,
            catalogue: Catalogue::new(context.clone()),
            users: UserHandle::start(context).await?,
        })
    }
}
