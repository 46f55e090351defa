//! Facts: applied on this node first, then published.
//!
//! Promises: a call that revokes [denies](Facts::deny) on its own thread, without waiting for
//! anything; then the facts go to the [`FactSink`], which makes them durable and replicates them.
//! [`Facts::apply`] takes facts that other nodes made. Never: publishing a fact that this node has
//! not applied.
//!
//! A fact lives as long as access tokens do, and the row of a session as long as its refresh token.
//! So a caller that ends sessions gives the sink both the facts and the order to delete the rows
//! ([`StoredSessions::Delete`]), now or when the store is back ([`delete_revoked_rows`]).

mod rows;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use schema::{
    Clocks, Denials, Fact, FactKind, Subject, Timestamp,
    horizon::MAX_AHEAD,
    time::{CLOCK_SKEW, millis},
};
use store::{Result as StoreResult, StoreError};

pub use rows::delete_revoked_rows;

use crate::{ActorError, permission::Snapshots};

/// Makes facts durable and replicates them, after this node has applied them.
#[async_trait]
pub trait FactSink: Send + Sync + 'static {
    /// Publishes facts. Returns when they are durable and every live peer has acknowledged them, or
    /// the time limit for acknowledgements has passed. With [`StoredSessions::Delete`] the receipt
    /// holds for the deletion of the rows too.
    ///
    /// # Errors
    /// `Unavailable` when the facts could not be made durable.
    async fn publish(&self, facts: &[Fact], rows: StoredSessions) -> StoreResult<Receipt>;
}

/// A cache of users' permissions outside this node. It is invalidated together with the snapshots.
pub trait SharedCache: Send + Sync + 'static {
    /// Invalidates all entries that depend on the subject.
    fn invalidate(&self, subject: Subject);
    /// Invalidates all entries.
    fn invalidate_all(&self);
}

/// Whether publishing facts also deletes the rows of the sessions that they revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredSessions {
    /// The rows stay: the caller deletes them, or the facts revoke no session.
    Keep,
    /// The rows are deleted, now or when the store is back ([`delete_revoked_rows`]).
    Delete,
}

/// How far published facts have been replicated and made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The number of live peers that have acknowledged the facts.
    pub visible: u32,
    /// The number of live peers.
    pub live: u32,
    /// Where the facts are stored.
    pub durability: Durability,
}

/// Where published facts are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the store.
    Store,
    /// In the journal on this node's disk; the node writes them to the store later.
    Journal,
}

/// Facts that this node has applied and that the caller must [publish](Facts::publish).
#[derive(Debug)]
#[must_use]
pub struct Denied {
    facts: Vec<Fact>,
    rows: StoredSessions,
}

impl Denied {
    /// The applied facts.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }
}

/// How long access tokens live, which decides how long facts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The lifetime of tokens issued now.
    pub access_ttl: Duration,
    /// The expiry of the last token that was issued when `access_ttl` was longer.
    pub access_horizon: Timestamp,
}

/// Applies facts on this node and publishes them.
pub struct Facts {
    denials: Arc<Denials>,
    snapshots: Arc<Snapshots>,
    shared_cache: Option<Arc<dyn SharedCache>>,
    sink: Arc<dyn FactSink>,
    clocks: Arc<Clocks>,
    lifetimes: RwLock<Lifetimes>,
    /// How far the clock of another node is ahead of this node's, in milliseconds.
    ahead_ms: AtomicU64,
}

impl Facts {
    /// Creates facts with empty denials and snapshots.
    #[must_use]
    pub fn new(sink: Arc<dyn FactSink>, clocks: Arc<Clocks>, lifetimes: Lifetimes) -> Self {
        let lifetimes = RwLock::new(lifetimes);
        let denials = Arc::new(Denials::new(clocks.high_water().clone()));
        Self {
            denials,
            snapshots: Arc::default(),
            shared_cache: None,
            sink,
            clocks,
            lifetimes,
            ahead_ms: AtomicU64::new(0),
        }
    }

    /// Adds a cache outside this node, to be invalidated together with the snapshots.
    #[must_use]
    pub fn with_shared_cache(self, cache: Arc<dyn SharedCache>) -> Self {
        Self { shared_cache: Some(cache), ..self }
    }

