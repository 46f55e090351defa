//! The writer: a thread that applies all waiting changes in one transaction, commits it durably, and then
//! answers all of them. While it waits for the disk, the next changes queue up.
//!
//! - A change that finds nothing to do writes nothing; if no change writes, nothing is committed.
//! - A change that fails by itself (a row that does not parse, a panic) is answered and removed from the
//!   batch. If it wrote before, the transaction is aborted and the others are applied again without it.
//! - If the disk fails, all changes are answered `Unavailable`, and the file is opened again.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::Durability;
use store::{Result, StoreError};
use tokio::sync::{mpsc, oneshot};

use crate::{
    database::File,
    error::{panic_text, storage},
    rows::Change,
    stats::Stats,
};

/// Limit of changes in the queue, and in one commit. At a tenth of a millisecond each, even a full queue is
/// answered in a tenth of a second. With a full queue, callers get `Unavailable`.
pub(crate) const QUEUE_MAX: usize = 1_024;
/// Least time between two attempts to open a file that failed, because redb walks it each time.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// A change in the queue, with its caller.
pub(crate) trait Job: Send {
    /// Applies the change. May be called again, in another transaction, if the first was aborted.
    fn apply(&mut self, change: &Change<'_>) -> Result<()>;
    /// Sends the result to the caller.
    fn answer(self: Box<Self>, result: Result<()>);
}

struct QueuedChange<T, F> {
    apply: F,
    outcome: Option<T>,
    caller: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Change<'_>) -> Result<T> + Send> Job for QueuedChange<T, F> {
    fn apply(&mut self, change: &Change<'_>) -> Result<()> {
        self.outcome = Some((self.apply)(change)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<()>) {
        let not_applied = || StoreError::unavailable("the change was not applied");
        let Self { outcome, caller, .. } = *self;
        // The caller may have dropped the future; the change stands.
        let _ = caller.send(result.and_then(|()| outcome.ok_or_else(not_applied)));
    }
}

/// A job, and the receiver of its answer.
pub(crate) fn job<T: Send + 'static>(
    apply: impl Fn(&Change<'_>) -> Result<T> + Send + 'static,
) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>) {
    let (caller, answer) = oneshot::channel();
    (Box::new(QueuedChange { apply, outcome: None, caller }), answer)
}

/// The state of the writer thread.
pub(crate) struct Writer {
    pub(crate) file: Arc<File>,
    pub(crate) stats: Arc<Stats>,
    /// When the file failed, or could last not be opened again; `None` while it is open.
    failed: Option<Instant>,
}

type Batch = Vec<Box<dyn Job>>;

/// Why a transaction was not committed.
enum Aborted {
    /// The job at this index failed after it had written.
    ByJob(usize, StoreError),
    /// The disk failed.
    ByDisk(StoreError),
}

impl Writer {
    pub(crate) const fn new(file: Arc<File>, stats: Arc<Stats>) -> Self {
        Self { file, stats, failed: None }
    }

    /// Runs until all senders are dropped and every job is answered. Then closes the file.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        let mut batch = Batch::with_capacity(QUEUE_MAX);
        while queue.blocking_recv_many(&mut batch, QUEUE_MAX) > 0 {
            self.process(mem::take(&mut batch));
        }
        self.file.close();
    }

    /// Applies, commits and answers these jobs.
    fn process(&mut self, mut batch: Batch) {
        if let Err(error) = self.recover() {
            return answer_all(batch, &error);
        }
        loop {
            match self.commit(&mut batch) {
                Ok(()) => return batch.into_iter().for_each(|job| job.answer(Ok(()))),
                Err(Aborted::ByJob(index, error)) => batch.remove(index).answer(Err(error)),
                Err(Aborted::ByDisk(error)) => {
                    tracing::error!(%error, "store write failed; reopening the file");
                    answer_all(batch, &error);
                    self.failed = Some(now());
                    let _ = self.reopen();
                    return;
                }
            }
        }
    }

    fn commit(&self, batch: &mut Batch) -> std::result::Result<(), Aborted> {
        let by_disk = |error: redb::Error| Aborted::ByDisk(StoreError::unavailable(error));
        let mut transaction = self.file.begin_write().map_err(Aborted::ByDisk)?;
        transaction.set_durability(Durability::Immediate).map_err(|error| by_disk(error.into()))?;
        let mut changes = 0;
        let mut index = 0;
        while index < batch.len() {
            let change = Change::new(&transaction);
            match apply(batch[index].as_mut(), &change) {
                Ok(()) => {
                    changes += u64::from(change.wrote());
                    index += 1;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(Aborted::ByDisk(error)),
                Err(error) if change.wrote() => return Err(Aborted::ByJob(index, error)),
                Err(error) => batch.remove(index).answer(Err(error)),
            }
        }
        if changes == 0 {
            return transaction.abort().map_err(|error| by_disk(error.into()));
        }
        transaction.commit().map_err(|error| Aborted::ByDisk(unknown(error)))?;
        self.stats.committed(changes);
        Ok(())
    }

    /// Opens the file again if it failed, but at most once per [`REOPEN_INTERVAL`].
    fn recover(&mut self) -> Result<()> {
        match self.failed {
            None => Ok(()),
            Some(at) if at.elapsed() < REOPEN_INTERVAL => {
                Err(StoreError::unavailable("an earlier write failed"))
            }
            Some(_) => self.reopen(),
        }
    }

    fn reopen(&mut self) -> Result<()> {
        match self.file.reopen() {
            Ok(()) => {
                tracing::info!("store file reopened");
                self.failed = None;
                Ok(())
            }
            Err(error) => {
                self.failed = Some(now());
                tracing::error!(%error, "store file could not be reopened");
                Err(StoreError::unavailable(error))
            }
        }
    }
}

/// Applies a job. A panic counts as a failure of the job, and does not end the writer.
fn apply(job: &mut dyn Job, change: &Change<'_>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| job.apply(change))).unwrap_or_else(|panic| {
        let text = panic_text(panic.as_ref());
        tracing::error!(panic = text, "a change panicked");
        Err(StoreError::Inconsistent(format!("a change panicked: {text}")))
    })
}

/// The error of a failed commit. It is always `Unavailable`, because the commit may have happened.
fn unknown(error: redb::CommitError) -> StoreError {
    match storage(error) {
        StoreError::Inconsistent(why) => StoreError::unavailable_because(why),
        unavailable => unavailable,
    }
}

fn answer_all(batch: Batch, error: &StoreError) {
    for job in batch {
        job.answer(Err(StoreError::unavailable_because(error)));
    }
}

/// Now, for the pause between attempts to open the file again. No stored time depends on it.
#[allow(clippy::disallowed_methods, reason = "a pause of this thread; the store has no clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
