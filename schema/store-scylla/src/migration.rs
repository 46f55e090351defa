//! The schema, and how one of several nodes that start together brings it up to date.
//!
//! The migrations are the files of `schema/cql/`, in order. The table `schema_migrations` records the
//! applied ones with their checksums. The table `schema_lock` names the node that migrates now, for a
//! minute at a time: a node that dies delays the others no longer than that.

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

/// All migrations, in order. A released one never changes, not even its comments: databases hold its
/// checksum.
const ALL: &[Migration] = &[
    Migration { number: 1, name: "tables", cql: include_str!("../../cql/001_tables.cql") },
    Migration { number: 2, name: "login_places", cql: include_str!("../../cql/002_login_places.cql") },
];

/// Least wait before a node that waits for another reads the state of the migration again, in
/// milliseconds; the jitter adds up to as much.
const POLL_INTERVAL_MS: u64 = 200;
/// Limit of attempts of [`migrate`] before its last.
const MIGRATE_ATTEMPTS_MAX: usize = 10;

impl Migration {
    /// The SHA-256 of the whole file, as hex digits.
    fn checksum(&self) -> String {
        digest(&SHA256, self.cql.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The applied and the pending migrations of a keyspace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The applied migrations, by number.
    pub applied: Vec<Applied>,
    /// The pending migrations, by number.
    pub pending: Vec<Pending>,
}

/// A migration that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The number of the migration, from 1, without gaps.
    pub number: i32,
    /// The name of the migration's file, without number.
    pub name: String,
    /// When it was applied, by the clock of the node that did.
    pub at: Timestamp,
}

/// A migration that was not applied yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The number of the migration, from 1, without gaps.
    pub number: i32,
    /// The name of the migration's file, without number.
    pub name: &'static str,
}

/// Why the schema cannot be read, used or migrated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached now. Retry.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// An operator must act; the sentence says how.
    #[error("{0}")]
    Refused(String),
}

impl MigrateError {
    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// How a node treats a migration that its version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newer {
    /// The node does not start.
    Refused,
    /// A node that was up continues, and logs a warning: migrations only add.
    Warned,
}

type Result<T> = std::result::Result<T, MigrateError>;

/// Reports the applied and the pending migrations of the keyspace. Changes nothing.
///
/// # Errors
/// `Unavailable` if the database cannot be reached; `Refused` if it rejects the login or holds another
/// schema.
pub async fn status(config: &Config) -> Result<Report> {
    let session = connection::session(config, &Profiles::of(config)).await?;
    report(&session, config, Newer::Refused).await
}

/// Creates the keyspace if there is none, and applies the pending migrations. Safe while other nodes do
/// the same.
///
/// # Errors
/// `Unavailable` if the database cannot be reached; `Refused` if it rejects the login or holds another
/// schema.
pub async fn migrate(config: &Config, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Report> {
    let session = connection::session(config, &Profiles::of(config)).await?;
    // Another node may be creating the first tables: for a moment, some servers have them and others not.
    for _ in 0..MIGRATE_ATTEMPTS_MAX {
        match Box::pin(bring_up(&session, config, clock, entropy, Newer::Refused)).await {
            Err(MigrateError::Unavailable(why)) => tracing::debug!(%why, "retrying the migration"),
            done => return done,
        }
        tokio::time::sleep(crate::store::jittered(entropy, POLL_INTERVAL_MS)).await;
    }
    Box::pin(bring_up(&session, config, clock, entropy, Newer::Refused)).await
}

/// Checks the schema without changing it. `Refused` if a migration is pending.
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
    match Keyspace::read(session, &config.keyspace).await? {
        Some(keyspace) if keyspace.has_meta() => {
            Meta { session, keyspace: &config.keyspace }.report(ALL, newer).await
        }
        _ => Ok(Report { applied: Vec::new(), pending: ALL.iter().map(pending).collect() }),
    }
}

const fn pending(migration: &Migration) -> Pending {
    Pending { number: migration.number, name: migration.name }
}

/// Applies the pending migrations, or waits for the node that does.
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
            tracing::info!("waiting for another node that migrates the schema");
            tokio::time::sleep(crate::store::jittered(entropy, POLL_INTERVAL_MS)).await;
            continue;
        }
        let applied = apply(&meta, &lock, clock, newer).await;
        // A lock that is not released expires.
        let released = lock.release().await;
        applied.and(released)?;
    }
}

/// Applies the pending migrations. The caller holds the lock.
async fn apply(meta: &Meta<'_>, lock: &Lock<'_>, clock: &dyn Clock, newer: Newer) -> Result<()> {
    // Read again: the previous holder of the lock may have applied them.
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
