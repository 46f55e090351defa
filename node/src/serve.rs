//! Serving: listeners, connections, and a shutdown that loses no request.
//!
//! SIGTERM: `/health/ready` turns 503 and answers say `Connection: close`; for the drain grace all
//! is served as before; then the listener stops, what runs is finished, and the process ends with
//! status 0. A second SIGTERM ends it at once. SIGINT and SIGHUP do as SIGTERM, but SIGHUP ends nothing at
//! once, since a terminal that closes may send it twice, and it stays ignored where it was (`nohup`).

use std::{
    convert::Infallible,
    io::{self, Cursor},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
};
use http_body_util::Either;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustix::process::Resource;
use tokio::{
    io::{AsyncReadExt as _, join},
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tower::ServiceExt as _;

use crate::{
    app::{App, Purpose, StartError},
    control,
    http::{
        self,
        client::Peer,
        hot::{
            Lane,
            wire::{self, End},
        },
    },
    peers,
    settings::Settings,
    upkeep,
};

/// A client has so long to send its first request, the head of each, and to idle in between.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of a request: the longest permission query fits in with room to spare.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// How many connections are open at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
const MAX_H2_STREAMS: u32 = 256;
/// How long what runs may still take at the end: with the drain grace it stays below the ten seconds
/// that Docker gives.
const FINISH: Duration = Duration::from_secs(4);
/// How long connections that were accepted last may take to send the request that they came with.
const LAST_REQUEST: Duration = Duration::from_millis(500);
/// How long the last revocations may take to get from the journal to the ledger.
const FLUSH: Duration = Duration::from_secs(1);

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
    let mut hang_up = hang_up().map_err(ServeError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    // The port is taken first: a node that cannot serve changes nothing in its store.
    let listener = bind("LISTEN", &settings.listen).await?;
    let operators = match &settings.operator_listen {
        Some(address) => Some(bind("OPERATOR_LISTEN", address).await?),
        None => None,
    };
    let app = App::start(settings).await?;
    if let Some(because) = app.data_dir.folder_because() {
        let directory = app.data_dir.path().display();
        tracing::info!(%directory, because, "the data directory is a folder in the one of the settings");
    }
    app.join().await?;
    if !app.backing.is_shared() {
        app.come_up(Purpose::Serve).await?;
        let address = listener.local_addr();
        let address = address.map_err(|why| ServeError::Listen {
            name: "LISTEN",
            address: app.settings.listen.clone(),
            why,
        })?;
        prepare(&app, address).await?;
    }
    let control = control::listen(app.data_dir.path())
        .map_err(|error| ServeError::Control(app.data_dir.path().display().to_string(), error))?;
    tokio::spawn(control::serve(app.clone(), control));
    let mut upkeep = tokio::spawn(upkeep::run(app.clone()));

    let (public, operator_router) = http::routers(&app);
    let (stop, stopped) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    tracing::info!(listen = app.settings.listen, version = env!("CARGO_PKG_VERSION"), "palisade serves");
    let lane = Some(Arc::new(Lane::new(&app).await));
    servers.spawn(accept(listener, Service { lane, router: public }, stopped.clone()));
    if let (Some(listener), Some(router)) = (operators, operator_router) {
        servers.spawn(accept(listener, Service { lane: None, router }, stopped));
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
    tracing::info!(grace_ms = app.settings.drain_grace.as_millis(), "told to stop: draining");
    app.drain();
    if let Some(cluster) = app.peers() {
        cluster.announce(false);
    }
    let drained = async {
        tokio::time::sleep(app.settings.drain_grace).await;
        let _ = stop.send(true);
        while servers.join_next().await.is_some() {}
        if let Some(cluster) = app.peers() {
            let _ = tokio::time::timeout(FLUSH, peers::inherit_now(&app, cluster)).await;
        }
        if !app.log.flush(FLUSH).await {
            tracing::warn!(
                "what was taken away is in the journal and not in the ledger: keep the data directory"
            );
        }
        // Last: until here it served, and whoever counts live nodes counts it.
        if let Some(cluster) = app.peers() {
            cluster.leave().await;
        }
    };
    tokio::select! {
        () = drained => tracing::info!("everything is answered; bye"),
        _ = terminate.recv() => tracing::warn!("told to stop again: ending at once"),
        _ = interrupt.recv() => tracing::warn!("told to stop again: ending at once"),
    }
    Ok(())
}

/// SIGHUP, unless whoever started the process had it ignored, as `nohup` does: a channel that never
/// receives then.
fn hang_up() -> io::Result<HangUp> {
    /// The bit of SIGHUP in the kernel's sets of signals.
    const SIGHUP: u64 = 1;
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    let is_ignored = status.is_ok_and(|status| status.sigign & SIGHUP != 0);
    Ok(HangUp(if is_ignored { None } else { Some(signal(SignalKind::hangup())?) }))
}

/// Hang-ups of the terminal.
struct HangUp(Option<Signal>);

impl HangUp {
    /// `None` when none will ever come.
    async fn recv(&mut self) -> Option<()> {
        self.0.as_mut()?.recv().await
    }
}

async fn bind(name: &'static str, address: &str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|why| ServeError::Listen { name, address: address.to_owned(), why })
}

/// What answers requests.
#[derive(Clone)]
struct Service {
    /// Where the questions are that are asked for all the time.
    lane: Option<Arc<Lane>>,
    router: Router,
}

/// A listener's connections.
struct Connections {
    service: Service,
    server: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    /// Tells the hot lane to stop.
    stop: watch::Sender<bool>,
    /// How many have not sent a request yet.
    fresh: Arc<AtomicUsize>,
}

impl Connections {
    fn new(service: Service) -> Self {
        let (stop, fresh) = (watch::channel(false).0, Arc::default());
        Self { service, server: server(), graceful: GracefulShutdown::new(), stop, fresh }
    }

    /// Serves a connection to its end.
    fn serve(&self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        // Answers are small: waiting to fill a packet would only add latency.
        let _ = stream.set_nodelay(true);
        self.fresh.fetch_add(1, Ordering::Relaxed);
        let first = First { asked: AtomicBool::new(false), fresh: self.fresh.clone() };
        let (server, service) = (self.server.clone(), self.service.clone());
        let (watcher, stop) = (self.graceful.watcher(), self.stop.subscribe());
        tokio::spawn(async move {
            let served = async {
                let (stream, begun, spoken) = match &service.lane {
                    None => (stream, Vec::new(), false),
                    Some(lane) => {
                        match wire::serve(lane, stream, HEAD_TIMEOUT, stop, || first.is_here()).await? {
                            End::Closed => return Ok(()),
                            End::HandedOver { stream, begun, spoken } => (stream, begun, spoken),
                        }
                    }
                };
                // A connection keeps its protocol, and only its first bytes say which.
                let server = if spoken || !may_be_http2(&begun) { server.http1_only() } else { server };
                // Rare on a connection of the hot lane, and large.
                Box::pin(by_hyper(&server, service, watcher, stream, begun, peer, first)).await
            };
            if let Err(error) = served.await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(permit);
        });
    }

    /// Finishes what runs.
    async fn finish(self) {
        // hyper closes a connection that has not asked anything; these are about to.
        let waited = tokio::time::timeout(LAST_REQUEST, async {
            while self.fresh.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let _ = waited.await;
        self.stop.send_replace(true);
        // Every connection holds a watcher, also in the hot lane.
        if tokio::time::timeout(FINISH, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests took too long to be finished");
        }
    }
}

/// Whether a connection has sent anything yet.
struct First {
    asked: AtomicBool,
    fresh: Arc<AtomicUsize>,
}

impl First {
    fn is_here(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.fresh.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connection that ends without having asked is not waited for.
impl Drop for First {
    fn drop(&mut self) {
        self.is_here();
    }
}

/// Whether a connection that begins so may speak HTTP/2 (RFC 9113, section 3.4).
fn may_be_http2(begun: &[u8]) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    begun.iter().zip(PREFACE).all(|(is, should)| is == should)
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection by hyper, which has `begun` with these bytes.
async fn by_hyper(
    server: &auto::Builder<TokioExecutor>,
    service: Service,
    watcher: Watcher,
    stream: TcpStream,
    begun: Vec<u8>,
    peer: SocketAddr,
    first: First,
) -> Result<(), Broken> {
    let (read, write) = stream.into_split();
    let stream = join(Cursor::new(begun).chain(read), write);
    let asked = AtomicBool::new(false);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        first.is_here();
        asked.store(true, Ordering::Relaxed);
        let Service { lane, router } = service.clone();
        // In a place of its own: a connection that idles does not keep it.
        Box::pin(async move {
            if let Some(lane) = lane
                && let Some(response) = lane.take(&request).await
            {
                return Ok::<_, Infallible>(response.map(Either::Left));
            }
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let mut response = router.oneshot(request).await?;
            if response.status() == StatusCode::NO_CONTENT {
                // RFC 9110, section 8.6: the router gives it one.
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            Ok(response.map(Either::Right))
        })
    });
    let connection = watcher.watch(server.serve_connection(TokioIo::new(stream), service));
    let mut connection = std::pin::pin!(connection);
    // hyper's own clock starts when it knows whether this is HTTP/1 or 2, so a client that says nothing at
    // all is for us to end.
    match tokio::time::timeout(HEAD_TIMEOUT, &mut connection).await {
        Ok(ended) => ended,
        Err(_) if !asked.load(Ordering::Relaxed) => Ok(()),
        Err(_) => connection.await,
    }
}

/// Accepts and serves connections until told to stop, then finishes what runs.
async fn accept(listener: TcpListener, service: Service, mut stopped: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(max_connections()));
    let connections = Connections::new(service);
    loop {
        let knock = async {
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            Ok::<_, io::Error>((stream, peer, permit))
        };
        tokio::select! {
            accepted = knock => match accepted {
                Ok((stream, peer, permit)) => connections.serve(stream, peer, permit),
                Err(error) => {
                    // Out of file descriptors, mostly: others will be closed in a moment.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = stopped.changed() => break,
        }
    }
    // Who knocked before the stop is let in: the system has told them that they are connected.
    match listener.into_std() {
        Ok(listener) => {
            while let Ok(permit) = permits.clone().try_acquire_owned()
                && let Ok((stream, peer)) = listener.accept()
                && stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                connections.serve(stream, peer, permit);
            }
        }
        Err(error) => tracing::warn!(%error, "the listener did not stop well"),
    }
    connections.finish().await;
}

/// As many as the system's limit of open files allows beside our own files, which is raised first as
/// far as it may be.
fn max_connections() -> usize {
    const OWN_FILES: u64 = 64;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OWN_FILES).max(1)).unwrap_or(usize::MAX).min(MAX_CONNECTIONS)
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_header_list_size(32 * 1024);
    server
}
