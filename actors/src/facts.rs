//! Facts on their way: applied here first, then handed on.
//!
//! Every revoking call first [denies](Facts::deny), on its own thread and without waiting for
//! anything; then the facts go to the [`FactSink`], which makes them durable and known elsewhere.
//! [`Facts::hear`] is for facts that others made.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    Clock, Denials, Fact, FactKind, Timestamp,
    store::{Result as StoreResult, StoreError},
};

use crate::{ActorError, permission::Snapshots};

/// Where facts go after they have been applied here.
#[async_trait]
pub trait FactSink: Send + Sync + 'static {
    /// Returns when the facts are durable and every live peer has them, or the time for that is
    /// over.
    async fn publish(&self, facts: &[Fact]) -> StoreResult<Receipt>;
}

/// What can be promised about facts that were published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// How many other live nodes have them.
    pub visible: u32,
    /// How many other live nodes there are.
    pub live: u32,
    /// Where they lie.
    pub durability: Durability,
}

/// Where published facts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the store.
    Store,
    /// On this node's disk; the store comes later.
    Journal,
}

/// Facts that refuse here and are to be published.
#[derive(Debug)]
#[must_use]
pub struct Denied(Vec<Fact>);

/// How long access tokens live, and so how long facts matter.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of tokens issued now.
    pub access_ttl: Duration,
    /// The end of all tokens that were issued when `access_ttl` was longer.
    pub access_horizon: Timestamp,
}

/// Applies facts and hands them on.
pub struct Facts {
    denials: Arc<Denials>,
    snapshots: Arc<Snapshots>,
    sink: Arc<dyn FactSink>,
    clock: Arc<dyn Clock>,
    lifetimes: Lifetimes,
}

impl Facts {
    /// With empty denials and snapshots.
    #[must_use]
    pub fn new(sink: Arc<dyn FactSink>, clock: Arc<dyn Clock>, lifetimes: Lifetimes) -> Self {
        Self { denials: Arc::default(), snapshots: Arc::default(), sink, clock, lifetimes }
    }

    /// What refuses.
    #[must_use]
    pub const fn denials(&self) -> &Arc<Denials> {
        &self.denials
    }

    /// What users may do, as far as it is known.
    #[must_use]
    pub const fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Applies a fact that is already on its way elsewhere.
    pub fn hear(&self, fact: &Fact) {
        self.denials.apply(fact);
        if let FactKind::PermissionsChanged { subject } = fact.kind {
            self.snapshots.invalidate(subject);
        }
    }

    /// Takes something away here, at once: it is refused when this returns. What comes back is to be
    /// [published](Self::publish), on a task that outlives the caller.
    pub fn deny(&self, kinds: &[FactKind]) -> Denied {
        self.deny_until(kinds, self.until())
    }

    /// As [`Self::deny`], remembered at least until then: for what the store could not be told.
    pub fn deny_until(&self, kinds: &[FactKind], until: Timestamp) -> Denied {
        let facts: Vec<_> = kinds.iter().map(|kind| Fact { kind: *kind, until }).collect();
        facts.iter().for_each(|fact| self.hear(fact));
        Denied(facts)
    }

    /// Makes denied facts durable and known everywhere.
    ///
    /// # Errors
    /// `Unavailable` when they could not be made durable. They refuse here all the same.
    pub async fn publish(&self, denied: Denied) -> Result<Receipt, ActorError> {
        self.sink.publish(&denied.0).await.map_err(|error: StoreError| error.into())
    }

    /// [`Self::deny`], then [`Self::publish`].
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn take_away(&self, kinds: &[FactKind]) -> Result<Receipt, ActorError> {
        self.publish(self.deny(kinds)).await
    }

    /// The end of every access token that may be out there now.
    fn until(&self) -> Timestamp {
        self.clock.now().plus(self.lifetimes.access_ttl).max(self.lifetimes.access_horizon)
    }
}
