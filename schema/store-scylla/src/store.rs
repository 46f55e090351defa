//! What all nouns work with: reads, plain writes, and the parts that are remembered.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::TryStreamExt;
use schema::{
    Clocks, Entropy, StoreError, Timestamp,
    ledger::Origin,
    store::{Result, Stores},
};
use scylla::{
    deserialize::row::DeserializeRow, errors::ExecutionError, response::query_result::QueryResult,
    serialize::row::SerializeRow, statement::prepared::PreparedStatement,
};
use uuid::Uuid;

use crate::{
    catalogue::Cache,
    ledger::Known,
    link::Link,
    statement::{Cql, Kind},
    status::Status,
};

/// How long a call may take. Those that remove all of a user may take [`LONG`].
const PATIENCE: Duration = Duration::from_secs(6);
/// See [`PATIENCE`].
const LONG: Duration = Duration::from_secs(60);
/// How many statements one call has under way.
pub(crate) const AT_ONCE: usize = 16;

/// Users share so many locks, by chance.
pub(crate) const ROOMS: usize = 64;

/// All stores; cheap to copy.
#[derive(Clone)]
pub(crate) struct Store(pub(crate) Arc<Inner>);

/// What the copies share.
pub(crate) struct Inner {
    pub(crate) link: ArcSwapOption<Link>,
    pub(crate) status: Arc<Status>,
    pub(crate) clock: Arc<Clocks>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) catalogue: Cache,
    /// So that sessions of one user that begin on one node do not fight over whom they end.
    pub(crate) rooms: [tokio::sync::Mutex<()>; ROOMS],
    /// The same for changes of the grants of one user.
    pub(crate) giving: [tokio::sync::Mutex<()>; ROOMS],
    /// Days of registration that are known to be listed.
    pub(crate) days: Mutex<HashSet<i32>>,
    /// What this process knows of the logs that it writes.
    pub(crate) logs: Mutex<HashMap<Origin, Known>>,
    /// Entries that do not parse and were counted.
    pub(crate) unreadable: Mutex<BTreeSet<(Origin, u64)>>,
}

/// A row of whole values, nothing borrowed.
pub(crate) trait Row: for<'a> DeserializeRow<'a, 'a> + Send {}
impl<R: for<'a> DeserializeRow<'a, 'a> + Send> Row for R {}

/// At which consistency a row is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// `QUORUM`: what was answered to anybody.
    Quorum,
    /// `SERIAL`: the same, and ends what is under way, so that it is there for all or for nobody.
    Serial,
}

impl Store {
    pub(crate) fn new(status: Arc<Status>, clock: Arc<Clocks>, entropy: Arc<dyn Entropy>) -> Self {
        Self(Arc::new(Inner {
            link: ArcSwapOption::empty(),
            status,
            clock,
            entropy,
            catalogue: Cache::default(),
            rooms: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            giving: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            days: Mutex::default(),
            logs: Mutex::default(),
            unreadable: Mutex::default(),
        }))
    }

    /// By noun.
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

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// A time that has certainly come, for times to live: however far ahead the wall clock is, no row is cut
    /// short.
    pub(crate) fn settled(&self) -> Timestamp {
        self.0.clock.settled()
    }

    /// An id that nobody else draws.
    pub(crate) fn random_id(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.0.entropy.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Waits between so many milliseconds and twice that.
    pub(crate) async fn pause(&self, millis: u64) {
        tokio::time::sleep(jittered(&*self.0.entropy, millis)).await;
    }

    /// Ends in bounded time, whatever the database does.
    pub(crate) async fn within<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        bounded(PATIENCE, call).await
    }

    /// The same for what has many steps.
    pub(crate) async fn within_long<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        bounded(LONG, call).await
    }

    /// The session of the driver; `Unavailable` at once when there is none, or when it does not answer:
    /// then only the keeper of the connection asks, and calls do not pile up.
    pub(crate) fn link(&self) -> Result<Arc<Link>> {
        let link = if self.0.status.is_down() { None } else { self.0.link.load_full() };
        link.ok_or_else(|| {
            StoreError::unavailable_because(format_args!("the database is {}", self.0.status.state()))
        })
    }

    /// Runs a prepared statement and notes how it went.
    pub(crate) async fn run(
        &self,
        link: &Link,
        kind: Kind,
        prepared: &PreparedStatement,
        values: impl SerializeRow + Send + Sync,
    ) -> std::result::Result<QueryResult, ExecutionError> {
        self.count(kind);
        let result = Box::pin(link.session.execute_unpaged(prepared, values)).await;
        self.note(&result);
        result
    }

    pub(crate) fn count(&self, kind: Kind) {
        let count = &self.0.status.count;
        let count = match kind {
            Kind::Read => &count.reads,
            Kind::Write => &count.writes,
            Kind::Conditional => &count.conditional,
        };
        count.fetch_add(1, Relaxed);
    }

    /// An answer, or a sign of trouble.
    pub(crate) fn note<T>(&self, result: &std::result::Result<T, ExecutionError>) {
        match result {
            Ok(_) => self.0.status.succeeded(),
            Err(error) => self.0.status.failed(error),
        }
    }

    /// All rows of a read that says itself how many at most.
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
        let rows = result.into_rows_result().map_err(|_| strange(cql))?;
        rows.rows::<R>().map_err(|_| strange(cql))?.map(|row| row.map_err(|_| strange(cql))).collect()
    }

    /// The one row of a key.
    pub(crate) async fn row<R: Row>(
        &self,
        at: At,
        cql: Cql,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Option<R>> {
        Ok(self.read(at, cql, values).await?.pop())
    }

    /// All rows of a read that may be long, page by page.
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
        let pages = Box::pin(link.session.execute_iter(prepared.clone(), values))
            .await
            .inspect_err(|error| failed(error))
            .map_err(StoreError::unavailable)?;
        let rows = pages.rows_stream::<R>().map_err(|_| strange(cql))?;
        let rows = Box::pin(rows.try_collect::<Vec<R>>())
            .await
            .inspect_err(|error| failed(error))
            .map_err(StoreError::unavailable)?;
        self.0.status.succeeded();
        Ok(rows)
    }

    /// A plain write.
    pub(crate) async fn write(&self, cql: Cql, values: impl SerializeRow + Send + Sync) -> Result<()> {
        let link = self.link()?;
        let done = self.run(&link, cql.kind(), link.prepared.get(cql), values).await;
        done.map(drop).map_err(StoreError::unavailable)
    }

    /// The days that are known to be listed.
    pub(crate) fn known_days(&self) -> std::sync::MutexGuard<'_, HashSet<i32>> {
        self.0.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(patience: Duration, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
    match tokio::time::timeout(patience, Box::pin(call)).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::unavailable_because("the database did not answer in time")),
    }
}

/// So many milliseconds, up to twice as many.
pub(crate) fn jittered(entropy: &dyn Entropy, millis: u64) -> Duration {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    let more = u64::from(u32::from_be_bytes(bytes)) % millis.max(1);
    Duration::from_millis(millis + more)
}

/// The error of a row that does not parse. It does not say what is in the row: it may be a hash.
pub(crate) fn strange(cql: Cql) -> StoreError {
    StoreError::Inconsistent(format!("{cql:?} gave a row of another form"))
}
