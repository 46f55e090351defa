//! Sends ended spans to the collector.
//!
//! The library's batch processor queues and sends. Around it are a bound that counts what it drops, and an
//! exporter that counts what the collector does not take.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{
    Protocol, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};

/// The most spans that wait for the collector.
const QUEUE_SPANS_MAX: usize = 4_096;
/// The most spans in one request to the collector.
const BATCH_SPANS_MAX: usize = 512;
/// How long an ended span waits for others at most.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// The limit of a request to the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

static EXPORTED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Spans that have been given to the batch processor, and are not sent or lost yet.
static QUEUED: AtomicUsize = AtomicUsize::new(0);
static IS_FAILING: AtomicBool = AtomicBool::new(false);

/// The numbers of spans since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The collector has taken them.
    pub exported: u64,
    /// The collector refused them or did not answer.
    pub refused: u64,
    /// The queue was full.
    pub dropped: u64,
}

pub(super) fn counts() -> Counts {
    Counts {
        exported: EXPORTED.load(Relaxed),
        refused: REFUSED.load(Relaxed),
        dropped: DROPPED.load(Relaxed),
    }
}

/// A provider of tracers that sends to this URL.
pub(super) fn provider(url: &str) -> Result<SdkTracerProvider, String> {
    let client = reqwest::blocking::Client::builder()
        .timeout(EXPORT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())?;
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(2 * QUEUE_SPANS_MAX)
        .with_max_export_batch_size(BATCH_SPANS_MAX)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let batches = BatchSpanProcessor::builder(CountingExporter(exporter)).with_batch_config(config).build();
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("palisade").with_attribute(version).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(BoundedProcessor(batches))
        .build())
}

/// Counts what the collector takes.
#[derive(Debug)]
struct CountingExporter(OtlpExporter);

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.0.export(batch).await;
        QUEUED.fetch_sub(spans, Relaxed);
        let count = if result.is_ok() { &EXPORTED } else { &REFUSED };
        count.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Relaxed);
        match (&result, IS_FAILING.swap(result.is_err(), Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "spans cannot be delivered; they are dropped"),
            (Ok(()), true) => tracing::info!("spans are delivered again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// Gives the batch processor no more spans than its queue has room for, and counts the others.
#[derive(Debug)]
struct BoundedProcessor(BatchSpanProcessor);

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if QUEUED.fetch_add(1, Relaxed) >= QUEUE_SPANS_MAX {
            QUEUED.fetch_sub(1, Relaxed);
            DROPPED.fetch_add(1, Relaxed);
            return;
        }
        self.0.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}
