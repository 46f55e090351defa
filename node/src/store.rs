//! The store of this node: which one it is, and how it is doing.

use std::{sync::Arc, time::Duration};

use schema::{Clocks, Entropy, Stores};
use store_redb::Stats;
use store_scylla::{State, Status};
use tokio::time::timeout;

use crate::{
    app::StartError,
    data_dir::DataDir,
    settings::{Settings, StoreSetting},
};

/// How long a command waits for a database.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which store it is.
#[derive(Debug)]
pub enum Backing {
    /// A file of this node alone.
    Embedded(Arc<Stats>),
    /// A database that nodes share. It is connected to in the background.
    Cql(Arc<Status>),
}

/// How it is doing, in words for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it answers, as far as is known.
    pub is_up: bool,
    /// `up`, `connecting`, `down` or `refused`.
    pub state: &'static str,
    /// Why it is not up.
    pub why: Option<String>,
}

impl Backing {
    /// Opens the store of the settings. A file is open when this returns; a database perhaps later.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub async fn open(
        settings: &Settings,
        data_dir: &DataDir,
        clocks: &Arc<Clocks>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(Stores, Self), StartError> {
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

    /// Whether other nodes may use it too.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Cql(_))
    }

    /// Waits until it answers, for a command that can do nothing else.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn await_up(&self) -> Result<(), StartError> {
        let Self::Cql(status) = self else { return Ok(()) };
        if timeout(PATIENCE, status.up()).await.is_ok() {
            return Ok(());
        }
        Err(StartError::NoDatabase(self.health().why.unwrap_or_default()))
    }

    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        let up = Health { is_up: true, state: "up", why: None };
        let not = |state, why| Health { is_up: false, state, why: Some(why) };
        match self {
            Self::Embedded(_) => up,
            Self::Cql(status) => match status.state() {
                State::Up => up,
                State::Connecting(why) => not("connecting", why),
                State::Down(why) => not("down", why),
                State::Refused(why) => not("refused", why),
            },
        }
    }
}
