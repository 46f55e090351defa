//! What users may do, without asking the store.
//!
//! An entry says when its load began. It is believed only when a node wrote it for this user, when
//! it is young enough, and when its load began after everything that this node heard of the user:
//! later by [`CLOCK_SKEW`], since the clock is another node's. So a Redis that keeps what was
//! invalidated, or brings it back, is not believed, and the cache serves again a minute after an
//! invalidation. (That is as strict as to bypass it for `MAX_AGE + CLOCK_SKEW`: at its end the
//! oldest entry that is young enough is exactly one that is late enough.) What was heard is
//! forgotten only when every entry from before it is too old.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    Subject, Timestamp, UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants},
    store::{Added, GrantsStore, Result},
    time::CLOCK_SKEW,
};
use tokio::sync::Semaphore;

use crate::{
    cache::Cache,
    entry::{Entry, MAX_BYTES},
    heard::Heard,
    seal::Kind,
    stats::count,
};

/// How many entries may be on their way to Redis; beyond, they are dropped.
const WRITES: usize = 32;

/// A store of grants whose [`effective`](GrantsStore::effective) may come from Redis. All else goes
/// to the store.
///
/// For what may be as old as a fact takes to travel. Who decides about power asks the store itself.
pub struct CachedGrants {
    store: Arc<dyn GrantsStore>,
    cache: Cache,
    max_age: Duration,
    heard: Heard,
    writes: Arc<Semaphore>,
}

impl CachedGrants {
    /// Entries are believed for at most `max_age`, which must not be longer than a fact of an
    /// invalidation lives: a node that starts takes in the facts that there are (or calls
    /// [`Self::forget_everything`]) before its first read.
    #[must_use]
    pub fn new(store: Arc<dyn GrantsStore>, cache: Cache, max_age: Duration) -> Self {
        let heard = Heard::new(max_age.saturating_add(CLOCK_SKEW));
        Self { store, cache, max_age, heard, writes: Arc::new(Semaphore::new(WRITES)) }
    }

    /// What Redis has of the subject is old from now on: of a user, that user's entry; of a role or
    /// permission, all. It has taken effect when it returns. It is called after the change, and
    /// before the node invalidates what it publishes itself: else that could be loaded from here in
    /// between.
    pub fn invalidate(&self, subject: Subject) {
        match subject {
            Subject::User(user) => self.heard.user(user, self.cache.now()),
            Subject::Role(_) | Subject::Permission(_) => self.forget_everything(),
        }
    }

    /// The node may have missed invalidations: all that Redis has is old from now on.
    pub fn forget_everything(&self) {
        self.heard.everything(self.cache.now());
    }

    /// Whether what was loaded at that time is later than all that was heard of the user.
    fn is_late_enough(&self, user: UserId, loaded_at: Timestamp) -> bool {
        self.heard.last(user).is_none_or(|heard| loaded_at >= heard.plus(CLOCK_SKEW))
    }

    fn is_young_enough(&self, loaded_at: Timestamp) -> bool {
        let now = self.cache.now();
        loaded_at <= now.plus(CLOCK_SKEW) && now.since(loaded_at) < self.max_age
    }

    async fn cached(&self, user: UserId) -> Option<Effective> {
        let stats = self.cache.stats();
        // By clocks that agree, nothing can be late enough yet.
        if !self.is_late_enough(user, self.cache.now()) {
            count(&stats.bypassed);
            return None;
        }
        let key = self.cache.key(Kind::Grants, user.as_bytes());
        let found = self.cache.read(&key, MAX_BYTES).await.ok();
        let entry = found.and_then(|found| Entry::read(found.body()?));
        // Now, not before Redis was asked: an invalidation may have been heard meanwhile.
        match entry.filter(|entry| self.is_young_enough(entry.loaded_at)) {
            Some(entry) if self.is_late_enough(user, entry.loaded_at) => {
                count(&stats.hits);
                Some(entry.effective())
            }
            Some(_) => {
                count(&stats.bypassed);
                None
            }
            None => {
                count(&stats.misses);
                None
            }
        }
    }

    /// Hands an entry to Redis; the caller does not wait.
    fn offer(&self, user: UserId, loaded_at: Timestamp, effective: &Effective) {
        if !self.is_late_enough(user, loaded_at) {
            return;
        }
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return };
        // Here, since it costs less than a copy of what may be far too big.
        let Some(body) = Entry::write(loaded_at, effective) else { return };
        let (cache, life) = (self.cache.clone(), self.max_age);
        tokio::spawn(async move {
            let key = cache.key(Kind::Grants, user.as_bytes());
            // That it was not written costs a load.
            let _ = cache.write(&key, &body, life).await;
            drop(permit);
        });
    }
}

#[async_trait]
impl GrantsStore for CachedGrants {
    async fn effective(&self, user: UserId) -> Result<Effective> {
        if let Some(effective) = self.cached(user).await {
            return Ok(effective);
        }
        let loaded_at = self.cache.now();
        let effective = self.store.effective(user).await?;
        self.offer(user, loaded_at, &effective);
        Ok(effective)
    }

    async fn give(&self, user: UserId, grant: Grant) -> Result<Added> {
        self.store.give(user, grant).await
    }

    async fn take(&self, user: UserId, grant: Grant) -> Result<bool> {
        self.store.take(user, grant).await
    }

    async fn raw(&self, user: UserId) -> Result<Grants> {
        self.store.raw(user).await
    }

    async fn holders(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>> {
        self.store.holders(grant, page).await
    }
}
