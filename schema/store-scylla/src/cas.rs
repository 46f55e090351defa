//! Conditional writes, and what became of one that was not answered.
//!
//! A conditional write that is not answered (a time-out, a lost connection, an overloaded server)
//! may have happened, may happen yet, or not. We ask: a `SERIAL` read ends what is under way and
//! shows what is there. Then it was done, or something else was, or nothing yet.
//!
//! # What may be repeated
//! A write that was not answered may sit in a server that stopped, and be applied much later, after
//! other changes. So "nothing yet" is not "never", and a write that is repeated may happen after what
//! came between. That is harmless when its condition cannot come true again:
//!
//! - **On a value that never comes back**: a revision (`UserRaise`, `UserReplace`, `UserRemove`, the
//!   batches of the catalogue and of grants, `DocumentReplace`), the stamp of a claim (`EmailTake`,
//!   `EmailRelease`), a live token (`SessionRotate`). Of all copies of the write one is applied, or
//!   none. These are repeated. (A rotation that keeps the live token has the same condition after as
//!   before: a copy that is late may undo another rotation of that kind, never one with a new token.)
//! - **`IF EXISTS` and the like of what is never made again** (`SessionEnd`, `SessionEndOlder`: ids are
//!   not used twice). Late, it finds nothing, or what was to end anyway. These are repeated.
//! - **`IF NOT EXISTS` of what never goes** (`DocumentAdd`), or of what is harmless wherever it turns up
//!   (`UserVoid`: nobody; `EmailClaim`: a claim of somebody who stopped, which gives way to the next who
//!   wants the email). These are repeated.
//! - **`IF NOT EXISTS` of what may go** (`SessionAdd`, `UserAdd`): a copy that is late would bring back
//!   what was ended. These are not repeated: [`Verdict::Unsure`]. Should the one write still happen,
//!   nobody has tokens of that session, and the registration is one that stopped.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use schema::{StoreError, store::Result};
use scylla::{
    errors::{DbError, ExecutionError, RequestAttemptError},
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::batch::{Batch, BatchType},
    value::{CqlValue, Row},
};

use crate::{
    statement::{Cql, Kind},
    status::Status,
    store::Store,
};

#[cfg(test)]
mod tests;

/// How often an unanswered write is repeated when it had not happened.
const REPEATS: usize = 2;
/// How long we ask.
const ASKING: Duration = Duration::from_secs(3);

/// What is there, seen from a write that may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Just what we wanted.
    Done,
    /// Something else: our write did not happen and cannot any more.
    Otherwise,
    /// What was there before: it did not happen yet, and may be tried again.
    Before,
    /// It did not happen yet, or did and was undone since; to try again may do harm.
    Unsure,
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled<T> {
    /// It is so now.
    Done,
    /// It is not; this is there instead, read after the write was refused.
    Not(T),
}

/// Why a conditional write has no answer.
pub(crate) enum Unanswered {
    /// It was not even sent, or the server does not understand it.
    Never(StoreError),
    /// It may have happened.
    Perhaps(Box<ExecutionError>),
}

/// Values of a statement in a batch.
pub(crate) type Values = Vec<Option<CqlValue>>;

impl Store {
    /// Runs a conditional write: whether it was applied.
    async fn conditional(
        &self,
        cql: Cql,
        values: &(impl SerializeRow + Send + Sync),
    ) -> std::result::Result<bool, Unanswered> {
        let link = self.link().map_err(Unanswered::Never)?;
        let result = self.run(&link, Kind::Conditional, link.prepared.get(cql), values).await;
        applied(result)
    }

    /// Runs a conditional batch of one partition: whether it was applied.
    async fn conditional_batch(&self, batch: &[(Cql, Values)]) -> std::result::Result<bool, Unanswered> {
        let link = self.link().map_err(Unanswered::Never)?;
        let mut statements = Batch::new(BatchType::Unlogged);
        let mut values = Vec::with_capacity(batch.len());
        for (cql, bound) in batch {
            statements.append_statement(link.prepared.get(*cql).clone());
            values.push(bound);
        }
        let profile = link.prepared.get(batch[0].0).get_execution_profile_handle().cloned();
        statements.set_execution_profile_handle(profile);
        self.count(Kind::Conditional);
        let result = Box::pin(link.session.batch(&statements, values)).await;
        self.note(&result);
        applied(result)
    }

    /// A conditional write. `look` reads what is there, at `SERIAL`; `judge` says what that means.
    pub(crate) async fn cas<T, L>(
        &self,
        cql: Cql,
        values: impl SerializeRow + Send + Sync,
        look: impl Fn() -> L + Send + Sync,
        judge: impl Fn(&T) -> Verdict + Send + Sync,
    ) -> Result<Settled<T>>
    where
        T: Send,
        L: Future<Output = Result<T>> + Send,
    {
        self.settle(|| self.conditional(cql, &values), look, judge).await
    }

