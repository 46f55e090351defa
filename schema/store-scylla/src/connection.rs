//! How a node starts while the database is down, and recovers after an outage.
//!
//! One task, the keeper, connects, migrates and prepares until it succeeds. Then it probes an idle
//! database now and then, so that an outage is noticed also without calls. While the database is down,
//! only the keeper sends statements: all calls fail at once, so that none pile up. The driver reconnects
//! by itself, but waits up to ten seconds between attempts: if it does not recover soon, the keeper opens
//! a second session and uses that one.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{Either, select},
    stream::FuturesUnordered,
};
use schema::{Clocks, Entropy};
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError,
    NewSessionError,
};
use store::Stores;
use tokio::time::{sleep, timeout};

use crate::{
    config::Config,
    link::{Link, NoSession, Profiles, connect},
    migration::{self, MigrateError, Newer},
    statement::{Cql, Kind, Prepared},
    status::{State, Status},
    store::{Inner, Store, jittered},
};

/// How often the keeper checks the state of the connection.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long no statement must have been answered before the keeper probes the database.
const PROBE_AFTER_SILENCE: Duration = Duration::from_secs(1);
/// Limit of the answer time of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Names of the documents that probes read in turn: some that exist, some that never do.
const PROBED_DOCUMENTS: [&str; 4] = ["keys", "superusers", "nothing", "nobody"];
/// How often the keeper probes while the database is down, even if earlier probes have no answer yet.
const DOWN_PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// How long the driver may try to recover before the keeper opens a second session.
const DRIVER_RECOVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of the time to connect to any of the hosts, and of that to prepare all statements.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Least wait after the first failed attempt to connect, in milliseconds; the jitter adds up to as much.
const BACKOFF_MIN_MS: u64 = 100;
/// Least wait after later failed attempts, in milliseconds; the jitter adds up to as much.
const BACKOFF_MAX_MS: u64 = 250;

/// A store and the state of its connection.
#[derive(Debug)]
pub struct Opened {
    /// The stores by noun. Without a connection, every method returns `Unavailable` at once.
    pub stores: Stores,
    /// Whether there is a connection.
    pub status: Arc<Status>,
}

/// Opens the store and returns at once. A task of its own connects, with retries, and with `migrate`
/// brings the schema up to date. The task ends when the last of the stores is dropped.
///
/// Must be called within a tokio runtime.
#[must_use]
pub fn open(config: Config, migrate: bool, clock: Arc<Clocks>, entropy: Arc<dyn Entropy>) -> Opened {
    let status = Arc::new(Status::new());
    let store = Store::new(Arc::clone(&status), clock, entropy);
    let keeper = Keeper {
        inner: Arc::downgrade(&store.0),
        status: Arc::clone(&status),
        profiles: Profiles::of(&config),
        config,
        migrate,
        clock: Arc::clone(&store.0.clock),
        entropy: Arc::clone(&store.0.entropy),
        probes: AtomicUsize::new(0),
        was_up: AtomicBool::new(false),
    };
    tokio::spawn(keeper.keep());
    Opened { stores: store.stores(), status }
}

/// The task that keeps the connection.
struct Keeper {
    inner: Weak<Inner>,
    status: Arc<Status>,
    profiles: Profiles,
    config: Config,
    migrate: bool,
    clock: Arc<Clocks>,
    entropy: Arc<dyn Entropy>,
    /// Number of probes sent, to choose the next document.
    probes: AtomicUsize,
    /// Whether there has been a connection before.
    was_up: AtomicBool,
}

/// All stores were dropped: the keeper ends.
struct Dropped;

impl Keeper {
    async fn keep(self) {
        while let Ok(link) = self.connected().await {
            if self.install(link).is_err() || self.watch().await.is_err() {
                return;
            }
        }
    }

    /// Connects, with retries for as long as it takes.
    async fn connected(&self) -> Result<Link, Dropped> {
        let mut backoff_ms = BACKOFF_MIN_MS;
        loop {
            match Box::pin(self.establish(self.newer())).await {
                Ok(link) => return Ok(link),
                Err(MigrateError::Unavailable(why)) => self.status.set(State::Connecting(why)),
                Err(MigrateError::Refused(why)) => self.status.set(State::Refused(why)),
            }
            if self.inner.strong_count() == 0 {
                return Err(Dropped);
            }
            sleep(jittered(&*self.entropy, backoff_ms)).await;
            backoff_ms = (backoff_ms * 2).min(BACKOFF_MAX_MS);
        }
    }

    /// Tries once to connect, migrate and prepare.
    async fn establish(&self, newer: Newer) -> Result<Link, MigrateError> {
        let session = session(&self.config, &self.profiles).await?;
        if self.migrate {
            let bring_up = migration::bring_up(&session, &self.config, &*self.clock, &*self.entropy, newer);
            Box::pin(bring_up).await?;
        } else {
            Box::pin(migration::check(&session, &self.config, newer)).await?;
        }
        migration::enter(&session, &self.config.keyspace).await?;
        let prepared = timeout(CONNECT_TIMEOUT, Box::pin(Prepared::prepare(&session, &self.profiles)))
            .await
            .map_err(|_| MigrateError::Unavailable("preparing the statements took too long".to_owned()))?
            .map_err(|error| MigrateError::Unavailable(error.to_string()))?;
        Ok(Link { session, prepared })
    }

    /// Makes the stores use this session.
    fn install(&self, link: Link) -> Result<(), Dropped> {
        let inner = self.inner.upgrade().ok_or(Dropped)?;
        inner.link.store(Some(Arc::new(link)));
        self.was_up.store(true, Relaxed);
        self.status.succeeded();
        self.status.set(State::Up);
        Ok(())
    }

