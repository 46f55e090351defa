//! Whether this machine can do what the settings say.
//!
//! Checked before a command makes anything, by `check-config` and the commands that start a node alike.
//! Names are not looked up: what they resolve to may differ in a minute.

use std::{
    io::ErrorKind::PermissionDenied,
    net::{SocketAddr, TcpListener},
};

use cluster::members;

use super::inspect::{self, InspectError, Inspected};
use crate::{
    revocation::peers::JoinError,
    settings::{Settings, SettingsError, StoreSetting},
    storage::data_dir::{self, DataDirError},
};

/// Ports that an ordinary user may not open on most systems end here.
const PRIVILEGED_PORTS: u16 = 1024;

/// This machine cannot do what a setting says.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's sentence says it")]
pub enum MachineError {
    #[error(transparent)]
    Setting(#[from] SettingsError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Contents(#[from] InspectError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("a runtime does not start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Whether the listeners' addresses are this machine's, the data directory can be made or written, and the
/// files that the store needs can be read. Changes nothing.
///
/// # Errors
/// The first setting that cannot be followed here.
pub fn check(settings: &Settings) -> Result<(), MachineError> {
    let cluster = settings.cluster.as_ref().map(|cluster| cluster.listen.as_str());
    let listeners = [
        ("PALISADE_LISTEN", Some(settings.listen.as_str())),
        ("PALISADE_OPERATOR_LISTEN", settings.operator_listen.as_deref()),
        ("PALISADE_CLUSTER_LISTEN", cluster),
    ];
    for (name, address) in listeners {
        let Some(why) = address.and_then(cannot_listen) else { continue };
        let given = address.unwrap_or_default().to_owned();
        return Err(SettingsError::Refused { name: name.into(), given, why }.into());
    }
    if let StoreSetting::Cql(config) = &settings.store {
        config.check_files().map_err(|why| SettingsError::Refused {
            name: "PALISADE_STORE".into(),
            given: "cql://…".into(),
            why,
        })?;
    }
    data_dir::check(&settings.data_dir)?;
    Ok(())
}

/// The same for a node: also whether the address at which peers reach it is known. Do not call it in a runtime.
///
/// # Errors
/// The first setting that cannot be followed here.
pub fn check_node(settings: &Settings) -> Result<(), MachineError> {
    check(settings)?;
    let Some(cluster) = &settings.cluster else { return Ok(()) };
    let Ok(listen) = cluster.listen.parse::<SocketAddr>() else { return Ok(()) };
    // Seeds that are names may lead to the address once they resolve.
    let has_names = cluster.seeds.iter().any(|seed| seed.parse::<SocketAddr>().is_err());
    if cluster.advertise.is_some() || !listen.ip().is_unspecified() || has_names {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let advertised = runtime.block_on(members::advertised(listen, None, &cluster.seeds));
    advertised.map_err(JoinError::Advertise)?;
    Ok(())
}

/// Whether a start would accept what stands in the data directory. Reads it all, and changes and locks nothing.
///
/// # Errors
/// The first thing that a start would refuse.
pub fn inspect(settings: &Settings) -> Result<Inspected, MachineError> {
    match data_dir::check(&settings.data_dir)? {
        Some(directory) => Ok(inspect::inspect(&directory, settings)?),
        None => Ok(Inspected::Good),
    }
}

/// Whether the address is another machine's, or its port one that this user may not open. A port that is
/// taken is no mistake in the settings: the node that they are for may be running.
fn cannot_listen(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().ok()?;
    let mut any_port = address;
    any_port.set_port(0);
    if let Err(error) = TcpListener::bind(any_port) {
        return Some(format!(
            "this machine cannot listen there ({error}); use an address of its own, or 0.0.0.0"
        ));
    }
    let is_privileged = (1..PRIVILEGED_PORTS).contains(&address.port());
    let denied = |error: std::io::Error| error.kind() == PermissionDenied;
    if is_privileged && TcpListener::bind(address).is_err_and(denied) {
        return Some("this user may not open a port below 1024; use another one".into());
    }
    None
}