    /// The same for a batch of one partition.
    pub(crate) async fn cas_batch<T, L>(
        &self,
        batch: &[(Cql, Values)],
        look: impl Fn() -> L + Send + Sync,
        judge: impl Fn(&T) -> Verdict + Send + Sync,
    ) -> Result<Settled<T>>
    where
        T: Send,
        L: Future<Output = Result<T>> + Send,
    {
        self.settle(|| self.conditional_batch(batch), look, judge).await
    }

    /// Writes until it is known what became of it.
    async fn settle<T, W, L>(
        &self,
        write: impl Fn() -> W + Send + Sync,
        look: impl Fn() -> L + Send + Sync,
        judge: impl Fn(&T) -> Verdict + Send + Sync,
    ) -> Result<Settled<T>>
    where
        T: Send,
        W: Future<Output = std::result::Result<bool, Unanswered>> + Send,
        L: Future<Output = Result<T>> + Send,
    {
        let mut unanswered = None;
        // From here on a call that is given up leaves something of which we do not know what became.
        let mut open = Open::of(&self.0.status);
        for _ in 0..=REPEATS {
            let there = match Box::pin(write()).await {
                Ok(true) => {
                    open.close();
                    return Ok(Settled::Done);
                }
                Ok(false) => {
                    if unanswered.is_none() {
                        open.close();
                    }
                    // Where many want one row, a look may be too late as well.
                    match Box::pin(look()).await {
                        Err(StoreError::Unavailable(_)) => Box::pin(look()).await?,
                        there => there?,
                    }
                }
                Err(Unanswered::Never(error)) => {
                    if unanswered.is_none() {
                        open.close();
                    }
                    return Err(error);
                }
                Err(Unanswered::Perhaps(error)) => {
                    self.0.status.count.asked.fetch_add(1, Relaxed);
                    tracing::debug!(%error, "a conditional write was not answered: asking what became of it");
                    unanswered = Some(error);
                    match tokio::time::timeout(ASKING, Box::pin(self.ask(&look))).await {
                        Ok(Some(there)) => there,
                        Ok(None) | Err(_) => break,
                    }
                }
            };
            // What was refused at the first try was never ours.
            match if unanswered.is_some() { judge(&there) } else { Verdict::Otherwise } {
                Verdict::Done => {
                    open.close();
                    return Ok(Settled::Done);
                }
                Verdict::Otherwise => {
                    open.close();
                    return Ok(Settled::Not(there));
                }
                Verdict::Before => self.pause(20).await,
                Verdict::Unsure => break,
            }
        }
        Err(match unanswered {
            Some(error) => StoreError::unavailable(error),
            None => StoreError::unavailable_because("a conditional write was refused again and again"),
        })
    }

    /// Asks what is there, until there is an answer.
    async fn ask<T, L>(&self, look: impl Fn() -> L + Send + Sync) -> Option<T>
    where
        L: Future<Output = Result<T>> + Send,
    {
        loop {
            match look().await {
                Ok(there) => return Some(there),
                // Asking again will not mend it.
                Err(StoreError::Inconsistent(_)) => return None,
                Err(StoreError::Unavailable(_)) => self.pause(100).await,
            }
        }
    }
}

/// A conditional write under way. Dropped before it is closed, it counts as one whose outcome is not
/// known: also when the call is given up.
struct Open {
    status: Arc<Status>,
    closed: bool,
}

impl Open {
    fn of(status: &Arc<Status>) -> Self {
        Self { status: Arc::clone(status), closed: false }
    }

    /// We know what became of it.
    const fn close(&mut self) {
        self.closed = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.closed {
            self.status.count.unknown.fetch_add(1, Relaxed);
        }
    }
}

/// The column `[applied]` of the first row. `ScyllaDB` answers more columns and rows than
/// Cassandra does.
fn applied(
    result: std::result::Result<QueryResult, ExecutionError>,
) -> std::result::Result<bool, Unanswered> {
    let result = result.map_err(|error| {
        if never_happened(&error) {
            Unanswered::Never(StoreError::unavailable(error))
        } else {
            Unanswered::Perhaps(Box::new(error))
        }
    })?;
    let strange = || {
        let what = "a conditional write was answered without [applied]".to_owned();
        Unanswered::Never(StoreError::Inconsistent(what))
    };
    let rows = result.into_rows_result().map_err(|_| strange())?;
    let (column, _) = rows.column_specs().get_by_name("[applied]").ok_or_else(strange)?;
    let first = rows.first_row::<Row>().map_err(|_| strange())?;
    match first.columns.get(column) {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        _ => Err(strange()),
    }
}

/// Errors of statements that no server ran.
fn never_happened(error: &ExecutionError) -> bool {
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
