//! The data directory: this node's identity, and its master key if the settings give none.
//!
//! ```text
//! palisade-data/          0700
//!   palisade.redb         the embedded store
//!   journal.0, .1         facts that the ledger does not have yet
//!   node.json             name, id and incarnation of this node
//!   clock.json            how the clocks ran, and the horizon of deletions
//!   node.lock             locked by the process that uses the directory
//!   master.key            0600, when MASTER_KEY is not set
//!   control.sock          0600, while a node runs
//! ```
//!
//! A volume often holds other files: a file system has its `lost+found`, an orchestrator mounts a directory
//! that root owns and a group can read. If the configured directory holds other files, or cannot be closed to
//! other users, the node uses a folder `palisade` in it, 0700. Commands find it in the same way ([`locate`]).
//! A node that has used the directory itself before continues to do so.

mod check;

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schema::{Clock, Entropy, NodeId, ledger::Origin};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use check::check;

use crate::settings::{file::read_regular, value::decode_key};

pub(crate) const STORE: &str = "palisade.redb";
pub(crate) const IDENTITY: &str = "node.json";
pub(crate) const LOCK: &str = "node.lock";
pub(crate) const MASTER_KEY: &str = "master.key";
/// All files that a node creates in its directory, finished or not.
const FILES: [&str; 11] = [
    STORE,
    "palisade.redb.new",
    "journal.0",
    "journal.1",
    IDENTITY,
    "node.new",
    "clock.json",
    "clock.new",
    LOCK,
    MASTER_KEY,
    "master.new",
];
/// The control socket, which exists while a node runs.
pub(crate) const SOCKET: &str = "control.sock";
/// Bytes of a small file of the node at most.
pub(super) const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The folder that the node uses in a directory that holds other files.
const FOLDER: &str = "palisade";

/// A data directory, used by this process alone.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    /// The reason for using a folder in the configured directory, if the node does.
    folder_because: Option<String>,
    /// Holds the lock while it is open.
    _lock: Arc<fs::File>,
}

/// The identity of this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The node's name in logs and metrics.
    pub name: String,
    /// The node's id, the same after a restart.
    pub id: NodeId,
    /// The incarnation, which rises with every start.
    pub incarnation: u64,
}

impl Identity {
    /// The origin of this node's log.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        Origin { node: self.id, incarnation: self.incarnation }
    }
}

/// The data directory cannot be used: the path and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{path:?}: {why}")]
pub struct DataDirError {
    path: PathBuf,
    why: String,
}

impl DataDirError {
    pub(crate) fn new(path: &Path, why: &impl ToString) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

impl DataDir {
    /// Opens the directory, or the node's own folder in it; creates it if it is absent.
    ///
    /// # Errors
    /// If it cannot be created, if neither it nor a folder in it can be closed to other users, if something else
    /// than a file has the name of one of the node's files, or if another process uses it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let (path, folder_because) = prepare(path)?;
        let path = path.as_path();
        check_files(path)?;
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK));
        let lock = lock.map_err(|error| wrong(path, &format!("it cannot be written: {error}")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), folder_because, _lock: Arc::new(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(wrong(
                path,
                "another process uses it, a node or a command: end that one, or give this one a directory of its own",
            )),
            Err(fs::TryLockError::Error(error)) => Err(wrong(path, &format!("it cannot be locked: {error}"))),
        }
    }

    /// Gives files that root created here to the owner of the directory, which could not read them otherwise:
    /// in a container, commands often run as root and the node as another user.
    pub fn give_to_owner(&self) {
        let Some((user, group)) = self.other_owner() else { return };
        for path in FILES.into_iter().chain([SOCKET]).map(|name| self.path.join(name)) {
            if path.symlink_metadata().is_ok_and(|file| file.uid() == 0)
                && let Err(error) = lchown(&path, Some(user), Some(group))
            {
                tracing::warn!(path = %path.display(), %error, "file cannot be given to the owner of the data directory");
            }
        }
    }

    /// The user and group of the directory, if this process runs as root and the directory has another owner.
    fn other_owner(&self) -> Option<(u32, u32)> {
        let directory = fs::metadata(&self.path).ok()?;
        let is_of_another = directory.uid() != 0 && rustix::process::geteuid().is_root();
        is_of_another.then(|| (directory.uid(), directory.gid()))
    }

    /// The path of the embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// The path of the directory in use: the configured one, or the folder in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The reason for using a folder in the configured directory; `None` if the node uses the directory
    /// itself.
    #[must_use]
    pub fn folder_because(&self) -> Option<&str> {
        self.folder_because.as_deref()
    }

    /// The identity of this node in its next incarnation. Call it once per start, after the store is open:
    /// then no other process uses the directory.
    ///
    /// # Errors
    /// If the file is torn or cannot be written.
    pub fn identity(
        &self,
        name: Option<&str>,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Identity, DataDirError> {
        let path = self.path.join(IDENTITY);
        let known = stored_identity(&self.path)?;
        let now = clock.now();
        let mut identity = known.unwrap_or_else(|| {
            let id = NodeId::new(now, entropy.id());
            Identity { name: format!("node-{}", &id.uuid().simple().to_string()[24..]), id, incarnation: 0 }
        });
        if let Some(name) = name {
            name.clone_into(&mut identity.name);
        }
        // The time makes the incarnation rise also after the directory was restored from a backup.
        identity.incarnation = now.as_millis().max(identity.incarnation.saturating_add(1));
        let bytes = serde_json::to_vec_pretty(&identity).map_err(|error| wrong(&path, &error.to_string()))?;
        self.write(&path, &bytes)?;
        Ok(identity)
    }

    /// The master key of a node whose settings give none. It is generated at the first start, but not if
    /// stored keys are sealed with one that was lost.
    ///
    /// # Errors
    /// If the file is torn, lost, or cannot be written.
    pub fn master_key(
        &self,
        entropy: &dyn Entropy,
        first_time: bool,
    ) -> Result<Zeroizing<[u8; 32]>, DataDirError> {
        if let Some(key) = stored_master_key(&self.path, first_time)? {
            return Ok(key);
        }
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(key.as_mut_slice());
        let text = Zeroizing::new(STANDARD.encode(key.as_slice()) + "\n");
        self.write(&self.path.join(MASTER_KEY), text.as_bytes())?;
        Ok(key)
    }

    /// Writes a small file atomically and durably, readable only by its owner.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
        let new = path.with_extension("new");
        let written = (|| {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            if let Some((user, group)) = self.other_owner() {
                // Some file systems do not record owners.
                let _ = fchown(&file, Some(user), Some(group));
            }
            file.sync_all()?;
            fs::rename(&new, path)?;
            fs::File::open(&self.path)?.sync_all()
        })();
        written.map_err(|error: io::Error| wrong(path, &format!("it cannot be written: {error}")))
    }
}

