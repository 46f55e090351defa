//! The one writer: a thread that applies all changes that wait in one transaction, commits it
//! durably, and then answers all of them. While it waits for the disk, the next ones gather.
//!
//! - A change that finds nothing to do writes nothing; when none writes, nothing is committed.
//! - A change that fails alone (a row that does not parse, a panic) is taken out and answered, and
//!   what it wrote with it: the others are applied again without it.
//! - When the disk fails, all are answered `Unavailable`, and the file is opened again.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::Durability;
use schema::store::{Result, StoreError};
use tokio::sync::{mpsc, oneshot};

use crate::{
    database::File,
    error::{panic_text, storage},
    rows::Change,
    stats::Stats,
};

/// How many changes may wait, and be in one commit: at a tenth of a millisecond each even a full
/// queue is answered in a tenth of a second. Beyond, callers are told to come back.
pub(crate) const QUEUE: usize = 1_024;
/// How often a file that failed is opened again: redb walks it each time.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// A change that waits for its commit.
pub(crate) trait Job: Send {
    /// Applies it. May be called again, in another transaction, when the first came to nothing.
    fn apply(&mut self, change: &Change<'_>) -> Result<()>;
    /// Tells the caller.
    fn answer(self: Box<Self>, result: Result<()>);
}

struct Waiting<T, F> {
    apply: F,
    outcome: Option<T>,
    caller: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Change<'_>) -> Result<T> + Send> Job for Waiting<T, F> {
    fn apply(&mut self, change: &Change<'_>) -> Result<()> {
        self.outcome = Some((self.apply)(change)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<()>) {
        let lost = || StoreError::unavailable("the change was not applied");
        let Self { outcome, caller, .. } = *self;
        // The caller may have gone away; the change stands.
        let _ = caller.send(result.and_then(|()| outcome.ok_or_else(lost)));
    }
}

/// A change and where its answer will come.
pub(crate) fn job<T: Send + 'static>(
    apply: impl Fn(&Change<'_>) -> Result<T> + Send + 'static,
) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>) {
    let (caller, answer) = oneshot::channel();
    (Box::new(Waiting { apply, outcome: None, caller }), answer)
}

/// The thread's state.
pub(crate) struct Writer {
    pub(crate) file: Arc<File>,
    pub(crate) stats: Arc<Stats>,
    /// When it failed and was last opened again without success.
    failed: Option<Instant>,
}

type Batch = Vec<Box<dyn Job>>;

/// How a transaction ended that was not committed.
enum Broken {
    /// By one job alone.
    By(usize, StoreError),
    /// By the disk.
    Disk(StoreError),
}

impl Writer {
    pub(crate) const fn new(file: Arc<File>, stats: Arc<Stats>) -> Self {
        Self { file, stats, failed: None }
    }

    /// Until nobody can ask any more and all that was asked is answered. Closes the file.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        let mut batch = Batch::with_capacity(QUEUE);
        while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
            self.work(mem::take(&mut batch));
        }
        self.file.close();
    }

    /// Applies, commits and answers these jobs.
    fn work(&mut self, mut batch: Batch) {
        if let Err(error) = self.recover() {
            return answer_all(batch, &error);
        }
        loop {
            match self.commit(&mut batch) {
                Ok(()) => return batch.into_iter().for_each(|job| job.answer(Ok(()))),
                Err(Broken::By(index, error)) => batch.remove(index).answer(Err(error)),
                Err(Broken::Disk(error)) => {
                    tracing::error!(%error, "a write failed; the store will be opened again");
                    answer_all(batch, &error);
                    self.failed = Some(Instant::now());
                    let _ = self.reopen();
                    return;
                }
            }
        }
    }

    fn commit(&self, batch: &mut Batch) -> std::result::Result<(), Broken> {
        let disk = |error: redb::Error| Broken::Disk(StoreError::unavailable(error));
        let mut transaction = self.file.begin_write().map_err(Broken::Disk)?;
        transaction.set_durability(Durability::Immediate).map_err(|error| disk(error.into()))?;
        let mut changes = 0;
        let mut index = 0;
        while index < batch.len() {
            let change = Change::new(&transaction);
            match apply(batch[index].as_mut(), &change) {
                Ok(()) => {
                    changes += u64::from(change.wrote());
                    index += 1;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(Broken::Disk(error)),
                Err(error) if change.wrote() => return Err(Broken::By(index, error)),
                Err(error) => batch.remove(index).answer(Err(error)),
            }
        }
        if changes == 0 {
            return transaction.abort().map_err(|error| disk(error.into()));
        }
        transaction.commit().map_err(|error| Broken::Disk(unknown(error)))?;
        self.stats.committed(changes);
        Ok(())
    }

    /// Opens the file again when it failed, but not at once after the last attempt.
    fn recover(&mut self) -> Result<()> {
        match self.failed {
            None => Ok(()),
            Some(at) if at.elapsed() < REOPEN_EVERY => {
                Err(StoreError::unavailable("an earlier write failed"))
            }
            Some(_) => self.reopen(),
        }
    }

    fn reopen(&mut self) -> Result<()> {
        match self.file.reopen() {
            Ok(()) => {
                tracing::info!("the store is open again");
                self.failed = None;
                Ok(())
            }
            Err(error) => {
                self.failed = Some(Instant::now());
                tracing::error!(%error, "the store could not be opened again");
                Err(StoreError::unavailable(error))
            }
        }
    }
}

/// A panic is the job's own failure, and must not end the writer.
fn apply(job: &mut dyn Job, change: &Change<'_>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| job.apply(change))).unwrap_or_else(|panic| {
        let text = panic_text(panic.as_ref());
        tracing::error!(panic = text, "a change panicked");
        Err(StoreError::Inconsistent(format!("a change panicked: {text}")))
    })
}

/// A commit that failed may have happened.
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

#[cfg(test)]
mod tests;
