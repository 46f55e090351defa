//! The schema, and how one of many nodes that start together brings it up to date.
//!
//! The migrations are the files of `schema/cql/`, in order. Which were applied stands in
//! `schema_migrations`, with the checksum of each; who applies them now, in `schema_lock`, for a
//! minute at a time: a node that dies holds up the others no longer than that.

use aws_lc_rs::digest::{SHA256, digest};
use schema::{Clock, Entropy, Timestamp};
use scylla::client::session::Session;

use crate::{config::Config, connection, link::Profiles};

mod keyspace;
mod lock;
mod meta;
mod script;

use keyspace::Keyspace;
use lock::Lock;
use meta::Meta;

pub(crate) use keyspace::enter;

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
struct Migration {
    number: i32,
    name: &'static str,
    cql: &'static str,
}

/// All of them. One that was released is never changed.
const ALL: &[Migration] = &[
    Migration { number: 1, name: "tables", cql: include_str!("../../cql/001_tables.cql") },
    Migration { number: 2, name: "login_places", cql: include_str!("../../cql/002_login_places.cql") },
];

/// How often who waits for another node looks again, in milliseconds.
const POLL: u64 = 200;
/// How often a command tries.
const TRIES: usize = 10;

impl Migration {
    /// Of the whole file.
    fn checksum(&self) -> String {
        digest(&SHA256, self.cql.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Which migrations a keyspace has, and which it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// By number.
    pub applied: Vec<Applied>,
    /// By number.
    pub pending: Vec<Pending>,
}

/// A migration that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// From 1, without gaps.
    pub number: i32,
    /// What it is about.
    pub name: String,
    /// When, by the clock of the node that applied it.
    pub at: Timestamp,
}

/// A migration that is to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// From 1, without gaps.
    pub number: i32,
    /// What it is about.
    pub name: &'static str,
}

/// Why the schema is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// It cannot be reached, now. Try again.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// Somebody must do something; what, stands in the sentence.
    #[error("{0}")]
    Refused(String),
}

impl MigrateError {
    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What is done about a migration that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newer {
    /// A node does not start on it.
    Refused,
    /// A node that has worked with it works on, and says so: migrations only add.
    Warned,
}

type Result<T> = std::result::Result<T, MigrateError>;

/// Which migrations the keyspace has. Changes nothing.
///
/// # Errors
/// When the database cannot be reached, refuses us, or has a schema that is not ours.
pub async fn status(config: &Config) -> Result<Report> {
    let session = connection::session(config, &Profiles::of(config)).await?;
    report(&session, config, Newer::Refused).await
}

/// Makes the keyspace if there is none, and applies what it lacks. Safe while others do the same.
///
/// # Errors
/// When the database cannot be reached, refuses us, or has a schema that is not ours.
pub async fn migrate(config: &Config, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Report> {
    let session = connection::session(config, &Profiles::of(config)).await?;
    // Others may make the first tables in this moment: what one server has, another lacks for a while.
    for _ in 0..TRIES {
        match Box::pin(bring_up(&session, config, clock, entropy, Newer::Refused)).await {
            Err(MigrateError::Unavailable(why)) => tracing::debug!(%why, "migrating is tried again"),
            done => return done,
        }
        tokio::time::sleep(crate::store::jittered(entropy, POLL)).await;
    }
    Box::pin(bring_up(&session, config, clock, entropy, Newer::Refused)).await
}

/// Only looks: refused when something is missing.
pub(crate) async fn check(session: &Session, config: &Config, newer: Newer) -> Result<()> {
    let report = report(session, config, newer).await?;
    if report.pending.is_empty() {
        return Ok(());
    }
    Err(MigrateError::Refused(format!(
        "the keyspace {} lacks {} of the schema's migrations and this node does not migrate: run \
         `palisade schema migrate`",
        config.keyspace,
        report.pending.len(),
    )))
}

async fn report(session: &Session, config: &Config, newer: Newer) -> Result<Report> {
    match Keyspace::look(session, &config.keyspace).await? {
        Some(keyspace) if keyspace.has_meta() => {
            Meta { session, keyspace: &config.keyspace }.report(ALL, newer).await
        }
        _ => Ok(Report { applied: Vec::new(), pending: ALL.iter().map(pending).collect() }),
    }
}

const fn pending(migration: &Migration) -> Pending {
    Pending { number: migration.number, name: migration.name }
}

/// Applies what is missing, or waits for the node that does.
pub(crate) async fn bring_up(
    session: &Session,
    config: &Config,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    newer: Newer,
) -> Result<Report> {
    keyspace::make(session, config, entropy).await?;
    enter(session, &config.keyspace).await?;
    let meta = Meta { session, keyspace: &config.keyspace };
    let lock = Lock::new(session, &config.keyspace, entropy);
    loop {
        let report = meta.report(ALL, newer).await?;
        if report.pending.is_empty() {
            return Ok(report);
        }
        if !lock.take().await? {
            tracing::info!("another node migrates the schema: waiting for it");
            tokio::time::sleep(crate::store::jittered(entropy, POLL)).await;
            continue;
        }
        let applied = apply(&meta, &lock, clock, newer).await;
        // A lock that is not released ends by itself.
        let released = lock.release().await;
        applied.and(released)?;
    }
}

/// Applies what is missing while we hold the lock.
async fn apply(meta: &Meta<'_>, lock: &Lock<'_>, clock: &dyn Clock, newer: Newer) -> Result<()> {
    // Once more: who held the lock before us may have done it.
    let report = meta.report(ALL, newer).await?;
    for migration in ALL.iter().filter(|migration| report.pending.contains(&pending(migration))) {
        tracing::info!(number = migration.number, name = migration.name, "migrating the schema");
        for statement in script::statements(migration.cql) {
            if !lock.renew().await? {
                return Err(MigrateError::Unavailable("another node took over the migration".to_owned()));
            }
            meta.change(&statement).await?;
        }
        meta.record(migration, clock.now()).await?;
    }
    Ok(())
}
