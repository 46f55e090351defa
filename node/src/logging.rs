//! Logs: one line per event on stderr, with ids as fields. No secret is ever given to `tracing`.
//!
//! Promises: a thread that logs never waits for stderr and never fails because of it. Lines go through a
//! bounded queue (`queue`) to one thread that writes them. A line that finds the queue full, or that
//! stderr refuses (its disk is full, its reader has gone), is dropped and counted in [`lines_lost`]. A panic
//! is a line like any other.
//!
//! Never: nothing that answers a request writes to stderr itself.

mod queue;

use std::{
    io::{self, IsTerminal as _},
    panic,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt};

use crate::settings::{LogFormat, LogSettings};
use queue::{LineWriter, Queue};

/// The lines of this process that are not written yet. A process has one stderr, so it has one of these.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts logging to stderr. The binary calls it once.
///
/// # Errors
/// When the thread that writes cannot be started.
pub fn start(settings: &LogSettings) -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    if QUEUE.set(queue.clone()).is_err() {
        // A second start in one process (tests) leaves the first in place.
        return Ok(());
    }
    let writer = queue.clone();
    thread::Builder::new().name("log-writer".into()).spawn(move || writer.write_to_stderr())?;

    let filter = EnvFilter::new(&settings.filter);
    let terminal = io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let lines =
        fmt().with_env_filter(filter).with_writer(move || LineWriter::new(queue.clone())).with_ansi(terminal);
    // Its own complaints would go to stderr directly, and panic when that is broken.
    let lines = lines.log_internal_errors(false);
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
    // The default hook writes to stderr directly, and waits for it.
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current().name().unwrap_or_default().to_owned();
        let payload = panic.payload_as_str().unwrap_or_default();
        tracing::error!(location, thread, payload, "a task panicked; this is a defect");
    }));
    Ok(())
}

/// Writes a line for a person to stderr: behind the log lines when this process logs, at once otherwise.
pub fn line(text: &str) {
    use std::io::Write as _;
    let line = format!("{text}\n");
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits until every line is written or lost, for `timeout` at most.
pub fn flush(timeout: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(timeout);
    }
}

/// How many lines this process has dropped since its start.
#[must_use]
pub fn lines_lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lines_lost())
}
