//! Reads files that operators name, and the node's own small files.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// Reads a regular file of at most `bytes_max` bytes. Anything else with this name is refused without a wait: a
/// pipe or a device may never end, and what it gives is gone after the first read.
///
/// # Errors
/// If the file cannot be read, is no regular file, or is longer.
pub(crate) fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Without `O_NONBLOCK`, opening a FIFO waits for its writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let refused = |what: &str| {
        let why = format!("it is {what}; allowed: a regular file");
        io::Error::new(ErrorKind::InvalidInput, why)
    };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        // What the system says of a socket names neither it nor the reason.
        if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            refused("a pipe, a device or a socket")
        } else {
            error
        }
    })?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        return Err(refused(if kind.is_dir() { "a directory" } else { "a pipe, a device or a socket" }));
    }
    let mut bytes = Vec::new();
    // Limit the bytes read, not the reported length: the file may grow.
    let length = file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(length).is_ok_and(|length| length > bytes_max) {
        let why = format!("it has more than {bytes_max} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}
