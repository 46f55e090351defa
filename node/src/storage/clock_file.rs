//! `clock.json` in the data directory: what the next start must know about this node's clocks.
//!
//! It holds the horizon up to which facts were deleted, the latest expiry of a token that may have been
//! issued, and how the wall clock ran. The node writes it before it issues a token that expires later than
//! the file says.

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use schema::{Clocks, Timestamp, horizon::Saved, time::millis};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    settings::file::read_regular,
    storage::data_dir::{DataDir, DataDirError, FILE_BYTES_MAX},
};

const FILE: &str = "clock.json";
/// How much later than the current tokens a token may expire and still be covered by the saved file.
const RESERVE: Duration = Duration::from_secs(120);
/// After a failed save, the next save is due for tokens that expire this much later.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The file in the data directory that carries clocks over a restart: the horizon of deletions, the latest
/// expiry of issued tokens, and how the wall clock ran.
#[derive(Debug)]
pub struct ClockFile {
    data_dir: DataDir,
    /// The latest expiry that the saved file covers, in seconds since the epoch.
    reserved_secs: AtomicU64,
    writing: Mutex<()>,
}

impl ClockFile {
    /// Opens the file and returns what the previous process saved. A file that does not parse is ignored; the
    /// node then deletes no denials for a while.
    ///
    /// # Errors
    /// If the file exists and cannot be read. Without it, revoked tokens whose denials were deleted might be
    /// accepted.
    pub fn open(data_dir: &DataDir) -> Result<(Self, Option<Saved>), DataDirError> {
        let path = data_dir.path().join(FILE);
        let saved: Option<Saved> = match read_regular(&path, FILE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(
                    |error| tracing::error!(?path, %error, "the clock file does not parse and is ignored"),
                )
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(DataDirError::new(&path, &error)),
        };
        let reserved_secs = AtomicU64::new(saved.as_ref().map_or(0, Saved::latest_expiry_secs));
        Ok((Self { data_dir: data_dir.clone(), reserved_secs, writing: Mutex::new(()) }, saved))
    }

    fn path(&self) -> PathBuf {
        self.data_dir.path().join(FILE)
    }

    /// Saves the state of the clocks, and covers tokens that expire up to some time after `expiry`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, clocks: &Clocks, expiry: Timestamp) -> Result<(), DataDirError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.save_by(&writing, clocks, expiry)
    }

    fn save_by(
        &self,
        _: &MutexGuard<'_, ()>,
        clocks: &Clocks,
        expiry: Timestamp,
    ) -> Result<(), DataDirError> {
        let saved = clocks.save(expiry.plus(RESERVE));
        let bytes = serde_json::to_vec(&saved).map_err(|error| DataDirError::new(&self.path(), &error))?;
        self.data_dir.write(&self.path(), &bytes)?;
        self.reserved_secs.fetch_max(saved.latest_expiry_secs(), Ordering::AcqRel);
        Ok(())
    }

    /// Whether the saved file covers a token with this expiry.
    #[must_use]
    pub fn covers(&self, expiry: Timestamp) -> bool {
        expiry.as_secs() <= self.reserved_secs.load(Ordering::Acquire)
    }

    /// Covers a token with this expiry, before it is issued. It is covered already, unless the clock has
    /// jumped ahead since the last save. A failing disk, or a save that hangs, does not block log-ins.
    pub fn cover(&self, clocks: &Clocks, expiry: Timestamp) {
        if self.covers(expiry) {
            return;
        }
        let saved = match self.writing.try_lock() {
            Ok(writing) => in_place(|| self.save_by(&writing, clocks, expiry)),
            Err(TryLockError::Poisoned(writing)) => {
                in_place(|| self.save_by(&writing.into_inner(), clocks, expiry))
            }
            Err(TryLockError::WouldBlock) => Err(DataDirError::new(&self.path(), &"it is being written")),
        };
        if let Err(error) = saved {
            tracing::warn!(%error, "clock file could not be written; the latest token expiry is not on disk");
            self.reserved_secs.fetch_max(expiry.plus(RETRY_AFTER).as_secs(), Ordering::AcqRel);
        }
    }

    /// Whether the next save is due for tokens with this expiry.
    #[must_use]
    pub fn is_due(&self, expiry: Timestamp) -> bool {
        !self.covers(Timestamp::from_millis(expiry.as_millis().saturating_add(millis(RESERVE) / 2)))
    }
}

/// Runs blocking work, moving this worker's other tasks to another thread if the runtime has several.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { tokio::task::block_in_place(work) } else { work() }
}
