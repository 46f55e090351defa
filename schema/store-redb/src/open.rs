//! Opening the file, and every way in which that can fail.

use std::{
    fs::{self, OpenOptions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Builder, Database, DatabaseError, StorageError, backends::FileBackend};
use schema::Stores;

use crate::{
    database::File,
    error::panic_text,
    migration::{self, MigrationError, STEPS},
    stats::Stats,
    store::Store,
};

/// Memory for pages of the file, in bytes: the rows of some hundred thousand users.
const CACHE_BYTES: usize = 128 * 1024 * 1024;
/// Only the node's own user may read hashes and sealed keys.
const MODE: u32 = 0o600;

/// Why a store was not opened, and what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's sentence says it")]
pub enum OpenError {
    #[error("{} is in use: stop the other node (only one process can use an embedded store), or give this one its own path", path.display())]
    InUse { path: PathBuf },
    #[error("{} is not a Palisade store ({why}): check the path; it was not changed", path.display())]
    Foreign { path: PathBuf, why: String },
    #[error("{} is damaged ({why}): restore it from a backup", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} has format {found} and this Palisade knows {known}: start the newer Palisade that wrote it, or restore a backup from before the upgrade", path.display())]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error("{} is of redb's old file format {found}: upgrade it with the Palisade version that wrote it, then start this one", path.display())]
    OldFileFormat { path: PathBuf, found: u8 },
    #[error("{} cannot be opened ({source}): check that its directory exists, that this user may write there, and that the disk is not full", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// The traits. When the last of them is dropped, all that was accepted is committed and the file
    /// is closed: the drop waits for that, some milliseconds at most.
    pub stores: Stores,
    /// Its counters.
    pub stats: Arc<Stats>,
}

/// Opens the store at `path`; makes it, readable by this user only, when there is none.
///
/// # Errors
/// [`OpenError`] says what is wrong and what to do about it.
pub async fn open(path: &Path) -> Result<Opened, OpenError> {
    let path = path.to_owned();
    let failed = {
        let path = path.clone();
        move |source| OpenError::Io { path, source }
    };
    let opening = tokio::task::spawn_blocking(move || {
        let database = open_file(&path, true)?;
        let file = File::new(database, move || open_file(&path, false));
        let stats = Arc::new(Stats::default());
        let store = Store::start(file, Arc::clone(&stats))?;
        Ok(Opened { stores: Arc::new(store).stores(), stats })
    });
    opening.await.map_err(|error| failed(io::Error::other(error)))?
}

/// Opens the file and brings it to this format. Makes it only when it `may`.
pub(crate) fn open_file(path: &Path, may_make: bool) -> Result<Database, OpenError> {
    // redb trusts a file that it closed itself, so one that was altered since can make it panic.
    let opened = catch_unwind(|| {
        let is_there = path.try_exists().map_err(|source| io_error(path, source))?;
        if is_there || !may_make { open_existing(path) } else { make(path) }
    });
    opened.unwrap_or_else(|panic| Err(damaged(path, panic_text(panic.as_ref()))))
}

fn open_existing(path: &Path) -> Result<Database, OpenError> {
    let io = |source| io_error(path, source);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(OpenError::Foreign { path: path.to_owned(), why: "it is no file".to_owned() });
    }
    if metadata.len() == 0 {
        return Err(damaged(path, "it is empty"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(MODE)).map_err(io)?;
    }
    let database = open_database(path, file)?;
    migrate(path, &database)?;
    Ok(database)
}

/// Makes a new file under another name and renames it when it is complete. So a node that is killed
/// while it makes one leaves nothing that the next would refuse, and an empty file is never taken
/// for a store that has no users yet.
fn make(path: &Path) -> Result<Database, OpenError> {
    let io = |source| io_error(path, source);
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let file = options.open(&draft).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    if path.try_exists().map_err(io)? {
        // Another process was faster, and what is open here may be its file.
        drop(file);
        return open_existing(path);
    }
    file.set_len(0).map_err(io)?;
    let database = open_database(path, file)?;
    migrate(path, &database)?;
    fs::rename(&draft, path).map_err(io)?;
    sync_directory(path).map_err(io)?;
    Ok(database)
}

fn open_database(path: &Path, file: fs::File) -> Result<Database, OpenError> {
    let wrong = |error| refused(path, error);
    let backend = FileBackend::new(file).map_err(wrong)?;
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(wrong)
}

/// So that the new file's name survives a loss of power, not only its contents.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn migrate(path: &Path, database: &Database) -> Result<(), OpenError> {
    let path = path.to_owned();
    migration::migrate(database, STEPS).map_err(|error| match error {
        MigrationError::Foreign => {
            OpenError::Foreign { path, why: "it has the tables of something else".into() }
        }
        MigrationError::Newer { found } => OpenError::Newer { path, found, known: STEPS.len() as u64 },
        MigrationError::Failed(redb::Error::Io(source)) => OpenError::Io { path, source },
        MigrationError::Failed(error) => damaged(&path, &error.to_string()),
    })
}

fn refused(path: &Path, error: DatabaseError) -> OpenError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::InUse { path },
        DatabaseError::UpgradeRequired(found) => OpenError::OldFileFormat { path, found },
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() == InvalidData => {
            OpenError::Foreign { path, why: source.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() != UnexpectedEof => {
            OpenError::Io { path, source }
        }
        other => damaged(&path, &other.to_string()),
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), source }
}

fn damaged(path: &Path, why: &str) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), why: why.to_owned() }
}
