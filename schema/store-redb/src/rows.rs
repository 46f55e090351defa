//! Rows in a transaction: [`Snapshot`] reads, [`Change`] reads and writes, [`Rows`] are the reads of both.

use std::{cell::Cell, ops::Bound};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use store::{Result, StoreError};

use crate::{
    error::storage,
    key::Key,
    table::{Definition, Table},
};

type Bytes = &'static [u8];

/// Reads of rows by typed keys.
pub(crate) trait Rows {
    /// Opens a table.
    fn open(&self, table: Definition) -> Result<impl ReadableTable<Bytes, Bytes>>;

    /// The row with this key.
    ///
    /// # Errors
    /// `Inconsistent` if it does not parse.
    fn get<K: Key, R: DeserializeOwned>(&self, table: &Table<K, R>, key: &K) -> Result<Option<R>> {
        let rows = self.open(table.definition())?;
        let row = rows.get(key.encode().as_slice()).map_err(storage)?;
        row.map(|row| decode(table, row.value())).transpose()
    }

    /// The row with this key, or [`Row::Unreadable`].
    fn get_row<K: Key, R: DeserializeOwned>(&self, table: &Table<K, R>, key: &K) -> Result<Option<Row<R>>> {
        let rows = self.open(table.definition())?;
        let row = rows.get(key.encode().as_slice()).map_err(storage)?;
        Ok(row.map(|row| read(table, row.value())))
    }

    /// Whether there is a row with this key. The row is not parsed.
    fn has<K: Key, R>(&self, table: &Table<K, R>, key: &K) -> Result<bool> {
        let rows = self.open(table.definition())?;
        Ok(rows.get(key.encode().as_slice()).map_err(storage)?.is_some())
    }

    /// The number of rows of a table, in constant time.
    fn count<K, R>(&self, table: &Table<K, R>) -> Result<u64> {
        self.open(table.definition())?.len().map_err(storage)
    }

    /// At most `limit` rows, by key.
    ///
    /// # Errors
    /// `Inconsistent` if one does not parse.
    fn scan<K: Key, R: DeserializeOwned>(
        &self,
        table: &Table<K, R>,
        span: &Span,
        limit: usize,
    ) -> Result<Vec<(K, R)>> {
        let rows = self.open(table.definition())?;
        rows.range::<&[u8]>(span.bounds())
            .map_err(storage)?
            .take(limit)
            .map(|row| entry(table, row))
            .collect()
    }

    /// At most `limit` rows, by key, including those that do not parse.
    fn scan_rows<K: Key, R: DeserializeOwned>(
        &self,
        table: &Table<K, R>,
        span: &Span,
        limit: usize,
    ) -> Result<Vec<(K, Row<R>)>> {
        let rows = self.open(table.definition())?;
        let range = rows.range::<&[u8]>(span.bounds()).map_err(storage)?;
        range.filter_map(|row| keyed(table, row).transpose()).take(limit).collect()
    }

    /// At most `limit` rows, by key, without those that do not parse: one bad row must not make a whole list
    /// unreadable.
    fn list<K: Key, R: DeserializeOwned>(
        &self,
        table: &Table<K, R>,
        span: &Span,
        limit: usize,
    ) -> Result<Vec<(K, R)>> {
        let rows = self.open(table.definition())?;
        let range = rows.range::<&[u8]>(span.bounds()).map_err(storage)?;
        range.filter_map(|row| readable(table, row).transpose()).take(limit).collect()
    }

    /// At most `limit` rows from the end, by descending key, without those that do not parse.
    fn list_back<K: Key, R: DeserializeOwned>(
        &self,
        table: &Table<K, R>,
        span: &Span,
        limit: usize,
    ) -> Result<Vec<(K, R)>> {
        let rows = self.open(table.definition())?;
        let range = rows.range::<&[u8]>(span.bounds()).map_err(storage)?;
        range.rev().filter_map(|row| readable(table, row).transpose()).take(limit).collect()
    }

    /// The number of rows in a span. The rows are not parsed, but the time grows with their number.
    fn count_in<K: Key, R>(&self, table: &Table<K, R>, span: &Span) -> Result<usize> {
        let rows = self.open(table.definition())?;
        let range = rows.range::<&[u8]>(span.bounds()).map_err(storage)?;
        range.map(|row| row.map(drop).map_err(storage)).try_fold(0, |count, row| row.map(|()| count + 1))
    }
}

/// The content of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row<R> {
    /// A row of the expected form.
    Parsed(R),
    /// Something else: damaged, or of an unknown version.
    Unreadable,
}

impl<R> Row<R> {
    /// The row, if it parses.
    pub(crate) fn parsed(self) -> Option<R> {
        match self {
            Self::Parsed(row) => Some(row),
            Self::Unreadable => None,
        }
    }
}

fn read<K, R: DeserializeOwned>(table: &Table<K, R>, row: &[u8]) -> Row<R> {
    match decode(table, row) {
        Ok(row) => Row::Parsed(row),
        Err(error) => {
            tracing::error!(%error, "a row cannot be read; `palisade store check` names it");
            Row::Unreadable
        }
    }
}

type Guard<'a> = redb::AccessGuard<'a, Bytes>;

