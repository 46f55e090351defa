//! The journal: facts on this node's disk that the ledger does not have yet.
//!
//! Promises: records for which [`Journal::append`] returned `Ok` survive `kill -9` and a power loss, and the
//! next [`Journal::open`] returns them unless they were released. The journal never grows: its space is
//! reserved when it is created, so it works on a full disk too. When all of its space is needed, `append`
//! returns [`JournalError::Full`].
//!
//! Two files are written in turn. When all records of a file are released, the file is overwritten from its
//! start under the next generation, so bytes after the last record are known to be old. A record is
//!
//! ```text
//! length of the payload   4 bytes, big-endian
//! CRC-32                  4 bytes, over generation and payload
//! generation              8 bytes, never less than that of the record before it in the file
//! payload                 JSON of a Record
//! ```
//!
//! and bytes that do not match are no record: a torn write was never reported as done. Records after them may
//! have been, so reading continues there, and damage costs only the records that it hits.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use actors::StoredSessions;
use rustix::fs::FallocateFlags;
use schema::ledger::Entry;
use serde::{Deserialize, Serialize};

const NAMES: [&str; 2] = ["journal.0", "journal.1"];
const HEAD: usize = 16;
/// Bytes of a file at most: half of the largest `JOURNAL_SIZE`. Both files are read whole at a start.
const HALF_BYTES_MAX: u64 = 1 << 29;
/// Bytes of a payload at most; an entry has some 200.
const PAYLOAD_MAX: usize = 4 * 1024;

/// A record of the journal: an entry of a log, and whether its rows must be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// Whether [`actors::delete_revoked_rows`] must run for the entry.
    pub ends_rows: bool,
}

impl Record {
    /// Whether the fact has rows that must be deleted.
    #[must_use]
    pub const fn new(entry: Entry, rows: StoredSessions) -> Self {
        Self { entry, ends_rows: matches!(rows, StoredSessions::Delete) }
    }
}

/// The reason why a record was not written to the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// All space is needed for facts that the ledger does not have.
    #[error("the journal is full")]
    Full,
    /// The disk failed.
    #[error("the journal cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// The open journal of a node.
#[derive(Debug)]
pub struct Journal {
    halves: [Half; 2],
    active: usize,
    generation: u64,
    /// The size of each half, in bytes.
    capacity: u64,
}

#[derive(Debug)]
struct Half {
    file: File,
    /// The offset of the next record.
    end: u64,
    /// The number of the last record in it.
    last: u64,
}

