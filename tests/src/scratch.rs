//! Directories that live as long as their handle: in memory where the machine has room for them there.
//!
//! A disk that is busy with a build can keep a write waiting for seconds. What a node promises then is
//! asked by tests that slow its database or fill its store; all others need not meet it by chance. A
//! benchmark measures the disk too: it says [`on_disk`] first.

use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;

/// A run was seen to need some 100 MB, Cassandra's included. A container often has 64.
const ROOM: u64 = 4 << 30;

static ON_DISK: AtomicBool = AtomicBool::new(false);

/// From now on directories are where the system has its temporary files.
pub fn on_disk() {
    ON_DISK.store(true, Ordering::Relaxed);
}

/// An empty directory.
///
/// # Panics
/// When there can be none.
#[must_use]
pub fn directory() -> TempDir {
    static ROOMY: OnceLock<bool> = OnceLock::new();
    let memory = Path::new("/dev/shm");
    let in_memory = !ON_DISK.load(Ordering::Relaxed) && *ROOMY.get_or_init(|| has_room(memory));
    let made = if in_memory { TempDir::new_in(memory) } else { TempDir::new() };
    made.expect("a directory can be made")
}

fn has_room(memory: &Path) -> bool {
    let size = rustix::fs::statvfs(memory).map_or(0, |memory| memory.f_blocks * memory.f_frsize);
    size >= ROOM && TempDir::new_in(memory).is_ok()
}
