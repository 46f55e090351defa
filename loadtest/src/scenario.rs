//! A scenario: writes the next request and judges its answer.
//!
//! Promises: a scenario does no I/O and never looks at a clock, so any wire can carry it: raw HTTP/1.1 or h2c.
//! Each thread has a scenario of its own, without locks. `specs` lists what each scenario requests;
//! `session_pool` knows how each kind of request is made and judged.

pub mod propagation;
pub mod specs;

use crate::{
    answer::Answer,
    clock::Nanos,
    record::{Cell, ErrorKind, RequestKind},
};

/// The mix of requests of each lane: kinds with their shares. Shares need not add up to anything.
pub type Mix = Vec<Vec<(RequestKind, f64)>>;

/// A lane to a target. Each lane has connections of its own, so that a slow log-in delays no validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// 0: validations and checks, if a scenario has two lanes. 1: requests that a node sends on to the store.
    pub lane: usize,
    /// Index among the targets.
    pub target: usize,
}

/// A request that is in flight: what is remembered of it until its answer.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// The kind of request.
    pub kind: RequestKind,
    /// The lane and the target.
    pub route: Route,
    /// The session or other subject, by the scenario's own numbering.
    pub subject: u32,
    /// The epoch of the subject when the request was written.
    pub epoch: u32,
    /// Anything else that the scenario remembers.
    pub extra: u32,
    /// When it was due; in the closed model, when it was sent.
    pub due: Nanos,
    /// When it was sent.
    pub sent: Nanos,
}

/// A revoking and a refusing node, by their indexes among the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NodePair {
    pub from: usize,
    pub to: usize,
}

/// The judgement of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The answer is correct.
    Correct,
    /// The request failed, but the answer is not wrong.
    Failed(ErrorKind),
    /// The answer is wrong: what was requested, what was answered, and what would be correct.
    Wrong(String),
}

/// Writes and judges the requests of one thread.
pub trait Scenario: Send {
    /// Appends one whole HTTP/1.1 request to `out`; `None` if there is none for this route now.
    fn write_request(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight>;

    /// Judges an answer.
    fn judge(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement;

    /// No answer came, or none that can be judged: the effect of the request is unknown.
    fn on_lost(&mut self, request: &InFlight, now: Nanos);

    /// The request was never sent and had no effect.
    fn on_unsent(&mut self, request: &InFlight, now: Nanos) {
        self.on_lost(request, now);
    }

    /// The kind that counts for requests of a lane that were due but could not be written.
    fn default_kind(&self, _lane: usize) -> RequestKind {
        RequestKind::Validate
    }

    /// Latencies of revocations, by pair of targets.
    fn pairs(&self) -> Vec<(NodePair, Cell)> {
        Vec::new()
    }

    /// The measured part begins: drops the latencies so far.
    fn start_measuring(&mut self) {}
}

/// A scenario without requests, which a thread that failed leaves behind.
pub struct Nothing;

impl Scenario for Nothing {
    fn write_request(&mut self, _: Route, _: Nanos, _: &mut Vec<u8>) -> Option<InFlight> {
        None
    }

    fn judge(&mut self, _: &InFlight, _: &Answer<'_>, _: Nanos) -> Judgement {
        Judgement::Correct
    }

    fn on_lost(&mut self, _: &InFlight, _: Nanos) {}
}
