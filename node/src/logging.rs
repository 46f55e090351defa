//! Logs: one line per event on stderr, with ids as fields. No secret is ever given to `tracing`.
//!
//! Promises: a thread that logs never waits for stderr and never fails because of it. Lines go through a
//! bounded queue (`queue`) to one thread that writes them. A line is dropped and counted in [`lines_lost`] if
//! the queue is full or stderr refuses it (its disk is full, its reader has gone). A panic is logged as a
//! line like any other.
//!
//! Never: a thread that answers requests does not write to stderr itself.

pub mod occasional;
mod queue;

use std::{
    io::{self, IsTerminal as _},
    panic,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use schema::Clock as _;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt::{self, format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    clock::SystemClock,
    settings::{LogFormat, LogSettings, TraceSettings},
    traces::{self, LOG_SPAN, TraceError},
};
use queue::{LineWriter, Queue};

/// The queue of log lines. A process has one stderr, so it has one queue.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Why logging or traces cannot be started.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("the thread that writes log lines: {0}")]
    Thread(#[from] io::Error),
    #[error(transparent)]
    Traces(#[from] TraceError),
}

/// Starts logging to stderr, and traces if they have settings. The binary calls it once.
///
/// # Errors
/// If the writing thread or the exporter of traces cannot be started.
pub fn start(settings: &LogSettings, traces: Option<&TraceSettings>) -> Result<(), StartError> {
    let queue = Arc::new(Queue::default());
    if QUEUE.set(queue.clone()).is_err() {
        // A second start in one process (tests) leaves the first in place.
        return Ok(());
    }
    let writer = queue.clone();
    thread::Builder::new().name("log-writer".into()).spawn(move || writer.write_to_stderr())?;
    let lines = tracing_subscriber::registry().with(lines(settings, queue));
    // Beside a layer that is `None`, a span that no layer wants would be made all the same.
    let _ = match traces.map(traces::start).transpose()? {
        Some(traces) => lines.with(traces).try_init(),
        None => lines.try_init(),
    };
    // The default hook writes to stderr directly and may block.
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current().name().unwrap_or_default().to_owned();
        let payload = panic.payload_as_str().unwrap_or_default();
        tracing::error!(location, thread, payload, "a task panicked; this is a defect");
    }));
    Ok(())
}

/// The layer that writes log lines. Spans other than [`LOG_SPAN`] are for traces only.
fn lines(settings: &LogSettings, queue: Arc<Queue>) -> Box<dyn Layer<Registry> + Send + Sync> {
    let terminal = io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = fmt::layer()
        .with_writer(move || LineWriter::new(queue.clone()))
        .with_ansi(terminal)
        // The layer would write its own errors to stderr directly, and panic if stderr is broken.
        .log_internal_errors(false);
    let is_logged = filter_fn(|metadata| !metadata.is_span() || metadata.name() == LOG_SPAN);
    let filter = EnvFilter::new(&settings.filter).and(is_logged);
    match format {
        // A person is reading: the time of day is enough, and module names distract.
        LogFormat::Text if terminal => {
            lines.with_timer(TimeOfDay).with_target(false).with_filter(filter).boxed()
        }
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            lines.with_filter(filter).boxed()
        }
    }
}

/// The time of day in UTC, to the second.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let second = SystemClock.now().as_secs() % (24 * 3_600);
        write!(w, "{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
    }
}

/// Writes a line for people to stderr: after queued log lines if this process logs, else at once.
pub fn line(text: &str) {
    use std::io::Write as _;
    let line = format!("{text}\n");
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits up to `timeout` until every line is written or lost.
pub fn flush(timeout: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(timeout);
    }
}

/// The number of lines that this process has dropped since it started.
#[must_use]
pub fn lines_lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lines_lost())
}
