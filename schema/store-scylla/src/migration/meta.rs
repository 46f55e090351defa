//! The record of applied migrations.

use schema::Timestamp;
use scylla::{
    DeserializeRow,
    client::session::Session,
    serialize::row::SerializeRow,
    statement::{Consistency, unprepared::Statement},
    value::{CqlTimestamp, CqlValue, Row},
};

use super::{Applied, MigrateError, Migration, Newer, Report, Result, keyspace, pending};
use crate::{convert, store};

/// The table `schema_migrations`.
pub(super) struct Meta<'a> {
    pub(super) session: &'a Session,
    pub(super) keyspace: &'a str,
}

#[derive(DeserializeRow)]
struct Recorded {
    number: i32,
    name: String,
    checksum: String,
    applied_at: CqlTimestamp,
}

impl Meta<'_> {
    /// Which of `all` are applied, and which are pending. `Refused` if another schema was applied.
    pub(super) async fn report(&self, all: &[Migration], newer: Newer) -> Result<Report> {
        let cql = format!(
            "SELECT number, name, checksum, applied_at FROM {}.schema_migrations WHERE part = 0",
            self.keyspace
        );
        let recorded = serial_rows::<Recorded>(self.session, &cql, ()).await?;
        compare(self.keyspace, recorded, all, newer)
    }

    /// Runs a statement that changes the schema.
    pub(super) async fn change(&self, cql: &str) -> Result<()> {
        keyspace::change(self.session, cql).await
    }

    /// Records that a migration was applied. A repetition is harmless.
    pub(super) async fn record(&self, migration: &Migration, now: Timestamp) -> Result<()> {
        let cql = format!(
            "INSERT INTO {}.schema_migrations (part, number, name, checksum, applied_at) \
             VALUES (0, ?, ?, ?, ?) IF NOT EXISTS",
            self.keyspace
        );
        let values = (migration.number, migration.name, migration.checksum(), convert::time(now));
        Box::pin(self.session.query_unpaged(cql, values)).await.map(drop).map_err(MigrateError::unavailable)
    }
}

/// Compares the recorded migrations with `all`.
fn compare(keyspace: &str, recorded: Vec<Recorded>, all: &[Migration], newer: Newer) -> Result<Report> {
    let mut report = Report::default();
    for row in recorded {
        match (all.iter().find(|known| known.number == row.number), newer) {
            (Some(known), _) if known.checksum() == row.checksum => {}
            (Some(_), _) => {
                return Err(MigrateError::Refused(format!(
                    "migration {} ({}) of the keyspace {keyspace} is not the one of this version: its checksum \
                     differs; run the version that applied it",
                    row.number, row.name
                )));
            }
            (None, Newer::Refused) => {
                return Err(MigrateError::Refused(format!(
                    "the keyspace {keyspace} has migration {} ({}), which this version does not know: it was \
                     made by a newer Palisade; run that version",
                    row.number, row.name
                )));
            }
            (None, Newer::Warned) => {
                tracing::warn!(
                    keyspace,
                    number = row.number,
                    name = row.name,
                    "a newer Palisade has migrated the schema: this node continues, but would not start again"
                );
                continue;
            }
        }
        report.applied.push(Applied {
            number: row.number,
            name: row.name,
            at: convert::timestamp(row.applied_at),
        });
    }
    let is_applied =
        |migration: &&Migration| report.applied.iter().any(|applied| applied.number == migration.number);
    report.pending = all.iter().filter(|migration| !is_applied(migration)).map(pending).collect();
    Ok(report)
}

/// The rows of a read at the default consistency.
pub(super) async fn rows<R: store::Row>(
    session: &Session,
    cql: &str,
    values: impl SerializeRow,
) -> Result<Vec<R>> {
    run(session, Statement::new(cql), values).await
}

/// The rows of a read at `SERIAL`, which sees every conditional write.
pub(super) async fn serial_rows<R: store::Row>(
    session: &Session,
    cql: &str,
    values: impl SerializeRow,
) -> Result<Vec<R>> {
    let mut statement = Statement::new(cql);
    statement.set_consistency(Consistency::Serial);
    run(session, statement, values).await
}

async fn run<R: store::Row>(
    session: &Session,
    statement: Statement,
    values: impl SerializeRow,
) -> Result<Vec<R>> {
    let result =
        Box::pin(session.query_unpaged(statement, values)).await.map_err(MigrateError::unavailable)?;
    let rows = result.into_rows_result().map_err(MigrateError::unavailable)?;
    rows.rows::<R>()
        .map_err(MigrateError::unavailable)?
        .map(|row| row.map_err(MigrateError::unavailable))
        .collect()
}

/// Runs a conditional write once. Returns whether it was applied.
pub(super) async fn applied(session: &Session, cql: &str, values: impl SerializeRow) -> Result<bool> {
    let result = Box::pin(session.query_unpaged(cql, values)).await.map_err(MigrateError::unavailable)?;
    let rows = result.into_rows_result().map_err(MigrateError::unavailable)?;
    let column = rows.column_specs().get_by_name("[applied]").map(|(column, _)| column);
    let row = rows.first_row::<Row>().map_err(MigrateError::unavailable)?;
    let value = column.and_then(|column| row.columns.into_iter().nth(column)).flatten();
    Ok(value == Some(CqlValue::Boolean(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Migration; 2] =
        [Migration { number: 1, name: "one", cql: "1" }, Migration { number: 2, name: "two", cql: "2" }];

    fn recorded(number: i32, checksum: String) -> Recorded {
        Recorded { number, name: format!("n{number}"), checksum, applied_at: CqlTimestamp(5) }
    }

    #[test]
    fn newer_migration_is_refused_only_at_the_start() {
        let rows = || {
            let known = ALL.iter().map(|known| recorded(known.number, known.checksum()));
            known.chain([recorded(3, "x".to_owned())]).collect::<Vec<_>>()
        };
        let Err(MigrateError::Refused(why)) = compare("p", rows(), &ALL, Newer::Refused) else { panic!() };
        assert!(why.contains("migration 3 (n3)") && why.contains("newer"), "{why}");
        let report = compare("p", rows(), &ALL, Newer::Warned).unwrap();
        let applied: Vec<_> = report.applied.iter().map(|applied| applied.number).collect();
        assert_eq!((applied, report.pending), (vec![1, 2], vec![]));
    }

    #[test]
    fn other_checksum_is_refused_and_missing_migration_is_pending() {
        for newer in [Newer::Refused, Newer::Warned] {
            let rows = vec![recorded(1, "x".to_owned())];
            let Err(MigrateError::Refused(why)) = compare("p", rows, &ALL, newer) else { panic!() };
            assert!(why.contains("checksum"), "{why}");
            let report = compare("p", vec![recorded(2, ALL[1].checksum())], &ALL, newer).unwrap();
            assert_eq!(report.pending, [pending(&ALL[0])]);
        }
    }
}
