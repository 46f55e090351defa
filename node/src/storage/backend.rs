//! The store backend of this node, and whether it answers.

use std::{sync::Arc, time::Duration};

use schema::{Clocks, Entropy};
use serde::Serialize;
use store::Stores;
use store_redb::{OpenError, Stats};
use store_scylla::{State, Status};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{
    settings::{Settings, StoreSetting},
    storage::data_dir::DataDir,
};

/// How long a command waits for a database to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BackendError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database of PALISADE_STORE cannot be used: {0}")]
    Database(String),
}

/// The kind of store that a node uses.
#[derive(Debug)]
pub enum StoreBackend {
    /// An embedded store: a file that only this node uses.
    Embedded(Arc<Stats>),
    /// A database that nodes share. The node connects to it in the background.
    Cql(Arc<Status>),
}

/// The state of the connection to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// The store answers.
    Up,
    /// The store has not answered yet.
    Connecting,
    /// The store answered before and does not answer now.
    Down,
    /// The store refuses to work with this node.
    Refused,
}

/// The health of the store, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the store answered last.
    pub is_up: bool,
    /// The state of the connection.
    pub state: StoreState,
    /// The reason, if the store is not up.
    pub why: Option<String>,
}

impl StoreBackend {
    /// Opens the store of the settings. An embedded store is open when this returns; a database may connect
    /// later.
    ///
    /// # Errors
    /// If the embedded store's file cannot be used.
    pub async fn open(
        settings: &Settings,
        data_dir: &DataDir,
        clocks: &Arc<Clocks>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(Stores, Self), BackendError> {
        match &settings.store {
            StoreSetting::Embedded => {
                let opened = store_redb::open(&data_dir.store()).await?;
                Ok((opened.stores, Self::Embedded(opened.stats)))
            }
            StoreSetting::Cql(config) => {
                let config = (**config).clone();
                let opened =
                    store_scylla::open(config, settings.store_migrate, clocks.clone(), entropy.clone());
                Ok((opened.stores, Self::Cql(opened.status)))
            }
        }
    }

    /// Whether other nodes may use the same store.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Cql(_))
    }

    /// Waits until the store answers, for a command that needs it.
    ///
    /// # Errors
    /// The reason why the store does not answer.
    pub async fn await_up(&self) -> Result<(), BackendError> {
        let Self::Cql(status) = self else { return Ok(()) };
        if timeout(CONNECT_TIMEOUT, status.up()).await.is_ok() {
            return Ok(());
        }
        Err(BackendError::Database(self.health().why.unwrap_or_default()))
    }

    /// The health of the store, as far as this node knows.
    #[must_use]
    pub fn health(&self) -> Health {
        let up = Health { is_up: true, state: StoreState::Up, why: None };
        let not = |state, why| Health { is_up: false, state, why: Some(why) };
        match self {
            Self::Embedded(_) => up,
            Self::Cql(status) => match status.state() {
                State::Up => up,
                State::Connecting(why) => not(StoreState::Connecting, why),
                State::Down(why) => not(StoreState::Down, why),
                State::Refused(why) => not(StoreState::Refused, why),
            },
        }
    }
}