    /// A newer schema keeps a node from starting, but does not stop one that was up.
    fn newer(&self) -> Newer {
        if self.was_up.load(Relaxed) { Newer::Warned } else { Newer::Refused }
    }

    /// Watches the connection. Returns when it is lost for good and the keeper must connect from the start.
    async fn watch(&self) -> Result<(), Dropped> {
        loop {
            sleep(CHECK_INTERVAL).await;
            if self.status.silence() >= PROBE_AFTER_SILENCE {
                self.probe().await?;
            }
            let Some(why) = self.status.down_cause() else { continue };
            self.status.set(State::Down(why));
            match self.recovered().await? {
                Recovered::SameSession => self.status.set(State::Up),
                Recovered::NewSession(link) => {
                    self.status.count.reconnects.fetch_add(1, Relaxed);
                    self.install(*link)?;
                }
                Recovered::Refused(why) => {
                    self.inner.upgrade().ok_or(Dropped)?.link.store(None);
                    self.status.set(State::Refused(why));
                    return Ok(());
                }
            }
        }
    }

    /// Sends a cheap read and returns whether the database answered. Probes read different documents,
    /// because other servers may hold the others, and no calls run while the database is down.
    async fn probe(&self) -> Result<bool, Dropped> {
        let store = Store(self.inner.upgrade().ok_or(Dropped)?);
        let Some(link) = store.0.link.load_full() else { return Ok(false) };
        let number = self.probes.fetch_add(1, Relaxed);
        let name = PROBED_DOCUMENTS[number % PROBED_DOCUMENTS.len()];
        let read = store.run(&link, Kind::Read, link.prepared.get(Cql::Document), (name,));
        match timeout(PROBE_TIMEOUT, read).await {
            Ok(answered) => Ok(answered.is_ok()),
            Err(_) => {
                self.status.failed(&"no answer within a second");
                Ok(false)
            }
        }
    }

    /// Waits until either the driver's session answers again, or a new one is connected.
    async fn recovered(&self) -> Result<Recovered, Dropped> {
        let same = Box::pin(self.same_session_recovered());
        let new = Box::pin(self.new_session());
        match select(same, new).await {
            Either::Left((recovered, _)) | Either::Right((recovered, _)) => recovered,
        }
    }

    /// Probes the driver's session until it answers.
    async fn same_session_recovered(&self) -> Result<Recovered, Dropped> {
        let mut probes = FuturesUnordered::new();
        loop {
            probes.push(self.probe());
            let answered = async {
                while let Some(answered) = probes.next().await {
                    if answered? {
                        return Ok(());
                    }
                }
                // All probes failed at once: wait for the next interval.
                std::future::pending().await
            };
            if let Ok(answered) = timeout(DOWN_PROBE_INTERVAL, answered).await {
                return answered.map(|()| Recovered::SameSession);
            }
        }
    }

    /// Gives the driver's session some time, then connects a new one.
    async fn new_session(&self) -> Result<Recovered, Dropped> {
        sleep(DRIVER_RECOVERY_TIMEOUT).await;
        let mut backoff_ms = BACKOFF_MIN_MS;
        loop {
            match self.establish(Newer::Warned).await {
                Ok(link) => return Ok(Recovered::NewSession(Box::new(link))),
                Err(MigrateError::Refused(why)) => return Ok(Recovered::Refused(why)),
                Err(MigrateError::Unavailable(why)) => tracing::debug!(%why, "connecting again failed"),
            }
            sleep(jittered(&*self.entropy, backoff_ms)).await;
            backoff_ms = (backoff_ms * 2).min(BACKOFF_MAX_MS);
        }
    }
}

/// How an outage ended.
enum Recovered {
    /// The driver's session answers again.
    SameSession,
    /// A new session is connected.
    NewSession(Box<Link>),
    /// The database answers, but this node must not use it; a sentence for an operator.
    Refused(String),
}

/// Opens a driver session without a keyspace.
///
/// # Errors
/// A sentence for an operator.
pub(crate) async fn session(
    config: &Config,
    profiles: &Profiles,
) -> Result<scylla::client::session::Session, MigrateError> {
    match timeout(CONNECT_TIMEOUT, Box::pin(connect(config, profiles))).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(NoSession::Tls(why))) => Err(MigrateError::Refused(why)),
        Ok(Err(NoSession::Driver(error))) if is_login(&error) => {
            Err(MigrateError::Refused("the database does not take this user and password".to_owned()))
        }
        Ok(Err(NoSession::Driver(error))) => Err(unreachable(config, &cause(&error))),
        Err(_) => Err(unreachable(config, "connecting took too long")),
    }
}

fn unreachable(config: &Config, why: &str) -> MigrateError {
    MigrateError::Unavailable(format!("none of {} can be talked to: {why}", config.hosts.join(", ")))
}

/// The cause of a failed connection, without the driver's description of what it was doing.
fn cause(error: &NewSessionError) -> String {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
            last_connection_error,
        })) => last_connection_error.to_string(),
        other => other.to_string(),
    }
}

/// Whether the server rejected the connection because user or password are wrong or missing.
fn is_login(error: &NewSessionError) -> bool {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
    })) = error
    else {
        return false;
    };
    matches!(
        setup.error,
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, _)
            | ConnectionSetupRequestErrorKind::StartAuthSessionError(_)
            | ConnectionSetupRequestErrorKind::MissingAuthentication
    )
}
