//! Conditional writes, and what became of those without an answer.
//!
//! A conditional write that gets no answer (a timeout, a lost connection, an overloaded server) may
//! have been applied, may still be applied, or may be lost. The store then reads the row at `SERIAL`:
//! that read completes every write under way and shows the current row. From the row the caller's
//! `reconcile` function tells whether the write was applied, another write came first, or nothing
//! happened yet.
//!
//! # Which writes may be repeated
//! An unanswered write may sit in a stalled server and be applied much later, after other changes. So
//! "not applied yet" does not mean "never", and a repeated write may be applied after changes that came
//! in between. That is harmless if its condition cannot become true again:
//!
//! - **The condition names a value that never recurs**: a revision (`UserRaise`, `UserReplace`,
//!   `UserRemove`, the batches of the catalogue and of grants, `DocumentReplace`), the stamp of a claim
//!   (`EmailTake`, `EmailRelease`), a live token (`SessionRotate`). At most one copy of the write is
//!   applied. These are repeated. (A rotation that keeps the live token has the same condition after as
//!   before: a late copy may undo another rotation of that kind, but never one with a new token.)
//! - **`IF EXISTS` and the like on a row that is never created again** (`SessionEnd`, `SessionEndOlder`:
//!   ids are not reused). A late copy finds nothing, or a row that had to end anyway. These are repeated.
//! - **`IF NOT EXISTS` on a row that is never deleted** (`DocumentAdd`), or on one that is harmless
//!   whenever it appears (`UserVoid`: no user; `EmailClaim`: the claim of a stalled change, which gives
//!   way to the next registration with that email). These are repeated.
//! - **`IF NOT EXISTS` on a row that may be deleted** (`SessionAdd`, `UserAdd`): a late copy would restore
//!   what was deleted. These are not repeated and yield [`Reconciled::Unknown`]. If the single write is
//!   still applied, no client has tokens of that session, and the registration counts as stalled.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use scylla::{
    errors::{DbError, ExecutionError, RequestAttemptError},
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::batch::{Batch, BatchType},
    value::{CqlValue, Row},
};
use store::{Result, StoreError};

use crate::{
    statement::{Cql, Kind, traced},
    status::Status,
    store::Store,
};

#[cfg(test)]
mod tests;

/// Limit of repetitions of a write that got no answer and was not applied.
const CAS_RETRIES_MAX: usize = 2;
/// How long the store keeps reading the current row after a write without an answer.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the current row tells about a write that may have been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reconciled {
    /// The row is as the write wanted it.
    Applied,
    /// The row is different: the write was not applied and cannot be any more.
    Superseded,
    /// The row is as before: the write was not applied yet and may be repeated.
    NotApplied,
    /// The write was not applied yet, or was applied and undone since; repeating it may do harm.
    Unknown,
}

/// The known result of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CasOutcome<T> {
    /// The row is as the write wanted it.
    Applied,
    /// The condition did not hold. Holds the current row, read after the rejection.
    Rejected(T),
}

/// Why a conditional write has no answer.
pub(crate) enum CasFailure {
    /// No server ran it: it was not sent, or the server rejected the statement.
    NotSent(StoreError),
    /// It may have been applied.
    Ambiguous(Box<ExecutionError>),
}

/// The values of one statement of a batch.
pub(crate) type Values = Vec<Option<CqlValue>>;

impl Store {
    /// Runs a conditional write once. Returns whether it was applied.
    async fn conditional(
        &self,
        cql: Cql,
        values: &(impl SerializeRow + Send + Sync),
    ) -> std::result::Result<bool, CasFailure> {
        let link = self.link().map_err(CasFailure::NotSent)?;
        let result = self.run(&link, Kind::Conditional, link.prepared.get(cql), values).await;
        applied(result)
    }

