//! The journal: facts on this node's disk that the ledger does not have yet.
//!
//! Promises: what [`Journal::append`] returned `Ok` for survives `kill -9` and a loss of power, and is
//! given back by the next [`Journal::open`] unless it was released. It never grows: its space is
//! reserved when it is made, so it works on a full disk too. When all of it is needed, `append` says
//! [`JournalError::Full`].
//!
//! Two files are written in turn. A file is begun anew when all that is in it is released, under the
//! next generation, so what lies behind the last record is known to be old. A record is
//!
//! ```text
//! length of the payload   4 bytes, big-endian
//! CRC-32                  4 bytes, over generation and payload
//! generation              8 bytes, never less than that of the record before it in the file
//! payload                 JSON of a Record
//! ```
//!
//! and what does not fit is no record: a torn write was never answered. What lies behind it and fits was,
//! perhaps, so a damaged place costs no more than itself.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use actors::Rows;
use rustix::fs::FallocateFlags;
use schema::ledger::Entry;
use serde::{Deserialize, Serialize};

const NAMES: [&str; 2] = ["journal.0", "journal.1"];
const HEAD: usize = 16;
/// No payload is longer: an entry has some 200 bytes.
const MAX_PAYLOAD: usize = 4 * 1024;

/// An entry of a log, and whether rows are to go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// Whether [`actors::end_rows`] is promised.
    pub ends_rows: bool,
}

impl Record {
    /// Whether rows are to go with it.
    #[must_use]
    pub const fn new(entry: Entry, rows: Rows) -> Self {
        Self { entry, ends_rows: matches!(rows, Rows::End) }
    }
}

/// Why something is not in the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// All of its space is needed for what the ledger does not have.
    #[error("the journal is full")]
    Full,
    /// The disk.
    #[error("the journal cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    halves: [Half; 2],
    active: usize,
    generation: u64,
    /// Of each half, in bytes.
    capacity: u64,
}

#[derive(Debug)]
struct Half {
    file: File,
    /// Where the next record goes.
    end: u64,
    /// The number of its last record.
    last: u64,
}

impl Journal {
    /// Opens the journal of a data directory, or makes it, with this much space; gives what was not
    /// released. These records have the numbers from 1 on, new ones go on from there.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn open(directory: &Path, size: u64) -> io::Result<(Self, Vec<Record>)> {
        let mut found = Vec::new();
        let mut capacity = size / 2;
        for name in NAMES {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(directory.join(name))?;
            let (records, end, generation) = read(&file)?;
            capacity = capacity.max(end);
            found.push((generation, records, Half { file, end, last: 0 }));
        }
        for (_, _, half) in &found {
            half.file.sync_all()?;
            if let Err(error) = rustix::fs::fallocate(&half.file, FallocateFlags::empty(), 0, capacity) {
                tracing::warn!(%error, "no space could be reserved for the journal");
            }
        }
        // The names too.
        File::open(directory)?.sync_all()?;
        // The younger one is written on. After this no record of before has its generation.
        let generation = found.iter().map(|(generation, ..)| *generation).max().unwrap_or(0) + 1;
        let active = usize::from(found[1].0 > found[0].0);
        let mut all = Vec::new();
        for place in [1 - active, active] {
            let (_, records, half) = &mut found[place];
            all.append(records);
            half.last = u64::try_from(all.len()).unwrap_or(u64::MAX);
        }
        let mut halves = found.into_iter().map(|(_, _, half)| half);
        let (Some(first), Some(second)) = (halves.next(), halves.next()) else {
            return Err(io::Error::other("a journal has two halves"));
        };
        Ok((Self { halves: [first, second], active, generation, capacity }, all))
    }

    /// Keeps records, which have the numbers from `first` on; returns when they are on the disk.
    /// Those up to `released` are not needed any more.
    ///
    /// # Errors
    /// Some of the records may be kept all the same.
    pub fn append(&mut self, records: &[Record], first: u64, released: u64) -> Result<(), JournalError> {
        let mut buffer = Vec::new();
        for (number, record) in (first..).zip(records) {
            let framed = frame(record, self.generation)?;
            let half = &self.halves[self.active];
            if half.end + len(&buffer) + len(&framed) > self.capacity {
                self.write(&mut buffer, number - 1)?;
                self.begin_anew(number - 1, released)?;
                buffer = frame(record, self.generation)?;
            } else {
                buffer.extend(framed);
            }
        }
        self.write(&mut buffer, first + u64::try_from(records.len()).unwrap_or(0) - 1)
    }

    /// Bytes in use, and all there are.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        (self.halves.iter().map(|half| half.end).sum(), 2 * self.capacity)
    }

    fn write(&mut self, buffer: &mut Vec<u8>, last: u64) -> Result<(), JournalError> {
        let half = &mut self.halves[self.active];
        let written = half.file.write_all_at(buffer, half.end).and_then(|()| half.file.sync_data());
        if let Err(error) = written {
            // What lies there of it is not to be taken for a part of what comes.
            self.generation += 1;
            return Err(error.into());
        }
        half.end += len(buffer);
        half.last = last;
        buffer.clear();
        Ok(())
    }

    /// Goes on in a half that is not needed any more.
    fn begin_anew(&mut self, last: u64, released: u64) -> Result<(), JournalError> {
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

/// The records of a file, where they end, and the generation of the last. Over what is damaged it goes on
/// to the next record that fits, and says so.
/// No record begins within so many zeros: its length would be 0.
const NEVER_WRITTEN: [u8; 4_096] = [0; 4_096];

fn read(file: &File) -> io::Result<(Vec<Record>, u64, u64)> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut &*file, &mut bytes)?;
    let (mut records, mut end, mut generation) = (Vec::new(), 0, 0);
    let mut at = 0;
    while at + HEAD < bytes.len() {
        match parse(&bytes[at..]).filter(|(_, of, _)| *of >= generation) {
            Some((record, of, length)) => {
                if at > end {
                    tracing::error!(
                        at = end,
                        bytes = at - end,
                        "the journal is damaged: revocations may be lost"
                    );
                }
                records.push(record);
                generation = of;
                at += length;
                end = at;
            }
            // Most of it was never written.
            None if bytes[at..].starts_with(&NEVER_WRITTEN) => at += NEVER_WRITTEN.len(),
            None => at += 1,
        }
    }
    Ok((records, u64::try_from(end).unwrap_or(u64::MAX), generation))
}