    /// The clocks by which facts expire.
    #[must_use]
    pub const fn clocks(&self) -> &Arc<Clocks> {
        &self.clocks
    }

    /// The denials that this node has applied.
    #[must_use]
    pub const fn denials(&self) -> &Arc<Denials> {
        &self.denials
    }

    /// The cached permissions of users.
    #[must_use]
    pub const fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Applies a fact that another node publishes, or that was recovered. This node keeps its denial until
    /// the last token that it knows of expires: the node that made the fact may not know of a token that
    /// was issued by a clock that was ahead.
    pub fn apply(&self, fact: &Fact) {
        let has_ended = self.clocks.horizon().is_past(fact.until, CLOCK_SKEW);
        let until = if has_ended { fact.until } else { fact.until.max(self.known_expiry()) };
        self.denials.apply(&Fact { until, ..*fact });
        if let FactKind::PermissionsChanged { subject } = fact.kind {
            // First, or else a snapshot could be loaded from the stale cache in between.
            if let Some(cache) = &self.shared_cache {
                cache.invalidate(subject);
            }
            self.snapshots.invalidate(subject);
        }
    }

    /// Applies facts of these kinds on this node: when this returns, the node refuses what they revoke.
    /// The caller [publishes](Self::publish) the result on a task that outlives the request.
    pub fn deny(&self, kinds: &[FactKind], rows: StoredSessions) -> Denied {
        self.deny_beyond(Timestamp::EPOCH, kinds, rows)
    }

    /// As [`Self::deny`], and keeps the denials at least until `expiry`: the expiry of a token that the
    /// caller holds and that the facts revoke, however far ahead the clock of its issuer was.
    pub fn deny_beyond(&self, expiry: Timestamp, kinds: &[FactKind], rows: StoredSessions) -> Denied {
        let until = self.until().max(expiry);
        let facts: Vec<_> = kinds.iter().map(|kind| Fact { kind: *kind, until }).collect();
        facts.iter().for_each(|fact| self.apply(fact));
        Denied { facts, rows }
    }

    /// Makes applied facts durable and replicates them.
    ///
    /// # Errors
    /// `Unavailable` when the facts could not be made durable. This node still applies them.
    pub async fn publish(&self, denied: Denied) -> Result<Receipt, ActorError> {
        let published = self.sink.publish(&denied.facts, denied.rows).await;
        published.map_err(|error: StoreError| error.into())
    }

    /// [`Self::deny`], then [`Self::publish`]. Deleting rows is up to the caller.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn apply_and_publish(&self, kinds: &[FactKind]) -> Result<Receipt, ActorError> {
        self.publish(self.deny(kinds, StoredSessions::Keep)).await
    }

    /// The lifetimes of access tokens that this node knows.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        *self.lifetimes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the lifetimes of access tokens, for facts from now on.
    pub fn set_lifetimes(&self, lifetimes: Lifetimes) {
        *self.lifetimes.write().unwrap_or_else(PoisonError::into_inner) = lifetimes;
    }

    /// Sets how far the clock of another node is ahead of this node's. Denials are kept longer by this:
    /// tokens that the other node issues expire by its clock.
    pub fn set_clock_ahead(&self, by: Duration) {
        self.ahead_ms.store(millis(by), Ordering::Relaxed);
    }

    /// Invalidates all cached permissions. The caller does this when this node may have missed facts that
    /// all nodes have expired since. Denials need nothing: the tokens that they would refuse have expired
    /// too.
    pub fn invalidate_all_permissions(&self) {
        if let Some(cache) = &self.shared_cache {
            cache.invalidate_all();
        }
        self.snapshots.clear();
    }

    /// The expiry of the last access token that this node knows of.
    fn known_expiry(&self) -> Timestamp {
        let latest = self.clocks.now().plus(MAX_AHEAD).plus(self.lifetimes().access_ttl);
        self.clocks.high_water().latest_expiry().min(latest)
    }

    /// The expiry of the last access token that may have been issued by now, including tokens of other nodes
    /// and of a clock that was ahead and has been corrected since.
    fn until(&self) -> Timestamp {
        let Lifetimes { access_ttl, access_horizon } = self.lifetimes();
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed));
        self.clocks.expiry(access_ttl).max(access_horizon).plus(ahead).max(self.known_expiry())
    }
}