    /// Runs a conditional batch on one partition once. Returns whether it was applied.
    async fn conditional_batch(&self, batch: &[(Cql, Values)]) -> std::result::Result<bool, CasFailure> {
        let link = self.link().map_err(CasFailure::NotSent)?;
        let mut statements = Batch::new(BatchType::Unlogged);
        let mut values = Vec::with_capacity(batch.len());
        for (cql, bound) in batch {
            statements.append_statement(link.prepared.get(*cql).clone());
            values.push(bound);
        }
        let profile = link.prepared.get(batch[0].0).get_execution_profile_handle().cloned();
        statements.set_execution_profile_handle(profile);
        self.count(Kind::Conditional);
        let text = link.prepared.get(batch[0].0).get_statement();
        let result = traced(text, Box::pin(link.session.batch(&statements, values))).await;
        self.note(&result);
        applied(result)
    }

    /// Runs a conditional write until its outcome is known. `read_current` reads the row at `SERIAL`;
    /// `reconcile` tells from that row whether an unanswered write was applied.
    ///
    /// # Errors
    /// `Unavailable` if the outcome stays unknown or the write could not be sent.
    pub(crate) async fn cas<T, L>(
        &self,
        cql: Cql,
        values: impl SerializeRow + Send + Sync,
        read_current: impl Fn() -> L + Send + Sync,
        reconcile: impl Fn(&T) -> Reconciled + Send + Sync,
    ) -> Result<CasOutcome<T>>
    where
        T: Send,
        L: Future<Output = Result<T>> + Send,
    {
        self.apply_or_reconcile(|| self.conditional(cql, &values), read_current, reconcile).await
    }

    /// Runs a conditional batch on one partition until its outcome is known. See [`Store::cas`].
    pub(crate) async fn cas_batch<T, L>(
        &self,
        batch: &[(Cql, Values)],
        read_current: impl Fn() -> L + Send + Sync,
        reconcile: impl Fn(&T) -> Reconciled + Send + Sync,
    ) -> Result<CasOutcome<T>>
    where
        T: Send,
        L: Future<Output = Result<T>> + Send,
    {
        self.apply_or_reconcile(|| self.conditional_batch(batch), read_current, reconcile).await
    }

    /// Writes, and repeats the write where that is safe, until its outcome is known.
    async fn apply_or_reconcile<T, W, L>(
        &self,
        write: impl Fn() -> W + Send + Sync,
        read_current: impl Fn() -> L + Send + Sync,
        reconcile: impl Fn(&T) -> Reconciled + Send + Sync,
    ) -> Result<CasOutcome<T>>
    where
        T: Send,
        W: Future<Output = std::result::Result<bool, CasFailure>> + Send,
        L: Future<Output = Result<T>> + Send,
    {
        let mut ambiguous = None;
        // From here on a caller that drops the future leaves a write whose outcome is unknown.
        let mut pending = PendingCas::new(&self.0.status);
        for _ in 0..=CAS_RETRIES_MAX {
            let current = match Box::pin(write()).await {
                Ok(true) => {
                    pending.resolve();
                    return Ok(CasOutcome::Applied);
                }
                Ok(false) => {
                    if ambiguous.is_none() {
                        pending.resolve();
                    }
                    self.read_after_rejection(&read_current).await?
                }
                Err(CasFailure::NotSent(error)) => {
                    if ambiguous.is_none() {
                        pending.resolve();
                    }
                    return Err(error);
                }
                Err(CasFailure::Ambiguous(error)) => {
                    self.0.status.count.asked.fetch_add(1, Relaxed);
                    tracing::debug!(%error, "conditional write got no answer; reading the current row");
                    ambiguous = Some(error);
                    let read = self.read_until_answered(&read_current);
                    match tokio::time::timeout(RECONCILE_TIMEOUT, Box::pin(read)).await {
                        Ok(Some(current)) => current,
                        Ok(None) | Err(_) => break,
                    }
                }
            };
            // If the first attempt was rejected, the current row cannot be the result of our write.
            match if ambiguous.is_some() { reconcile(&current) } else { Reconciled::Superseded } {
                Reconciled::Applied => {
                    pending.resolve();
                    return Ok(CasOutcome::Applied);
                }
                Reconciled::Superseded => {
                    pending.resolve();
                    return Ok(CasOutcome::Rejected(current));
                }
                Reconciled::NotApplied => self.pause(20).await,
                Reconciled::Unknown => break,
            }
        }
        Err(match ambiguous {
            Some(error) => StoreError::unavailable(error),
            None => StoreError::unavailable_because("a conditional write was rejected repeatedly"),
        })
    }

