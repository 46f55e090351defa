//! One origin's log: what is held of it, and what was.
//!
//! Entries lie in blocks of [`BLOCK`] numbers, which may have holes. A block is dropped as a whole when all
//! of it was applied and has ended.
//!
//! A block takes memory for the entries that it holds, not for the numbers that it spans, and a log knows
//! how many bytes it takes ([`Log::bytes`]): a peer that chooses its numbers badly gains nothing by it.

use std::{collections::BTreeMap, time::Duration};

use schema::{Fact, Horizon, Timestamp};

use super::message::{Applied, Forgotten, kind};

/// How many numbers a block has.
pub const BLOCK: u64 = 256;
/// The memory of a block beside its entries, in bytes, with its place in a tree that is half empty.
const BLOCK_BYTES: usize = 320;
/// The memory of the longest block, in bytes.
pub const MAX_BLOCK_BYTES: usize = BLOCK_BYTES + 256 * size_of::<Fact>();

/// What is held of a log.
#[derive(Debug, Default)]
pub struct Log {
    complete: u64,
    highest: u64,
    /// The newest run without a hole; `(0, 0)` before the first entry.
    newest: (u64, u64),
    blocks: BTreeMap<u64, Block>,
    kept: usize,
    bytes: usize,
    forgotten: Forgotten,
    /// What is complete only because somebody else than its origin says that it was and has ended.
    hearsay: Option<(u64, u64)>,
    /// Entries up to this number that are not held were skipped.
    skipped: u64,
    until: Timestamp,
}

#[derive(Debug, Default)]
struct Block {
    /// A bit for each number, the lowest first: whether its entry is held.
    held: [u64; 4],
    /// The entries that are held, by number.
    facts: Vec<Fact>,
    until: Timestamp,
    /// Known when it is whole.
    sum: Option<u64>,
}

const fn block_of(seq: u64) -> u64 {
    (seq - 1) / BLOCK
}

const fn first_of(block: u64) -> u64 {
    block * BLOCK + 1
}

fn place(seq: u64) -> usize {
    usize::try_from((seq - 1) % BLOCK).unwrap_or(0)
}

impl Log {
    /// All up to here was applied, or had ended.
    #[must_use]
    pub const fn complete(&self) -> u64 {
        self.complete
    }

    /// All up to here was applied, or the ledger or the log's origin says that it had ended: what need not be
    /// looked for in the ledger.
    #[must_use]
    pub fn proven(&self) -> u64 {
        self.hearsay.map_or(self.complete, |(first, _)| self.complete.min(first - 1))
    }

