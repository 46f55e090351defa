//! One origin's log: which entries are held, which were applied, which are forgotten.
//!
//! Entries lie in blocks of [`BLOCK_ENTRIES`] numbers, which may have gaps. A block is dropped as a whole
//! when all of it was applied and has expired.
//!
//! A block takes memory for the entries that it holds, not for the numbers that it spans, and a log counts
//! the bytes that it takes ([`Log::bytes`]), so a peer cannot use up memory by badly chosen numbers.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use schema::{Fact, Horizon, Timestamp};

use super::{
    message::{Applied, Forgotten, encode_kind},
    range::SeqRange,
};

/// The number of entries in a whole block.
pub const BLOCK_ENTRIES: u64 = 256;
/// The memory of a block beside its entries, in bytes, including its node in a tree that is half empty.
const BLOCK_OVERHEAD_BYTES: usize = 320;
/// The memory of a whole block, in bytes.
pub const BLOCK_BYTES_MAX: usize = BLOCK_OVERHEAD_BYTES + 256 * size_of::<Fact>();

/// One origin's log, as far as this node has it.
#[derive(Debug, Default)]
pub struct Log {
    complete: u64,
    highest: u64,
    /// The newest run of entries without a gap; `(0, 0)` before the first entry.
    newest: (u64, u64),
    blocks: BTreeMap<u64, Block>,
    /// The number of entries held.
    kept: usize,
    bytes: usize,
    forgotten: Forgotten,
    /// Entries that count as complete only because a node other than the origin says that they have expired.
    hearsay: Option<SeqRange>,
    /// Entries up to this number that are not held were skipped, not lost.
    skipped: u64,
    /// When the last of its facts expires.
    until: Timestamp,
}

#[derive(Debug, Default)]
struct Block {
    /// For each number, the lowest first, a bit: whether its entry is held.
    held: [u64; 4],
    /// The entries held, in the order of their numbers.
    facts: Vec<Fact>,
    until: Timestamp,
    /// The checksum, once it was computed; only a whole block has one.
    sum: Option<u64>,
}

const fn block_of(seq: u64) -> u64 {
    (seq - 1) / BLOCK_ENTRIES
}

const fn first_of(block: u64) -> u64 {
    block * BLOCK_ENTRIES + 1
}

/// The index of an entry in its block.
fn index_in_block(seq: u64) -> usize {
    usize::try_from((seq - 1) % BLOCK_ENTRIES).unwrap_or(0)
}

impl Log {
    /// Every entry up to this number was applied or has expired.
    #[must_use]
    pub const fn complete(&self) -> u64 {
        self.complete
    }

    /// Every entry up to this number was applied, or has expired by the word of the ledger or the origin. The
    /// ledger need not be read up to here.
    #[must_use]
    pub fn proven(&self) -> u64 {
        self.hearsay.map_or(self.complete, |hearsay| self.complete.min(hearsay.first - 1))
    }

