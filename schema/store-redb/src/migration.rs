//! Migrates an older file to the current format: numbered steps, in one transaction at the start.
//!
//! The number of a file's format is the number of steps applied to it. A released step never changes; a
//! change of the format is a new step at the end. All missing steps are applied in one transaction, so a
//! file has either the old format or the new one.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, WriteTransaction};

use crate::table;

/// One step of the migration.
pub(crate) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// All steps, in order.
pub(crate) const STEPS: &[Step] = &[create_tables, create_place_tables];

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: &str = "format";

/// Why a file was not migrated. It is unchanged.
#[derive(Debug)]
pub(crate) enum MigrationError {
    /// The file has the tables of another program.
    Foreign,
    /// The file has a newer format than this version knows.
    Newer { found: u64 },
    /// The database failed.
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for MigrationError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Applies the steps that the file lacks. A file with the current format is only read.
pub(crate) fn migrate(database: &Database, steps: &[Step]) -> Result<(), MigrationError> {
    let found = format(database)?;
    let known = steps.len() as u64;
    if found > known {
        return Err(MigrationError::Newer { found });
    }
    if found == known {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    for step in steps.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        step(&transaction).map_err(MigrationError::Failed)?;
    }
    transaction.open_table(META)?.insert(FORMAT, known)?;
    transaction.commit()?;
    tracing::info!(from = found, to = known, "store migrated to a new format");
    Ok(())
}

/// The format of the file; 0 if it is empty.
fn format(database: &Database) -> Result<u64, MigrationError> {
    let transaction = database.begin_read()?;
    let tables: Vec<_> = transaction.list_tables()?.collect();
    if tables.is_empty() && transaction.list_multimap_tables()?.next().is_none() {
        return Ok(0);
    }
    if !tables.iter().any(|table| table.name() == META.name()) {
        return Err(MigrationError::Foreign);
    }
    let meta = match transaction.open_table(META) {
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Err(MigrationError::Foreign),
        Ok(meta) => meta,
    };
    let format = ReadableTable::get(&meta, FORMAT)?.map(|format| format.value());
    format.filter(|format| *format > 0).ok_or(MigrationError::Foreign)
}

/// Step 1: creates the tables of format 1.
fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    for table in table::FORMAT_1 {
        transaction.open_table(table)?;
    }
    Ok(())
}

/// Step 2: adds the tables of known places.
fn create_place_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    for table in table::FORMAT_2 {
        transaction.open_table(table)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    const NOTES: TableDefinition<&str, &str> = TableDefinition::new("notes");

    fn add_notes(transaction: &WriteTransaction) -> Result<(), redb::Error> {
        transaction.open_table(NOTES)?.insert("made by", "step 2")?;
        Ok(())
    }

    fn fail_midway(transaction: &WriteTransaction) -> Result<(), redb::Error> {
        add_notes(transaction)?;
        Err(redb::Error::Corrupted("half-way".into()))
    }

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    fn has_notes(database: &Database) -> bool {
        database.begin_read().unwrap().open_table(NOTES).is_ok()
    }

    #[test]
    fn new_file_gets_all_steps_once() {
        let database = database();
        migrate(&database, STEPS).unwrap();
        assert_eq!(format(&database).unwrap(), STEPS.len() as u64);
        let tables = database.begin_read().unwrap().list_tables().unwrap().count();
        assert_eq!(tables, table::FORMAT_1.len() + table::FORMAT_2.len() + 1);
        migrate(&database, STEPS).unwrap();
        assert_eq!(format(&database).unwrap(), STEPS.len() as u64);
    }

    #[test]
    fn older_file_gets_only_the_missing_steps() {
        let database = database();
        migrate(&database, &STEPS[..1]).unwrap();
        migrate(&database, &[fail_midway, add_notes]).unwrap();
        assert_eq!(format(&database).unwrap(), 2);
        assert!(has_notes(&database));
    }

    #[test]
    fn step_that_fails_midway_leaves_the_old_format() {
        let database = database();
        migrate(&database, &STEPS[..1]).unwrap();
        let failed = migrate(&database, &[create_tables, fail_midway]);
        assert!(matches!(failed, Err(MigrationError::Failed(_))));
        assert_eq!(format(&database).unwrap(), 1);
        assert!(!has_notes(&database));
        migrate(&database, &[create_tables, add_notes]).unwrap();
        assert!(has_notes(&database));
    }

    #[test]
    fn newer_file_is_left_unchanged() {
        let database = database();
        let newer = [STEPS, &[add_notes]].concat();
        migrate(&database, &newer).unwrap();
        let refused = migrate(&database, STEPS);
        assert!(matches!(refused, Err(MigrationError::Newer { found }) if found == newer.len() as u64));
        assert_eq!(format(&database).unwrap(), newer.len() as u64);
    }

    #[test]
    fn file_with_foreign_tables_is_left_unchanged() {
        let database = database();
        let transaction = database.begin_write().unwrap();
        add_notes(&transaction).unwrap();
        transaction.commit().unwrap();
        assert!(matches!(migrate(&database, STEPS), Err(MigrationError::Foreign)));
    }
}
