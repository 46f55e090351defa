//! A range of entry numbers.

/// The entries `first` to `last` of one log, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeqRange {
    /// The number of the first entry.
    pub first: u64,
    /// The number of the last entry.
    pub last: u64,
}

impl SeqRange {
    /// The range from `first` to `last`; `None` if it has no entry or begins below 1.
    #[must_use]
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// Whether this range has every entry of `other`.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The smallest range that covers both.
    #[must_use]
    pub fn span(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Both ranges if they touch or overlap, else `newer` alone.
    #[must_use]
    pub fn joined_with(self, newer: Self) -> Self {
        let touch = self.first <= newer.last.saturating_add(1) && newer.first <= self.last.saturating_add(1);
        if touch { self.span(newer) } else { newer }
    }
}
