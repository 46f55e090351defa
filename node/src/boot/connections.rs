//! The connections of a listener: accepted, given a permit or a seat in the reserve, served, and finished when
//! the node ends.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use rustix::process::Resource;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::by_hyper::{self, HTTP2_PREFACE, may_be_http2};
use crate::{
    app::App,
    http::{
        Policies,
        connection::{
            Timeouts,
            admission::{Admission, ConnectionPermit},
            reserve::Reserve,
            socket::Socket,
        },
        fast_path::{
            FastPath,
            http1::{self, End},
        },
    },
    logging::occasional::Occasional,
};

/// Limit of open connections of the public listener.
const CONNECTIONS_MAX: usize = 16_384;
/// Limit of open connections of the listener for operators.
const OPERATOR_CONNECTIONS_MAX: usize = 256;
/// By default one address may have one part in this many of a listener's connections.
const ADDRESS_SHARE_DIVISOR: usize = 4;
/// Limit of connections beyond those that are read for a moment, so that operators always get through.
const RESERVE_SEATS_MAX: usize = 64;
/// How long open requests may still take at shutdown: with the drain grace it stays below the ten seconds that
/// Docker gives.
const FINISH_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the connections that were accepted last may take to send their first request at shutdown.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause after a connection could not be accepted.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How often shutdown looks whether the last connections have sent their request.
const LAST_REQUEST_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What answers requests.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) app: Arc<App>,
    /// Answers the requests that services make all the time; operators' listeners have none.
    pub(super) fast_path: Option<Arc<FastPath>>,
    pub(super) router: Router,
}

/// Limits of the open connections of each listener.
pub(super) struct Bounds {
    pub(super) public: usize,
    pub(super) operators: usize,
}

impl Bounds {
    /// As many as the system's limit of open files allows beside our own files and the reserves. The limit is
    /// raised first as far as it may be.
    pub(super) fn of(app: &App, operators_apart: bool) -> Self {
        // Includes connections that are about to be closed.
        const OWN_FILES: usize = 128;
        let mut limit = rustix::process::getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(Resource::Nofile, limit);
        let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files =
            usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(OWN_FILES + RESERVE_SEATS_MAX);
        let operators = if operators_apart { OPERATOR_CONNECTIONS_MAX.min(files / 4) } else { 0 };
        let apart = operators + if operators_apart { RESERVE_SEATS_MAX } else { 0 };
        let public = files.saturating_sub(apart).clamp(1, CONNECTIONS_MAX);
        tracing::debug!(public, operators, per_address = share(app, public), "connections");
        Self { public, operators: operators.max(1) }
    }
}

/// Limit of the connections of one address, among all of a listener.
fn share(app: &App, all: usize) -> usize {
    app.settings.connections_per_address.unwrap_or(all / ADDRESS_SHARE_DIVISOR).clamp(1, all)
}

/// A listener's connections.
pub(super) struct Connections {
    service: Service,
    server: auto::Builder<TokioExecutor>,
    admission: Arc<Admission>,
    reserve: Arc<Reserve>,
    /// Tells connections to stop. Each holds a receiver until it is closed.
    stop: watch::Sender<bool>,
    /// The number of connections that have not sent a request yet.
    fresh: Arc<AtomicUsize>,
    /// Limits the warnings about connections that got no permit.
    warnings: Occasional,
}

impl Connections {
    pub(super) fn new(service: Service, policies: &Arc<Policies>, all: usize, for_operators: bool) -> Self {
        let Service { app, router, .. } = &service;
        let proxies = app.settings.trusted_proxies.clone();
        Self {
            server: by_hyper::server(),
            admission: Admission::new(all, share(app, all), proxies),
            reserve: Reserve::new(
                app.clone(),
                router.clone(),
                policies.clone(),
                for_operators,
                RESERVE_SEATS_MAX,
            ),
            stop: watch::channel(false).0,
            fresh: Arc::default(),
            warnings: Occasional::default(),
            service,
        }
    }

