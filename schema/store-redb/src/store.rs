//! The shared part of all stores: a queue to the writer, and threads for readers.

use std::{fmt, io, path::PathBuf, sync::Arc, thread, time::Duration};

use store::{Result, StoreError, Stores, Upkeep};
use tokio::{
    sync::{Semaphore, mpsc, mpsc::error::SendTimeoutError},
    task::spawn_blocking,
};

use crate::{
    database::File,
    error::{OpenError, panic_text},
    rows::{Change, Snapshot},
    stats::Stats,
    writer::{self, Job, QUEUE_MAX, Writer},
};

/// Limit of concurrent reads. A read of cached pages takes microseconds; this many reads can wait for the
/// disk without using up the runtime's blocking threads.
const CONCURRENT_READS_MAX: usize = 24;
/// Limit of the time that a change waits for a place in the queue. Commits take less than a millisecond,
/// so a queue that stays full for this long does not move.
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Limit of rows that one transaction removes, because other changes wait for it. A removal of more rows
/// takes several transactions.
pub(crate) const REMOVALS_PER_CHANGE_MAX: usize = 500;

/// The store. The module of each noun implements its trait.
pub(crate) struct Store {
    file: Arc<File>,
    readers: Arc<Semaphore>,
    /// `None` only during the drop.
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Starts the writer.
    pub(crate) fn start(file: File, stats: Arc<Stats>) -> std::result::Result<Self, OpenError> {
        let file = Arc::new(file);
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let writer = Writer::new(Arc::clone(&file), stats);
        let thread = thread::Builder::new().name("store".into()).spawn(move || writer.run(jobs));
        let writer = thread.map_err(no_thread)?;
        Ok(Self {
            file,
            readers: Arc::new(Semaphore::new(CONCURRENT_READS_MAX)),
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    /// This store behind the trait of each noun.
    pub(crate) fn stores(self: Arc<Self>) -> Stores {
        Stores {
            users: Arc::clone(&self) as _,
            sessions: Arc::clone(&self) as _,
            roles: Arc::clone(&self) as _,
            permissions: Arc::clone(&self) as _,
            grants: Arc::clone(&self) as _,
            superusers: Arc::clone(&self) as _,
            logins: Arc::clone(&self) as _,
            keys: Arc::clone(&self) as _,
            ledger: Arc::clone(&self) as _,
            upkeep: self as Arc<dyn Upkeep>,
        }
    }

    /// Runs a read on a snapshot, on a thread that may wait for the disk. Never waits for the writer.
    #[tracing::instrument(name = "read", skip_all, fields(otel.name = "redb read", db.system.name = "redb"))]
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(StoreError::unavailable)?;
        let file = Arc::clone(&self.file);
        let reading = spawn_blocking(move || {
            let _permit = permit;
            read(&file.snapshot()?)
        });
        reading.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => {
                Err(StoreError::Inconsistent(format!("a read panicked: {}", panic_text(panic.as_ref()))))
            }
            Err(error) => Err(StoreError::unavailable(error)),
        })
    }

    /// Applies a change, and returns when it is on the disk. If the caller drops the future, a queued
    /// change is still applied.
    #[tracing::instrument(name = "change", skip_all, fields(otel.name = "redb change", db.system.name = "redb"))]
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        apply: impl Fn(&Change<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (job, answer) = writer::job(apply);
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send_timeout(job, ENQUEUE_TIMEOUT).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StoreError::unavailable("the queue of changes is full"),
            SendTimeoutError::Closed(_) => stopped(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// Waits until all accepted changes are committed and the file is closed, so that its next opener finds
/// it free.
impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(Err(panic)) = self.writer.take().map(thread::JoinHandle::join) {
            tracing::error!(panic = panic_text(panic.as_ref()), "the writer had panicked");
        }
    }
}

fn stopped() -> StoreError {
    StoreError::unavailable("the writer has stopped")
}

fn no_thread(source: io::Error) -> OpenError {
    OpenError::Io { path: PathBuf::from("the writer's thread"), source }
}