    /// The highest number that was applied.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest.max(self.complete)
    }

    /// When the last of its facts expires, as far as this node knows.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// Notes that a peer has facts of this log that expire at `until`.
    pub fn extend_expiry(&mut self, until: Timestamp) {
        self.until = self.until.max(until);
    }

    /// The beginning of the log that is no longer held.
    #[must_use]
    pub const fn forgotten(&self) -> Forgotten {
        self.forgotten
    }

    /// What was applied, as an acknowledgement names it.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        let is_above_gap = self.newest.1 > self.complete;
        Applied { complete: self.complete, newest: if is_above_gap { self.newest } else { (0, 0) } }
    }

    /// The number of entries held.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }

    /// Whether the entry of this number is held.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.get(seq).is_some()
    }

    /// The memory that its entries take, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn get(&self, seq: u64) -> Option<&Fact> {
        self.blocks.get(&block_of(seq))?.get(index_in_block(seq))
    }

    /// The last number of the gap that begins at `first`, at most `last`.
    #[must_use]
    pub fn missing_until(&self, first: u64, last: u64) -> u64 {
        self.next_held(first, last).map_or(last, |held| held - 1)
    }

    /// The lowest number from `first` on whose entry is not held.
    #[must_use]
    pub fn next_missing(&self, first: u64) -> u64 {
        let mut seq = first;
        while let Some(block) = self.blocks.get(&block_of(seq)) {
            // A whole block is skipped at once.
            if seq == first_of(block_of(seq)) && block.is_whole() {
                seq += BLOCK_ENTRIES;
            } else if block.get(index_in_block(seq)).is_some() {
                seq += 1;
            } else {
                break;
            }
        }
        seq
    }

    /// Adds an entry that has been applied. `seq` is at least 1. Returns whether it was not held before.
    pub fn insert(&mut self, seq: u64, fact: Fact) -> bool {
        self.until = self.until.max(fact.until);
        if seq <= self.forgotten.seq {
            return false;
        }
        let block = self.blocks.entry(block_of(seq)).or_default();
        let before = block.bytes();
        if !block.insert(index_in_block(seq), fact) {
            return false;
        }
        self.bytes += block.bytes() - before;
        self.kept += 1;
        block.until = block.until.max(fact.until);
        self.highest = self.highest.max(seq);
        match self.newest.1 {
            last if seq == last + 1 && last > 0 => self.newest.1 = seq,
            last if seq > last => self.newest = (seq, seq),
            _ => {}
        }
        self.advance();
        true
    }

    /// Notes that every entry up to `seq` was applied in some other way, or has expired.
    pub fn skip_to(&mut self, seq: u64) {
        if seq > self.complete {
            self.complete = seq;
            self.skipped = seq;
            self.advance();
        }
    }

    /// As [`Self::skip_to`], by the word of the ledger, which overrides hearsay.
    pub fn skip_proven(&mut self, seq: u64) {
        self.hearsay =
            self.hearsay.and_then(|hearsay| SeqRange::new(hearsay.first.max(seq + 1), hearsay.last));
        self.skip_to(seq);
    }

    /// As [`Self::skip_forgotten`], by the word of a node other than the origin.
    pub fn skip_hearsay(&mut self, forgotten: Forgotten) {
        if forgotten.seq > self.complete {
            let first = self.hearsay.map_or(self.complete + 1, |hearsay| hearsay.first);
            self.hearsay = Some(SeqRange { first, last: forgotten.seq });
        }
        self.skip_forgotten(forgotten);
    }

    /// Skips entries that have expired: this node no longer pulls them, nor do peers that ask this node for
    /// them.
    pub fn skip_forgotten(&mut self, forgotten: Forgotten) {
        self.note_forgotten(forgotten);
        self.skip_to(forgotten.seq);
    }

    /// Whether entries of this block are missing although all of them were applied.
    #[must_use]
    pub const fn has_lost(&self, block: u64) -> bool {
        let is_expected =
            block * BLOCK_ENTRIES >= self.forgotten.seq && block * BLOCK_ENTRIES >= self.skipped;
        is_expected && (block + 1) * BLOCK_ENTRIES <= self.complete
    }

    fn note_forgotten(&mut self, Forgotten { seq, until }: Forgotten) {
        self.forgotten.seq = self.forgotten.seq.max(seq);
        self.forgotten.until = self.forgotten.until.max(until);
    }

    fn advance(&mut self) {
        while self.holds(self.complete + 1) {
            self.complete += 1;
        }
    }

    /// The first run of entries held between `first` and `last`, without a gap and at most `count_max` long,
    /// with the number of its first entry.
    #[must_use]
    pub fn run(&self, first: u64, last: u64, count_max: usize) -> Option<(u64, Vec<Fact>)> {
        let begin = self.next_held(first.max(1), last)?;
        let mut next = begin;
        let mut facts = Vec::new();
        while next <= last
            && facts.len() < count_max
            && let Some(fact) = self.get(next)
        {
            facts.push(*fact);
            next += 1;
        }
        Some((begin, facts))
    }

    /// The lowest number between `first` and `last` whose entry is held.
    fn next_held(&self, first: u64, last: u64) -> Option<u64> {
        if first > last {
            return None;
        }
        self.blocks.range(block_of(first)..=block_of(last)).find_map(|(number, block)| {
            let begin = first_of(*number);
            let skip = usize::try_from(first.saturating_sub(begin)).unwrap_or(usize::MAX);
            let found = block.next_held(skip)?;
            Some(begin + u64::try_from(found).unwrap_or(0)).filter(|seq| *seq <= last)
        })
    }

    /// Drops whole blocks that were applied and expired more than `skew` before the horizon. Returns the
    /// number of entries dropped.
    pub fn forget(&mut self, horizon: Horizon, skew: Duration) -> usize {
        let mut dropped = 0;
        // Skipped entries had expired: a peer that pulls them must not wait for them.
        let held =
            self.blocks.first_key_value().and_then(|(number, _)| self.next_held(first_of(*number), u64::MAX));
        let skipped = held.map_or(self.complete, |held| self.complete.min(held - 1));
        if skipped > self.forgotten.seq {
            self.note_forgotten(Forgotten { seq: skipped, until: horizon.time().minus(skew) });
        }
        while let Some((number, block)) = self.blocks.first_key_value()
            && first_of(*number) + BLOCK_ENTRIES - 1 <= self.complete
            && horizon.is_past(block.until, skew)
        {
            dropped += self.drop_first();
        }
        dropped
    }

    /// Whether the log has more blocks than the last one, which grows.
    #[must_use]
    pub fn has_several_blocks(&self) -> bool {
        self.blocks.len() > 1
    }

    /// Makes room: drops the oldest block if it was applied, else the newest, which will be pulled again. A
    /// log of one block loses that block. Returns the number of entries dropped.
    pub fn shed(&mut self) -> usize {
        let oldest = self.blocks.first_key_value();
        if oldest.is_some_and(|(number, _)| first_of(*number) + BLOCK_ENTRIES - 1 <= self.complete) {
            return self.drop_first();
        }
        let Some((number, block)) = self.blocks.pop_last() else { return 0 };
        self.highest = self.complete;
        self.newest = (0, 0);
        if first_of(number) <= self.complete {
            // The beginning of this block was applied and will not be pulled again.
            self.note_forgotten(Forgotten { seq: self.complete, until: block.until });
        }
        self.count_dropped(&block)
    }

    fn drop_first(&mut self) -> usize {
        let Some((number, block)) = self.blocks.pop_first() else { return 0 };
        self.note_forgotten(Forgotten { seq: first_of(number) + BLOCK_ENTRIES - 1, until: block.until });
        self.count_dropped(&block)
    }

    fn count_dropped(&mut self, block: &Block) -> usize {
        self.kept -= block.facts.len();
        self.bytes -= block.bytes();
        block.facts.len()
    }

    /// The checksums of `blocks` blocks from block `first` on; 0 for a block that is not held whole. Logs
    /// with the same entries have the same checksums: expiries are not part of them.
    pub fn sums(&mut self, first: u64, blocks: u64) -> Vec<u64> {
        let sum = |number| self.blocks.get_mut(&number).map_or(0, |block| block.sum(first_of(number)));
        (first..first.saturating_add(blocks)).map(sum).collect()
    }

    /// Whether any block can be whole, and so have a checksum.
    #[must_use]
    pub fn has_whole_block(&self) -> bool {
        u64::try_from(self.kept()).unwrap_or(0) >= BLOCK_ENTRIES
    }

    /// The range from the number of the first block held to that of the last.
    #[must_use]
    pub fn blocks(&self) -> Option<RangeInclusive<u64>> {
        Some(*self.blocks.first_key_value()?.0..=*self.blocks.last_key_value()?.0)
    }
}

