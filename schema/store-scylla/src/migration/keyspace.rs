//! The keyspace, and the two tables that exist before the first migration.

use std::{collections::BTreeMap, time::Duration};

use schema::Entropy;
use scylla::{client::session::Session, statement::unprepared::Statement};

use super::{MigrateError, Result, meta};
use crate::{
    config::{Config, Replication},
    store::jittered,
};

/// Name and columns of these two tables; see `schema/cql/README.md`.
const META: [(&str, &str); 2] = [
    (
        "schema_migrations",
        "(part int, number int, name text, checksum text, applied_at timestamp, PRIMARY KEY (part, number))",
    ),
    ("schema_lock", "(id int PRIMARY KEY, owner uuid)"),
];

/// Limit of the duration of a schema change.
const SCHEMA_CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Least wait before the node creates a missing keyspace or table, in milliseconds; the jitter adds up to
/// as much. Another node may be creating it: on Cassandra, two concurrent creations of one table can
/// damage each other.
const CREATE_DELAY_MS: u64 = 300;

/// The tables of a keyspace.
pub(super) struct Keyspace {
    tables: Vec<String>,
}

impl Keyspace {
    /// Reads the tables of a keyspace; `None` if it does not exist. `Refused` if it is not Palisade's.
    pub(super) async fn read(session: &Session, name: &str) -> Result<Option<Self>> {
        let cql = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        if meta::rows::<(String,)>(session, cql, (name,)).await?.is_empty() {
            return Ok(None);
        }
        let cql = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
        let tables = meta::rows::<(String,)>(session, cql, (name,)).await?;
        let keyspace = Self { tables: tables.into_iter().map(|(table,)| table).collect() };
        let is_meta = |table: &String| META.iter().any(|(meta, _)| meta == table);
        if !keyspace.has(META[0].0) && !keyspace.tables.iter().all(is_meta) {
            return Err(MigrateError::Refused(format!(
                "the keyspace {name} has tables that are not Palisade's: give it a keyspace of its own"
            )));
        }
        Ok(Some(keyspace))
    }

    fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|name| name == table)
    }

    /// Whether both tables of migrations exist.
    pub(super) fn has_meta(&self) -> bool {
        META.iter().all(|(table, _)| self.has(table))
    }
}

/// Makes this keyspace the one of unqualified names.
pub(crate) async fn enter(session: &Session, name: &str) -> Result<()> {
    session.use_keyspace(name, false).await.map_err(MigrateError::unavailable)
}

/// Creates the keyspace and the two tables, unless they exist.
pub(super) async fn make(session: &Session, config: &Config, entropy: &dyn Entropy) -> Result<()> {
    let name = &config.keyspace;
    if Keyspace::read(session, name).await?.is_some_and(|keyspace| keyspace.has_meta()) {
        return Ok(());
    }
    tokio::time::sleep(jittered(entropy, CREATE_DELAY_MS)).await;
    if Keyspace::read(session, name).await?.is_none() {
        change(session, &definition(session, config).await?).await?;
        // The driver must learn where the replicas are.
        session.refresh_metadata().await.map_err(MigrateError::unavailable)?;
        tokio::time::sleep(jittered(entropy, CREATE_DELAY_MS)).await;
    }
    for (table, columns) in META {
        if !Keyspace::read(session, name).await?.is_some_and(|keyspace| keyspace.has(table)) {
            change(session, &format!("CREATE TABLE IF NOT EXISTS {name}.{table} {columns}")).await?;
        }
    }
    Ok(())
}

/// Runs a statement that changes the schema, and waits until all database nodes agree on it.
pub(super) async fn change(session: &Session, cql: &str) -> Result<()> {
    let mut statement = Statement::new(cql);
    statement.set_request_timeout(Some(SCHEMA_CHANGE_TIMEOUT));
    Box::pin(session.query_unpaged(statement, ())).await.map_err(MigrateError::unavailable)?;
    session.await_schema_agreement().await.map(drop).map_err(MigrateError::unavailable)
}

/// The statement that creates the keyspace.
async fn definition(session: &Session, config: &Config) -> Result<String> {
    let mut nodes: BTreeMap<String, u8> = BTreeMap::new();
    for node in session.get_cluster_state().get_nodes_info() {
        let count = nodes.entry(node.datacenter.clone().unwrap_or_default()).or_default();
        *count = count.saturating_add(1);
    }
    let cql = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system' AND table_name = 'tablets'";
    let tablets = !meta::rows::<(String,)>(session, cql, ()).await?.is_empty();
    Ok(define(&config.keyspace, &config.replication, &nodes, tablets))
}

fn define(name: &str, replication: &Replication, nodes: &BTreeMap<String, u8>, tablets: bool) -> String {
    let copies: Vec<(&str, u8)> = match replication {
        Replication::ByNodes => nodes.iter().map(|(dc, count)| (dc.as_str(), 3.min(*count))).collect(),
        Replication::Everywhere(factor) => nodes.keys().map(|dc| (dc.as_str(), *factor)).collect(),
        Replication::In(each) => each.iter().map(|(dc, factor)| (dc.as_str(), *factor)).collect(),
    };
    let copies: String =
        copies.iter().map(|(dc, factor)| format!(", '{}': {factor}", dc.replace('\'', "''"))).collect();
    // Before 2025.4, ScyllaDB supports conditional writes only without tablets.
    let without_tablets = if tablets { " AND tablets = {'enabled': false}" } else { "" };
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = {{'class': 'NetworkTopologyStrategy'{copies}}}\
         {without_tablets}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyspace_has_the_configured_or_default_replicas() {
        let nodes = [("a".to_owned(), 5), ("b".to_owned(), 2)].into();
        let define = |replication, tablets| define("p", &replication, &nodes, tablets);
        let begin = "CREATE KEYSPACE IF NOT EXISTS p WITH replication = {'class': 'NetworkTopologyStrategy'";
        assert_eq!(define(Replication::ByNodes, false), format!("{begin}, 'a': 3, 'b': 2}}"));
        assert_eq!(define(Replication::Everywhere(2), false), format!("{begin}, 'a': 2, 'b': 2}}"));
        let one = Replication::In(vec![("b".to_owned(), 1)]);
        assert_eq!(define(one, true), format!("{begin}, 'b': 1}} AND tablets = {{'enabled': false}}"));
    }
}
