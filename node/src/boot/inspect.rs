//! What a start would meet in a data directory, found without writing or locking anything.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;
use schema::key::KeySet;
use store_redb::OpenError;

use crate::{
    credentials::keys::{self, KeyError, MasterKey},
    operator::control,
    revocation::journal,
    settings::{Settings, StoreSetting},
    storage::data_dir::{
        DataDirError, IDENTITY, LOCK, MASTER_KEY, SOCKET, STORE, check_files, stored_identity,
        stored_master_key,
    },
};

/// What stands in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspected {
    /// A start would accept it.
    Good,
    /// A node or a command uses the directory, so it was not read.
    InUse,
}

/// Why a start would refuse what stands in the data directory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the error of its name")]
pub enum InspectError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// Reads what stands in `directory`, which [`data_dir::check`](crate::storage::data_dir::check) returned: the node's files, the embedded store, and
/// whether the master key opens the keys in it.
///
/// # Errors
/// The first thing that a start would refuse.
pub fn inspect(directory: &Path, settings: &Settings) -> Result<Inspected, InspectError> {
    if is_in_use(directory) {
        return Ok(Inspected::InUse);
    }
    match contents(directory, settings) {
        // A process that has just started changes the files while they are read.
        Err(_) if is_in_use(directory) => Ok(Inspected::InUse),
        other => other.map(|()| Inspected::Good),
    }
}

fn contents(directory: &Path, settings: &Settings) -> Result<(), InspectError> {
    check_files(directory)?;
    for name in [LOCK, "journal.0", "journal.1"] {
        usable(&directory.join(name), true)?;
    }
    for name in ["clock.json", IDENTITY] {
        usable(&directory.join(name), false)?;
    }
    journal::check_sizes(directory).map_err(|error| DataDirError::new(directory, &error))?;
    let socket = directory.join(SOCKET);
    if socket.is_dir() {
        return Err(DataDirError::new(&socket, &"it is a directory; remove it").into());
    }
    let path = directory.join(STORE);
    // A database cannot be asked here: it may be down when a node starts.
    let keys = match settings.store {
        StoreSetting::Embedded if path.symlink_metadata().is_ok() => {
            if path.metadata().is_ok_and(|file| file.is_file()) {
                usable(&path, true)?;
            }
            Some(store_redb::inspect(&path)?)
        }
        StoreSetting::Embedded => Some(KeySet::default()),
        StoreSetting::Cql(_) => None,
    };
    stored_identity(directory)?;
    let master = match (&settings.master_key, &keys) {
        (Some(key), _) => Some(key.clone()),
        (None, Some(keys)) => {
            usable(&directory.join(MASTER_KEY), false)?;
            stored_master_key(directory, keys.revision == 0)?
        }
        (None, None) => None,
    };
    if let (Some(master), Some(keys)) = (master, keys)
        && keys.revision > 0
    {
        let master = MasterKey::new(master).accepting(settings.master_key_accepted.clone());
        keys::check(&keys, &master)?;
    }
    Ok(())
}

/// Fails if this user cannot open the file of this name. A dangling link is replaced, or refused when it is opened.
fn usable(path: &Path, for_writing: bool) -> Result<(), DataDirError> {
    if path.metadata().is_err() {
        return Ok(());
    }
    open(path, for_writing).map(drop).map_err(|error| DataDirError::new(path, &error))
}

/// Opens what has this name, without waiting for the other end of a FIFO.
fn open(path: &Path, for_writing: bool) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    fs::OpenOptions::new().read(true).write(for_writing).custom_flags(flags).open(path)
}

/// Whether a node answers on the control socket, or a process holds the directory's lock.
fn is_in_use(directory: &Path) -> bool {
    if control::is_served(directory) {
        return true;
    }
    let Ok(lock) = open(&directory.join(LOCK), false) else { return false };
    let Ok(inode) = lock.metadata().map(|found| found.ino()) else { return false };
    let is_held = procfs::locks().is_ok_and(|locks| locks.iter().any(|held| held.inode == inode));
    // Tried only if it is held: a node that starts at the same moment would be refused. Another file may have the
    // same number, and some file systems show another device there than in their metadata.
    is_held && matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}
