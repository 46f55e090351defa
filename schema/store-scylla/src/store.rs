//! The shared parts of all stores: reads, plain writes, locks and caches.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::TryStreamExt;
use schema::{Clocks, Entropy, Timestamp, UserId, ledger::Origin};
use scylla::{
    deserialize::row::DeserializeRow, errors::ExecutionError, response::query_result::QueryResult,
    serialize::row::SerializeRow, statement::prepared::PreparedStatement,
};
use store::{Result, StoreError, Stores};
use uuid::Uuid;

use crate::{
    catalogue::CatalogueCache,
    ledger::WrittenLog,
    link::Link,
    statement::{Cql, Kind, traced},
    status::Status,
};

/// Limit of the duration of a call. Calls that delete everything of a user have [`LONG_CALL_TIMEOUT`].
const CALL_TIMEOUT: Duration = Duration::from_secs(6);
/// Limit of the duration of a call with a number of steps that grows with the user's data.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit of concurrent statements of one call.
pub(crate) const CONCURRENT_STATEMENTS_MAX: usize = 16;
/// Number of locks that all users share; see [`UserLocks`].
const LOCK_STRIPES: usize = 64;

/// All stores; cheap to clone.
#[derive(Clone)]
pub(crate) struct Store(pub(crate) Arc<Inner>);

/// The state that all clones of a [`Store`] share.
pub(crate) struct Inner {
    pub(crate) link: ArcSwapOption<Link>,
    pub(crate) status: Arc<Status>,
    pub(crate) clock: Arc<Clocks>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) catalogue: CatalogueCache,
    /// Held while excess sessions of a user are ended, so that logins on this node do not end each
    /// other's.
    pub(crate) session_locks: UserLocks,
    /// Held while the grants of a user change, so that changes on this node do not conflict.
    pub(crate) grant_locks: UserLocks,
    /// Days of registration that this process knows to be listed.
    pub(crate) days: Mutex<HashSet<i32>>,
    /// What this process knows of the logs that it writes.
    pub(crate) logs: Mutex<HashMap<Origin, WrittenLog>>,
    /// Ledger entries that do not parse and were counted.
    pub(crate) unreadable: Mutex<BTreeSet<(Origin, u64)>>,
}

/// A lock for each user, striped: users whose ids end alike share one.
pub(crate) struct UserLocks([tokio::sync::Mutex<()>; LOCK_STRIPES]);

impl Default for UserLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| tokio::sync::Mutex::default()))
    }
}

impl UserLocks {
    /// Waits for the lock of a user.
    pub(crate) async fn lock(&self, user: UserId) -> tokio::sync::MutexGuard<'_, ()> {
        self.0[usize::from(user.as_bytes()[15]) % LOCK_STRIPES].lock().await
    }
}

/// A row of owned values.
pub(crate) trait Row: for<'a> DeserializeRow<'a, 'a> + Send {}
impl<R: for<'a> DeserializeRow<'a, 'a> + Send> Row for R {}

/// The consistency of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// `QUORUM`: sees every write that was answered to any caller.
    Quorum,
    /// `SERIAL`: as `QUORUM`, and first completes the conditional writes under way, so that from then
    /// on either all nodes see them or none does.
    Serial,
}

impl Store {
    pub(crate) fn new(status: Arc<Status>, clock: Arc<Clocks>, entropy: Arc<dyn Entropy>) -> Self {
        Self(Arc::new(Inner {
            link: ArcSwapOption::empty(),
            status,
            clock,
            entropy,
            catalogue: CatalogueCache::default(),
            session_locks: UserLocks::default(),
            grant_locks: UserLocks::default(),
            days: Mutex::default(),
            logs: Mutex::default(),
            unreadable: Mutex::default(),
        }))
    }

    /// This store behind the trait of each noun.
    pub(crate) fn stores(&self) -> Stores {
        let store = Arc::new(self.clone());
        Stores {
            users: store.clone(),
            sessions: store.clone(),
            roles: store.clone(),
            permissions: store.clone(),
            grants: store.clone(),
            superusers: store.clone(),
            logins: store.clone(),
            keys: store.clone(),
            ledger: store.clone(),
            upkeep: store,
        }
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// A time that has certainly passed. TTLs count from it, so that a wall clock that is ahead shortens
    /// no row's life.
    pub(crate) fn settled(&self) -> Timestamp {
        self.0.clock.settled()
    }

    /// A random id, unique with overwhelming probability.
    pub(crate) fn random_id(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.0.entropy.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Sleeps for `millis` to twice `millis` milliseconds, at random.
    pub(crate) async fn pause(&self, millis: u64) {
        tokio::time::sleep(jittered(&*self.0.entropy, millis)).await;
    }

    /// Runs a call for at most [`CALL_TIMEOUT`], whatever the database does.
    ///
    /// # Errors
    /// The call's; `Unavailable` on timeout.
    pub(crate) async fn within<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        bounded(CALL_TIMEOUT, call).await
    }

    /// Runs a call with many steps for at most [`LONG_CALL_TIMEOUT`].
    ///
    /// # Errors
    /// The call's; `Unavailable` on timeout.
    pub(crate) async fn within_long<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        bounded(LONG_CALL_TIMEOUT, call).await
    }

