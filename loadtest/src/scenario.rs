//! What a scenario is: who says what is asked next, and judges what is answered.
//!
//! Promises: a scenario does no I/O and looks at no clock, so any driver can carry it: the raw HTTP/1.1 one
//! and h2c. Each thread has one of its own: no locks. One file for each scenario says what it asks and in
//! which shares; how one kind of request is made and judged is in `crowd`.

pub mod propagation;
pub mod shapes;

use crate::{
    answer::Answer,
    clock::Nanos,
    record::{Cell, Fault, Kind},
};

/// Which connections: each lane has its own, so that a log-in that takes long delays no validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// 0: validation and checks, in the scenarios that have both. 1: what goes to the store.
    pub lane: usize,
    /// Place among the targets.
    pub target: usize,
}

/// What is remembered of a request until its answer.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub spot: Spot,
    /// Who it is about, as the scenario counts.
    pub subject: u32,
    /// Which life of the subject.
    pub epoch: u32,
    /// What else the scenario wants to remember.
    pub extra: u32,
    /// When it was due; in the closed model when it was sent.
    pub due: Nanos,
    /// When it was sent.
    pub sent: Nanos,
}

/// What an answer is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Right,
    /// No answer to the question.
    Failed(Fault),
    /// An answer that must not be: what was asked, what was answered, what should have been.
    Wrong(String),
}

/// Asks and judges, for one thread.
pub trait Scenario: Send {
    /// Appends one whole HTTP/1.1 request, or nothing when there is nothing to be asked there now.
    fn ask(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note>;

    /// Judges an answer.
    fn answered(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict;

    /// No answer came, or none that can be judged: what the request did is not known.
    fn lost(&mut self, note: &Note, now: Nanos);

    /// It was never sent: everything is as it was before it was asked.
    fn unsent(&mut self, note: &Note, now: Nanos) {
        self.lost(note, now);
    }

    /// What a lane asks when nothing can be asked.
    fn first(&self, _lane: usize) -> Kind {
        Kind::Validate
    }

    /// How long revocations took, by place of who was told and who was asked.
    fn pairs(&self) -> Vec<(usize, usize, Cell)> {
        Vec::new()
    }

    /// Forgets the pairs: the warm-up is over.
    fn measure(&mut self) {}
}

/// Asks nothing: what a thread that failed leaves behind.
pub struct Nothing;

impl Scenario for Nothing {
    fn ask(&mut self, _: Spot, _: Nanos, _: &mut Vec<u8>) -> Option<Note> {
        None
    }

    fn answered(&mut self, _: &Note, _: &Answer<'_>, _: Nanos) -> Verdict {
        Verdict::Right
    }

    fn lost(&mut self, _: &Note, _: Nanos) {}
}
