//! What happens on a connection, and when it is over if nothing more does. No clock and no socket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::http::StatusCode;

use super::Timeouts;

/// A client that takes less than this within the write timeout takes nothing, in bytes. So 256 answers
/// cannot be held by taking a byte of each now and then.
const MIN_PROGRESS: usize = 4 * 1024;
/// What [`Sent`] holds while a request is handled.
const HANDLED: usize = usize::MAX;

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// No request came.
    Idle,
    /// A request began and did not go on.
    Head,
    /// The client does not take an answer.
    Stalled,
}

/// A request in work, or an answer that is not sent to its end: how much of it was taken since the last look.
#[derive(Debug, Clone)]
pub struct Sent(Arc<AtomicUsize>);

impl Sent {
    /// Its answer is there, and goes to the client now.
    pub fn is_answered(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// The client, or its socket, took so many bytes of the answer.
    pub fn took(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// How well something gets to the client.
#[derive(Debug, Clone, Copy)]
struct Progress {
    since: Instant,
    taken: usize,
}

impl Progress {
    const fn at(now: Instant) -> Self {
        Self { since: now, taken: 0 }
    }

    fn took(&mut self, bytes: usize, now: Instant) {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken >= MIN_PROGRESS {
            *self = Self::at(now);
        }
    }
}

#[derive(Debug)]
struct Open {
    sent: Sent,
    /// `None` while it is handled: that has a time limit of its own.
    answer: Option<Progress>,
}

/// What happens on a connection.
#[derive(Debug)]
pub struct Activity {
    timeouts: Timeouts,
    is_http2: bool,
    open: Vec<Open>,
    /// Since when there has been nothing to do; `None` when there is, or when that ended after the last look.
    idle_since: Option<Instant>,
    /// Whether bytes came since the last request.
    heard: bool,
    /// Since when a request's head is on its way.
    head_since: Option<Instant>,
    /// The socket takes no more for now.
    blocked: Option<Progress>,
    /// What hyper was about to answer to a request that it cannot read.
    refused: Option<StatusCode>,
    /// Whether the client may still be sending what nobody reads.
    unread: bool,
}

impl Activity {
    /// Of a connection on which bytes came already, or none.
    #[must_use]
    pub const fn new(timeouts: Timeouts, heard: bool) -> Self {
        Self {
            timeouts,
            is_http2: false,
            open: Vec::new(),
            idle_since: None,
            heard,
            head_since: None,
            blocked: None,
            refused: None,
            unread: false,
        }
    }

    /// The client sent the HTTP/2 preface, so the bytes that follow are not a request's head.
    pub const fn speaks_http2(&mut self) {
        self.is_http2 = true;
    }

    /// A request is there, by HTTP/2 or not.
    pub fn request(&mut self, http2: bool) -> Sent {
        let sent = Sent(Arc::new(AtomicUsize::new(HANDLED)));
        self.open.push(Open { sent: sent.clone(), answer: None });
        (self.is_http2, self.heard, self.head_since, self.idle_since) = (http2, false, None, None);
        sent
    }

    /// Its answer is sent, or given up.
    pub fn done(&mut self, sent: &Sent) {
        self.open.retain(|open| !Arc::ptr_eq(&open.sent.0, &sent.0));
    }

    /// The client sent something.
    pub fn heard(&mut self) {
        self.heard |= self.open.is_empty();
    }

    /// The socket takes nothing now.
    pub fn blocked(&mut self, now: Instant) {
        self.blocked.get_or_insert(Progress::at(now));
    }

    /// The socket took so many bytes, all that there were or not.
    pub fn took(&mut self, bytes: usize, all: bool, now: impl FnOnce() -> Instant) {
        if all {
            self.blocked = None;
        } else if let Some(blocked) = &mut self.blocked {
            blocked.took(bytes, now());
        }
    }

    /// hyper refuses a request that it cannot read.
    pub fn refuse(&mut self, status: StatusCode) {
        self.refused = Some(status);
        self.unread = true;
    }

    /// What hyper refused a request with.
    #[must_use]
    pub const fn refused(&self) -> Option<StatusCode> {
        self.refused
    }

    /// The client may still be sending what nobody reads.
    pub fn leave_unread(&mut self) {
        self.unread = true;
    }

    /// Whether it may.
    #[must_use]
    pub const fn is_unread(&self) -> bool {
        self.unread
    }

    /// Whether it speaks HTTP/2.
    #[must_use]
    pub const fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// Whether no request is in work, and no answer on its way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.open.is_empty() && self.blocked.is_none()
    }

    /// When it is over if nothing happens until then, and why; `None` while a request is handled.
    pub fn deadline(&mut self, now: Instant) -> Option<(Instant, Over)> {
        let mut stalled = self.blocked.map(|blocked| blocked.since);
        for Open { sent, answer } in &mut self.open {
            let progress = match (sent.0.load(Ordering::Acquire), &mut *answer) {
                (HANDLED, _) => continue,
                (_, None) => answer.insert(Progress::at(now)),
                (0, Some(progress)) => progress,
                (_, Some(progress)) => {
                    progress.took(sent.0.swap(0, Ordering::AcqRel), now);
                    progress
                }
            };
            stalled = Some(stalled.map_or(progress.since, |since| since.min(progress.since)));
        }
        if let Some(since) = stalled {
            return Some((since + self.timeouts.write, Over::Stalled));
        }
        if !self.open.is_empty() {
            return None;
        }
        let idle = *self.idle_since.get_or_insert(now) + self.timeouts.idle;
        // HTTP/2 has other bytes than requests.
        if self.heard && !self.is_http2 {
            let head = *self.head_since.get_or_insert(now) + self.timeouts.head;
            return Some((head.min(idle), Over::Head));
        }
        Some((idle, Over::Idle))
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
        let (long, short) = (Timeouts::new(75 * S), Timeouts::new(2 * S));
        assert_eq!((long.idle, long.head, long.write), (75 * S, 30 * S, 30 * S));
        assert_eq!((short.idle, short.head, short.write), (2 * S, 2 * S, 2 * S));
    }

    #[test]
    fn silent_connection_ends_after_the_idle_timeout() {
        let (mut activity, start) = new();
        assert_eq!(activity.deadline(start), Some((start + 75 * S, Over::Idle)));
        assert_eq!(activity.deadline(start + 40 * S), Some((start + 75 * S, Over::Idle)));
    }

    #[test]
    fn head_ends_after_its_own_timeout_however_many_bytes_come() {
        let (mut activity, start) = new();
        activity.deadline(start);
        for second in 10..40 {
            activity.heard();
            let deadline = activity.deadline(start + second * S);
            assert_eq!(deadline, Some((start + 40 * S, Over::Head)));
        }
        let sent = activity.request(false);
        assert_eq!(activity.deadline(start + 40 * S), None, "a request is handled");
        activity.done(&sent);
        assert_eq!(activity.deadline(start + 50 * S), Some((start + 125 * S, Over::Idle)));
    }

    #[test]
    fn connection_of_http2_without_a_request_is_idle() {
        let (mut activity, start) = (Activity::new(Timeouts::new(75 * S), true), Instant::now());
        activity.speaks_http2();
        for second in [0, 20, 40] {
            activity.heard();
            assert_eq!(activity.deadline(start + second * S), Some((start + 75 * S, Over::Idle)));
        }
    }

    #[test]
    fn head_that_begins_late_does_not_outlive_the_idle_timeout() {
        let (mut activity, start) = new();
        activity.deadline(start);
        activity.heard();
        assert_eq!(activity.deadline(start + 70 * S), Some((start + 75 * S, Over::Head)));
    }

    #[test]
    fn pings_do_not_keep_an_http2_connection() {
        let (mut activity, start) = new();
        let sent = activity.request(true);
        activity.done(&sent);
        activity.deadline(start);
        for second in 0..70 {
            activity.heard();
            assert_eq!(activity.deadline(start + second * S), Some((start + 75 * S, Over::Idle)));
        }
    }

    #[test]
    fn answer_that_is_not_taken_ends_the_connection_whatever_others_do() {
        let (mut activity, start) = new();
        let held = activity.request(true);
        held.is_answered();
        assert_eq!(activity.deadline(start), Some((start + 30 * S, Over::Stalled)));
        for second in 1..30 {
            let other = activity.request(true);
            other.is_answered();
            other.took(100_000);
            activity.deadline(start + second * S);
            activity.done(&other);
            let deadline = activity.deadline(start + second * S);
            assert_eq!(deadline, Some((start + 30 * S, Over::Stalled)), "after {second} s");
        }
    }

    #[test]
    fn answer_that_is_taken_goes_on() {
        let (mut activity, start) = new();
        let sent = activity.request(true);
        sent.is_answered();
        activity.deadline(start);
        for step in 1..100 {
            sent.took(MIN_PROGRESS);
            let now = start + step * 20 * S;
            assert_eq!(activity.deadline(now), Some((now + 30 * S, Over::Stalled)));
        }
        activity.done(&sent);
        let now = start + 2_000 * S;
        assert_eq!(activity.deadline(now), Some((now + 75 * S, Over::Idle)));
    }

    #[test]
    fn byte_now_and_then_is_no_progress() {
        let (mut activity, start) = new();
        let sent = activity.request(true);
        sent.is_answered();
        activity.deadline(start);
        activity.blocked(start);
        for second in 1..30 {
            sent.took(100);
            activity.took(100, false, || start + second * S);
            activity.blocked(start + second * S);
            let deadline = activity.deadline(start + second * S);
            assert_eq!(deadline, Some((start + 30 * S, Over::Stalled)), "after {second} s");
        }
    }

    #[test]
    fn socket_that_takes_nothing_ends_the_connection() {
        let (mut activity, start) = new();
        activity.blocked(start);
        activity.blocked(start + 29 * S);
        assert_eq!(activity.deadline(start + 29 * S), Some((start + 30 * S, Over::Stalled)));
        activity.took(MIN_PROGRESS, false, || start + 29 * S);
        assert_eq!(activity.deadline(start + 29 * S), Some((start + 59 * S, Over::Stalled)));
        activity.took(1, true, || start + 50 * S);
        assert_eq!(activity.deadline(start + 50 * S), Some((start + 125 * S, Over::Idle)));
    }
}
