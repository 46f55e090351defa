//! The open file. After a failed write it is closed and opened again, because redb accepts no further
//! transaction then.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
};

use redb::{Database, ReadableDatabase, WriteTransaction};
use store::{Result, StoreError};

use crate::{
    error::{OpenError, storage},
    rows::Snapshot,
};

type Opener = Box<dyn Fn() -> std::result::Result<Database, OpenError> + Send + Sync>;

/// The file. It is closed between a failed write and the next attempt to open it, and at the end.
pub(crate) struct File {
    /// Locked only to begin a transaction, and to close or open the file.
    open: RwLock<Option<Database>>,
    reopen: Opener,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File")
    }
}

impl File {
    /// `reopen` opens the same file, and never creates a new one.
    pub(crate) fn new(
        database: Database,
        reopen: impl Fn() -> std::result::Result<Database, OpenError> + Send + Sync + 'static,
    ) -> Self {
        Self { open: RwLock::new(Some(database)), reopen: Box::new(reopen) }
    }

    /// A snapshot of the store, as of the last commit.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        self.with(|database| database.begin_read().map(Snapshot).map_err(storage))
    }

    /// Begins the write transaction. redb allows one at a time.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction> {
        self.with(|database| database.begin_write().map_err(storage))
    }

    fn with<T>(&self, begin: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => begin(database),
            None => Err(StoreError::unavailable("the file is closed")),
        }
    }

    /// Closes the file and releases its lock. Reads under way fail.
    pub(crate) fn close(&self) {
        let database = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = database.map(Database::close) {
            tracing::error!(%error, "the store was not closed cleanly; it will be repaired at the next start");
        }
    }

    /// Closes the file and opens it again.
    pub(crate) fn reopen(&self) -> std::result::Result<(), OpenError> {
        self.close();
        let database = (self.reopen)()?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(())
    }
}
