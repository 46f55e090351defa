//! The store that the nodes of this run have: the embedded one, or a keyspace each.
//!
//! The same tests are two test binaries: `suite` and `cql`. In the latter every node gets a keyspace of
//! its own in the one Cassandra that all tests share, unless it is told another's. Keyspaces are
//! emptied and used again.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use scylla::client::{session::Session, session_builder::SessionBuilder};

use crate::{fresh, servers::Cassandra};

/// The master key of nodes on a shared store: 32 bytes of base64.
pub const MASTER_KEY: &str = "cGFsaXNhZGUgdGVzdHMgdXNlIHRoaXMgbWFzdGVyIGs=";

/// Keyspaces that earlier tests have used and released.
static USED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether nodes have keyspaces in this run.
#[must_use]
pub fn is_cql() -> bool {
    let binary = std::env::current_exe().ok().and_then(|path| path.file_name().map(PathBuf::from));
    binary.is_some_and(|name| name.to_string_lossy().starts_with("cql-"))
}

/// A keyspace that one node, or some together, may use. Others use it after the last handle is gone.
#[derive(Debug)]
pub struct Keyspace(String);

impl Keyspace {
    /// An empty one, or one that is not there yet.
    pub async fn take() -> Self {
        let used = USED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match used {
            Some(name) => {
                empty(&name).await;
                Self(name)
            }
            None => Self::fresh(),
        }
    }

    /// One that is not there yet.
    #[must_use]
    pub fn fresh() -> Self {
        Self(fresh("ks").replace('-', "_"))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its url, in the Cassandra that all tests share.
    pub async fn url(&self) -> String {
        format!("cql://{}/{}", Cassandra::one().await.address(), self.0)
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        USED.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.0));
    }
}

/// A connection of a test's own, for looking and for damaging.
///
/// # Panics
/// When there is none.
pub async fn cassandra() -> Session {
    let address = Cassandra::one().await.address();
    SessionBuilder::new().known_node_addr(address).build().await.expect("Cassandra answers")
}

async fn empty(keyspace: &str) {
    let session = cassandra().await;
    let tables = format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'");
    let tables = session.query_unpaged(tables, ()).await.expect("its tables").into_rows_result();
    let tables = tables.expect("rows");
    let names: Vec<(String,)> = tables.rows().expect("names").map(|row| row.expect("a name")).collect();
    // Without the record of migrations the tables would be made again.
    let kept = ["schema_migrations", "schema_lock"];
    let dirty = names.into_iter().map(|(name,)| name).filter(|name| !kept.contains(&name.as_str()));
    let truncating = dirty.map(|table| session.query_unpaged(format!("TRUNCATE {keyspace}.{table}"), ()));
    for truncated in futures_util::future::join_all(truncating).await {
        truncated.expect("a table is emptied");
    }
}
