//! Inspects a file without changing or locking it: whether a start would accept it, and the keys in it.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{Builder, ReadableDatabase as _, StorageBackend};
use schema::key::KeySet;

use crate::{
    error::OpenError,
    open::{CACHE_BYTES_MAX, caught, check_metadata, migrate, open_error},
    rows::{Rows as _, Snapshot},
    table::KEYS,
};

/// Bytes of the pieces in which writes are kept.
const BLOCK_BYTES: usize = 4096;

/// Opens the store at `path` as [`crate::open()`] does, and returns its signing keys. What a start would repair or
/// migrate is repaired and migrated in memory only; the file keeps its bytes, and no lock is taken. No process
/// may use the store during the call: its file would look damaged.
///
/// # Errors
/// Those of [`crate::open()`].
pub fn inspect(path: &Path) -> Result<KeySet, OpenError> {
    caught(path, || {
        let io = |source| OpenError::io(path, source);
        // Opened for writing as well, since a start needs the permission. Nothing is written.
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        check_metadata(path, &file.metadata().map_err(io)?)?;
        let overlay = Overlay::new(file).map_err(io)?;
        let opened = Builder::new().set_cache_size(CACHE_BYTES_MAX).create_with_backend(overlay);
        let database = opened.map_err(|error| open_error(path, error))?;
        migrate(path, &database)?;
        let snapshot = database.begin_read().map_err(|error| OpenError::damaged(path, &error.to_string()))?;
        let keys = Snapshot(snapshot).get(&KEYS, &());
        Ok(keys.map_err(|error| OpenError::damaged(path, &error.to_string()))?.unwrap_or_default())
    })
}

/// A file whose writes are kept in memory.
#[derive(Debug)]
struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    /// The bytes of the file that were never cut off.
    file_bytes: u64,
    /// The length that the caller of the backend sees.
    bytes: u64,
    /// Written blocks by their number.
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

impl Overlay {
    fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let written = Written { file_bytes: bytes, bytes, blocks: BTreeMap::new() };
        Ok(Self { file, written: Mutex::new(written) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the file holds at `offset`; zeros beyond its end.
    fn read_file(&self, file_bytes: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let in_file = usize::try_from(file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (from_file, zeros) = out.split_at_mut(in_file);
        zeros.fill(0);
        self.file.read_exact_at(from_file, offset)
    }
}

/// The parts of a range that lie in one block each: the block's number, the part's start in the block, and its
/// range in the caller's buffer.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = offset + u64::try_from(at).unwrap_or(u64::MAX);
        let block_bytes = u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX);
        let start = usize::try_from(position % block_bytes).unwrap_or(0);
        let end = length.min(at + BLOCK_BYTES - start);
        let part = (at < length).then_some((position / block_bytes, start, at..end));
        at = end;
        part
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        let end = offset.checked_add(u64::try_from(out.len()).unwrap_or(u64::MAX));
        if end.is_none_or(|end| end > written.bytes) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.read_file(written.file_bytes, offset, out)?;
        for (number, start, range) in parts(offset, out.len()) {
            if let Some(block) = written.blocks.get(&number) {
                let length = range.len();
                out[range].copy_from_slice(&block[start..start + length]);
            }
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut written = self.written();
        if bytes < written.bytes {
            let block_bytes = u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX);
            drop(written.blocks.split_off(&bytes.div_ceil(block_bytes)));
            let cut = usize::try_from(bytes % block_bytes).unwrap_or(0);
            if let Some(block) = written.blocks.get_mut(&(bytes / block_bytes)) {
                block[cut..].fill(0);
            }
        }
        written.bytes = bytes;
        written.file_bytes = written.file_bytes.min(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let file_bytes = written.file_bytes;
        for (number, start, range) in parts(offset, data.len()) {
            let block = match written.blocks.entry(number) {
                std::collections::btree_map::Entry::Occupied(block) => block.into_mut(),
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    let mut block = Box::new([0; BLOCK_BYTES]);
                    let at = number.saturating_mul(u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX));
                    self.read_file(file_bytes, at, &mut *block)?;
                    vacant.insert(block)
                }
            };
            let length = range.len();
            block[start..start + length].copy_from_slice(&data[range]);
        }
        let end = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        written.bytes = written.bytes.max(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_reads_what_was_written_and_keeps_the_file() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let original: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(path.path(), &original).unwrap();
        let overlay = Overlay::new(File::open(path.path()).unwrap()).unwrap();
        // The same calls on plain memory.
        let mut model = original.clone();
        let write = |model: &mut Vec<u8>, offset: usize, data: &[u8]| {
            overlay.write(offset as u64, data).unwrap();
            model.resize(model.len().max(offset + data.len()), 0);
            model[offset..offset + data.len()].copy_from_slice(data);
        };
        write(&mut model, 4_090, &[1; 10]);
        write(&mut model, 9_999, &[2; 5_000]);
        for bytes in [9_000, 20_000, 5_000, 12_288, 4_096, 4_100] {
            overlay.set_len(bytes as u64).unwrap();
            model.resize(bytes, 0);
            write(&mut model, bytes / 2, &[3; 100]);
            let mut read = vec![0; model.len()];
            overlay.read(0, &mut read).unwrap();
            assert_eq!(read, model, "after {bytes}");
        }
        assert_eq!(overlay.len().unwrap(), model.len() as u64);
        assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
        assert_eq!(std::fs::read(path.path()).unwrap(), original);
    }
}