    /// Serves a connection until it is closed, or only one request of it if it gets no permit.
    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        match self.admission.admit(peer.ip()) {
            Some(permit) => self.serve(stream, peer, permit),
            None => {
                self.refused(peer);
                self.reserve.serve(stream, peer, self.stop.subscribe());
            }
        }
    }

    /// Counts a connection that got no permit, and logs some of them.
    fn refused(&self, peer: SocketAddr) {
        self.service.app.metrics.connection_refused();
        if let Some(left_out) = self.warnings.due(self.service.app.clocks.monotonic()) {
            tracing::warn!(
                address = %peer.ip(),
                left_out,
                "no connections left for this address: it has its share (CONNECTIONS_PER_ADDRESS), or all are taken; \
                 list it in TRUSTED_PROXIES if it is a proxy"
            );
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, permit: ConnectionPermit) {
        // Answers are small: waiting to fill a packet would only add latency.
        let _ = stream.set_nodelay(true);
        self.fresh.fetch_add(1, Ordering::Relaxed);
        let first = FirstRequestGuard { is_marked: AtomicBool::new(false), fresh: self.fresh.clone() };
        let server = self.server.clone();
        let service = self.service.clone();
        let stop = self.stop.subscribe();
        tokio::spawn(async move {
            let (stream, begun, spoken) = match &service.fast_path {
                None => (stream, Vec::new(), false),
                Some(fast_path) => {
                    match http1::serve(fast_path, stream, peer, stop.clone(), || first.mark()).await {
                        Ok(End::HandedOver { stream, begun, spoken }) => (stream, begun, spoken),
                        Ok(End::Closed) => return,
                        Err(error) => {
                            tracing::debug!(%error, "connection closed before the response was complete");
                            return;
                        }
                    }
                }
            };
            // The first bytes of a connection decide its protocol.
            let server = if spoken || !may_be_http2(&begun) { server.http1_only() } else { server };
            let timeouts = Timeouts::new(service.app.settings.idle_timeout);
            let socket = Socket::new(stream, timeouts, !begun.is_empty());
            if begun.starts_with(HTTP2_PREFACE) {
                socket.activity().speaks_http2();
            }
            // A task of its own, so that the state of the fast path is freed.
            tokio::spawn(async move {
                if let Err(error) = by_hyper::serve(&server, service, stop, &socket, begun, peer, first).await
                {
                    tracing::debug!(error, "connection closed before the response was complete");
                }
                drop(permit);
            });
        });
    }

    /// Waits for open requests, then closes all connections.
    async fn finish(self) {
        // hyper closes a connection that has sent no request; these are about to send one.
        let waited = tokio::time::timeout(LAST_REQUEST_TIMEOUT, async {
            while self.fresh.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LAST_REQUEST_POLL_INTERVAL).await;
            }
        });
        let _ = waited.await;
        self.stop.send_replace(true);
        if tokio::time::timeout(FINISH_TIMEOUT, self.stop.closed()).await.is_err() {
            tracing::warn!("some requests took too long and were cut off at shutdown");
        }
    }
}

/// Counts a connection as fresh until it has sent its first request or is closed.
pub(super) struct FirstRequestGuard {
    is_marked: AtomicBool,
    fresh: Arc<AtomicUsize>,
}

impl FirstRequestGuard {
    /// Notes that the connection has sent a request.
    pub(super) fn mark(&self) {
        if !self.is_marked.swap(true, Ordering::Relaxed) {
            self.fresh.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for FirstRequestGuard {
    fn drop(&mut self) {
        self.mark();
    }
}

/// Accepts and serves connections until told to stop, then waits for open requests.
pub(super) async fn accept(
    listener: TcpListener,
    connections: Connections,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connections.take(stream, peer),
                // The client closed the connection before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Usually the process has no file descriptors left; other connections will be closed soon.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            },
            _ = stopped.changed() => break,
        }
    }
    // Clients that the kernel connected before the stop are served too.
    match listener.into_std() {
        Ok(listener) => {
            while let Ok((stream, peer)) = listener.accept()
                && stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                connections.take(stream, peer);
            }
        }
        Err(error) => tracing::warn!(%error, "the last connections of the listener could not be accepted"),
    }
    connections.finish().await;
}
