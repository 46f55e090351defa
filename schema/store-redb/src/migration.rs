//! How an older file becomes one of this format: numbered steps, in one transaction at the start.
//!
//! The format's number is how many steps the file has been through. A step is never changed once it
//! was released; what is new is a new step at the end. All steps that are missing are applied in
//! one transaction, so a file is of the old format or of the new one, never between.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, WriteTransaction};

use crate::table;

/// One step.
pub(crate) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// All steps.
pub(crate) const STEPS: &[Step] = &[make_the_tables, make_the_tables_of_places];

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: &str = "format";

/// Why a file stays as it is.
#[derive(Debug)]
pub(crate) enum MigrationError {
    /// Its tables are not ours.
    Foreign,
    /// It has been through more steps than there are.
    Newer { found: u64 },
    /// The database failed.
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for MigrationError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Applies the steps that the file lacks. One that is up to date is only read.
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
    tracing::info!(from = found, to = known, "the store has a new format");
    Ok(())
}

/// 0 when there is nothing in the file yet.
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

/// Step 1.
fn make_the_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    for table in table::FORMAT_1 {
        transaction.open_table(table)?;
    }
    Ok(())
}

/// Step 2.
fn make_the_tables_of_places(transaction: &WriteTransaction) -> Result<(), redb::Error> {
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

    fn fail_half_way(transaction: &WriteTransaction) -> Result<(), redb::Error> {
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
    fn a_new_file_goes_through_all_steps_once() {
        let database = database();
        migrate(&database, STEPS).unwrap();
        assert_eq!(format(&database).unwrap(), STEPS.len() as u64);
        let tables = database.begin_read().unwrap().list_tables().unwrap().count();
        assert_eq!(tables, table::FORMAT_1.len() + table::FORMAT_2.len() + 1);
        migrate(&database, STEPS).unwrap();
        assert_eq!(format(&database).unwrap(), STEPS.len() as u64);
    }

    #[test]
    fn an_older_file_goes_through_the_steps_that_it_lacks() {
        let database = database();
        migrate(&database, &STEPS[..1]).unwrap();
        migrate(&database, &[fail_half_way, add_notes]).unwrap();
        assert_eq!(format(&database).unwrap(), 2);
        assert!(has_notes(&database));
    }

    #[test]
    fn a_step_that_fails_half_way_leaves_the_old_format() {
        let database = database();
        migrate(&database, &STEPS[..1]).unwrap();
        let failed = migrate(&database, &[make_the_tables, fail_half_way]);
        assert!(matches!(failed, Err(MigrationError::Failed(_))));
        assert_eq!(format(&database).unwrap(), 1);
        assert!(!has_notes(&database));
        migrate(&database, &[make_the_tables, add_notes]).unwrap();
        assert!(has_notes(&database));
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let database = database();
        let newer = [STEPS, &[add_notes]].concat();
        migrate(&database, &newer).unwrap();
        let refused = migrate(&database, STEPS);
        assert!(matches!(refused, Err(MigrationError::Newer { found }) if found == newer.len() as u64));
        assert_eq!(format(&database).unwrap(), newer.len() as u64);
    }

    #[test]
    fn a_file_with_other_tables_is_left_alone() {
        let database = database();
        let transaction = database.begin_write().unwrap();
        add_notes(&transaction).unwrap();
        transaction.commit().unwrap();
        assert!(matches!(migrate(&database, STEPS), Err(MigrationError::Foreign)));
    }
}
