//! The data directory: who this node is, and its master key when it has none from outside.
//!
//! ```text
//! palisade-data/          0700
//!   palisade.redb         the embedded store
//!   journal.0, .1         what the ledger does not have yet
//!   node.json             name, id and incarnation of this node
//!   clock.json            how the clocks ran, and up to where things were forgotten
//!   node.lock             locked by the process that uses the directory
//!   master.key            0600, when MASTER_KEY is not set
//!   control.sock          0600, while a node runs
//! ```
//!
//! A volume is often not the node's alone: a file system has its `lost+found`, an orchestrator mounts a
//! directory that is root's and open to a group. Where the directory of the settings holds other things,
//! or cannot be closed to others, the node uses a folder `palisade` in it, 0700. Commands find it in the
//! same way ([`locate`]). What lies in the directory itself already goes on being used.

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
use rustix::fs::{Access, AtFlags, CWD, accessat};
use schema::{Clock, Entropy, NodeId, ledger::Origin};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::settings::value::decode_key;

const STORE: &str = "palisade.redb";
const IDENTITY: &str = "node.json";
/// Everything that a node makes in its directory, finished or not.
const FILES: [&str; 12] = [
    STORE,
    "palisade.redb.new",
    "journal.0",
    "journal.1",
    IDENTITY,
    "node.new",
    "clock.json",
    "clock.new",
    "node.lock",
    "master.key",
    "master.new",
    "control.sock",
];
/// The folder that the node uses in a directory which is not its alone.
const FOLDER: &str = "palisade";

/// A data directory, used by this process alone.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    /// Why this is a folder in the directory of the settings, when it is.
    folder_because: Option<String>,
    /// Locked as long as it is open.
    _lock: Arc<fs::File>,
}

/// Who this node is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The name in logs and metrics.
    pub name: String,
    /// Stays over restarts.
    pub id: NodeId,
    /// Rises with every start.
    pub incarnation: u64,
}

impl Identity {
    /// Who numbers this node's facts.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        Origin { node: self.id, incarnation: self.incarnation }
    }
}

/// The data directory cannot be used.
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
    /// Opens the directory, or a folder of the node's own in it; makes it when it is absent.
    ///
    /// # Errors
    /// When it cannot be made, can neither be closed to others nor have a folder that is, or is used by
    /// another process.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let (path, folder_because) = prepare(path)?;
        let path = path.as_path();
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path.join("node.lock"));
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

    /// Gives what root made here to the user of the directory, who could not read it otherwise: a command in
    /// a container is often root's, and the node another user's.
    pub fn give_to_owner(&self) {
        let Some((user, group)) = self.other_owner() else { return };
        for path in FILES.map(|name| self.path.join(name)) {
            if path.symlink_metadata().is_ok_and(|file| file.uid() == 0)
                && let Err(error) = lchown(&path, Some(user), Some(group))
            {
                tracing::warn!(path = %path.display(), %error, "a file of root cannot be given to the directory's user");
            }
        }
    }

    /// The user and the group of the directory, when this process is root's and the directory is not.
    fn other_owner(&self) -> Option<(u32, u32)> {
        let directory = fs::metadata(&self.path).ok()?;
        let is_of_another = directory.uid() != 0 && rustix::process::geteuid().is_root();
        is_of_another.then(|| (directory.uid(), directory.gid()))
    }

    /// The embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// The directory itself: that of the settings, or the folder in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why this is a folder in the directory of the settings; `None` when it is that directory.
    #[must_use]
    pub fn folder_because(&self) -> Option<&str> {
        self.folder_because.as_deref()
    }

    /// Who this node is, in its next incarnation. To be called once a start, after the store is
    /// open and so no other process uses the directory.
    ///
    /// # Errors
    /// When the file is torn or cannot be written.
    pub fn identity(
        &self,
        name: Option<&str>,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Identity, DataDirError> {
        let path = self.path.join(IDENTITY);
        let known: Option<Identity> = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| {
                wrong(
                    &path,
                    &format!("it cannot be read ({error}); restore it, or delete it for a new identity"),
                )
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(wrong(&path, &error.to_string())),
        };
        let now = clock.now();
        let mut identity = known.unwrap_or_else(|| {
            let id = NodeId::new(now, entropy.id());
            Identity { name: format!("node-{}", &id.uuid().simple().to_string()[24..]), id, incarnation: 0 }
        });
        if let Some(name) = name {
            name.clone_into(&mut identity.name);
        }
        // The time makes it rise also when the directory was restored from a backup.
        identity.incarnation = now.as_millis().max(identity.incarnation.saturating_add(1));
        let bytes = serde_json::to_vec_pretty(&identity).map_err(|error| wrong(&path, &error.to_string()))?;
        self.write(&path, &bytes)?;
        Ok(identity)
    }

    /// The master key of a node that is given none; made the first time, but not when keys are
    /// sealed with one that was lost.
    ///
    /// # Errors
    /// When the file is torn, lost, or cannot be written.
    pub fn master_key(
        &self,
        entropy: &dyn Entropy,
        first_time: bool,
    ) -> Result<Zeroizing<[u8; 32]>, DataDirError> {
        let path = self.path.join("master.key");
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => decode_key(&text)
                .ok_or_else(|| wrong(&path, "it does not hold 32 bytes of base64; restore it from a backup")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !first_time => {
                let why = "it is lost, and the signing keys in the store are sealed with it; restore it, or set MASTER_KEY";
                Err(wrong(&path, why))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0; 32]);
                entropy.fill(key.as_mut_slice());
                let text = Zeroizing::new(STANDARD.encode(key.as_slice()) + "\n");
                self.write(&path, text.as_bytes())?;
                Ok(key)
            }
            Err(error) => Err(wrong(&path, &error.to_string())),
        }
    }

    /// Writes a small file whole or not at all, durably, readable by the owner alone.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
        let new = path.with_extension("new");
        let written = (|| {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            if let Some((user, group)) = self.other_owner() {
                // Some file systems have no owners.
                let _ = fchown(&file, Some(user), Some(group));
            }
            file.sync_all()?;
            fs::rename(&new, path)?;
            fs::File::open(&self.path)?.sync_all()
        })();
        written.map_err(|error: io::Error| wrong(path, &format!("it cannot be written: {error}")))
    }
}

