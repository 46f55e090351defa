//! The open file. It is closed and opened again after a failed write: redb refuses to go on then.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
};

use redb::{Database, ReadableDatabase, WriteTransaction};
use schema::store::{Result, StoreError};

use crate::{error::storage, open::OpenError, rows::Snapshot};

type Opener = Box<dyn Fn() -> std::result::Result<Database, OpenError> + Send + Sync>;

/// The file, open or (between a failed write and the next attempt, and at the end) closed.
pub(crate) struct File {
    /// Locked only while a transaction begins, and while the file is closed or opened.
    open: RwLock<Option<Database>>,
    again: Opener,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File")
    }
}

impl File {
    /// `again` opens the same file, and never makes a new one.
    pub(crate) fn new(
        database: Database,
        again: impl Fn() -> std::result::Result<Database, OpenError> + Send + Sync + 'static,
    ) -> Self {
        Self { open: RwLock::new(Some(database)), again: Box::new(again) }
    }

    /// The store as it is now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        self.with(|database| database.begin_read().map(Snapshot).map_err(storage))
    }

    /// The one write transaction.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction> {
        self.with(|database| database.begin_write().map_err(storage))
    }

    fn with<T>(&self, begin: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => begin(database),
            None => Err(StoreError::unavailable("the file is closed")),
        }
    }

    /// Closes the file and frees its lock. What is still being read fails.
    pub(crate) fn close(&self) {
        let database = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = database.map(Database::close) {
            tracing::error!(%error, "the store was not closed cleanly; it is repaired at the next start");
        }
    }

    /// Closes the file and opens it again.
    pub(crate) fn reopen(&self) -> std::result::Result<(), OpenError> {
        self.close();
        let database = (self.again)()?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(())
    }
}
