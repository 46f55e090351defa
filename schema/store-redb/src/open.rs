//! Opens the file, or creates it. Never changes a file that is not a store.

use std::{
    fs::{self, OpenOptions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::{UnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use redb::{Builder, Database, DatabaseError, StorageError, backends::FileBackend};
use store::Stores;

use crate::{
    database::File,
    error::{OpenError, panic_text},
    migration::{self, MigrationError, STEPS},
    stats::Stats,
    store::Store,
};

/// Limit of the memory for cached pages of the file, in bytes: the rows of some hundred thousand users.
pub(crate) const CACHE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The permissions of the file: only the node's own user may read password hashes and sealed keys.
const FILE_MODE: u32 = 0o600;

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// The stores by noun. When the last of them is dropped, all accepted changes are committed and the
    /// file is closed. The drop waits for that, some milliseconds at most.
    pub stores: Stores,
    /// The counters of the store.
    pub stats: Arc<Stats>,
}

/// Opens the store at `path`, or creates it, readable by this user only, if there is none.
///
/// # Errors
/// See [`OpenError`]; the message says what the operator can do.
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

/// Opens the file and brings it to the current format. Creates it only if `may_create`.
fn open_file(path: &Path, may_create: bool) -> Result<Database, OpenError> {
    caught(path, || {
        let exists = path.try_exists().map_err(|source| OpenError::io(path, source))?;
        if exists || !may_create { open_existing(path) } else { create(path) }
    })
}

/// Runs `open`, and returns a panic as [`OpenError::Damaged`]: redb trusts a file that it closed itself, so a
/// file that was altered since can make it panic.
pub(crate) fn caught<T>(
    path: &Path,
    open: impl FnOnce() -> Result<T, OpenError> + UnwindSafe,
) -> Result<T, OpenError> {
    catch_unwind(open).unwrap_or_else(|panic| Err(OpenError::damaged(path, panic_text(panic.as_ref()))))
}

fn open_existing(path: &Path) -> Result<Database, OpenError> {
    let io = |source| OpenError::io(path, source);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    check_metadata(path, &metadata)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE)).map_err(io)?;
    }
    let database = open_database(path, file)?;
    migrate(path, &database)?;
    Ok(database)
}

/// Rejects what is no file, and an empty file.
pub(crate) fn check_metadata(path: &Path, metadata: &fs::Metadata) -> Result<(), OpenError> {
    if !metadata.is_file() {
        return Err(OpenError::Foreign { path: path.to_owned(), why: "it is not a file".to_owned() });
    }
    if metadata.len() == 0 {
        return Err(OpenError::damaged(path, "it is empty"));
    }
    Ok(())
}

/// Creates a file under another name and renames it when it is complete. So a node that is killed in
/// between leaves nothing that the next start would reject, and an empty file is never taken for a store
/// without users.
fn create(path: &Path) -> Result<Database, OpenError> {
    let io = |source| OpenError::io(path, source);
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = options.open(&draft).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    if path.try_exists().map_err(io)? {
        // Another process was faster, and the open file may be its store.
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
    let failed = |error| open_error(path, error);
    let backend = FileBackend::new(file).map_err(failed)?;
    Builder::new().set_cache_size(CACHE_BYTES_MAX).create_with_backend(backend).map_err(failed)
}

/// Syncs the directory, so that the new file's name survives a loss of power, not only its contents.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

pub(crate) fn migrate(path: &Path, database: &Database) -> Result<(), OpenError> {
    let path = path.to_owned();
    migration::migrate(database, STEPS).map_err(|error| match error {
        MigrationError::Foreign => {
            OpenError::Foreign { path, why: "it has the tables of another program".into() }
        }
        MigrationError::Newer { found } => OpenError::Newer { path, found, known: STEPS.len() as u64 },
        MigrationError::Failed(redb::Error::Io(source)) => OpenError::Io { path, source },
        MigrationError::Failed(error) => OpenError::damaged(&path, &error.to_string()),
    })
}

pub(crate) fn open_error(path: &Path, error: DatabaseError) -> OpenError {
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
        other => OpenError::damaged(&path, &other.to_string()),
    }
}
