//! Traces: spans of requests, sent to a collector by OTLP over HTTP when `OTLP_ENDPOINT` is set.
//!
//! Promises: a thread that answers requests never waits for the collector. Ended spans go through a bounded queue
//! to a thread of the exporter; a span that finds no room, and one that the collector does not take, is counted
//! in [`counts`]. Whether a request is traced is decided once, at its root ([`root`]): by the `sampled` flag of
//! its `traceparent` (W3C Trace Context, section 3.2), else by `OTLP_SAMPLE`. Other spans are made only below
//! such a root: for requests that are not traced, and background tasks, a span costs one lookup.
//!
//! Never: a span without `OTLP_ENDPOINT`; a token, password, email or value of a statement as an attribute.
//!
//! Any crate makes spans with `tracing::info_span!`. The log lines of a request belong to a span named
//! [`LOG_SPAN`], which is not part of the trace; log lines show no other span.

mod export;

use std::{sync::OnceLock, time::Duration};

use axum::http::HeaderMap;
use opentelemetry::{
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use schema::Entropy;
use tracing::{Metadata, Span, Subscriber, subscriber::Interest};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, dynamic_filter_fn},
    registry::LookupSpan,
};

use crate::settings::TraceSettings;
pub use export::Counts;

/// The name of the spans that give log lines the id of their request.
pub const LOG_SPAN: &str = "request";
/// The name of the root span of a request.
const ROOT_SPAN: &str = "http.server";
/// The header of the caller's trace context.
pub const TRACEPARENT: &str = "traceparent";

/// The exporter of this process. A process has one subscriber, so it has one exporter.
static EXPORTER: OnceLock<Exporter> = OnceLock::new();

struct Exporter {
    provider: SdkTracerProvider,
    sample: f64,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("traces by OTLP cannot be started: {0}")]
pub struct TraceError(String);

/// Starts the exporter, and returns the layer that records spans for it.
///
/// # Errors
/// When the exporter cannot be made, for instance because an `OTEL_…` variable contradicts it.
pub fn start<S>(settings: &TraceSettings) -> Result<impl Layer<S> + use<S>, TraceError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let provider = export::provider(&settings.url).map_err(TraceError)?;
    let tracer = provider.tracer("palisade");
    let _ = EXPORTER.set(Exporter { provider, sample: settings.sample });
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    let is_traced = dynamic_filter_fn(|metadata, context| {
        may_be_traced(metadata) && (metadata.name() == ROOT_SPAN || context.lookup_current().is_some())
    });
    // Without these, every log call of every library would be asked about each time.
    let is_traced = is_traced.with_max_level_hint(LevelFilter::INFO).with_callsite_filter(|metadata| {
        if may_be_traced(metadata) { Interest::sometimes() } else { Interest::never() }
    });
    Ok(layer.with_filter(is_traced))
}

fn may_be_traced(metadata: &Metadata<'_>) -> bool {
    /// The crates of this workspace. Libraries make spans of their own, with fields that we do not know.
    const CRATES: [&str; 6] = ["node", "actors", "cluster", "store_redb", "store_scylla", "cache_redis"];
    let krate = metadata.target().split(':').next().unwrap_or_default();
    metadata.is_span() && metadata.name() != LOG_SPAN && CRATES.contains(&krate)
}

/// Whether this process sends traces.
#[must_use]
pub fn is_on() -> bool {
    EXPORTER.get().is_some()
}

/// Whether a `traceparent` header says that its request is traced. Spans are off without an exporter.
#[must_use]
pub fn is_sampled(traceparent: &[u8]) -> bool {
    // version "-" trace-id "-" parent-id "-" flags; later versions may append more.
    let flags = traceparent.get(53..55).and_then(|flags| std::str::from_utf8(flags).ok());
    let flags = flags.and_then(|flags| u8::from_str_radix(flags, 16).ok());
    is_on() && flags.is_some_and(|flags| flags & 1 == 1)
}

/// What a root span says about its request.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct RootSpan<'a> {
    pub method: &'a str,
    pub route: &'a str,
    pub request_id: &'a str,
    pub node: &'a str,
    /// Whether it may be traced although its caller does not trace it.
    pub may_be_sampled: bool,
}

/// The root span of a request, or no span if the request is not traced.
pub fn root(about: RootSpan<'_>, headers: &HeaderMap, entropy: &dyn Entropy) -> Span {
    let Some(exporter) = EXPORTER.get() else { return Span::none() };
    let caller = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    let caller_span = caller.span().span_context().clone();
    let is_traced = match caller_span.is_valid() {
        true => caller_span.is_sampled(),
        false => about.may_be_sampled && draw(entropy) < exporter.sample,
    };
    if !is_traced {
        return Span::none();
    }
    let span = tracing::info_span!(
        ROOT_SPAN,
        otel.name = format_args!("{} {}", about.method, about.route),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = about.method,
        http.route = about.route,
        http.response.status_code = tracing::field::Empty,
        palisade.request_id = about.request_id,
        palisade.node = about.node,
    );
    // Fails only for a span that has children already.
    let _ = span.set_parent(caller);
    span
}

/// Notes the status of the answer on the root span.
pub fn answered(root: &Span, status: u16) {
    root.record("http.response.status_code", status);
    if status >= 500 {
        root.record("otel.status_code", "ERROR");
    }
}

/// A number from 0 to less than 1.
#[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
fn draw(entropy: &dyn Entropy) -> f64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    (u64::from_ne_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

/// How many spans were delivered and lost since the start; `None` without an exporter.
#[must_use]
pub fn counts() -> Option<Counts> {
    is_on().then(export::counts)
}

/// Sends the spans that have ended, for at most this long.
pub fn flush(timeout: Duration) {
    if let Some(exporter) = EXPORTER.get() {
        let _ = exporter.provider.shutdown_with_timeout(timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_exporter_no_request_is_traced() {
        assert!(!is_on());
        assert!(!is_sampled(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert_eq!(counts(), None);
    }
}
