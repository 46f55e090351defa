//! The data directory: who this node is, and its master key when it has none from outside.
//!
//! ```text
//! palisade-data/          0700
//!   palisade.redb         the embedded store
//!   journal.0, .1         what the ledger does not have yet
//!   node.json             name, id and incarnation of this node
//!   node.lock             locked by the process that uses the directory
//!   master.key            0600, when MASTER_KEY is not set
//!   control.sock          0600, while a node runs
//! ```

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schema::{Clock, Entropy, NodeId, ledger::Origin};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::settings::value::decode_key;

const STORE: &str = "palisade.redb";
const IDENTITY: &str = "node.json";

/// A data directory, used by this process alone.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
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

impl DataDir {
    /// Opens the directory, makes it when it is absent.
    ///
    /// # Errors
    /// When it cannot be made, is open to others and cannot be closed to them, or is used by another
    /// process.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| wrong(path, &format!("the data directory cannot be made: {error}")))?;
        let mode = fs::metadata(path).map_err(|error| wrong(path, &error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            close_to_others(path)?;
        }
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path.join("node.lock"));
        let lock = lock.map_err(|error| wrong(path, &format!("it cannot be written: {error}")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: Arc::new(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(wrong(
                path,
                "another node uses it: stop that one, or give this one a directory of its own",
            )),
            Err(fs::TryLockError::Error(error)) => Err(wrong(path, &format!("it cannot be locked: {error}"))),
        }
    }

    /// The embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
        let new = path.with_extension("new");
        let written = (|| {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            fs::File::open(&self.path)?.sync_all()
        })();
        written.map_err(|error: io::Error| wrong(path, &format!("it cannot be written: {error}")))
    }
}

/// A directory of ours, or an empty one, is closed; one that others use for other things is not ours
/// to close.
fn close_to_others(path: &Path) -> Result<(), DataDirError> {
    let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if !empty && !path.join(STORE).exists() && !path.join(IDENTITY).exists() {
        let why =
            "others can read the directory and it holds other things; give one of its own, or chmod 700";
        return Err(wrong(path, why));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|error| {
        wrong(path, &format!("others can read the data directory, and it cannot be closed: {error}"))
    })
}

fn wrong(path: &Path, why: &str) -> DataDirError {
    DataDirError { path: path.to_owned(), why: why.to_owned() }
}
