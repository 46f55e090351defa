//! Owners of state, and what they publish to readers.
//!
//! Some things must happen once: a refresh token is spent, an email is claimed, a role is given.
//! Actors own these; each kind runs in a fixed number of shards by id ([`shard`]). Readers never
//! wait for an actor: they read [`Denials`](schema::Denials) and [`Snapshots`], which are published
//! without a lock.
//!
//! Invariants:
//! 1. **Denying never waits in a mailbox.** [`Facts::take_away`] applies a fact on the caller's
//!    thread before anything else happens.
//! 2. **An actor's loop never awaits I/O.** It starts the work; the result comes back as a message.
//! 3. **What is given becomes visible after it is durable, what is taken away before** the answer.
//! 4. **Admission is bounded.** ractor's mailboxes have no bound, so a handle admits a bounded
//!    number of requests and sheds the rest with [`ActorError::Busy`].
//! 5. A crash of an actor loses nothing that was answered: the truth is in the store, and the
//!    supervisor starts the shard anew.
//!
//! Absent on purpose: an actor per session or user (7–8 KB each, and a mailbox on the read path).
//! This crate does not know of HTTP, keys or peers; `node` joins them by [`FactSink`] (facts out)
//! and [`Facts::hear`] (facts in).

pub mod catalogue;
pub mod facts;
pub mod permission;
pub mod session;
pub mod shard;
pub mod superusers;
pub mod user;

use std::sync::Arc;

use schema::{Clocks, Entropy, StoreError, Stores, store::GrantsStore};

pub use catalogue::{Catalogue, CatalogueError};
pub use facts::{Durability, FactSink, Facts, Lifetimes, Receipt, Rows, SharedCache, end_rows};
pub use permission::{Compiled, Names, PermissionHandle, Snapshot, Snapshots};
pub use session::SessionHandle;
pub use user::UserHandle;

/// Why an actor did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ActorError {
    /// More requests wait than are admitted. Try again.
    #[error("too many requests wait")]
    Busy,
    /// The store did not answer; it is not known whether the change happened. Try again.
    #[error("the store is unavailable")]
    Unavailable,
    /// The store contradicts itself. Somebody must look.
    #[error("the store is inconsistent")]
    Inconsistent,
}

/// The cause goes to the log here, once; callers need only know what they can do.
impl From<StoreError> for ActorError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "the store is unavailable");
                Self::Unavailable
            }
            StoreError::Inconsistent(what) => {
                tracing::error!(what, "the store is inconsistent");
                Self::Inconsistent
            }
        }
    }
}

/// What actors work with.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Context {
    pub stores: Stores,
    pub facts: Arc<Facts>,
    pub clock: Arc<Clocks>,
    pub entropy: Arc<dyn Entropy>,
    pub refresh: session::RefreshPolicy,
    pub power: superusers::PowerLock,
}

/// The handles of all actors of a node.
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
    /// When an actor does not start, which is a defect.
    pub async fn start(context: Context) -> Result<Self, ractor::SpawnErr> {
        let grants = context.stores.grants.clone();
        Self::start_reading(context, grants).await
    }

    /// As [`Self::start`]; snapshots are loaded from `grants`, which may be a cache. Who decides about
    /// power asks the store itself.
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
