//! The drift of a soak: how memory and latency at its end compare with its begin.
//!
//! Promises: a value that cannot be read (no `process_resident_memory_bytes`, or too few seconds) is not
//! judged. If nothing answered at the end, p99 does not hold. Reads `/metrics` in a thread of its own, and
//! skips a reading rather than falling behind.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use crate::{
    client::Client,
    clock::{Nanos, SECOND, nanos},
    job::Job,
    result::{Objective, Second},
};

/// How often memory is read at least, in a long soak.
const MEMORY_INTERVAL_MAX: Nanos = 10 * SECOND;
/// How often memory is read in a soak that is shorter than this many intervals.
const MEMORY_READINGS_MIN: u64 = 20;
/// The fewest seconds whose first and last tenths are compared.
const SECONDS_MIN: usize = 20;
/// The metric that is read.
const MEMORY: &str = "process_resident_memory_bytes";

/// How far latency and memory drifted.
#[derive(Debug, Default)]
pub struct Drift {
    /// The limits as objectives.
    pub objectives: Vec<Objective>,
    /// Remarks about what could not be judged.
    pub unknown: Vec<String>,
}

/// Reads memory while a phase runs.
pub struct DriftWatch {
    next: Nanos,
    interval: Nanos,
    limit: Option<f64>,
    urls: Vec<String>,
    request: Option<mpsc::SyncSender<()>>,
    reader: Option<JoinHandle<()>>,
    /// Bytes, by target, in order of time.
    memory: Arc<Mutex<Vec<Vec<f64>>>>,
}

impl DriftWatch {
    /// Watches if the job is a soak and the phase is measured, else does nothing.
    #[must_use]
    pub fn new(job: &Job, measured: bool) -> Self {
        let limit = job.max_drift.filter(|_| measured);
        let memory = Arc::new(Mutex::new(vec![Vec::new(); job.targets.len()]));
        let urls = job.targets.iter().map(|target| target.url.clone()).collect();
        let mut request = None;
        let mut reader = None;
        if limit.is_some() {
            let (sender, requests) = mpsc::sync_channel(1);
            let readings = Arc::clone(&memory);
            let targets = job.targets.clone();
            let read = move || {
                let mut clients: Vec<Client> = targets.into_iter().map(Client::new).collect();
                while requests.recv().is_ok() {
                    for (at, client) in clients.iter_mut().enumerate() {
                        let reply = client.call("GET", "/metrics", None, None);
                        if let Some(bytes) = reply.ok().and_then(|reply| resident_bytes(&reply.text)) {
                            readings.lock().unwrap_or_else(PoisonError::into_inner)[at].push(bytes);
                        }
                    }
                }
            };
            reader = std::thread::Builder::new().name("memory".into()).spawn(read).ok();
            request = Some(sender);
        }
        let interval = (nanos(job.duration) / MEMORY_READINGS_MIN).min(MEMORY_INTERVAL_MAX);
        Self { next: 0, interval, limit, urls, request, reader, memory }
    }

    /// Requests a reading when it is time for one.
    pub fn poll(&mut self, now: Nanos, begin: Nanos) {
        if let Some(request) = &self.request
            && now >= self.next.max(begin)
        {
            self.next = now + self.interval;
            // While the reader is busy, a reading is skipped.
            let _ = request.try_send(());
        }
    }

    /// Judges the drift over the seconds of the phase.
    pub fn judge(mut self, seconds: &[Second]) -> Drift {
        let Some(limit) = self.limit else { return Default::default() };
        drop(self.request.take());
        // The reader ends after at most two readings, whose calls have a time-out.
        let _ = self.reader.take().map(JoinHandle::join);
        let mut objectives = Vec::new();
        let mut unknown = Vec::new();
        let p99: Vec<f64> = seconds.iter().map(|second| second.all.p99_us as f64).collect();
        if let Some(drift) = drift(&p99, SECONDS_MIN) {
            if drift.is_nan() {
                unknown.push("p99 is not judged, and so does not hold: the last tenth has no answer".into());
            }
            objectives.push(objective("p99: median of the last tenth over that of the first", drift, limit));
        } else if p99.len() >= SECONDS_MIN {
            unknown.push("p99 is not judged: the first tenth has no answer".into());
        }
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (url, readings) in self.urls.iter().zip(memory.iter()) {
            if let Some(drift) = drift(readings, 2) {
                objectives.push(objective(&format!("memory of {url}: last tenth over first"), drift, limit));
            } else {
                unknown.push(format!("memory of {url} is not judged: {MEMORY} was read less than twice"));
            }
        }
        Drift { objectives, unknown }
    }
}

fn objective(what: &str, measured: f64, limit: f64) -> Objective {
    Objective { text: format!("{what}, at most {limit}"), measured, held: measured <= limit }
}

/// The median of the last tenth over that of the first. A 0 is not a sample. NaN if the last tenth has no
/// sample; `None` if there are too few readings or the first tenth has no sample.
fn drift(readings: &[f64], least: usize) -> Option<f64> {
    if readings.len() < least {
        return None;
    }
    let tenth = readings.len().div_ceil(10);
    let median = |part: &[f64]| {
        let mut sorted: Vec<f64> = part.iter().copied().filter(|reading| *reading > 0.0).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    };
    let first = median(&readings[..tenth])?;
    Some(median(&readings[readings.len() - tenth..]).map_or(f64::NAN, |last| last / first))
}

/// The resident memory in a text of metrics, bytes.
fn resident_bytes(metrics: &str) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        (name.split('{').next() == Some(MEMORY)).then(|| value.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_the_end_over_the_begin() {
        let rising: Vec<f64> = (0..100).map(|n| 100.0 + f64::from(n)).collect();
        assert!((drift(&rising, 20).unwrap() - 195.0 / 105.0).abs() < 1e-9);
        assert_eq!(drift(&rising[..19], 20), None);
        assert_eq!(drift(&[100.0, 150.0], 2), Some(1.5));
    }

    #[test]
    fn silent_node_at_the_end_does_not_hold() {
        let mut readings = vec![100.0; 40];
        readings[38] = 0.0;
        assert_eq!(drift(&readings, 20), Some(1.0), "a second without an answer is not a fast one");
        readings[36..].fill(0.0);
        let dead = objective("p99", drift(&readings, 20).unwrap(), 2.0);
        assert!(dead.measured.is_nan() && !dead.held);
    }

    #[test]
    fn memory_is_found_in_metrics() {
        let text = "# HELP process_resident_memory_bytes x\nprocess_resident_memory_bytes 123456\nother 1\n";
        assert_eq!(resident_bytes(text), Some(123_456.0));
        assert_eq!(resident_bytes("process_resident_memory_bytes_max 1\n"), None);
    }
}