    /// Reads the current row after a rejection. Under contention a single `SERIAL` read may time out
    /// as well, so the read is tried twice.
    async fn read_after_rejection<T, L>(&self, read_current: impl Fn() -> L + Send + Sync) -> Result<T>
    where
        L: Future<Output = Result<T>> + Send,
    {
        match Box::pin(read_current()).await {
            Err(StoreError::Unavailable(_)) => Box::pin(read_current()).await,
            current => current,
        }
    }

    /// Reads the current row again and again until the database answers; `None` if the row is
    /// inconsistent.
    async fn read_until_answered<T, L>(&self, read_current: impl Fn() -> L + Send + Sync) -> Option<T>
    where
        L: Future<Output = Result<T>> + Send,
    {
        loop {
            match read_current().await {
                Ok(current) => return Some(current),
                // Reading again would not repair the row.
                Err(StoreError::Inconsistent(_)) => return None,
                Err(StoreError::Unavailable(_)) => self.pause(100).await,
            }
        }
    }
}

/// A conditional write under way. If it is dropped unresolved, also because the caller dropped the
/// future, it counts as a write with unknown outcome.
struct PendingCas {
    status: Arc<Status>,
    resolved: bool,
}

impl PendingCas {
    fn new(status: &Arc<Status>) -> Self {
        Self { status: Arc::clone(status), resolved: false }
    }

    /// Marks the outcome as known.
    const fn resolve(&mut self) {
        self.resolved = true;
    }
}

impl Drop for PendingCas {
    fn drop(&mut self) {
        if !self.resolved {
            self.status.count.unknown.fetch_add(1, Relaxed);
        }
    }
}

/// Reads the column `[applied]` of the first row. It is found by name, because `ScyllaDB` returns more
/// columns and rows than Cassandra.
fn applied(
    result: std::result::Result<QueryResult, ExecutionError>,
) -> std::result::Result<bool, CasFailure> {
    let result = result.map_err(|error| {
        if never_ran(&error) {
            CasFailure::NotSent(StoreError::unavailable(error))
        } else {
            CasFailure::Ambiguous(Box::new(error))
        }
    })?;
    let malformed = || {
        let message = "a conditional write was answered without [applied]".to_owned();
        CasFailure::NotSent(StoreError::Inconsistent(message))
    };
    let rows = result.into_rows_result().map_err(|_| malformed())?;
    let (column, _) = rows.column_specs().get_by_name("[applied]").ok_or_else(malformed)?;
    let first = rows.first_row::<Row>().map_err(|_| malformed())?;
    match first.columns.get(column) {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        _ => Err(malformed()),
    }
}

/// Whether the error means that no server ran the statement.
fn never_ran(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::BadQuery(_)
            | ExecutionError::EmptyPlan
            | ExecutionError::ConnectionPoolError(_)
            | ExecutionError::PrepareError(_)
            | ExecutionError::LastAttemptError(
                RequestAttemptError::SerializationError(_)
                    | RequestAttemptError::CqlRequestSerialization(_)
                    | RequestAttemptError::UnableToAllocStreamId
                    | RequestAttemptError::DbError(
                        DbError::SyntaxError
                            | DbError::Invalid
                            | DbError::Unauthorized
                            | DbError::ConfigError
                            | DbError::IsBootstrapping,
                        _,
                    ),
            )
    )
}
