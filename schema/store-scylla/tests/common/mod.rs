//! A database to test with, and access to it without the store.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a panic is how a test fails")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use schema::{Clock, Clocks, Entropy, MonotonicClock, Timestamp};
use scylla::client::{session::Session, session_builder::SessionBuilder};
use store_scylla::{Config, Opened, State, open};
use testkit::servers::Cassandra;
use tokio::sync::OnceCell;

/// Limit of the time to open the store or to see it refused.
pub const DATABASE_TIMEOUT: Duration = Duration::from_secs(60);

/// The clock of the machine: times to live are counted down by the server's.
pub struct Real;

impl Clock for Real {
    fn now(&self) -> Timestamp {
        now()
    }
}

impl MonotonicClock for Real {
    fn elapsed(&self) -> Duration {
        static START: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }
}

/// The clocks of a node that has just started.
pub fn clocks() -> Arc<Clocks> {
    Arc::new(Clocks::new(Arc::new(Real), Arc::new(Real), "", None))
}

impl Entropy for Real {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap();
    }
}

#[allow(clippy::disallowed_methods, reason = "the server's clock is the real one")]
pub fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(schema::time::millis(now))
}

/// The server's address: that of the variable `CQL`, else of a server that is started.
pub async fn server() -> String {
    static ADDRESS: OnceCell<String> = OnceCell::const_new();
    let start = || async {
        if let Ok(address) = std::env::var("CQL") {
            return address;
        }
        // On a thread of its own, because the future is not `Send`.
        let runtime = tokio::runtime::Handle::current();
        let started = move || runtime.block_on(async { Cassandra::one().await.address().to_string() });
        tokio::task::spawn_blocking(started).await.unwrap()
    };
    ADDRESS.get_or_init(start).await.clone()
}

/// The name of a keyspace that no other test uses and that does not exist yet.
pub fn fresh(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

pub async fn config(keyspace: &str) -> Config {
    format!("cql://{}/{keyspace}", server().await).parse().unwrap()
}

/// Opens a store in a keyspace without waiting for it.
pub async fn begin(keyspace: &str, migrate: bool) -> Opened {
    open(config(keyspace).await, migrate, clocks(), Arc::new(Real))
}

/// Opens a store in a keyspace and waits until it is up.
pub async fn opened(keyspace: &str) -> Opened {
    let opened = begin(keyspace, true).await;
    tokio::time::timeout(DATABASE_TIMEOUT, opened.status.up())
        .await
        .unwrap_or_else(|_| panic!("{}", opened.status.state()));
    opened
}

/// Waits until the store is refused, and returns the cause.
pub async fn refused(opened: &Opened) -> String {
    let refused = async {
        loop {
            match opened.status.state() {
                State::Refused(why) => return why,
                State::Up => panic!("it is up"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(DATABASE_TIMEOUT, refused).await.unwrap()
}

/// A driver session.
pub async fn session() -> Session {
    SessionBuilder::new().known_node(server().await).build().await.unwrap()
}

/// Runs a statement without the store.
pub async fn cql(session: &Session, statement: &str) {
    session.query_unpaged(statement, ()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// The first column of all rows.
pub async fn column<T>(session: &Session, statement: &str) -> Vec<T>
where
    (T,): for<'a> scylla::deserialize::row::DeserializeRow<'a, 'a>,
{
    let rows = session.query_unpaged(statement, ()).await.unwrap().into_rows_result().unwrap();
    rows.rows::<(T,)>().unwrap().map(|row| row.unwrap().0).collect()
}

/// The tables that [`Lease`] empties.
const TABLES: [&str; 15] = [
    "login_places",
    "users",
    "emails",
    "registrations",
    "registration_days",
    "sessions",
    "sessions_of_user",
    "catalogue",
    "grants",
    "holders",
    "documents",
    "logins",
    "ledger",
    "heads",
    "schema_lock",
];

static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An empty keyspace for one test. Creating one is slow, so a dropped lease is emptied and reused.
pub struct Lease(pub String);

impl Lease {
    pub async fn take() -> Self {
        let free = FREE.lock().unwrap().pop();
        let Some(keyspace) = free else { return Self(fresh("lease")) };
        let session = session().await;
        let truncate = TABLES.map(|table| {
            let (session, keyspace) = (&session, &keyspace);
            async move {
                // Empty tables are skipped, because truncating is slow.
                let some = format!("SELECT * FROM {keyspace}.{table} LIMIT 1");
                let rows = session.query_unpaged(some, ()).await.unwrap().into_rows_result().unwrap();
                if rows.rows_num() > 0 {
                    cql(session, &format!("TRUNCATE {keyspace}.{table}")).await;
                }
            }
        });
        futures_util::future::join_all(truncate).await;
        Self(keyspace)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        FREE.lock().unwrap().push(std::mem::take(&mut self.0));
    }
}
