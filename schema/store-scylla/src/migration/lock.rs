//! The lock that lets one node at a time migrate.

use schema::Entropy;
use scylla::client::session::Session;
use uuid::Uuid;

use super::{Result, meta};

/// The single row of `schema_lock`. It expires a minute after it was last renewed.
pub(super) struct Lock<'a> {
    session: &'a Session,
    keyspace: &'a str,
    owner: Uuid,
}

impl<'a> Lock<'a> {
    pub(super) fn new(session: &'a Session, keyspace: &'a str, entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self { session, keyspace, owner: uuid::Builder::from_random_bytes(bytes).into_uuid() }
    }

    /// Takes the lock unless another node holds it. Returns whether this node holds it.
    pub(super) async fn take(&self) -> Result<bool> {
        let cql = format!(
            "INSERT INTO {}.schema_lock (id, owner) VALUES (0, ?) IF NOT EXISTS USING TTL 60",
            self.keyspace
        );
        if let Ok(taken) = meta::applied(self.session, &cql, (self.owner,)).await {
            return Ok(taken);
        }
        // The write got no answer, and may have been applied.
        let cql = format!("SELECT owner FROM {}.schema_lock WHERE id = 0", self.keyspace);
        let owners = meta::serial_rows::<(Option<Uuid>,)>(self.session, &cql, ()).await?;
        Ok(owners.contains(&(Some(self.owner),)))
    }

    /// Extends the lock for another minute; `false` if it was lost.
    pub(super) async fn renew(&self) -> Result<bool> {
        let cql = format!(
            "UPDATE {}.schema_lock USING TTL 60 SET owner = ? WHERE id = 0 IF owner = ?",
            self.keyspace
        );
        meta::applied(self.session, &cql, (self.owner, self.owner)).await
    }

    /// Releases the lock.
    pub(super) async fn release(&self) -> Result<()> {
        let cql = format!("DELETE FROM {}.schema_lock WHERE id = 0 IF owner = ?", self.keyspace);
        meta::applied(self.session, &cql, (self.owner,)).await.map(drop)
    }
}