impl Journal {
    /// Opens the journal of a data directory, or creates it, with `size` bytes. Returns the records that were
    /// not released; they are numbered from 1, and new records continue from there.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn open(directory: &Path, size: u64) -> io::Result<(Self, Vec<Record>)> {
        check_sizes(directory)?;
        let mut found = Vec::new();
        let mut capacity = size / 2;
        for name in NAMES {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(directory.join(name))?;
            let Contents { records, end, generation } = read(&file)?;
            capacity = capacity.max(end);
            found.push((generation, records, Half { file, end, last: 0 }));
        }
        for (_, _, half) in &found {
            half.file.sync_all()?;
            if let Err(error) = rustix::fs::fallocate(&half.file, FallocateFlags::empty(), 0, capacity) {
                tracing::warn!(%error, "journal space could not be reserved");
            }
        }
        // The directory entries must be durable too.
        File::open(directory)?.sync_all()?;
        // Writing continues in the younger file. No earlier record has the new generation.
        let generation = found.iter().map(|(generation, ..)| *generation).max().unwrap_or(0) + 1;
        let active = usize::from(found[1].0 > found[0].0);
        let mut all = Vec::new();
        for place in [1 - active, active] {
            let (_, records, half) = &mut found[place];
            all.append(records);
            half.last = u64::try_from(all.len()).unwrap_or(u64::MAX);
        }
        let mut halves = found.into_iter().map(|(_, _, half)| half);
        let missing = || io::Error::other("a journal has two halves");
        let first = halves.next().ok_or_else(missing)?;
        let second = halves.next().ok_or_else(missing)?;
        Ok((Self { halves: [first, second], active, generation, capacity }, all))
    }

    /// Writes records, numbered from `first`, and returns when they are on disk. Records up to `released` are
    /// no longer needed.
    ///
    /// # Errors
    /// If the journal is full or the disk fails. Some of the records may be on disk all the same.
    pub fn append(&mut self, records: &[Record], first: u64, released: u64) -> Result<(), JournalError> {
        let mut buffer = Vec::new();
        for (number, record) in (first..).zip(records) {
            let framed = frame(record, self.generation)?;
            let half = &self.halves[self.active];
            if half.end + len(&buffer) + len(&framed) > self.capacity {
                self.write(&mut buffer, number - 1)?;
                self.switch_half(number - 1, released)?;
                buffer = frame(record, self.generation)?;
            } else {
                buffer.extend(framed);
            }
        }
        self.write(&mut buffer, first + u64::try_from(records.len()).unwrap_or(0) - 1)
    }

    /// The bytes in use, and the size of the journal in bytes.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        (self.halves.iter().map(|half| half.end).sum(), 2 * self.capacity)
    }

    fn write(&mut self, buffer: &mut Vec<u8>, last: u64) -> Result<(), JournalError> {
        let half = &mut self.halves[self.active];
        let written = half.file.write_all_at(buffer, half.end).and_then(|()| half.file.sync_data());
        if let Err(error) = written {
            // A new generation: the partial write must not be read as part of later records.
            self.generation += 1;
            return Err(error.into());
        }
        half.end += len(buffer);
        half.last = last;
        buffer.clear();
        Ok(())
    }

    /// Continues in a half whose records are all released.
    fn switch_half(&mut self, last: u64, released: u64) -> Result<(), JournalError> {
        self.halves[self.active].last = last;
        let free = |half: &Half| half.last <= released;
        let next = match (free(&self.halves[1 - self.active]), free(&self.halves[self.active])) {
            (true, _) => 1 - self.active,
            (false, true) => self.active,
            (false, false) => return Err(JournalError::Full),
        };
        self.generation += 1;
        self.active = next;
        self.halves[next].end = 0;
        Ok(())
    }
}

/// Checks that the files in this directory are no larger than a journal can be.
///
/// # Errors
/// If one is.
pub fn check_sizes(directory: &Path) -> io::Result<()> {
    for name in NAMES {
        let length = directory.join(name).metadata().map_or(0, |found| found.len());
        if length > HALF_BYTES_MAX {
            let why = format!("{name} has {length} bytes, more than any journal; remove it, or restore it");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
    }
    Ok(())
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn frame(record: &Record, generation: u64) -> io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(HEAD + payload.len());
    framed.extend(length.to_be_bytes());
    framed.extend(checksum(generation, &payload).to_be_bytes());
    framed.extend(generation.to_be_bytes());
    framed.extend(payload);
    Ok(framed)
}

fn checksum(generation: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// No record begins within this many zeros: its length would be 0.
const NEVER_WRITTEN: [u8; 4_096] = [0; 4_096];

/// The contents of a file.
struct Contents {
    records: Vec<Record>,
    /// The offset of the end of the last record.
    end: u64,
    /// The generation of the last record.
    generation: u64,
}

/// Reads the records of a file. Damage is skipped up to the next valid record, and logged.
fn read(file: &File) -> io::Result<Contents> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut &*file, &mut bytes)?;
    let mut records = Vec::new();
    let mut end = 0;
    let mut generation = 0;
    let mut at = 0;
    while at + HEAD < bytes.len() {
        match parse(&bytes[at..]).filter(|(_, of, _)| *of >= generation) {
            Some((record, of, length)) => {
                if at > end {
                    tracing::error!(
                        at = end,
                        bytes = at - end,
                        "journal is damaged; revocations may be lost"
                    );
                }
                records.push(record);
                generation = of;
                at += length;
                end = at;
            }
            // Most of the file was never written.
            None if bytes[at..].starts_with(&NEVER_WRITTEN) => at += NEVER_WRITTEN.len(),
            None => at += 1,
        }
    }
    Ok(Contents { records, end: u64::try_from(end).unwrap_or(u64::MAX), generation })
}

