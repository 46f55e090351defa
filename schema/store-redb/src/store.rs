//! What all nouns share: a queue to the writer, and threads for readers.

use std::{fmt, io, path::PathBuf, sync::Arc, thread, time::Duration};

use schema::{
    StoreError, Stores,
    store::{Result, Upkeep},
};
use tokio::{
    sync::{Semaphore, mpsc, mpsc::error::SendTimeoutError},
    task::spawn_blocking,
};

use crate::{
    database::File,
    error::panic_text,
    open::OpenError,
    rows::{Change, Snapshot},
    stats::Stats,
    writer::{self, Job, QUEUE, Writer},
};

/// How many reads are under way at a time. A read of what is in memory takes microseconds; this many
/// can wait for the disk without taking the runtime's blocking threads from everybody else.
const READERS: usize = 24;
/// How long a change waits for a place in the queue. Commits take less than a millisecond, so a queue
/// that stays full for so long does not move.
const PATIENCE: Duration = Duration::from_secs(2);

/// Rows that one transaction removes of what may be many: others wait for it.
pub(crate) const STEP: usize = 500;

/// The store. Each trait is implemented in the module of its noun.
pub(crate) struct Store {
    file: Arc<File>,
    readers: Arc<Semaphore>,
    /// `None` only while it is dropped.
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
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&file), stats);
        let thread = thread::Builder::new().name("store".into()).spawn(move || writer.run(jobs));
        let writer = thread.map_err(no_thread)?;
        Ok(Self {
            file,
            readers: Arc::new(Semaphore::new(READERS)),
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    /// Each trait as a handle.
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

    /// Reads on a thread that may wait for the disk. Never waits for the writer.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Snapshot) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(StoreError::unavailable)?;
        let file = Arc::clone(&self.file);
        let reading = spawn_blocking(move || {
            let _permit = permit;
            look(&file.snapshot()?)
        });
        reading.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => {
                Err(StoreError::Inconsistent(format!("a read panicked: {}", panic_text(panic.as_ref()))))
            }
            Err(error) => Err(StoreError::unavailable(error)),
        })
    }

    /// Changes, and returns when the change is on the disk. A caller that goes away meanwhile leaves
    /// it behind: it happens.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        apply: impl Fn(&Change<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (job, answer) = writer::job(apply);
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send_timeout(job, PATIENCE).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StoreError::unavailable("too many changes wait for the disk"),
            SendTimeoutError::Closed(_) => stopped(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// Waits until all that was accepted is committed and the file is closed, so that whoever opens it
/// next finds it free.
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
