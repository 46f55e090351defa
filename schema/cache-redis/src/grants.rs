//! Permissions of users without a read of the store.
//!
//! An entry holds the time at which its load began. It is accepted only if a node wrote it for this user, if
//! it is young enough, and if its load began later than every invalidation of the user that this node has
//! applied: later by [`CLOCK_SKEW`], since the time is that of another node's clock. So invalidated entries
//! are rejected even if Redis keeps or restores them, and the cache serves a user again a minute after an
//! invalidation. (That is as strict as to bypass it for `MAX_AGE + CLOCK_SKEW`: at its end, the oldest entry
//! that is young enough is exactly one that is late enough.) An invalidation is dropped only when every entry
//! from before it is too old.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    Subject, Timestamp, UserId,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants},
    time::CLOCK_SKEW,
};
use store::{Added, GrantsStore, Result};
use tokio::sync::Semaphore;

use crate::{
    cache::Cache,
    entry::{Entry, MAX_BYTES},
    invalidations::InvalidationLog,
    seal::Kind,
    stats::count,
};

/// Limit of entries that are being written to Redis; further ones are dropped.
const CONCURRENT_WRITES_MAX: usize = 32;

/// A store of grants whose [`effective`](GrantsStore::effective) may come from Redis. All other calls go to
/// the store.
///
/// For reads that may lag behind by the propagation time of a fact. Decisions about superusers read the store
/// itself.
pub struct CachedGrants {
    store: Arc<dyn GrantsStore>,
    cache: Cache,
    max_age: Duration,
    invalidations: InvalidationLog,
    writes: Arc<Semaphore>,
}

impl CachedGrants {
    /// Entries are accepted up to the age `max_age`, which must not exceed the lifetime of a fact that
    /// invalidates them: a node that starts applies the existing facts (or calls [`Self::invalidate_all`])
    /// before its first read.
    #[must_use]
    pub fn new(store: Arc<dyn GrantsStore>, cache: Cache, max_age: Duration) -> Self {
        let invalidations = InvalidationLog::new(max_age.saturating_add(CLOCK_SKEW));
        Self { store, cache, max_age, invalidations, writes: Arc::new(Semaphore::new(CONCURRENT_WRITES_MAX)) }
    }

    /// Invalidates the entries of the subject: of a user, that user's entry; of a role or permission, all
    /// entries. It has taken effect when it returns. The node calls it after the change, and before it
    /// invalidates its own snapshots: else a snapshot could be loaded from an old entry in between.
    pub fn invalidate(&self, subject: Subject) {
        match subject {
            Subject::User(user) => self.invalidations.record_user(user, self.cache.now()),
            Subject::Role(_) | Subject::Permission(_) => self.invalidate_all(),
        }
    }

    /// Invalidates all entries, because the node may have missed invalidations.
    pub fn invalidate_all(&self) {
        self.invalidations.record_all(self.cache.now());
    }

    /// Whether a load at this time began after every invalidation of the user.
    fn is_late_enough(&self, user: UserId, loaded_at: Timestamp) -> bool {
        self.invalidations.last(user).is_none_or(|last| loaded_at >= last.plus(CLOCK_SKEW))
    }

    fn is_young_enough(&self, loaded_at: Timestamp) -> bool {
        let now = self.cache.now();
        loaded_at <= now.plus(CLOCK_SKEW) && now.since(loaded_at) < self.max_age
    }

    async fn cached(&self, user: UserId) -> Option<Effective> {
        let stats = self.cache.stats();
        // If clocks agree, no entry can be late enough yet.
        if !self.is_late_enough(user, self.cache.now()) {
            count(&stats.bypassed);
            return None;
        }
        let key = self.cache.key(Kind::Grants, user.as_bytes());
        let found = self.cache.read(&key, MAX_BYTES).await.ok();
        let entry = found.and_then(|found| Entry::read(found.body()?));
        // Checked again after the read, because an invalidation may have arrived in the meantime.
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

    /// Writes an entry to Redis in the background.
    fn offer(&self, user: UserId, loaded_at: Timestamp, effective: &Effective) {
        if !self.is_late_enough(user, loaded_at) {
            return;
        }
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return };
        // Serialized here, because that costs less than a copy of permissions that may be far too many.
        let Some(body) = Entry::write(loaded_at, effective) else { return };
        let cache = self.cache.clone();
        let ttl = self.max_age;
        tokio::spawn(async move {
            let key = cache.key(Kind::Grants, user.as_bytes());
            // A failed write only costs another load.
            let _ = cache.write(&key, &body, ttl).await;
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