/// The record at the beginning, its generation, and its length with its head.
fn parse(bytes: &[u8]) -> Option<(Record, u64, usize)> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let length = usize::try_from(word(0)?).ok().filter(|length| (1..=MAX_PAYLOAD).contains(length))?;
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
        Record::new(Entry { origin, seq, fact }, Rows::End)
    }

    fn seqs(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.entry.seq).collect()
    }

    #[test]
    fn what_was_kept_is_given_back() {
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
    fn it_is_full_and_then_not_when_something_is_released() {
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
    fn a_batch_may_be_longer_than_a_half() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), SIZE).unwrap();
        let batch: Vec<_> = (1..=30).map(record).collect();
        journal.append(&batch, 1, 0).unwrap();
        drop(journal);
        assert_eq!(seqs(&Journal::open(directory.path(), SIZE).unwrap().1), (1..=30).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_place_costs_no_more_than_itself() {
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
        /// Whatever is appended, released, torn and opened again: what was answered and not released is
        /// given back, in order, and nothing that was never appended.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((1_u64..6, 0_u64..8, 0_u8..4, any::<u16>()), 1..60)) {
            let directory = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(directory.path(), SIZE).unwrap();
            let mut needed: Vec<(u64, Record)> = Vec::new();
            let (mut seq, mut number, mut released) = (0, 0, 0);
            for (count, release, restart, tear) in steps {
                let batch: Vec<_> = (1..=count).map(|n| record(seq + n)).collect();
                match journal.append(&batch, number + 1, released) {
                    Ok(()) => needed.extend((number + 1..).zip(batch)),
                    Err(JournalError::Full) => prop_assert!(number - released > 5),
                    Err(error) => panic!("{error}"),
                }
                // When it was not kept, its numbers are used all the same.
                (seq, number) = (seq + count, number + count);
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
                    // What was released before and not overwritten is released again.
                    (journal, needed) = (again, (1..).zip(kept).collect());
                    (number, released) = (u64::try_from(needed.len()).unwrap(), 0);
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0_usize..200) {
            let directory = tempfile::tempdir().unwrap();
            let mut file = frame(&record(1), 1).unwrap();
            file.truncate(at);
            file.extend(bytes);
            std::fs::write(directory.path().join(NAMES[0]), file).unwrap();
            let (mut journal, kept) = Journal::open(directory.path(), SIZE).unwrap();
            journal.append(&[record(2)], u64::try_from(kept.len()).unwrap() + 1, 0).unwrap();
        }
    }

    /// A write that was never answered lies behind the last record.
    fn tear_the_free_space(directory: &Path, tear: u16) {
        for name in NAMES {
            let file = OpenOptions::new().read(true).write(true).open(directory.join(name)).unwrap();
            let (_, end, generation) = read(&file).unwrap();
            let mut torn = frame(&record(u64::MAX >> 1), generation).unwrap();
            torn.truncate(usize::from(tear) % torn.len());
            file.write_all_at(&torn, end).unwrap();
        }
    }
}
