//! Drifts of a soak: memory and latency, begin against end.
//!
//! Promises: what could not be read (no `process_resident_memory_bytes`, or too few seconds) is left out,
//! never judged. When nothing answered at the end, p99 does not hold. Reads `/metrics` in a thread of its own,
//! and leaves a reading out rather than to be behind.

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
/// Fewer seconds have no tenths.
const LEAST: usize = 20;
const MEMORY: &str = "process_resident_memory_bytes";

/// Reads memory while a phase runs.
pub struct Watch {
    next: Nanos,
    interval: Nanos,
    limit: Option<f64>,
    urls: Vec<String>,
    ask: Option<mpsc::SyncSender<()>>,
    reader: Option<JoinHandle<()>>,
    /// By target, in time.
    memory: Arc<Mutex<Vec<Vec<f64>>>>,
}

impl Watch {
    /// Watches when the job is a soak and the phase is measured.
    #[must_use]
    pub fn new(job: &Job, measured: bool) -> Self {
        let limit = job.max_drift.filter(|_| measured);
        let memory = Arc::new(Mutex::new(vec![Vec::new(); job.targets.len()]));
        let urls = job.targets.iter().map(|target| target.url.clone()).collect();
        let (mut ask, mut reader) = (None, None);
        if limit.is_some() {
            let (sender, asked) = mpsc::sync_channel(1);
            let (seen, targets) = (Arc::clone(&memory), job.targets.clone());
            let read = move || {
                let mut clients: Vec<Client> = targets.into_iter().map(Client::new).collect();
                while asked.recv().is_ok() {
                    for (at, client) in clients.iter_mut().enumerate() {
                        let reply = client.call("GET", "/metrics", None, None);
                        if let Some(bytes) = reply.ok().and_then(|reply| resident(&reply.text)) {
                            seen.lock().unwrap_or_else(PoisonError::into_inner)[at].push(bytes);
                        }
                    }
                }
            };
            reader = std::thread::Builder::new().name("memory".into()).spawn(read).ok();
            ask = Some(sender);
        }
        let interval = (nanos(job.duration) / MEMORY_READINGS_MIN).min(MEMORY_INTERVAL_MAX);
        Self { next: 0, interval, limit, urls, ask, reader, memory }
    }

    /// Reads when it is time.
    pub fn look(&mut self, now: Nanos, begin: Nanos) {
        if let Some(ask) = &self.ask
            && now >= self.next.max(begin)
        {
            self.next = now + self.interval;
            // When the reader is slow, the next time will do.
            let _ = ask.try_send(());
        }
    }

    /// What drifted, and what is not known.
    pub fn judge(mut self, seconds: &[Second]) -> (Vec<Objective>, Vec<String>) {
        let Some(limit) = self.limit else { return Default::default() };
        drop(self.ask.take());
        // It ends with the last two readings, which are bounded.
        let _ = self.reader.take().map(JoinHandle::join);
        let (mut all, mut unknown) = (Vec::new(), Vec::new());
        let p99: Vec<f64> = seconds.iter().map(|second| second.all.p99_us as f64).collect();
        if let Some(drift) = drift(&p99, LEAST) {
            if drift.is_nan() {
                unknown.push("p99 is not judged, and so does not hold: the last tenth has no answer".into());
            }
            all.push(objective("p99: median of the last tenth over that of the first", drift, limit));
        } else if p99.len() >= LEAST {
            unknown.push("p99 is not judged: the first tenth has no answer".into());
        }
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (url, readings) in self.urls.iter().zip(memory.iter()) {
            if let Some(drift) = drift(readings, 2) {
                all.push(objective(&format!("memory of {url}: last tenth over first"), drift, limit));
            } else {
                unknown.push(format!("memory of {url} is not judged: {MEMORY} was read less than twice"));
            }
        }
        (all, unknown)
    }
}

fn objective(what: &str, measured: f64, limit: f64) -> Objective {
    Objective { text: format!("{what}, at most {limit}"), measured, held: measured <= limit }
}

/// The median of the last tenth over that of the first, of what is no 0: that is no sample. No number when the
/// last tenth has none.
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

fn resident(metrics: &str) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        (name.split('{').next() == Some(MEMORY)).then(|| value.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_is_the_end_over_the_begin() {
        let rising: Vec<f64> = (0..100).map(|n| 100.0 + f64::from(n)).collect();
        assert!((drift(&rising, 20).unwrap() - 195.0 / 105.0).abs() < 1e-9);
        assert_eq!(drift(&rising[..19], 20), None);
        assert_eq!(drift(&[100.0, 150.0], 2), Some(1.5));
    }

    #[test]
    fn who_is_dead_at_the_end_does_not_hold() {
        let mut readings = vec![100.0; 40];
        readings[38] = 0.0;
        assert_eq!(drift(&readings, 20), Some(1.0), "a second without an answer is no fast one");
        readings[36..].fill(0.0);
        let dead = objective("p99", drift(&readings, 20).unwrap(), 2.0);
        assert!(dead.measured.is_nan() && !dead.held);
    }

    #[test]
    fn memory_is_found_among_metrics() {
        let text = "# HELP process_resident_memory_bytes x\nprocess_resident_memory_bytes 123456\nother 1\n";
        assert_eq!(resident(text), Some(123_456.0));
        assert_eq!(resident("process_resident_memory_bytes_max 1\n"), None);
    }
}
