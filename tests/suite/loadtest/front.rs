//! A server before a node: it passes on what it is asked, does to the answers what it is told, and remembers
//! every secret that it saw.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use testkit::{Answer, Client, Node};
use tokio::{net::TcpListener, task::AbortHandle, time::Instant};

pub const VALIDATION: &str = "/api/v1/auth_token/validation";

/// The server. It ends when it is dropped, or with the runtime of the test.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

/// What was asked, and what the node answered.
pub struct Exchange {
    pub method: String,
    pub path: String,
    pub token: String,
    pub status: u16,
    /// How many exchanges there were before it.
    pub nth: u64,
}

/// What is answered.
pub enum Reply {
    /// What the node answered.
    AsItIs,
    /// That, but not before.
    NotBefore(Instant),
    /// Something else: a status and a `msg`.
    Instead(u16, String),
    /// Something else that is no JSON.
    Text(String),
    /// Nothing: the connection ends.
    Cut,
}

struct Shared {
    client: Client,
    rule: Box<dyn Fn(&Exchange) -> Reply + Send + Sync>,
    asked: AtomicU64,
    connections: AtomicU64,
    secrets: Mutex<BTreeSet<String>>,
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

impl Exchange {
    pub fn is_validation(&self) -> bool {
        self.path == VALIDATION
    }

    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }
}

impl Front {
    /// A server before this node, with a rule for its answers.
    pub async fn before(node: &Node, rule: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            client: node.another_client(),
            rule: Box::new(rule),
            asked: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            secrets: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, shared.clone())).abort_handle();
        Self { address, shared, serving }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made until now.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }

    /// Every token and password that passed.
    pub fn secrets(&self) -> BTreeSet<String> {
        self.shared.secrets.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, SeqCst);
        let shared = shared.clone();
        let service = service_fn(move |request| pass_on(shared.clone(), request));
        tokio::spawn(async move {
            // How it ended is seen by who is tested.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass_on(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Ended> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Ended)?.to_bytes();
    let uri = head.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let mut asked = shared.client.request(head.method.as_str(), uri);
    for (name, value) in &head.headers {
        if !matches!(name.as_str(), "host" | "content-length" | "connection") {
            asked = asked.header(name.as_str(), value.to_str().unwrap());
        }
    }
    let answer = asked.body("", body.clone()).try_send().await.map_err(|_| Ended)?;

    let header = head.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
    let token = header.strip_prefix("Bearer ").unwrap_or(header);
    shared.note_secrets(token, [&body, &answer.body]);
    let exchange = Exchange {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        token: token.to_owned(),
        status: answer.status,
        nth: shared.asked.fetch_add(1, SeqCst),
    };
    match (shared.rule)(&exchange) {
        Reply::AsItIs => Ok(response(answer)),
        Reply::NotBefore(moment) => {
            tokio::time::sleep_until(moment).await;
            Ok(response(answer))
        }
        Reply::Instead(status, msg) => {
            let body = serde_json::json!({ "msg": msg }).to_string();
            let response = Response::builder().status(status).header("content-type", "application/json");
            Ok(response.body(body.into()).unwrap())
        }
        Reply::Text(text) => Ok(Response::new(text.into())),
        Reply::Cut => Err(Ended),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "date") {
            response = response.header(name, value);
        }
    }
    response.body(Full::new(answer.body)).unwrap()
}

impl Shared {
    fn note_secrets(&self, token: &str, bodies: [&Bytes; 2]) {
        let mut secrets = self.secrets.lock().unwrap();
        secrets.insert(token.to_owned());
        for body in bodies {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let named = ["password", "access_token", "refresh_token"].map(|name| body[name].as_str());
            secrets.extend(named.into_iter().flatten().map(str::to_owned));
        }
        secrets.remove("");
    }
}