    /// The driver session.
    ///
    /// # Errors
    /// `Unavailable` at once if there is none, or if it does not answer: then only the connection keeper
    /// sends statements, and calls do not pile up.
    pub(crate) fn link(&self) -> Result<Arc<Link>> {
        let link = if self.0.status.is_down() { None } else { self.0.link.load_full() };
        link.ok_or_else(|| {
            StoreError::unavailable_because(format_args!("the database is {}", self.0.status.state()))
        })
    }

    /// Runs a prepared statement and reports the result to the [`Status`].
    pub(crate) async fn run(
        &self,
        link: &Link,
        kind: Kind,
        prepared: &PreparedStatement,
        values: impl SerializeRow + Send + Sync,
    ) -> std::result::Result<QueryResult, ExecutionError> {
        self.count(kind);
        let sent = Box::pin(link.session.execute_unpaged(prepared, values));
        let result = traced(prepared.get_statement(), sent).await;
        self.note(&result);
        result
    }

    /// Counts a statement for the metrics.
    pub(crate) fn count(&self, kind: Kind) {
        let count = &self.0.status.count;
        let counter = match kind {
            Kind::Read => &count.reads,
            Kind::Write => &count.writes,
            Kind::Conditional => &count.conditional,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Reports the result of a statement to the [`Status`].
    pub(crate) fn note<T>(&self, result: &std::result::Result<T, ExecutionError>) {
        match result {
            Ok(_) => self.0.status.succeeded(),
            Err(error) => self.0.status.failed(error),
        }
    }

    /// All rows of a read whose statement limits their number.
    pub(crate) async fn read<R: Row>(
        &self,
        at: At,
        cql: Cql,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Vec<R>> {
        let link = self.link()?;
        let prepared = match at {
            At::Quorum => link.prepared.get(cql),
            At::Serial => link.prepared.serial(cql),
        };
        let result = self.run(&link, Kind::Read, prepared, values).await.map_err(StoreError::unavailable)?;
        let rows = result.into_rows_result().map_err(|_| malformed_row(cql))?;
        let rows = rows.rows::<R>().map_err(|_| malformed_row(cql))?;
        rows.map(|row| row.map_err(|_| malformed_row(cql))).collect()
    }

    /// The row with this key, if there is one.
    pub(crate) async fn row<R: Row>(
        &self,
        at: At,
        cql: Cql,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Option<R>> {
        Ok(self.read(at, cql, values).await?.pop())
    }

    /// All rows of a read without a limit, fetched page by page.
    pub(crate) async fn read_pages<R>(
        &self,
        at: At,
        cql: Cql,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Vec<R>>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm> + Send + 'static,
    {
        let link = self.link()?;
        let prepared = match at {
            At::Quorum => link.prepared.get(cql),
            At::Serial => link.prepared.serial(cql),
        };
        self.count(Kind::Read);
        let failed = |error: &dyn std::fmt::Display| self.0.status.failed(&error);
        let sent = Box::pin(link.session.execute_iter(prepared.clone(), values));
        let pages = traced(prepared.get_statement(), sent)
            .await
            .inspect_err(|error| failed(error))
            .map_err(StoreError::unavailable)?;
        let rows = pages.rows_stream::<R>().map_err(|_| malformed_row(cql))?;
        let rows = Box::pin(rows.try_collect::<Vec<R>>())
            .await
            .inspect_err(|error| failed(error))
            .map_err(StoreError::unavailable)?;
        self.0.status.succeeded();
        Ok(rows)
    }

    /// Runs a plain write.
    pub(crate) async fn write(&self, cql: Cql, values: impl SerializeRow + Send + Sync) -> Result<()> {
        let link = self.link()?;
        let written = self.run(&link, cql.kind(), link.prepared.get(cql), values).await;
        written.map(drop).map_err(StoreError::unavailable)
    }

    /// The days of registration that this process knows to be listed.
    pub(crate) fn known_days(&self) -> std::sync::MutexGuard<'_, HashSet<i32>> {
        self.0.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(timeout: Duration, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
    match tokio::time::timeout(timeout, Box::pin(call)).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::unavailable_because("the database did not answer in time")),
    }
}

/// A random duration of `millis` to twice `millis` milliseconds.
pub(crate) fn jittered(entropy: &dyn Entropy, millis: u64) -> Duration {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    let more = u64::from(u32::from_be_bytes(bytes)) % millis.max(1);
    Duration::from_millis(millis + more)
}

/// The error for a row that does not parse. It shows nothing of the row, which may hold a password hash.
fn malformed_row(cql: Cql) -> StoreError {
    StoreError::Inconsistent(format!("{cql:?} returned a row that does not parse"))
}
