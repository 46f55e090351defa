//! Serving: listeners, connections, and a shutdown that loses no request.
//!
//! SIGTERM: `/health/ready` turns 503 and answers say `Connection: close`; for the drain grace all
//! is served as before; then the listener stops, what runs is finished, and the process ends with
//! status 0. A second SIGTERM ends it at once. SIGINT and SIGHUP do as SIGTERM, but SIGHUP ends nothing at
//! once, since a terminal that closes may send it twice, and it stays ignored where it was (`nohup`).

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, Version, header},
};
use cluster::boottime;
use http_body_util::{Either, Full};
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustix::process::Resource;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tower::ServiceExt as _;

use crate::{
    app::{App, Purpose, StartError},
    control,
    http::{
        self,
        client::Peer,
        connection::{
            Timeouts,
            activity::Over,
            admission::{Admission, Place},
            body::{self, Answer, Unread},
            line::{Io, Line, Work, linger},
            refused,
            reserve::Reserve,
        },
        hot::{
            Lane,
            wire::{self, End},
        },
    },
    occasional::Occasional,
    peers,
    settings::Settings,
    upkeep,
};

/// The head of a request: the longest permission query fits in with room to spare.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// hyper's own bound in HTTP/2, in bytes. What is below it is read, and refused in our form beyond the other.
const MAX_H2_HEAD_BYTES: u32 = 128 * 1024;
const MAX_HEADERS: usize = 64;
/// How many connections are open at a time.
const MAX_CONNECTIONS: usize = 16_384;
/// The listen backlog. The kernel caps it at `net.core.somaxconn`.
const LISTEN_BACKLOG: u32 = 4_096;
/// The same of a listener for operators.
const MAX_OPERATOR_CONNECTIONS: usize = 256;
/// Part of them that one address may have, unless it is set.
const SHARE_OF_ADDRESS: usize = 4;
/// How many connections beyond those are listened to for a moment: operators always get through.
const RESERVE: usize = 64;
const MAX_H2_STREAMS: u32 = 256;
/// How often a client by HTTP/2 is asked whether it is there.
const H2_PING: Duration = Duration::from_secs(30);
/// How long a client by HTTP/2 has to end a connection that is idle, after it was told.
const H2_GOODBYE: Duration = Duration::from_secs(1);
/// What a client by HTTP/2 may send before a handler has read what came before it, in bytes: on a stream, and
/// on all streams of a connection. hyper's own 1 MiB would be held outside `BODY_BUDGET`.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 256 * 1024;
/// How many streams may be opened and reset before they were looked at ("rapid reset", CVE-2023-44487), and how
/// many a client may make the node reset by errors; then the connection is ended. `CONTINUATION` frames, and
/// empty ones, are bounded by h2 itself (by the length of a head).
const H2_RESETS: usize = 20;
const H2_ERRORS: usize = 256;
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
    let apart = operators.is_some();
    let most = Bounds::of(&app, apart);
    let service = Service { app: app.clone(), lane, router: public };
    servers.spawn(accept(listener, Connections::new(service, most.public, !apart), stopped.clone()));
    if let (Some(listener), Some(router)) = (operators, operator_router) {
        let service = Service { app: app.clone(), lane: None, router };
        servers.spawn(accept(listener, Connections::new(service, most.operators, true), stopped));
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
    let bound = async {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host(address).await? {
            match listen(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    };
    bound.await.map_err(|why| ServeError::Listen { name, address: address.to_owned(), why })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the previous process in TIME_WAIT do not prevent a restart.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// What answers requests.
#[derive(Clone)]
struct Service {
    app: Arc<App>,
    /// Where the questions are that are asked for all the time.
    lane: Option<Arc<Lane>>,
    router: Router,
}

/// How many connections the listeners have.
struct Bounds {
    public: usize,
    operators: usize,
}

impl Bounds {
    /// As many as the system's limit of open files allows beside our own files and the reserves. The limit is
    /// raised first as far as it may be.
    fn of(app: &App, operators_apart: bool) -> Self {
        // Includes connections that are about to be closed.
        const OWN_FILES: usize = 128;
        let mut limit = rustix::process::getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(Resource::Nofile, limit);
        let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(OWN_FILES + RESERVE);
        let operators = if operators_apart { MAX_OPERATOR_CONNECTIONS.min(files / 4) } else { 0 };
        let apart = operators + if operators_apart { RESERVE } else { 0 };
        let public = files.saturating_sub(apart).clamp(1, MAX_CONNECTIONS);
        tracing::debug!(public, operators, per_address = share(app, public), "connections");
        Self { public, operators: operators.max(1) }
    }
}

/// How many of all connections an address may have.
fn share(app: &App, all: usize) -> usize {
    app.settings.connections_per_address.unwrap_or(all / SHARE_OF_ADDRESS).clamp(1, all)
}

/// A listener's connections.
struct Connections {
    service: Service,
    server: auto::Builder<TokioExecutor>,
    admission: Arc<Admission>,
    reserve: Arc<Reserve>,
    /// Tells connections to stop. Each has a receiver as long as it is there.
    stop: watch::Sender<bool>,
    /// How many have not sent a request yet.
    fresh: Arc<AtomicUsize>,
    /// About connections that have no place.
    warnings: Occasional,
}

impl Connections {
    fn new(service: Service, all: usize, for_operators: bool) -> Self {
        let Service { app, router, .. } = &service;
        let proxies = app.settings.trusted_proxies.clone();
        Self {
            server: server(),
            admission: Admission::new(all, share(app, all), proxies),
            reserve: Reserve::new(app.clone(), router.clone(), for_operators, RESERVE),
            stop: watch::channel(false).0,
            fresh: Arc::default(),
            warnings: Occasional::default(),
            service,
        }
    }

    /// Serves a connection to its end, or one request of it when there is no place for it.
    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        match self.admission.admit(peer.ip()) {
            Some(place) => self.serve(stream, peer, place),
            None => {
                self.refused(peer);
                self.reserve.serve(stream, peer, self.stop.subscribe());
            }
        }
    }

    /// Counts a connection that has no place, and says so now and then.
    fn refused(&self, peer: SocketAddr) {
        self.service.app.metrics.connection_refused();
        if let Some(left_out) = self.warnings.due(boottime()) {
            tracing::warn!(
                address = %peer.ip(),
                left_out,
                "no connections left for this address: it has its share (CONNECTIONS_PER_ADDRESS), or all are taken; \
                 list it in TRUSTED_PROXIES if it is a proxy"
            );
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        // Answers are small: waiting to fill a packet would only add latency.
        let _ = stream.set_nodelay(true);
        self.fresh.fetch_add(1, Ordering::Relaxed);
        let first = First { asked: AtomicBool::new(false), fresh: self.fresh.clone() };
        let (server, service) = (self.server.clone(), self.service.clone());
        let stop = self.stop.subscribe();
        tokio::spawn(async move {
            let served = async {
                let (stream, begun, spoken) = match &service.lane {
                    None => (stream, Vec::new(), false),
                    Some(lane) => {
                        match wire::serve(lane, stream, peer, stop.clone(), || first.is_here()).await? {
                            End::Closed => return Ok(()),
                            End::HandedOver { stream, begun, spoken } => (stream, begun, spoken),
                        }
                    }
                };
                // A connection keeps its protocol, and only its first bytes say which.
                let server = if spoken || !may_be_http2(&begun) { server.http1_only() } else { server };
                let timeouts = Timeouts::new(service.app.settings.idle_timeout);
                let line = Line::new(stream, timeouts, !begun.is_empty());
                if begun.starts_with(HTTP2_PREFACE) {
                    line.activity().speaks_http2();
                }
                // Rare on a connection of the hot lane, and large.
                Box::pin(by_hyper(&server, service, stop, &line, begun, peer, first)).await
            };
            if let Err(error) = served.await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(place);
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
        if tokio::time::timeout(FINISH, self.stop.closed()).await.is_err() {
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

/// The HTTP/2 connection preface (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether these first bytes may begin an HTTP/2 preface.
fn may_be_http2(begun: &[u8]) -> bool {
    begun.iter().zip(HTTP2_PREFACE).all(|(is, should)| is == should)
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection by hyper, which has `begun` with these bytes.
async fn by_hyper(
    server: &auto::Builder<TokioExecutor>,
    service: Service,
    mut stop: watch::Receiver<bool>,
    line: &Arc<Line>,
    begun: Vec<u8>,
    peer: SocketAddr,
    first: First,
) -> Result<(), Broken> {
    let app = service.app.clone();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        first.is_here();
        let work = line.request(request.version() == Version::HTTP_2);
        // In a place of its own: a connection that idles does not keep it.
        Box::pin(answer(service.clone(), request, peer, Arc::new(work)))
    });
    let connection = server.serve_connection(TokioIo::new(Io::new(line.clone(), begun)), service);
    let mut connection = Box::pin(connection);
    let served = async {
        tokio::select! {
            served = connection.as_mut() => return served,
            _ = stop.wait_for(|stop| *stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.as_mut().await
    };
    let watched = line.watch(pin!(served)).await;
    let mut failed = None;
    let unreadable = match watched {
        Err(Over::Idle) => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(H2_GOODBYE, connection.as_mut()).await;
            None
        }
        Err(Over::Stalled) => {
            line.abort();
            None
        }
        Err(Over::Head) => Some(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(error)) if error.downcast_ref::<hyper::Error>().is_none_or(|error| !error.is_parse()) => {
            failed = Some(error);
            None
        }
        Ok(Err(_)) => Some(StatusCode::BAD_REQUEST),
        Ok(Ok(())) => None,
    };
    drop(connection);
    let (refused, at_rest, unread) = {
        let activity = line.activity();
        let at_rest = activity.is_at_rest() && !activity.is_http2();
        (activity.refused().or(unreadable), at_rest, activity.is_unread())
    };
    match refused {
        // Never in the middle of another answer.
        // Both are rare, and large.
        Some(status) if at_rest => Box::pin(refused::refuse(&app, line.stream(), status)).await,
        _ if unread => Box::pin(linger(line.stream())).await,
        _ => {}
    }
    failed.map_or(Ok(()), Err)
}

/// Answers a request that hyper has read.
async fn answer(
    service: Service,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    work: Arc<Work>,
) -> Result<hyper::Response<Answer<Either<Full<Bytes>, Body>>>, Infallible> {
    let Service { app, lane, router } = service;
    if is_too_large(&request) {
        let too_large = refused::problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let mut answer = refused::to_unread(&app, too_large);
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        work.line().activity().leave_unread();
        return Ok(answer.map(|body| Answer::new(Either::Left(Full::new(body)), work)));
    }
    if let Some(lane) = lane
        && let Some(response) = lane.take(&request, peer).await
    {
        return Ok(response.map(|body| Answer::new(Either::Left(body), work)));
    }
    let (mut request, unread) = lend(request);
    request.extensions_mut().insert(Peer(peer));
    let mut response = router.oneshot(request).await?;
    if response.status() == StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6: the router gives it one.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Some(unread) = unread
        && !unread.discard().await
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        work.line().activity().leave_unread();
    }
    Ok(response.map(|body| Answer::new(Either::Right(body), work)))
}

/// The request for the router, and what is left of its body afterwards. HTTP/2 has no use for that: a stream
/// ends by itself.
fn lend(request: hyper::Request<Incoming>) -> (Request, Option<Unread>) {
    if request.version() == Version::HTTP_2 || request.body().is_end_stream() {
        return (request.map(Body::new), None);
    }
    let on_demand = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let (lent, unread) = body::lend(body, on_demand);
    (Request::from_parts(head, Body::new(lent)), Some(unread))
}

/// Whether its head is longer than it may be: hyper's bound is one of its buffer in HTTP/1.1, and of another
/// sum in HTTP/2.
fn is_too_large(request: &hyper::Request<Incoming>) -> bool {
    let fields = request.headers().iter();
    let bytes: usize = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    bytes + target > MAX_HEAD_BYTES
}

/// Accepts and serves connections until told to stop, then finishes what runs.
async fn accept(listener: TcpListener, connections: Connections, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connections.take(stream, peer),
                // The client changed its mind.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
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
            while let Ok((stream, peer)) = listener.accept()
                && stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                connections.take(stream, peer);
            }
        }
        Err(error) => tracing::warn!(%error, "the listener did not stop well"),
    }
    connections.finish().await;
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        // A client that shuts down its sending side still reads responses, as on the hot lane.
        .half_close(true)
        // The line has it, and says so to the client.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(H2_RESETS)
        .max_local_error_reset_streams(H2_ERRORS)
        .max_header_list_size(MAX_H2_HEAD_BYTES);
    server
}