/// The directory that a node with these settings uses, as far as it has been made: the one of the
/// settings, or the folder in it.
#[must_use]
pub fn locate(path: &Path) -> PathBuf {
    let folder = path.join(FOLDER);
    if !is_used(path) && is_used(&folder) { folder } else { path.to_owned() }
}

/// Whether there is an embedded store in a directory that [`locate`] gave.
///
/// # Errors
/// When this user may not look.
pub fn has_store(path: &Path) -> Result<bool, DataDirError> {
    path.join(STORE).try_exists().map_err(|error| wrong(path, &format!("it cannot be read: {error}")))
}

/// Whether the directory could be opened, as far as can be seen without changing anything.
///
/// # Errors
/// As [`DataDir::open`].
pub fn check(path: &Path) -> Result<(), DataDirError> {
    let writable = |directory: &Path| {
        let access = accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
        let why = |error| format!("this user cannot write to {directory:?}: {}", io::Error::from(error));
        access.map_err(|error| wrong(path, &why(error)))
    };
    // A relative path ends with an empty one, which is the current directory.
    let named = |part: &Path| if part.as_os_str().is_empty() { PathBuf::from(".") } else { part.to_owned() };
    let existing = path.ancestors().map(named).find(|part| part.symlink_metadata().is_ok());
    let existing = existing.unwrap_or_else(|| PathBuf::from("/"));
    let failed = |error: io::Error| wrong(path, &format!("the data directory cannot be used: {error}"));
    let metadata = fs::metadata(&existing).map_err(failed)?;
    if !metadata.is_dir() {
        let why = format!("the data directory cannot be made: {existing:?} is no directory");
        return Err(wrong(path, &why));
    }
    if existing != named(path) {
        return writable(&existing);
    }
    let user = rustix::process::geteuid();
    let is_ours = user.is_root() || metadata.uid() == user.as_raw();
    let is_closed = metadata.permissions().mode() & 0o077 == 0;
    let (used, folder) = (is_used(path), path.join(FOLDER));
    if used && !is_ours && !is_closed {
        return Err(wrong(path, "others can read the data directory, and this user may not close it"));
    }
    let is_alone = foreign(path)?.is_none() && (is_ours || is_closed);
    if used || is_alone || folder.symlink_metadata().is_err() {
        return writable(path);
    }
    check_folder(&folder)?;
    writable(&folder)
}

/// Whether a node has used this directory.
fn is_used(path: &Path) -> bool {
    path.join(STORE).exists() || path.join(IDENTITY).exists()
}

/// Makes the directory, or the folder in it, and closes it to others. Says why it is the folder.
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

/// Whoever can write to the directory could have put a folder or a link of their own there.
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

/// The name of something in the directory that no node made, if there is any.
fn foreign(path: &Path) -> Result<Option<String>, DataDirError> {
    let failed = |error: io::Error| wrong(path, &format!("the data directory cannot be read: {error}"));
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !FILES.iter().any(|ours| name == *ours) {
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
