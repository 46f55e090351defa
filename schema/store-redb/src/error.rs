//! The errors of this crate: why a file is not opened, and redb's errors as those of a store.

use std::{
    io,
    path::{Path, PathBuf},
};

use store::StoreError;

/// Why a store was not opened. Each message says what the operator can do.
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

impl OpenError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, why: &str) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_owned() }
    }
}

/// Converts an error of redb: `Inconsistent` if the file contradicts itself, else `Unavailable`.
pub(crate) fn storage(error: impl Into<redb::Error>) -> StoreError {
    use redb::Error::{
        Corrupted, TableDoesNotExist, TableIsMultimap, TableIsNotMultimap, TableTypeMismatch,
        TypeDefinitionChanged,
    };
    let error = error.into();
    match error {
        Corrupted(_)
        | TableDoesNotExist(_)
        | TableIsMultimap(_)
        | TableIsNotMultimap(_)
        | TableTypeMismatch { .. }
        | TypeDefinitionChanged { .. } => StoreError::Inconsistent(error.to_string()),
        other => StoreError::unavailable(other),
    }
}

/// The message of a panic, for the log.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
