//! How a node starts while the database is down, and gets well after it was.
//!
//! One task connects, migrates and prepares, again and again. Once up, it asks from time to time, so
//! that trouble is seen also when nobody asks. While the database is down only this task asks it: all
//! calls fail at once, so that none pile up. The driver connects again by itself, but waits up to ten
//! seconds between tries: when it does not recover soon, we make a session beside it and take that
//! one.

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
use schema::{Clocks, Entropy, store::Stores};
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError,
    NewSessionError,
};
use tokio::time::{sleep, timeout};

use crate::{
    config::Config,
    link::{Link, NoSession, Profiles, connect},
    migration::{self, MigrateError, Newer},
    statement::{Cql, Kind, Prepared},
    status::{State, Status},
    store::{Inner, Store, jittered},
};

/// How often we look how it goes.
const LOOK: Duration = Duration::from_millis(500);
/// When nobody asked for so long, we ask.
const QUIET: Duration = Duration::from_secs(1);
/// How long an answer to that may take.
const ANSWER: Duration = Duration::from_secs(1);
/// Documents that we ask for: those that are there, and some that never are.
const ASKED: [&str; 4] = ["keys", "superusers", "nothing", "nobody"];
/// While it is down we ask so often, also while no answer came to what we asked before.
const DOWN: Duration = Duration::from_millis(200);
/// How long the driver may try by itself.
const RECOVERY: Duration = Duration::from_secs(2);
/// How long connecting may take, over all hosts.
const CONNECTING: Duration = Duration::from_secs(10);
/// The least and the most that we wait between two tries, in milliseconds: so much to twice as much.
const BACKOFF: (u64, u64) = (100, 250);

/// A store, and what is known of its connection.
#[derive(Debug)]
pub struct Opened {
    /// By noun. While there is no connection, every method says `Unavailable` at once.
    pub stores: Stores,
    /// Whether there is one.
    pub status: Arc<Status>,
}

/// Opens the store; returns at once. A task of its own connects, again and again, and with `migrate`
/// brings the schema up to date. It ends when the last of the stores is dropped.
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
        asked: AtomicUsize::new(0),
        was_up: AtomicBool::new(false),
    };
    tokio::spawn(keeper.keep());
    Opened { stores: store.stores(), status }
}

/// Who keeps the connection.
struct Keeper {
    inner: Weak<Inner>,
    status: Arc<Status>,
    profiles: Profiles,
    config: Config,
    migrate: bool,
    clock: Arc<Clocks>,
    entropy: Arc<dyn Entropy>,
    /// How often it asked, so that it does not ask the same always.
    asked: AtomicUsize,
    /// Whether there was a connection once.
    was_up: AtomicBool,
}

/// The stores were dropped: nobody needs a connection any more.
struct Dropped;

impl Keeper {
    async fn keep(self) {
        while let Ok(link) = self.connected().await {
            if self.take(link).is_err() || self.watch().await.is_err() {
                return;
            }
        }
    }

