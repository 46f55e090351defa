//! `palisade store copy`: from one store to another, while no node serves from either.

use std::sync::Arc;

use schema::Entropy;
use serde_json::json;
use store::{
    Stores,
    copy::{self, Rows},
};

use super::{CommandLine, Failure, no_store, require_tables};
use crate::{
    app::NodeClocks,
    clock::{SystemClock, SystemEntropy},
    operator::Done,
    settings::{Settings, StoreSetting, store_setting},
    storage::{
        backend::StoreBackend,
        data_dir::{self, DataDir},
    },
};

/// The two stores of a copy, as settings that differ in the store only.
pub(super) struct Ends {
    from: Settings,
    to: Settings,
}

impl Ends {
    /// Reads `--from` and `--to`. One that is not given is the store of the settings.
    pub(super) fn of(context: &CommandLine<'_>) -> Result<Self, Failure> {
        let end = |flag: &str| -> Result<Settings, Failure> {
            let mut settings = context.settings.clone();
            if let Some(text) = context.text(flag) {
                settings.store = store_setting(&format!("--{flag}"), text)?;
            }
            Ok(settings)
        };
        let from = end("from")?;
        let to = end("to")?;
        let is_same = match (&from.store, &to.store) {
            (StoreSetting::Embedded, StoreSetting::Embedded) => true,
            (StoreSetting::Cql(from), StoreSetting::Cql(to)) => from.is_same_store(to),
            _ => false,
        };
        if is_same {
            return Err(Failure::Usage("--from and --to must be two stores, redb or cql://…".into()));
        }
        Ok(Self { from, to })
    }
}

/// Copies everything, then compares the stores.
pub(super) async fn run(Ends { from, to }: Ends) -> Result<Done, Failure> {
    let directory = data_dir::locate(&from.data_dir);
    if matches!(from.store, StoreSetting::Embedded) && !data_dir::has_store(&directory)? {
        return Err(no_store(&directory));
    }
    if let StoreSetting::Cql(config) = &from.store {
        require_tables(config).await?;
    }
    // Fails while a node runs on the directory.
    let data_dir = DataDir::open(&from.data_dir)?;
    let source = open(&from, &data_dir, false).await?;
    let target = open(&to, &data_dir, true).await?;
    let copied = copy::copy(&source, &target, &SystemClock).await;
    data_dir.give_to_owner();
    let copied = copied?;
    let different = copy::compare(&source, &target, &SystemClock).await?;
    if different != Rows::default() {
        return Err(Failure::Failed(format!(
            "the target differs from the source: {different:?}; copy again into an empty store"
        )));
    }
    let Rows { users, sessions, facts, .. } = copied;
    Ok(Done {
        msg: format!(
            "copied and compared: {users} users, {sessions} sessions, {facts} revocations; start the nodes with \
             MASTER_KEY of the source"
        ),
        result: json!(copied),
    })
}

async fn open(settings: &Settings, data_dir: &DataDir, migrate: bool) -> Result<Stores, Failure> {
    let settings = Settings { store_migrate: migrate, ..settings.clone() };
    let NodeClocks { clocks, .. } = NodeClocks::open(data_dir)?;
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let (stores, backend) = StoreBackend::open(&settings, data_dir, &clocks, &entropy).await?;
    backend.await_up().await?;
    Ok(stores)
}
