//! Tracks a connection and computes its next deadline. It has no clock and no socket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::http::StatusCode;

use super::Timeouts;

/// The bytes that a client must read within the write timeout. So a client cannot keep 256 answers open by reading
/// a single byte of each from time to time.
const PROGRESS_BYTES_MIN: usize = 4 * 1024;
/// The value of [`AnswerProgress`] while a request is handled.
const NOT_ANSWERED: usize = usize::MAX;

/// Why a connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// No request arrived.
    Idle,
    /// The rest of a request's head did not arrive.
    HeadTimeout,
    /// The client does not read an answer.
    Stalled,
}

/// The bytes of one answer that the client has read since the last [`Activity::deadline`].
#[derive(Debug, Clone)]
pub struct AnswerProgress(Arc<AtomicUsize>);

impl AnswerProgress {
    /// The request has been handled: its answer is being sent.
    pub fn mark_answered(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// The client, or its socket, took this many bytes of the answer.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// Measures the time since the client last read [`PROGRESS_BYTES_MIN`] bytes.
#[derive(Debug, Clone, Copy)]
struct StallTimer {
    since: Instant,
    taken: usize,
}

impl StallTimer {
    const fn at(now: Instant) -> Self {
        Self { since: now, taken: 0 }
    }

    fn took(&mut self, bytes: usize, now: Instant) {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken >= PROGRESS_BYTES_MIN {
            *self = Self::at(now);
        }
    }
}

#[derive(Debug)]
struct TrackedRequest {
    sent: AnswerProgress,
    /// `None` while the request is handled: handling has its own timeout.
    answer: Option<StallTimer>,
}

/// The state of a connection, as far as its deadlines depend on it.
#[derive(Debug)]
pub struct Activity {
    timeouts: Timeouts,
    is_http2: bool,
    open: Vec<TrackedRequest>,
    /// When the connection became idle. `None` while it is busy, and until the next [`Self::deadline`].
    idle_since: Option<Instant>,
    /// Whether bytes have arrived since the last request.
    has_received: bool,
    /// When the first bytes of an incomplete request head arrived.
    head_since: Option<Instant>,
    /// Set while the socket's send buffer is full.
    blocked: Option<StallTimer>,
    /// The status with which hyper refused a request that it cannot read.
    refused: Option<StatusCode>,
    /// Whether the client may still be sending bytes that the node does not read.
    is_unread: bool,
}

impl Activity {
    /// The state of a new connection; `has_received` if bytes have been read from it already.
    #[must_use]
    pub const fn new(timeouts: Timeouts, has_received: bool) -> Self {
        Self {
            timeouts,
            is_http2: false,
            open: Vec::new(),
            idle_since: None,
            has_received,
            head_since: None,
            blocked: None,
            refused: None,
            is_unread: false,
        }
    }

    /// The client sent the HTTP/2 preface, so the bytes that follow are not a request's head.
    pub const fn speaks_http2(&mut self) {
        self.is_http2 = true;
    }

    /// A request has been read, by HTTP/2 or HTTP/1.1. Its answer reports to the returned counter.
    pub fn request(&mut self, http2: bool) -> AnswerProgress {
        let sent = AnswerProgress(Arc::new(AtomicUsize::new(NOT_ANSWERED)));
        self.open.push(TrackedRequest { sent: sent.clone(), answer: None });
        self.is_http2 = http2;
        self.has_received = false;
        self.head_since = None;
        self.idle_since = None;
        sent
    }

    /// The answer of a request has been sent, or abandoned.
    pub fn request_done(&mut self, sent: &AnswerProgress) {
        self.open.retain(|open| !Arc::ptr_eq(&open.sent.0, &sent.0));
    }

    /// The client sent bytes.
    pub fn bytes_received(&mut self) {
        self.has_received |= self.open.is_empty();
    }

    /// The socket's send buffer is full.
    pub fn write_blocked(&mut self, now: Instant) {
        self.blocked.get_or_insert(StallTimer::at(now));
    }

    /// The socket took this many bytes; `all` says whether those were all that the node offered.
    pub fn bytes_written(&mut self, bytes: usize, all: bool, now: impl FnOnce() -> Instant) {
        if all {
            self.blocked = None;
        } else if let Some(blocked) = &mut self.blocked {
            blocked.took(bytes, now());
        }
    }

    /// hyper refuses a request that it cannot read, with this status.
    pub fn hyper_refused(&mut self, status: StatusCode) {
        self.refused = Some(status);
        self.is_unread = true;
    }

    /// The status with which hyper refused a request.
    #[must_use]
    pub const fn refused(&self) -> Option<StatusCode> {
        self.refused
    }

    /// The client may still be sending bytes that the node does not read.
    pub fn leave_unread(&mut self) {
        self.is_unread = true;
    }

    /// Whether the client may still be sending bytes that the node does not read.
    #[must_use]
    pub const fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Whether the client speaks HTTP/2.
    #[must_use]
    pub const fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// Whether no request is open, and nothing waits to be sent.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.open.is_empty() && self.blocked.is_none()
    }

    /// When to close the connection if nothing happens until then, and why. `None` while a request is handled.
    pub fn deadline(&mut self, now: Instant) -> Option<(Instant, CloseReason)> {
        let mut stalled = self.blocked.map(|blocked| blocked.since);
        for TrackedRequest { sent, answer } in &mut self.open {
            let progress = match (sent.0.load(Ordering::Acquire), &mut *answer) {
                (NOT_ANSWERED, _) => continue,
                (_, None) => answer.insert(StallTimer::at(now)),
                (0, Some(progress)) => progress,
                (_, Some(progress)) => {
                    progress.took(sent.0.swap(0, Ordering::AcqRel), now);
                    progress
                }
            };
            stalled = Some(stalled.map_or(progress.since, |since| since.min(progress.since)));
        }
        if let Some(since) = stalled {
            return Some((since + self.timeouts.write, CloseReason::Stalled));
        }
        if !self.open.is_empty() {
            return None;
        }
        let idle = *self.idle_since.get_or_insert(now) + self.timeouts.idle;
        // In HTTP/2 the bytes may be frames other than a request's head.
        if self.has_received && !self.is_http2 {
            let head = *self.head_since.get_or_insert(now) + self.timeouts.head;
            return Some((head.min(idle), CloseReason::HeadTimeout));
        }
        Some((idle, CloseReason::Idle))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any moment will do")]
mod tests {
    use std::time::Duration;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn new() -> (Activity, Instant) {
        (Activity::new(Timeouts::new(75 * S), false), Instant::now())
    }

    #[test]
    fn no_timeout_exceeds_the_idle_one() {
        let long = Timeouts::new(75 * S);
        let short = Timeouts::new(2 * S);
        assert_eq!((long.idle, long.head, long.write), (75 * S, 30 * S, 30 * S));
        assert_eq!((short.idle, short.head, short.write), (2 * S, 2 * S, 2 * S));
    }

    #[test]
    fn silent_connection_ends_after_the_idle_timeout() {
        let (mut activity, start) = new();
        assert_eq!(activity.deadline(start), Some((start + 75 * S, CloseReason::Idle)));
        assert_eq!(activity.deadline(start + 40 * S), Some((start + 75 * S, CloseReason::Idle)));
    }

    #[test]
    fn slow_head_ends_after_its_own_timeout() {
        let (mut activity, start) = new();
        activity.deadline(start);
        for second in 10..40 {
            activity.bytes_received();
            let deadline = activity.deadline(start + second * S);
            assert_eq!(deadline, Some((start + 40 * S, CloseReason::HeadTimeout)));
        }
        let sent = activity.request(false);
        assert_eq!(activity.deadline(start + 40 * S), None, "a request is handled");
        activity.request_done(&sent);
        assert_eq!(activity.deadline(start + 50 * S), Some((start + 125 * S, CloseReason::Idle)));
    }

    #[test]
    fn http2_connection_without_a_request_is_idle() {
        let mut activity = Activity::new(Timeouts::new(75 * S), true);
        let start = Instant::now();
        activity.speaks_http2();
        for second in [0, 20, 40] {
            activity.bytes_received();
            assert_eq!(activity.deadline(start + second * S), Some((start + 75 * S, CloseReason::Idle)));
        }
    }

    #[test]
    fn late_head_does_not_outlive_the_idle_timeout() {
        let (mut activity, start) = new();
        activity.deadline(start);
        activity.bytes_received();
        assert_eq!(activity.deadline(start + 70 * S), Some((start + 75 * S, CloseReason::HeadTimeout)));
    }

    #[test]
    fn pings_do_not_keep_an_http2_connection_open() {
        let (mut activity, start) = new();
        let sent = activity.request(true);
        activity.request_done(&sent);
        activity.deadline(start);
        for second in 0..70 {
            activity.bytes_received();
            assert_eq!(activity.deadline(start + second * S), Some((start + 75 * S, CloseReason::Idle)));
        }
    }

    #[test]
    fn unread_answer_ends_the_connection_despite_others() {
        let (mut activity, start) = new();
        let held = activity.request(true);
        held.mark_answered();
        assert_eq!(activity.deadline(start), Some((start + 30 * S, CloseReason::Stalled)));
        for second in 1..30 {
            let other = activity.request(true);
            other.mark_answered();
            other.add(100_000);
            activity.deadline(start + second * S);
            activity.request_done(&other);
            let deadline = activity.deadline(start + second * S);
            assert_eq!(deadline, Some((start + 30 * S, CloseReason::Stalled)), "after {second} s");
        }
    }

    #[test]
    fn answer_that_is_read_keeps_the_connection_open() {
        let (mut activity, start) = new();
        let sent = activity.request(true);
        sent.mark_answered();
        activity.deadline(start);
        for step in 1..100 {
            sent.add(PROGRESS_BYTES_MIN);
            let now = start + step * 20 * S;
            assert_eq!(activity.deadline(now), Some((now + 30 * S, CloseReason::Stalled)));
        }
        activity.request_done(&sent);
        let now = start + 2_000 * S;
        assert_eq!(activity.deadline(now), Some((now + 75 * S, CloseReason::Idle)));
    }

    #[test]
    fn reading_single_bytes_is_no_progress() {
        let (mut activity, start) = new();
        let sent = activity.request(true);
        sent.mark_answered();
        activity.deadline(start);
        activity.write_blocked(start);
        for second in 1..30 {
            sent.add(100);
            activity.bytes_written(100, false, || start + second * S);
            activity.write_blocked(start + second * S);
            let deadline = activity.deadline(start + second * S);
            assert_eq!(deadline, Some((start + 30 * S, CloseReason::Stalled)), "after {second} s");
        }
    }

    #[test]
    fn blocked_socket_ends_the_connection() {
        let (mut activity, start) = new();
        activity.write_blocked(start);
        activity.write_blocked(start + 29 * S);
        assert_eq!(activity.deadline(start + 29 * S), Some((start + 30 * S, CloseReason::Stalled)));
        activity.bytes_written(PROGRESS_BYTES_MIN, false, || start + 29 * S);
        assert_eq!(activity.deadline(start + 29 * S), Some((start + 59 * S, CloseReason::Stalled)));
        activity.bytes_written(1, true, || start + 50 * S);
        assert_eq!(activity.deadline(start + 50 * S), Some((start + 125 * S, CloseReason::Idle)));
    }
}
