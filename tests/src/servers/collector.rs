//! A stand-in for an OpenTelemetry collector: takes traces by OTLP over HTTP (protobuf) and remembers the spans.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message as _;
use tokio::net::TcpListener;

use crate::wait::eventually;

/// How long spans may take to arrive: the node sends them once a second.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// A collector on a port of 127.0.0.1.
pub struct Collector {
    address: SocketAddr,
    state: Arc<Received>,
}

/// A span, with ids in hexadecimal.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub kind: i32,
    pub is_error: bool,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    bodies: Mutex<Vec<u8>>,
    refuses: AtomicBool,
}

impl Collector {
    /// Starts a collector.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Received::default());
        let router = Router::new().route("/v1/traces", post(take)).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, state }
    }

    /// For `OTLP_ENDPOINT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether to answer 503 from now on.
    pub fn refuses(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::SeqCst);
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.state.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the bytes of any request so far contain this text.
    #[must_use]
    pub fn has_received(&self, text: &str) -> bool {
        let bodies = self.state.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The trace of this id, once it has a root span that ended.
    pub async fn trace(&self, id: &str) -> Trace {
        let root =
            async || self.spans().into_iter().find(|span| span.trace == id && span.kind == KIND_SERVER);
        let root = eventually(ARRIVAL_TIMEOUT, "the root span of a trace", root).await;
        let spans = self.spans().into_iter().filter(|span| span.trace == id).collect();
        Trace { root, spans }
    }
}

/// A server span, in the numbers of OTLP.
const KIND_SERVER: i32 = 2;
/// An error, in the numbers of OTLP.
const STATUS_ERROR: i32 = 2;

/// The spans of one trace.
#[derive(Debug)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Trace {
    pub root: Span,
    pub spans: Vec<Span>,
}

impl Trace {
    /// Asserts that this span is there, below the root, and returns it.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn has(&self, name: &str) -> &Span {
        let span = self.spans.iter().find(|span| span.name == name);
        let span = span.unwrap_or_else(|| panic!("no span {name:?}:\n{self}"));
        let mut above = span;
        while above.id != self.root.id {
            let parent = self.spans.iter().find(|span| span.id == above.parent);
            above = parent.unwrap_or_else(|| panic!("{name:?} is not below the root:\n{self}"));
        }
        span
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spans.iter().try_for_each(|span| writeln!(f, "{} {} below {}", span.name, span.id, span.parent))
    }
}

async fn take(State(state): State<Arc<Received>>, body: Bytes) -> StatusCode {
    if state.refuses.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(&*body) else { return StatusCode::BAD_REQUEST };
    state.bodies.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&body);
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let spans = scopes.flat_map(|scope| scope.spans).map(|span| Span {
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind,
        is_error: span.status.is_some_and(|status| status.code == STATUS_ERROR),
        attributes: span.attributes.into_iter().map(attribute).collect(),
    });
    state.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
    StatusCode::OK
}

fn attribute(attribute: KeyValue) -> (String, String) {
    let value = match attribute.value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    };
    (attribute.key, value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