    /// A session, however long that takes.
    async fn connected(&self) -> Result<Link, Dropped> {
        let mut backoff = BACKOFF.0;
        loop {
            match Box::pin(self.establish(self.newer())).await {
                Ok(link) => return Ok(link),
                Err(MigrateError::Unavailable(why)) => self.status.set(State::Connecting(why)),
                Err(MigrateError::Refused(why)) => self.status.set(State::Refused(why)),
            }
            if self.inner.strong_count() == 0 {
                return Err(Dropped);
            }
            sleep(jittered(&*self.entropy, backoff)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// One try.
    async fn establish(&self, newer: Newer) -> Result<Link, MigrateError> {
        let session = session(&self.config, &self.profiles).await?;
        if self.migrate {
            let bring_up = migration::bring_up(&session, &self.config, &*self.clock, &*self.entropy, newer);
            Box::pin(bring_up).await?;
        } else {
            Box::pin(migration::check(&session, &self.config, newer)).await?;
        }
        migration::enter(&session, &self.config.keyspace).await?;
        let prepared = timeout(CONNECTING, Box::pin(Prepared::prepare(&session, &self.profiles)))
            .await
            .map_err(|_| MigrateError::Unavailable("preparing the statements took too long".to_owned()))?
            .map_err(|error| MigrateError::Unavailable(error.to_string()))?;
        Ok(Link { session, prepared })
    }

    /// From now on this session is used.
    fn take(&self, link: Link) -> Result<(), Dropped> {
        let inner = self.inner.upgrade().ok_or(Dropped)?;
        inner.link.store(Some(Arc::new(link)));
        self.was_up.store(true, Relaxed);
        self.status.succeeded();
        self.status.set(State::Up);
        Ok(())
    }

    /// A schema that became newer stops no node that was up.
    fn newer(&self) -> Newer {
        if self.was_up.load(Relaxed) { Newer::Warned } else { Newer::Refused }
    }

    /// Returns when the session is given up and another must be connected from the start.
    async fn watch(&self) -> Result<(), Dropped> {
        loop {
            sleep(LOOK).await;
            if self.status.silence() >= QUIET {
                self.ask().await?;
            }
            let Some(why) = self.status.trouble() else { continue };
            self.status.set(State::Down(why));
            match self.recovered().await? {
                Recovered::Itself => self.status.set(State::Up),
                Recovered::With(link) => {
                    self.status.count.reconnects.fetch_add(1, Relaxed);
                    self.take(*link)?;
                }
                Recovered::Refused(why) => {
                    self.inner.upgrade().ok_or(Dropped)?.link.store(None);
                    self.status.set(State::Refused(why));
                    return Ok(());
                }
            }
        }
    }

    /// Asks the database something cheap; says whether it answered. Not the same always: while it is
    /// down nobody else asks, and other servers may have the answer.
    async fn ask(&self) -> Result<bool, Dropped> {
        let store = Store(self.inner.upgrade().ok_or(Dropped)?);
        let Some(link) = store.0.link.load_full() else { return Ok(false) };
        let turn = self.asked.fetch_add(1, Relaxed);
        let name = ASKED[turn % ASKED.len()];
        let asked = store.run(&link, Kind::Read, link.prepared.get(Cql::Document), (name,));
        match timeout(ANSWER, asked).await {
            Ok(answered) => Ok(answered.is_ok()),
            Err(_) => {
                self.status.failed(&"no answer within a second");
                Ok(false)
            }
        }
    }

    /// What comes first: that the driver's own session answers again, or that another does.
    async fn recovered(&self) -> Result<Recovered, Dropped> {
        let itself = Box::pin(async {
            let mut asked = FuturesUnordered::new();
            loop {
                asked.push(self.ask());
                let answered = async {
                    while let Some(answered) = asked.next().await {
                        if answered? {
                            return Ok(());
                        }
                    }
                    // All were refused at once: no reason to hurry.
                    std::future::pending().await
                };
                if let Ok(answered) = timeout(DOWN, answered).await {
                    return answered.map(|()| Recovered::Itself);
                }
            }
        });
        let another = Box::pin(async {
            sleep(RECOVERY).await;
            let mut backoff = BACKOFF.0;
            loop {
                match self.establish(Newer::Warned).await {
                    Ok(link) => return Ok(Recovered::With(Box::new(link))),
                    Err(MigrateError::Refused(why)) => return Ok(Recovered::Refused(why)),
                    Err(MigrateError::Unavailable(why)) => tracing::debug!(%why, "connecting anew failed"),
                }
                sleep(jittered(&*self.entropy, backoff)).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        });
        match select(itself, another).await {
            Either::Left((recovered, _)) | Either::Right((recovered, _)) => recovered,
        }
    }
}

/// How trouble ended.
enum Recovered {
    Itself,
    With(Box<Link>),
    Refused(String),
}

/// A session without a keyspace, or why there is none, as a sentence.
pub(crate) async fn session(
    config: &Config,
    profiles: &Profiles,
) -> Result<scylla::client::session::Session, MigrateError> {
    match timeout(CONNECTING, Box::pin(connect(config, profiles))).await {
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

/// What went wrong, without what the driver was about.
fn cause(error: &NewSessionError) -> String {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
            last_connection_error,
        })) => last_connection_error.to_string(),
        other => other.to_string(),
    }
}

/// Whether the user or the password is wrong, or missing.
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
