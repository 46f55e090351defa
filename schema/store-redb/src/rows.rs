//! Rows in a transaction: [`Snapshot`] reads, [`Change`] reads and writes, [`Rows`] is what both do.

use std::{cell::Cell, ops::Bound};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};
use schema::store::{Result, StoreError};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::storage,
    key::Key,
    table::{Definition, Table},
};

type Bytes = &'static [u8];

/// Reading rows.
pub(crate) trait Rows {
    /// The table of this name.
    fn open(&self, table: Definition) -> Result<impl ReadableTable<Bytes, Bytes>>;

    /// The row of a key.
    fn get<K: Key, R: DeserializeOwned>(&self, table: &Table<K, R>, key: &K) -> Result<Option<R>> {
        let rows = self.open(table.definition())?;
        let row = rows.get(key.encode().as_slice()).map_err(storage)?;
        row.map(|row| decode(table, row.value())).transpose()
    }

    /// The row of a key, also one that cannot be read.
    fn look<K: Key, R: DeserializeOwned>(&self, table: &Table<K, R>, key: &K) -> Result<Option<Row<R>>> {
        let rows = self.open(table.definition())?;
        let row = rows.get(key.encode().as_slice()).map_err(storage)?;
        Ok(row.map(|row| read(table, row.value())))
    }

    /// Whether there is a row; it is not looked at.
    fn has<K: Key, R>(&self, table: &Table<K, R>, key: &K) -> Result<bool> {
        let rows = self.open(table.definition())?;
        Ok(rows.get(key.encode().as_slice()).map_err(storage)?.is_some())
    }

    /// How many rows there are. Costs one look, whatever the number.
    fn count<K, R>(&self, table: &Table<K, R>) -> Result<u64> {
        self.open(table.definition())?.len().map_err(storage)
    }

    /// At most `limit` rows, by key.
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

    /// At most `limit` rows, by key, also those that cannot be read.
    fn look_at<K: Key, R: DeserializeOwned>(
        &self,
        table: &Table<K, R>,
        span: &Span,
        limit: usize,
    ) -> Result<Vec<(K, Row<R>)>> {
        let rows = self.open(table.definition())?;
        let range = rows.range::<&[u8]>(span.bounds()).map_err(storage)?;
        range.filter_map(|row| keyed(table, row).transpose()).take(limit).collect()
    }

    /// At most `limit` rows, by key, without those that cannot be read: for lists, of which one bad row
    /// takes nothing but itself.
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

    /// The same from the end.
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

    /// How many rows there are in a span. They are not looked at, but each is passed.
    fn count_in<K: Key, R>(&self, table: &Table<K, R>, span: &Span) -> Result<usize> {
        let rows = self.open(table.definition())?;
        let range = rows.range::<&[u8]>(span.bounds()).map_err(storage)?;
        range.map(|row| row.map(drop).map_err(storage)).try_fold(0, |count, row| row.map(|()| count + 1))
    }
}

/// What lies under a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row<R> {
    /// A row of its form.
    Good(R),
    /// Something else: damaged, or of no version that is known.
    Unreadable,
}

impl<R> Row<R> {
    /// The row, if it can be read.
    pub(crate) fn good(self) -> Option<R> {
        match self {
            Self::Good(row) => Some(row),
            Self::Unreadable => None,
        }
    }
}

fn read<K, R: DeserializeOwned>(table: &Table<K, R>, row: &[u8]) -> Row<R> {
    match decode(table, row) {
        Ok(row) => Row::Good(row),
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
        .ok_or_else(|| StoreError::Inconsistent(format!("{} has a key of another form", table.name())))?;
    Ok((key, decode(table, row.value())?))
}

/// A row with its key; `None` for a key that is none, which nothing refers to.
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
    Ok(row.and_then(|(key, row)| Some((key, row.good()?))))
}

/// The error does not say what is in the row: it may be a hash.
fn decode<K, R: DeserializeOwned>(table: &Table<K, R>, row: &[u8]) -> Result<R> {
    serde_json::from_slice(row).map_err(|error| {
        let (name, place) = (table.name(), error.column());
        StoreError::Inconsistent(format!("{name} has a row that does not parse, at byte {place}"))
    })
}

/// The store as it was at one moment.
pub(crate) struct Snapshot(pub(crate) ReadTransaction);

impl Rows for Snapshot {
    fn open(&self, table: Definition) -> Result<impl ReadableTable<Bytes, Bytes>> {
        let rows: ReadOnlyTable<Bytes, Bytes> = self.0.open_table(table).map_err(storage)?;
        Ok(rows)
    }
}

/// One job's part of a write transaction.
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

    /// Whether it changed anything yet.
    pub(crate) const fn wrote(&self) -> bool {
        self.wrote.get()
    }

    /// Puts a row, in place of one that is there.
    pub(crate) fn put<K: Key, R: Serialize>(&self, table: &Table<K, R>, key: &K, row: &R) -> Result<()> {
        let row = serde_json::to_vec(row)
            .map_err(|error| StoreError::Inconsistent(format!("{}: {error}", table.name())))?;
        self.wrote.set(true);
        let mut rows = self.transaction.open_table(table.definition()).map_err(storage)?;
        rows.insert(key.encode().as_slice(), row.as_slice()).map_err(storage)?;
        Ok(())
    }

    /// Removes a row; says whether it was there.
    pub(crate) fn remove<K: Key, R>(&self, table: &Table<K, R>, key: &K) -> Result<bool> {
        let mut rows = self.transaction.open_table(table.definition()).map_err(storage)?;
        let was_there = rows.remove(key.encode().as_slice()).map_err(storage)?.is_some();
        if was_there {
            self.wrote.set(true);
        }
        Ok(was_there)
    }
}

/// A run of keys.
pub(crate) struct Span {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl Span {
    /// All keys.
    pub(crate) fn all() -> Self {
        Self::of(&())
    }

    /// The keys that begin with this one.
    pub(crate) fn of(prefix: &impl Key) -> Self {
        let from = prefix.encode();
        let to = end_of(&from);
        Self { from: Bound::Included(from), to }
    }

    /// The keys up to those that begin with this one.
    pub(crate) fn up_to(last: &impl Key) -> Self {
        Self { from: Bound::Unbounded, to: end_of(&last.encode()) }
    }

    /// Of these, those after this key.
    pub(crate) fn after(self, key: Option<&impl Key>) -> Self {
        match key {
            Some(key) => Self { from: Bound::Excluded(key.encode()), ..self },
            None => self,
        }
    }

    /// Of these, those before this key.
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

/// What no key that begins with `prefix` reaches.
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
    fn a_prefix_ends_before_the_next() {
        assert_eq!(end_of(&[1, 2]), Bound::Excluded(vec![1, 3]));
        assert_eq!(end_of(&[1, 255, 255]), Bound::Excluded(vec![2]));
        assert_eq!(end_of(&[255]), Bound::Unbounded);
        assert_eq!(end_of(&[]), Bound::Unbounded);
    }
}
