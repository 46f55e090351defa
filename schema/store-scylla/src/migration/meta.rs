//! Which migrations were applied.

use schema::Timestamp;
use scylla::{
    DeserializeRow,
    client::session::Session,
    serialize::row::SerializeRow,
    statement::{Consistency, unprepared::Statement},
    value::{CqlTimestamp, CqlValue, Row},
};

use super::{Applied, MigrateError, Migration, Report, Result, keyspace, pending};
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
    /// What was applied of these, and what is to be. Refused when something else was.
    pub(super) async fn report(&self, all: &[Migration]) -> Result<Report> {
        let cql = format!(
            "SELECT number, name, checksum, applied_at FROM {}.schema_migrations WHERE part = 0",
            self.keyspace
        );
        let recorded = serial_rows::<Recorded>(self.session, &cql, ()).await?;
        let mut report = Report::default();
        for row in recorded {
            let Some(known) = all.iter().find(|known| known.number == row.number) else {
                return Err(MigrateError::Refused(format!(
                    "the keyspace {} has migration {} ({}), which this version does not know: it was made by a \
                     newer Palisade; run that version",
                    self.keyspace, row.number, row.name
                )));
            };
            if known.checksum() != row.checksum {
                return Err(MigrateError::Refused(format!(
                    "migration {} ({}) of the keyspace {} is not the one of this version: its checksum differs; \
                     run the version that applied it",
                    row.number, row.name, self.keyspace
                )));
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

    /// Changes the schema.
    pub(super) async fn change(&self, cql: &str) -> Result<()> {
        keyspace::change(self.session, cql).await
    }

    /// Notes that a migration was applied. Twice is harmless.
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

/// The rows of a read.
pub(super) async fn rows<R: store::Row>(
    session: &Session,
    cql: &str,
    values: impl SerializeRow,
) -> Result<Vec<R>> {
    run(session, Statement::new(cql), values).await
}

/// The rows of a read that sees every conditional write.
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

/// Whether a conditional write was applied.
pub(super) async fn applied(session: &Session, cql: &str, values: impl SerializeRow) -> Result<bool> {
    let result = Box::pin(session.query_unpaged(cql, values)).await.map_err(MigrateError::unavailable)?;
    let rows = result.into_rows_result().map_err(MigrateError::unavailable)?;
    let column = rows.column_specs().get_by_name("[applied]").map(|(column, _)| column);
    let row = rows.first_row::<Row>().map_err(MigrateError::unavailable)?;
    let value = column.and_then(|column| row.columns.into_iter().nth(column)).flatten();
    Ok(value == Some(CqlValue::Boolean(true)))
}
