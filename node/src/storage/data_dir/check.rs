//! Whether a data directory can be opened, without opening it.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};

use super::{DataDirError, FOLDER, check_folder, foreign, is_used, wrong};

/// Magic numbers of file systems in which only the kernel makes files (`linux/magic.h`): proc, sysfs, both
/// versions of cgroup, devpts, debugfs, tracefs, securityfs, bpf, configfs, pstore, selinuxfs, efivarfs.
const KERNEL_FILE_SYSTEMS: [u64; 13] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
    0x6165_676c,
    0xf97c_ff8c,
    0xde5e_81e4,
];

/// Checks, without changing anything, whether the directory could be opened. Returns the directory that would be
/// used, if it exists: `path`, or the folder in it.
///
/// # Errors
/// As [`super::DataDir::open`].
pub fn check(path: &Path) -> Result<Option<PathBuf>, DataDirError> {
    // The last parent of a relative path is empty and means the current directory.
    let named = |part: &Path| if part.as_os_str().is_empty() { PathBuf::from(".") } else { part.to_owned() };
    let existing = path.ancestors().map(named).find(|part| part.symlink_metadata().is_ok());
    let existing = existing.unwrap_or_else(|| PathBuf::from("/"));
    let failed = |error: io::Error| wrong(path, &format!("the data directory cannot be used: {error}"));
    let metadata = fs::metadata(&existing).map_err(failed)?;
    if !metadata.is_dir() {
        let why = format!("the data directory cannot be made: {existing:?} is no directory");
        return Err(wrong(path, &why));
    }
    if is_of_the_kernel(&existing) {
        let why = format!("the data directory cannot be made: the kernel alone makes files in {existing:?}");
        return Err(wrong(path, &why));
    }
    if existing != named(path) {
        return writable(path, &existing).map(|()| None);
    }
    let user = rustix::process::geteuid();
    let is_ours = user.is_root() || metadata.uid() == user.as_raw();
    let is_closed = metadata.permissions().mode() & 0o077 == 0;
    let used = is_used(path);
    let folder = path.join(FOLDER);
    if used && !is_ours && !is_closed {
        return Err(wrong(path, "others can read the data directory, and this user may not close it"));
    }
    let is_alone = foreign(path)?.is_none() && (is_ours || is_closed);
    if used || is_alone {
        return writable(path, path).map(|()| Some(path.to_owned()));
    }
    if folder.symlink_metadata().is_err() {
        return writable(path, path).map(|()| None);
    }
    check_folder(&folder)?;
    writable(path, &folder).map(|()| Some(folder))
}

fn writable(path: &Path, directory: &Path) -> Result<(), DataDirError> {
    let access = accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    let why = |error| format!("this user cannot write to {directory:?}: {}", io::Error::from(error));
    access.map_err(|error| wrong(path, &why(error)))
}

/// Whether no process can make a file in this directory, whatever its permissions say.
fn is_of_the_kernel(directory: &Path) -> bool {
    let magic = statfs(directory).ok().and_then(|system| u64::try_from(system.f_type).ok());
    magic.is_some_and(|magic| KERNEL_FILE_SYSTEMS.contains(&magic))
}