impl Block {
    fn is_whole(&self) -> bool {
        u64::try_from(self.facts.len()).unwrap_or(0) == BLOCK_ENTRIES
    }

    /// The memory that the block takes, in bytes; 0 for an empty block, which exists only until its first
    /// entry is added.
    fn bytes(&self) -> usize {
        if self.facts.is_empty() {
            0
        } else {
            BLOCK_OVERHEAD_BYTES + self.facts.capacity() * size_of::<Fact>()
        }
    }

    /// Whether the entry of this index is held, and how many entries before it are.
    fn find(&self, index: usize) -> (bool, usize) {
        let word = index / 64;
        let bit = index % 64;
        let before = self.held.iter().take(word).map(|word| word.count_ones()).sum::<u32>();
        let own = self.held.get(word).copied().unwrap_or(0);
        let rank = before + (own & !(u64::MAX << bit)).count_ones();
        (own >> bit & 1 == 1, usize::try_from(rank).unwrap_or(usize::MAX))
    }

    fn get(&self, index: usize) -> Option<&Fact> {
        let (held, rank) = self.find(index);
        self.facts.get(rank).filter(|_| held)
    }

    /// Returns whether the entry was not held before.
    fn insert(&mut self, index: usize, fact: Fact) -> bool {
        let (held, rank) = self.find(index);
        let Some(word) = self.held.get_mut(index / 64).filter(|_| !held) else { return false };
        *word |= 1 << (index % 64);
        self.facts.insert(rank, fact);
        true
    }

    /// The lowest index from `from` on whose entry is held.
    fn next_held(&self, from: usize) -> Option<usize> {
        (from / 64..self.held.len()).find_map(|word| {
            let skip = if word == from / 64 { from % 64 } else { 0 };
            let bits = self.held[word] & (u64::MAX << skip);
            let first = usize::try_from(bits.trailing_zeros()).unwrap_or(0);
            (bits != 0).then_some(word * 64 + first)
        })
    }

    /// The checksum of the block, whose first entry has the number `first`; 0 if it is not whole.
    fn sum(&mut self, first: u64) -> u64 {
        if !self.is_whole() {
            return 0;
        }
        if let Some(sum) = self.sum {
            return sum;
        }
        let mut bytes = Vec::with_capacity(64);
        let sum = (first..).zip(&self.facts).fold(1_u64, |sum, (seq, fact)| {
            bytes.clear();
            bytes.extend_from_slice(&seq.to_be_bytes());
            encode_kind(&mut bytes, &fact.kind);
            sum.wrapping_add(u64::from(crc32fast::hash(&bytes)))
        });
        self.sum = Some(sum);
        sum
    }
}
