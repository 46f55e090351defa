//! Settings and start of a node.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use tokio::sync::OnceCell;

use super::{Builder, ClockFile, Node, NotStarted, Process, READY, Shift, process::free_port};
use crate::{
    servers::Cassandra,
    store::{self, Keyspace, MASTER_KEY},
};

impl Builder {
    /// Sets `PALISADE_<name>`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a setting at the node's own default.
    #[must_use]
    pub fn default_setting(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// Uses this data directory, which is not removed at the end.
    #[must_use]
    pub fn data_dir(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(data_dir.into());
        self
    }

    /// On the store of this node too, which must be a shared one.
    #[must_use]
    pub fn beside(mut self, other: &Node) -> Self {
        for name in ["STORE", "MASTER_KEY"] {
            self = self.setting(name, other.process.settings[name].clone());
        }
        self.keyspace = other.process.keyspace.clone();
        self
    }

    /// On a keyspace of its own in the Cassandra that all tests share, whatever store this run has.
    pub async fn on_cql(self) -> Self {
        let keyspace = Arc::new(Keyspace::take().await);
        self.on_keyspace(&keyspace, Cassandra::one().await.address())
    }

    /// On this keyspace, which it finds at this address: Cassandra's, or that of a proxy to it.
    #[must_use]
    pub fn on_keyspace(mut self, keyspace: &Arc<Keyspace>, address: SocketAddr) -> Self {
        self = self.setting("STORE", format!("cql://{address}/{}", keyspace.name()));
        self.settings.entry("MASTER_KEY".into()).or_insert_with(|| MASTER_KEY.into());
        self.keyspace = Some(keyspace.clone());
        self
    }

    /// With clocks that the test moves, shifted by this at the start.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn clocks(mut self, shift: Shift) -> Self {
        let directory = crate::scratch::directory();
        let file = ClockFile { path: directory.path().join("clock"), _directory: directory };
        file.write(shift);
        self.clock = Some(Arc::new(file));
        self
    }

    /// Starts it and awaits its readiness.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(self) -> Node {
        self.try_start().await.unwrap_or_else(|why| panic!("the node did not start: {why:?}"))
    }

    /// Starts a node that may refuse to.
    ///
    /// # Errors
    /// How it ended.
    pub async fn try_start(self) -> Result<Node, NotStarted> {
        let node = self.make().await;
        node.try_run(READY).await?;
        Ok(node)
    }

    /// Starts it and awaits nothing: it may not even listen yet. See [`Node::readiness`].
    pub async fn launch(self) -> Node {
        let node = self.make().await;
        node.process.port.store(free_port(), Ordering::SeqCst);
        node.process.spawn();
        node
    }

    async fn make(mut self) -> Node {
        if store::is_cql() && !self.settings.contains_key("STORE") {
            self = self.on_cql().await;
        }
        let own_dir = self.data_dir.is_none().then(crate::scratch::directory);
        let data_dir = match (&self.data_dir, &own_dir) {
            (Some(given), _) => given.clone(),
            (None, own) => own.as_ref().expect("made above").path().join("data"),
        };
        Node::of(Arc::new(Process {
            settings: self.settings,
            data_dir,
            child: Mutex::new(None),
            port: Arc::new(AtomicU16::new(0)),
            output: Arc::default(),
            root: OnceCell::new(),
            keyspace: self.keyspace,
            clock: self.clock,
            _own_dir: own_dir,
        }))
    }
}