    /// The highest number that was applied.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest.max(self.complete)
    }

    /// When the last of its facts ends, as far as is known.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// Somebody has facts of it that end then.
    pub fn lasts_until(&mut self, until: Timestamp) {
        self.until = self.until.max(until);
    }

    /// What is not held any more.
    #[must_use]
    pub const fn forgotten(&self) -> Forgotten {
        self.forgotten
    }

    /// What was applied.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        let above = self.newest.1 > self.complete;
        Applied { complete: self.complete, newest: if above { self.newest } else { (0, 0) } }
    }

    /// How many entries are held.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }

    /// Whether this one is held.
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
        self.blocks.get(&block_of(seq))?.get(place(seq))
    }

    /// The end of the gap that begins at `first`, at most `last`.
    #[must_use]
    pub fn missing_until(&self, first: u64, last: u64) -> u64 {
        self.next_held(first, last).map_or(last, |held| held - 1)
    }

    /// The lowest number from this one on that is not held.
    #[must_use]
    pub fn next_missing(&self, first: u64) -> u64 {
        let mut seq = first;
        while let Some(block) = self.blocks.get(&block_of(seq)) {
            // A whole one is skipped at once.
            if seq == first_of(block_of(seq)) && block.is_whole() {
                seq += BLOCK;
            } else if block.get(place(seq)).is_some() {
                seq += 1;
            } else {
                break;
            }
        }
        seq
    }

    /// Takes an entry that has been applied; says whether it was not held before. `seq` is from 1.
    pub fn insert(&mut self, seq: u64, fact: Fact) -> bool {
        self.until = self.until.max(fact.until);
        if seq <= self.forgotten.seq {
            return false;
        }
        let block = self.blocks.entry(block_of(seq)).or_default();
        let before = block.bytes();
        if !block.insert(place(seq), fact) {
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

    /// All up to here was applied some other way, or ended.
    pub fn skip_to(&mut self, seq: u64) {
        if seq > self.complete {
            self.complete = seq;
            self.skipped = seq;
            self.advance();
        }
    }

    /// The same, by the ledger's word, which counts more than hearsay.
    pub fn skip_proven(&mut self, seq: u64) {
        self.hearsay =
            self.hearsay.filter(|(_, last)| *last > seq).map(|(first, last)| (first.max(seq + 1), last));
        self.skip_to(seq);
    }

    /// As [`Self::skip_forgotten`], by the word of somebody else than the log's origin.
    pub fn skip_hearsay(&mut self, forgotten: Forgotten) {
        if forgotten.seq > self.complete {
            let first = self.hearsay.map_or(self.complete + 1, |(first, _)| first);
            self.hearsay = Some((first, forgotten.seq));
        }
        self.skip_forgotten(forgotten);
    }

    /// These have ended, and are asked for no more: neither here nor by who asks this node.
    pub fn skip_forgotten(&mut self, forgotten: Forgotten) {
        self.note_forgotten(forgotten);
        self.skip_to(forgotten.seq);
    }

    /// Whether entries of this block are missing although all of it was applied.
    #[must_use]
    pub const fn has_lost(&self, block: u64) -> bool {
        let is_expected = block * BLOCK >= self.forgotten.seq && block * BLOCK >= self.skipped;
        is_expected && (block + 1) * BLOCK <= self.complete
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

    /// The entries from `first` on, as far as they are held without a hole, at most so many; and the number
    /// that they begin with: the lowest from `first` on that is held.
    #[must_use]
    pub fn run(&self, first: u64, last: u64, most: usize) -> Option<(u64, Vec<Fact>)> {
        let mut begin = self.next_held(first.max(1), last)?;
        let start = begin;
        let mut facts = Vec::new();
        while begin <= last
            && facts.len() < most
            && let Some(fact) = self.get(begin)
        {
            facts.push(*fact);
            begin += 1;
        }
        Some((start, facts))
    }

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

    /// Drops whole blocks that were applied and ended more than `skew` before the horizon; gives how many
    /// entries.
    pub fn forget(&mut self, horizon: Horizon, skew: Duration) -> usize {
        let mut gone = 0;
        // What was skipped had ended: who asks for it shall not wait for it.
        let held =
            self.blocks.first_key_value().and_then(|(number, _)| self.next_held(first_of(*number), u64::MAX));
        let skipped = held.map_or(self.complete, |held| self.complete.min(held - 1));
        if skipped > self.forgotten.seq {
            self.note_forgotten(Forgotten { seq: skipped, until: horizon.time().minus(skew) });
        }
        while let Some((number, block)) = self.blocks.first_key_value()
            && first_of(*number) + BLOCK - 1 <= self.complete
            && horizon.is_past(block.until, skew)
        {
            gone += self.drop_first();
        }
        gone
    }

    /// Whether it has more than the block that grows.
    #[must_use]
    pub fn has_several_blocks(&self) -> bool {
        self.blocks.len() > 1
    }

    /// Makes room: drops the oldest block when it was applied, else the newest, which will be asked for
    /// again; gives how many entries. A log of one block loses that.
    pub fn shed(&mut self) -> usize {
        let oldest_is_done =
            self.blocks.first_key_value().is_some_and(|(n, _)| first_of(*n) + BLOCK - 1 <= self.complete);
        if oldest_is_done {
            return self.drop_first();
        }
        let Some((number, block)) = self.blocks.pop_last() else { return 0 };
        self.highest = self.complete;
        self.newest = (0, 0);
        if first_of(number) <= self.complete {
            // The one that grows: its beginning was applied, and will not be asked for.
            self.note_forgotten(Forgotten { seq: self.complete, until: block.until });
        }
        self.dropped(&block)
    }

    fn drop_first(&mut self) -> usize {
        let Some((number, block)) = self.blocks.pop_first() else { return 0 };
        self.note_forgotten(Forgotten { seq: first_of(number) + BLOCK - 1, until: block.until });
        self.dropped(&block)
    }

    fn dropped(&mut self, block: &Block) -> usize {
        self.kept -= block.facts.len();
        self.bytes -= block.bytes();
        block.facts.len()
    }

    /// The sums of these blocks, 0 for one that is not held whole. Two logs with the same entries have the
    /// same sums; how long facts matter is not in them.
    pub fn sums(&mut self, first: u64, blocks: u64) -> Vec<u64> {
        let sum = |n| self.blocks.get_mut(&n).map_or(0, |block| block.sum(first_of(n)));
        (first..first.saturating_add(blocks)).map(sum).collect()
    }

    /// Whether it can have a sum at all.
    #[must_use]
    pub fn has_whole(&self) -> bool {
        u64::try_from(self.kept()).unwrap_or(0) >= BLOCK
    }

    /// The numbers of the first and the last block.
    #[must_use]
    pub fn blocks(&self) -> Option<(u64, u64)> {
        Some((*self.blocks.first_key_value()?.0, *self.blocks.last_key_value()?.0))
    }
}

impl Block {
    fn is_whole(&self) -> bool {
        u64::try_from(self.facts.len()).unwrap_or(0) == BLOCK
    }

    /// Of one that is empty, 0: it is made when its first entry comes.
    fn bytes(&self) -> usize {
        if self.facts.is_empty() { 0 } else { BLOCK_BYTES + self.facts.capacity() * size_of::<Fact>() }
    }

    /// Whether the entry at this place is held, and how many before it are.
    fn find(&self, place: usize) -> (bool, usize) {
        let (word, bit) = (place / 64, place % 64);
        let before = self.held.iter().take(word).map(|word| word.count_ones()).sum::<u32>();
        let own = self.held.get(word).copied().unwrap_or(0);
        let rank = before + (own & !(u64::MAX << bit)).count_ones();
        (own >> bit & 1 == 1, usize::try_from(rank).unwrap_or(usize::MAX))
    }

    fn get(&self, place: usize) -> Option<&Fact> {
        let (held, rank) = self.find(place);
        self.facts.get(rank).filter(|_| held)
    }

    /// Says whether it was not held before.
    fn insert(&mut self, place: usize, fact: Fact) -> bool {
        let (held, rank) = self.find(place);
        let Some(word) = self.held.get_mut(place / 64).filter(|_| !held) else { return false };
        *word |= 1 << (place % 64);
        self.facts.insert(rank, fact);
        true
    }

    /// The first place from this one on whose entry is held.
    fn next_held(&self, from: usize) -> Option<usize> {
        (from / 64..self.held.len()).find_map(|word| {
            let skip = if word == from / 64 { from % 64 } else { 0 };
            let left = self.held[word] & (u64::MAX << skip);
            let first = usize::try_from(left.trailing_zeros()).unwrap_or(0);
            (left != 0).then_some(word * 64 + first)
        })
    }

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
            kind(&mut bytes, &fact.kind);
            sum.wrapping_add(u64::from(crc32fast::hash(&bytes)))
        });
        self.sum = Some(sum);
        sum
    }
}
