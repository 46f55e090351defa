//! Facts on their way: applied here first, then handed on.
//!
//! Every revoking call first [denies](Facts::deny), on its own thread and without waiting for
//! anything; then the facts go to the [`FactSink`], which makes them durable and known elsewhere.
//! [`Facts::hear`] is for facts that others made.
//!
//! A fact lives as long as access tokens do, the row of a session as long as its refresh token. So
//! who ends sessions hands the sink both ([`Rows::End`]): the fact, and the promise that the rows
//! will go too, now or when the store is back ([`end_rows`]).

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
    store::{Result as StoreResult, StoreError},
    time::{CLOCK_SKEW, millis},
};

pub use rows::end_rows;

use crate::{ActorError, permission::Snapshots};

/// Where facts go after they have been applied here.
#[async_trait]
pub trait FactSink: Send + Sync + 'static {
    /// Returns when the facts are durable and every live peer has them, or the time for that is
    /// over. With [`Rows::End`] what is promised holds for the rows too.
    async fn publish(&self, facts: &[Fact], rows: Rows) -> StoreResult<Receipt>;
}

/// A cache outside this node of what users may do, which must hear what the snapshots hear.
pub trait SharedCache: Send + Sync + 'static {
    /// What it has of the subject is old from now on.
    fn invalidate(&self, subject: Subject);
    /// All that it has is old from now on.
    fn forget_everything(&self);
}

/// What becomes of the rows that facts are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// They stay, or the caller changes them itself.
    Keep,
    /// They go: now, or when the store is back.
    End,
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
pub struct Denied {
    facts: Vec<Fact>,
    rows: Rows,
}

impl Denied {
    /// What refuses.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }
}

/// How long access tokens live, and so how long facts matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    shared_cache: Option<Arc<dyn SharedCache>>,
    sink: Arc<dyn FactSink>,
    clocks: Arc<Clocks>,
    lifetimes: RwLock<Lifetimes>,
    /// By how many milliseconds another node's clock is ahead of this one's.
    ahead_ms: AtomicU64,
}

impl Facts {
    /// With empty denials and snapshots.
    #[must_use]
    pub fn new(sink: Arc<dyn FactSink>, clocks: Arc<Clocks>, lifetimes: Lifetimes) -> Self {
        let lifetimes = RwLock::new(lifetimes);
        let denials = Arc::new(Denials::new(clocks.high_water().clone()));
        let (snapshots, ahead_ms) = (Arc::default(), AtomicU64::new(0));
        Self { denials, snapshots, shared_cache: None, sink, clocks, lifetimes, ahead_ms }
    }

    /// With a cache outside this node that hears what is heard here.
    #[must_use]
    pub fn with_shared_cache(self, cache: Arc<dyn SharedCache>) -> Self {
        Self { shared_cache: Some(cache), ..self }
    }

    /// By which time facts end and are forgotten.
    #[must_use]
    pub const fn clocks(&self) -> &Arc<Clocks> {
        &self.clocks
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

    /// Applies a fact that is already on its way elsewhere. It refuses here as long as a token may last that this
    /// node knows of: who made the fact may not know what a clock that was ahead has issued.
    pub fn hear(&self, fact: &Fact) {
        let has_ended = self.clocks.horizon().is_past(fact.until, CLOCK_SKEW);
        let until = if has_ended { fact.until } else { fact.until.max(self.known_expiry()) };
        self.denials.apply(&Fact { until, ..*fact });
        if let FactKind::PermissionsChanged { subject } = fact.kind {
            // First, else a snapshot could be loaded from there in between.
            if let Some(cache) = &self.shared_cache {
                cache.invalidate(subject);
            }
            self.snapshots.invalidate(subject);
        }
    }

    /// Takes something away here, at once: it is refused when this returns. What comes back is to be
    /// [published](Self::publish), on a task that outlives the caller.
    pub fn deny(&self, kinds: &[FactKind], rows: Rows) -> Denied {
        self.deny_beyond(Timestamp::EPOCH, kinds, rows)
    }

    /// The same, with a token in hand that it refuses and that ends then, however far ahead the clock of its
    /// issuer was.
    pub fn deny_beyond(&self, expiry: Timestamp, kinds: &[FactKind], rows: Rows) -> Denied {
        let until = self.until().max(expiry);
        let facts: Vec<_> = kinds.iter().map(|kind| Fact { kind: *kind, until }).collect();
        facts.iter().for_each(|fact| self.hear(fact));
        Denied { facts, rows }
    }

    /// Makes denied facts durable and known everywhere.
    ///
    /// # Errors
    /// `Unavailable` when they could not be made durable. They refuse here all the same.
    pub async fn publish(&self, denied: Denied) -> Result<Receipt, ActorError> {
        let published = self.sink.publish(&denied.facts, denied.rows).await;
        published.map_err(|error: StoreError| error.into())
    }

    /// [`Self::deny`], then [`Self::publish`]; the rows are the caller's.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn take_away(&self, kinds: &[FactKind]) -> Result<Receipt, ActorError> {
        self.publish(self.deny(kinds, Rows::Keep)).await
    }

    /// How long access tokens live, as far as this node knows.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        *self.lifetimes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on access tokens live so long.
    pub fn set_lifetimes(&self, lifetimes: Lifetimes) {
        *self.lifetimes.write().unwrap_or_else(PoisonError::into_inner) = lifetimes;
    }

    /// Another node's clock is ahead of this one's by so much: what is taken away must be remembered there
    /// as long as tokens live there, and tokens from there live as long as they say.
    pub fn set_clock_ahead(&self, by: Duration) {
        self.ahead_ms.store(millis(by), Ordering::Relaxed);
    }

    /// To be called when facts may have been missed and forgotten by all: what users may do is read
    /// anew. Denials need nothing: what they would refuse has ended with them.
    pub fn may_have_missed_some(&self) {
        if let Some(cache) = &self.shared_cache {
            cache.forget_everything();
        }
        self.snapshots.clear();
    }

    /// The end of every access token that this node knows of.
    fn known_expiry(&self) -> Timestamp {
        let most = self.clocks.now().plus(MAX_AHEAD).plus(self.lifetimes().access_ttl);
        self.clocks.high_water().latest_expiry().min(most)
    }

    /// The end of every access token that may have been issued by now: those of other nodes, and those of a
    /// clock that was ahead and has been corrected since.
    fn until(&self) -> Timestamp {
        let Lifetimes { access_ttl, access_horizon } = self.lifetimes();
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed));
        self.clocks.expiry(access_ttl).max(access_horizon).plus(ahead).max(self.known_expiry())
    }
}