/// Parses the record at the start of `bytes`: the record, its generation, and its length including the
/// header.
fn parse(bytes: &[u8]) -> Option<(Record, u64, usize)> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let length = usize::try_from(word(0)?).ok().filter(|length| (1..=PAYLOAD_MAX).contains(length))?;
    let generation = u64::from_be_bytes(bytes.get(8..HEAD)?.try_into().ok()?);
    let payload = bytes.get(HEAD..HEAD + length)?;
    if checksum(generation, payload) != word(4)? {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, generation, HEAD + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schema::{Fact, FactKind, NodeId, SessionId, Timestamp, UserId, ledger::Origin};

    use super::*;

    const SIZE: u64 = 8 * 1024;

    fn record(seq: u64) -> Record {
        let origin = Origin { node: NodeId::from_bytes([7; 16]), incarnation: 3 };
        let session = SessionId::from_bytes(u128::from(seq).to_be_bytes());
        let kind = FactKind::SessionRevoked { user: UserId::from_bytes([1; 16]), session };
        let fact = Fact { kind, until: Timestamp::from_secs(2_000_000_000) };
        Record::new(Entry { origin, seq, fact }, StoredSessions::Delete)
    }

    fn seqs(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.entry.seq).collect()
    }

    #[test]
    fn open_returns_appended_records() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, none) = Journal::open(directory.path(), SIZE).unwrap();
        assert_eq!(none, []);
        journal.append(&[record(1), record(2)], 1, 0).unwrap();
        journal.append(&[record(3)], 3, 0).unwrap();
        drop(journal);
        let (mut journal, kept) = Journal::open(directory.path(), SIZE).unwrap();
        assert_eq!(kept, [record(1), record(2), record(3)]);
        journal.append(&[record(4)], 4, 0).unwrap();
        drop(journal);
        let (_, kept) = Journal::open(directory.path(), SIZE).unwrap();
        assert_eq!(seqs(&kept), [1, 2, 3, 4]);
    }

    #[test]
    fn full_journal_has_room_after_a_release() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), SIZE).unwrap();
        let mut kept = 0;
        while journal.append(&[record(kept + 1)], kept + 1, 0).is_ok() {
            kept += 1;
        }
        assert!(kept > 10, "{kept}");
        assert!(matches!(journal.append(&[record(999)], kept + 1, 3), Err(JournalError::Full)));
        drop(journal);
        let (mut journal, all) = Journal::open(directory.path(), SIZE).unwrap();
        assert_eq!(seqs(&all), (1..=kept).collect::<Vec<_>>());
        journal.append(&[record(kept + 1)], kept + 1, kept).unwrap();
        drop(journal);
        let (_, after) = Journal::open(directory.path(), SIZE).unwrap();
        assert_eq!(seqs(&after).last(), Some(&(kept + 1)));
        let size: u64 = NAMES.iter().map(|name| directory.path().join(name).metadata().unwrap().len()).sum();
        assert_eq!(size, SIZE, "it does not grow");
    }

    #[test]
    fn file_larger_than_any_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(Journal::open(directory.path(), SIZE).unwrap());
        let half = OpenOptions::new().write(true).open(directory.path().join(NAMES[1])).unwrap();
        half.set_len(1 << 40).unwrap();
        let error = Journal::open(directory.path(), SIZE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
    }

    #[test]
    fn batch_may_be_longer_than_a_half() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), SIZE).unwrap();
        let batch: Vec<_> = (1..=30).map(record).collect();
        journal.append(&batch, 1, 0).unwrap();
        drop(journal);
        assert_eq!(seqs(&Journal::open(directory.path(), SIZE).unwrap().1), (1..=30).collect::<Vec<_>>());
    }

    #[test]
    fn damage_costs_only_the_records_it_hits() {
        for place in [0, 5, 9] {
            let directory = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(directory.path(), 2 * SIZE).unwrap();
            let all: Vec<_> = (1..=10).map(record).collect();
            journal.append(&all, 1, 0).unwrap();
            drop(journal);
            let path = directory.path().join(NAMES[0]);
            let mut bytes = std::fs::read(&path).unwrap();
            let length = frame(&record(1), 1).unwrap().len();
            bytes[place * length + HEAD + 20] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let (_, kept) = Journal::open(directory.path(), 2 * SIZE).unwrap();
            let left = (1..=10).filter(|seq| *seq != u64::try_from(place).unwrap() + 1);
            assert_eq!(seqs(&kept), left.collect::<Vec<_>>());
        }
    }

    proptest! {
        /// For any sequence of append, release, torn write and reopen: records that were written and not
        /// released are returned in order, and no record that was never appended.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((1_u64..6, 0_u64..8, 0_u8..4, any::<u16>()), 1..60)) {
            let directory = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(directory.path(), SIZE).unwrap();
            let mut needed: Vec<(u64, Record)> = Vec::new();
            let mut seq = 0;
            let mut number = 0;
            let mut released = 0;
            for (count, release, restart, tear) in steps {
                let batch: Vec<_> = (1..=count).map(|n| record(seq + n)).collect();
                match journal.append(&batch, number + 1, released) {
                    Ok(()) => needed.extend((number + 1..).zip(batch)),
                    Err(JournalError::Full) => prop_assert!(number - released > 5),
                    Err(error) => panic!("{error}"),
                }
                // A failed append uses its numbers all the same.
                seq += count;
                number += count;
                let gone = usize::try_from(release).unwrap().min(needed.len());
                if let Some((last, _)) = needed.drain(..gone).next_back() {
                    released = last;
                }
                if restart == 0 {
                    drop(journal);
                    tear_the_free_space(directory.path(), tear);
                    let (again, kept) = Journal::open(directory.path(), SIZE).unwrap();
                    prop_assert!(needed.iter().all(|(_, record)| kept.contains(record)));
                    prop_assert!(kept.iter().all(|record| record.entry.seq <= seq));
                    prop_assert!(kept.is_sorted_by_key(|record| record.entry.seq));
                    // Records that were released and not overwritten are released again.
                    journal = again;
                    needed = (1..).zip(kept).collect();
                    number = u64::try_from(needed.len()).unwrap();
                    released = 0;
                }
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes: Vec<u8>, at in 0_usize..200) {
            let directory = tempfile::tempdir().unwrap();
            let mut file = frame(&record(1), 1).unwrap();
            file.truncate(at);
            file.extend(bytes);
            std::fs::write(directory.path().join(NAMES[0]), file).unwrap();
            let (mut journal, kept) = Journal::open(directory.path(), SIZE).unwrap();
            journal.append(&[record(2)], u64::try_from(kept.len()).unwrap() + 1, 0).unwrap();
        }
    }

    /// Simulates a write that was never reported as done, after the last record.
    fn tear_the_free_space(directory: &Path, tear: u16) {
        for name in NAMES {
            let file = OpenOptions::new().read(true).write(true).open(directory.join(name)).unwrap();
            let Contents { end, generation, .. } = read(&file).unwrap();
            let mut torn = frame(&record(u64::MAX >> 1), generation).unwrap();
            torn.truncate(usize::from(tear) % torn.len());
            file.write_all_at(&torn, end).unwrap();
        }
    }
}