fn entry<K: Key, R: DeserializeOwned>(
    table: &Table<K, R>,
    row: std::result::Result<(Guard<'_>, Guard<'_>), redb::StorageError>,
) -> Result<(K, R)> {
    let (key, row) = row.map_err(storage)?;
    let key = K::decode(key.value())
        .ok_or_else(|| StoreError::Inconsistent(format!("{} has a key that does not parse", table.name())))?;
    Ok((key, decode(table, row.value())?))
}

/// A row with its key; `None` for a key that does not parse, to which nothing can refer.
fn keyed<K: Key, R: DeserializeOwned>(
    table: &Table<K, R>,
    row: std::result::Result<(Guard<'_>, Guard<'_>), redb::StorageError>,
) -> Result<Option<(K, Row<R>)>> {
    let (key, row) = row.map_err(storage)?;
    Ok(K::decode(key.value()).map(|key| (key, read(table, row.value()))))
}

fn readable<K: Key, R: DeserializeOwned>(
    table: &Table<K, R>,
    row: std::result::Result<(Guard<'_>, Guard<'_>), redb::StorageError>,
) -> Result<Option<(K, R)>> {
    let row = keyed(table, row)?;
    Ok(row.and_then(|(key, row)| Some((key, row.parsed()?))))
}

/// Parses a row. The error shows nothing of the row, which may hold a password hash.
fn decode<K, R: DeserializeOwned>(table: &Table<K, R>, row: &[u8]) -> Result<R> {
    serde_json::from_slice(row).map_err(|error| {
        let name = table.name();
        let offset = error.column();
        StoreError::Inconsistent(format!("{name} has a row that does not parse, at byte {offset}"))
    })
}

/// A read transaction: the store as of one commit.
pub(crate) struct Snapshot(pub(crate) ReadTransaction);

impl Rows for Snapshot {
    fn open(&self, table: Definition) -> Result<impl ReadableTable<Bytes, Bytes>> {
        let rows: ReadOnlyTable<Bytes, Bytes> = self.0.open_table(table).map_err(storage)?;
        Ok(rows)
    }
}

/// The part of one job in a write transaction.
pub(crate) struct Change<'t> {
    transaction: &'t WriteTransaction,
    wrote: Cell<bool>,
}

impl Rows for Change<'_> {
    fn open(&self, table: Definition) -> Result<impl ReadableTable<Bytes, Bytes>> {
        self.transaction.open_table(table).map_err(storage)
    }
}

impl<'t> Change<'t> {
    pub(crate) const fn new(transaction: &'t WriteTransaction) -> Self {
        Self { transaction, wrote: Cell::new(false) }
    }

    /// Whether the job has written anything yet.
    pub(crate) const fn wrote(&self) -> bool {
        self.wrote.get()
    }

    /// Inserts or replaces a row.
    pub(crate) fn put<K: Key, R: Serialize>(&self, table: &Table<K, R>, key: &K, row: &R) -> Result<()> {
        let row = serde_json::to_vec(row)
            .map_err(|error| StoreError::Inconsistent(format!("{}: {error}", table.name())))?;
        self.wrote.set(true);
        let mut rows = self.transaction.open_table(table.definition()).map_err(storage)?;
        rows.insert(key.encode().as_slice(), row.as_slice()).map_err(storage)?;
        Ok(())
    }

    /// Removes a row. Returns whether it existed.
    pub(crate) fn remove<K: Key, R>(&self, table: &Table<K, R>, key: &K) -> Result<bool> {
        let mut rows = self.transaction.open_table(table.definition()).map_err(storage)?;
        let existed = rows.remove(key.encode().as_slice()).map_err(storage)?.is_some();
        if existed {
            self.wrote.set(true);
        }
        Ok(existed)
    }
}

/// A range of keys.
pub(crate) struct Span {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl Span {
    /// All keys.
    pub(crate) fn all() -> Self {
        Self::of(&())
    }

    /// The keys with this prefix.
    pub(crate) fn of(prefix: &impl Key) -> Self {
        let from = prefix.encode();
        let to = end_of(&from);
        Self { from: Bound::Included(from), to }
    }

    /// The keys up to and including those with this prefix.
    pub(crate) fn up_to(last: &impl Key) -> Self {
        Self { from: Bound::Unbounded, to: end_of(&last.encode()) }
    }

    /// The part of the range after `key`, if there is one.
    pub(crate) fn after(self, key: Option<&impl Key>) -> Self {
        match key {
            Some(key) => Self { from: Bound::Excluded(key.encode()), ..self },
            None => self,
        }
    }

    /// The part of the range before `key`, if there is one.
    pub(crate) fn before(self, key: Option<&impl Key>) -> Self {
        match key {
            Some(key) => Self { to: Bound::Excluded(key.encode()), ..self },
            None => self,
        }
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice))
    }
}

/// The upper bound of the keys with this prefix.
fn end_of(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_of_a_prefix_ends_before_the_next() {
        assert_eq!(end_of(&[1, 2]), Bound::Excluded(vec![1, 3]));
        assert_eq!(end_of(&[1, 255, 255]), Bound::Excluded(vec![2]));
        assert_eq!(end_of(&[255]), Bound::Unbounded);
        assert_eq!(end_of(&[]), Bound::Unbounded);
    }
}