/// The identity in this directory; `None` before the first start.
pub(crate) fn stored_identity(directory: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = directory.join(IDENTITY);
    match read_regular(&path, FILE_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let why = format!("it cannot be read ({error}); restore it, or delete it for a new identity");
            wrong(&path, &why)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(&path, &error.to_string())),
    }
}

/// The master key in this directory; `None` before the first start.
pub(crate) fn stored_master_key(
    directory: &Path,
    first_time: bool,
) -> Result<Option<Zeroizing<[u8; 32]>>, DataDirError> {
    let path = directory.join(MASTER_KEY);
    match read_regular(&path, FILE_BYTES_MAX).map(Zeroizing::new) {
        Ok(text) => std::str::from_utf8(&text)
            .ok()
            .and_then(decode_key)
            .map(Some)
            .ok_or_else(|| wrong(&path, "it does not hold 32 bytes of base64; restore it from a backup")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && first_time => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = "it is lost, and the signing keys in the store are sealed with it; restore it, or set MASTER_KEY";
            Err(wrong(&path, why))
        }
        Err(error) => Err(wrong(&path, &error.to_string())),
    }
}

/// The directory that a node uses when `path` is configured, as far as it exists: `path`, or the folder in
/// it.
#[must_use]
pub fn locate(path: &Path) -> PathBuf {
    let folder = path.join(FOLDER);
    if !is_used(path) && is_used(&folder) { folder } else { path.to_owned() }
}

/// Whether a directory that [`locate`] returned contains an embedded store.
///
/// # Errors
/// If this user may not read the directory.
pub fn has_store(path: &Path) -> Result<bool, DataDirError> {
    path.join(STORE).try_exists().map_err(|error| wrong(path, &format!("it cannot be read: {error}")))
}

/// Whether a node has used this directory.
fn is_used(path: &Path) -> bool {
    path.join(STORE).exists() || path.join(IDENTITY).exists()
}

/// Refuses a FIFO, a device or a directory where one of the node's files belongs: opening it could wait for ever, and
/// reading it could have no end. A name that does not exist yet is free. The store checks its own file.
pub(crate) fn check_files(directory: &Path) -> Result<(), DataDirError> {
    for path in FILES.into_iter().filter(|name| *name != STORE).map(|name| directory.join(name)) {
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(wrong(&path, "it is no regular file; remove it"));
        }
    }
    Ok(())
}

/// Creates the directory, or the folder in it, and closes it to other users. Returns the reason for a folder.
fn prepare(path: &Path) -> Result<(PathBuf, Option<String>), DataDirError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| wrong(path, &format!("the data directory cannot be made: {error}")))?;
    let used = is_used(path);
    let because = match foreign(path)? {
        Some(name) if !used => format!("it holds other things, such as {name:?}"),
        _ => match close_to_others(path) {
            Ok(()) => return Ok((path.to_owned(), None)),
            Err(error) if used => {
                let why = format!("others can read the data directory, and it cannot be closed: {error}");
                return Err(wrong(path, &why));
            }
            Err(error) => format!("others can read it, and it cannot be closed: {error}"),
        },
    };
    let folder = path.join(FOLDER);
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let why = format!(
                "the directory cannot be used as it is ({because}), and no folder can be made in it: {error}; \
                 give a data directory that this user can write"
            );
            return Err(wrong(path, &why));
        }
        _ => {}
    }
    check_folder(&folder)?;
    close_to_others(&folder)
        .map_err(|error| wrong(&folder, &format!("it cannot be closed to others: {error}")))?;
    Ok((folder, Some(because)))
}

/// Rejects a folder of another user, or a link: any user with write access to the directory could have put it
/// there.
fn check_folder(folder: &Path) -> Result<(), DataDirError> {
    let found = fs::symlink_metadata(folder).map_err(|error| wrong(folder, &error.to_string()))?;
    let user = rustix::process::geteuid();
    if found.is_dir() && (found.uid() == user.as_raw() || user.is_root()) {
        return Ok(());
    }
    let user = user.as_raw();
    let why = format!(
        "it is no directory of this user (uid {user}); remove it, or give a data directory of its own"
    );
    Err(wrong(folder, &why))
}

/// The name of an entry in the directory that no node created, if there is one.
fn foreign(path: &Path) -> Result<Option<String>, DataDirError> {
    let failed = |error: io::Error| wrong(path, &format!("the data directory cannot be read: {error}"));
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != SOCKET && !FILES.iter().any(|ours| name == *ours) {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

fn close_to_others(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn wrong(path: &Path, why: &str) -> DataDirError {
    DataDirError::new(path, &why)
}
