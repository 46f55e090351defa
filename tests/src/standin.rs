//! A server that does what a test scripts: a Palisade that hangs or says 503, an application behind a gateway.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};

use crate::eventually;

/// Longest time until the port is free again for a server that returns.
const RETURN_TIMEOUT: Duration = Duration::from_secs(10);

/// The server. It ends when it is dropped, or with the runtime of the test.
#[derive(Debug)]
pub struct Standin {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: Mutex<AbortHandle>,
}

/// A request that it got.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// All headers.
    pub headers: HeaderMap,
    /// How many requests came before it.
    pub nth: usize,
}

/// What it does.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers.
    Answer(u16, HeaderMap, Bytes),
    /// Answers later.
    After(Duration, u16, HeaderMap, Bytes),
    /// Keeps the connection and never answers.
    Never,
    /// Closes the connection.
    Cut,
}

type Rule = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct Shared {
    rule: Mutex<Rule>,
    asked: Mutex<Vec<Asked>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// Why a connection ended.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended on purpose")
    }
}

impl std::error::Error for Ended {}

impl Reply {
    /// An answer with this JSON.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self::Answer(status, headers, body.to_string().into())
    }

    /// An answer with this text.
    #[must_use]
    pub fn text(status: u16, body: &'static str) -> Self {
        Self::Answer(status, HeaderMap::new(), body.into())
    }

    /// The same answer with this header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        if let Self::Answer(_, headers, _) | Self::After(_, _, headers, _) = &mut self {
            headers.insert(name, HeaderValue::from_static(value));
        }
        self
    }

    /// The same answer after this time.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        match self {
            Self::Answer(status, headers, body) => Self::After(time, status, headers, body),
            other => other,
        }
    }
}

impl Asked {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Standin {
    /// Starts one that answers by this rule.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { rule: Mutex::new(Arc::new(rule)), asked: Mutex::default() });
        let serving = Mutex::new(serve(listener, shared.clone()));
        Self { address, shared, serving }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers by this rule from now on.
    pub fn answers(&self, rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.rule) = Arc::new(rule);
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// Closes its port and all connections.
    pub fn vanish(&self) {
        lock(&self.serving).abort();
    }

    /// Listens again on the same port.
    ///
    /// # Panics
    /// When the port stays taken.
    pub async fn returns(&self) {
        let listener =
            eventually(RETURN_TIMEOUT, "the port", async || TcpListener::bind(self.address).await.ok()).await;
        *lock(&self.serving) = serve(listener, self.shared.clone());
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.vanish();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> AbortHandle {
    let serving = async move {
        // They end with this task.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let shared = shared.clone();
            let answer = service_fn(move |request| answer(shared.clone(), request));
            connections.spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    };
    tokio::spawn(serving).abort_handle()
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Ended> {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let asked = {
        let mut all = lock(&shared.asked);
        let method = request.method().to_string();
        let headers = request.headers().clone();
        let asked = Asked { method, target, headers, nth: all.len() };
        all.push(asked.clone());
        asked
    };
    let rule = lock(&shared.rule).clone();
    let (status, headers, body) = match rule(&asked) {
        Reply::Answer(status, headers, body) => (status, headers, body),
        Reply::After(time, status, headers, body) => {
            tokio::time::sleep(time).await;
            (status, headers, body)
        }
        Reply::Never => std::future::pending().await,
        Reply::Cut => return Err(Ended),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status.try_into().expect("a status");
    *response.headers_mut() = headers;
    Ok(response)
}
