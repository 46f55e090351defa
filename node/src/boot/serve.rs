//! Serving: listeners, connections, and a shutdown that loses no request.
//!
//! SIGTERM: `/health/ready` turns 503 and answers say `Connection: close`; for the drain grace all
//! is served as before; then the listener stops, what runs is finished, and the process ends with
//! status 0. A second SIGTERM ends it at once. SIGINT and SIGHUP do as SIGTERM, but SIGHUP ends nothing at
//! once, since a terminal that closes may send it twice, and it stays ignored where it was (`nohup`).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::{
    connections::{Bounds, Connections, Service, accept},
    signals::{hang_up, outlive_user_signals},
    upkeep,
};
use crate::{
    app::{App, Purpose, StartError},
    http::{self, fast_path::FastPath},
    metrics::Metrics,
    operator::control,
    settings::{ListenWhen, Settings},
};

/// The listen backlog. The kernel caps it at `net.core.somaxconn`.
const LISTEN_BACKLOG: u32 = 4_096;
/// How often a node that is not ready looks whether it is.
const READY_INTERVAL: Duration = Duration::from_millis(10);
/// How long the last revocations may take to get from the journal to the ledger.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ServeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{name} {address}: {why}; end what listens there, or set PALISADE_{name} to another address")]
    Listen { name: &'static str, address: String, why: io::Error },
    #[error("the control socket in {0}: {1}")]
    Control(String, io::Error),
    #[error("signals: {0}")]
    Signals(io::Error),
    /// What was to be done before it serves.
    #[error("{0}")]
    Prepare(String),
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it does not come up.
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    serve_after(settings, async |_, _| Ok(())).await
}

/// The same. With an embedded store, `prepare` is called when the node has come up, before it answers: with
/// the address that it listens on.
///
/// # Errors
/// When it does not come up, or cannot be prepared.
pub async fn serve_after(
    settings: Settings,
    prepare: impl AsyncFnOnce(&App, SocketAddr) -> Result<(), ServeError>,
) -> Result<(), ServeError> {
    outlive_user_signals().map_err(ServeError::Signals)?;
    let mut hang_up = hang_up().map_err(ServeError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    // The port is taken first: a node that cannot serve changes nothing in its store.
    let public = Port::bind("LISTEN", &settings.listen, settings.listen_when).await?;
    let operators = match &settings.operator_listen {
        Some(address) => Some(Port::bind("OPERATOR_LISTEN", address, ListenWhen::Start).await?),
        None => None,
    };
    let app = App::start(settings, Metrics::new(http::routes())).await?;
    if let Some(because) = app.data_dir.folder_because() {
        let directory = app.data_dir.path().display();
        tracing::info!(%directory, because, "the data directory is a folder in the one of the settings");
    }
    app.join().await?;
    if !app.backend.is_shared() {
        app.bootstrap(Purpose::Serve).await?;
        prepare(&app, public.address).await?;
    }
    let control = control::listen(app.data_dir.path())
        .map_err(|error| ServeError::Control(app.data_dir.path().display().to_string(), error))?;
    tokio::spawn(control::serve(app.clone(), control));
    let mut upkeep = tokio::spawn(upkeep::run(app.clone()));

    let routers = http::routers(&app);
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    tracing::info!(listen = app.settings.listen, version = env!("CARGO_PKG_VERSION"), "palisade serves");
    let fast_path = Some(Arc::new(FastPath::new(&app).await));
    let apart = operators.is_some();
    let most = Bounds::of(&app, apart);
    let policies = routers.policies;
    let service = Service { app: app.clone(), fast_path, router: routers.public };
    let connections = Connections::new(service, &policies, most.public, !apart);
    servers.spawn(serve_port(app.clone(), public, connections, stopped.clone()));
    if let (Some(port), Some(router)) = (operators, routers.operators) {
        let service = Service { app: app.clone(), fast_path: None, router };
        let connections = Connections::new(service, &policies, most.operators, true);
        servers.spawn(serve_port(app.clone(), port, connections, stopped));
    }

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(()) = hang_up.recv() => {}
        () = app.end.notified() => {}
        failed = &mut upkeep => match failed {
            Ok(error) => return Err(error.into()),
            Err(error) => tracing::error!(%error, "upkeep has ended; restart the node"),
        }
    }
    begin_drain(&app);
    tokio::select! {
        () = drain(&app, &stop, servers) => tracing::info!("shutdown complete"),
        _ = terminate.recv() => tracing::warn!("told to stop again: ending at once"),
        _ = interrupt.recv() => tracing::warn!("told to stop again: ending at once"),
    }
    Ok(())
}

/// Tells load balancers and peers that this node ends.
fn begin_drain(app: &App) {
    tracing::info!(grace_ms = app.settings.drain_grace.as_millis(), "told to stop: draining");
    app.drain();
    if let Some(cluster) = app.peers() {
        cluster.announce(false);
    }
}

/// Serves for the drain grace, then finishes what runs, writes what is in the journal to the ledger, and leaves
/// the cluster.
async fn drain(app: &App, stop: &watch::Sender<bool>, mut servers: JoinSet<()>) {
    tokio::time::sleep(app.settings.drain_grace).await;
    let _ = stop.send(true);
    while servers.join_next().await.is_some() {}
    if let Some(peering) = app.peering() {
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, peering.flush_adopted_logs()).await;
    }
    if !app.log.flush(FLUSH_TIMEOUT).await {
        tracing::warn!("some revocations are in the journal and not in the ledger: keep the data directory");
    }
    // Last: until here it served, and other nodes count it among the live ones.
    if let Some(cluster) = app.peers() {
        cluster.leave().await;
    }
}

/// Accepts connections on a port until told to stop.
async fn serve_port(app: Arc<App>, port: Port, connections: Connections, mut stopped: watch::Receiver<bool>) {
    let listener = match port.socket {
        Socket::Listening(listener) => listener,
        Socket::Bound(socket) => {
            tokio::select! {
                () = ready(&app) => {}
                _ = stopped.changed() => return,
            }
            match socket.listen(LISTEN_BACKLOG) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, address = %port.address, "the node is ready but cannot listen; it shuts down");
                    app.end.notify_one();
                    return;
                }
            }
        }
    };
    accept(listener, connections, stopped).await;
}

/// Waits until the node may answer questions about tokens.
async fn ready(app: &App) {
    while !app.sync.is_synced() {
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// A port of this node. No other process can take it, whether or not the node listens on it already.
struct Port {
    socket: Socket,
    address: SocketAddr,
}

enum Socket {
    Listening(TcpListener),
    /// Connections are refused.
    Bound(TcpSocket),
}

impl Port {
    async fn bind(name: &'static str, address: &str, when: ListenWhen) -> Result<Self, ServeError> {
        let bound = async {
            let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in tokio::net::lookup_host(address).await? {
                match Self::bind_to(address, when) {
                    Ok(port) => return Ok(port),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        };
        bound.await.map_err(|why| ServeError::Listen { name, address: address.to_owned(), why })
    }

    fn bind_to(address: SocketAddr, when: ListenWhen) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Connections of the previous process in TIME_WAIT do not prevent a restart.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let address = socket.local_addr()?;
        let socket = match when {
            ListenWhen::Start => Socket::Listening(socket.listen(LISTEN_BACKLOG)?),
            ListenWhen::Ready => Socket::Bound(socket),
        };
        Ok(Self { socket, address })
    }
}
