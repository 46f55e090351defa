//! How long a revocation takes from each node to each: log in, log out on one, ask all until they refuse.
//!
//! Promises: what is measured is from *sending* the logout to *sending* the first request that was refused,
//! so it never counts the refusing answer's own way; a request that was sent before the logout and refused
//! counts as 0. One session at a time in each thread: nodes are asked without a pause, and nothing else is.
//! A 200 that was asked for after the logout was answered with k = n is wrong.

use std::collections::BTreeMap;

use super::{Note, Scenario, Spot, Verdict};
use crate::{
    answer::Answer,
    clock::{Nanos, SECOND},
    crowd::{Crowd, Refused, said},
    record::{Cell, Fault, Kind},
};

/// A node that does not refuse within this is given up: it counts as this long.
const PATIENCE: Nanos = 30 * SECOND;

/// What is under way.
enum Stage {
    /// Nobody is logged in.
    Out,
    LoggingIn,
    /// Until every node has taken the token.
    Seen(Vec<bool>),
    /// The logout was sent.
    Ending {
        sent: Nanos,
        refused: Option<Refused>,
        by: Vec<Option<Nanos>>,
    },
}

/// Asks and measures, for one thread.
pub struct Propagation {
    crowd: Crowd,
    targets: usize,
    stage: Stage,
    /// Which session: answers about others are late.
    round: u32,
    from: usize,
    cells: BTreeMap<(usize, usize), Cell>,
}

impl Propagation {
    /// With these users.
    #[must_use]
    pub fn new(crowd: Crowd, targets: usize) -> Self {
        Self { crowd, targets, stage: Stage::Out, round: 0, from: 0, cells: BTreeMap::new() }
    }

    fn next(&mut self) {
        self.stage = Stage::Out;
        self.round += 1;
        self.from = (self.from + 1) % self.targets;
    }

    fn note(&self, kind: Kind, spot: Spot, extra: u32) -> Note {
        Note { kind, spot, subject: 0, epoch: self.round, extra, due: 0, sent: 0 }
    }

    fn probed(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        let target = note.spot.target;
        let is_refused = answer.status == 401;
        if !matches!(answer.status, 200 | 401) {
            return Verdict::Failed(Fault::Status(answer.status));
        }
        if note.epoch != self.round {
            return Verdict::Right;
        }
        match &mut self.stage {
            Stage::Seen(_) if is_refused => {
                self.next();
                Verdict::Wrong(format!("validate with a good token: {}", said(answer)))
            }
            Stage::Seen(seen) => {
                seen[target] = true;
                Verdict::Right
            }
            Stage::Ending { sent, by, .. } if is_refused => {
                by[target].get_or_insert(note.sent.saturating_sub(*sent));
                self.look(now);
                Verdict::Right
            }
            // Asked before the logout was answered, or where nothing was promised.
            Stage::Ending { .. } if note.extra == 0 => {
                self.look(now);
                Verdict::Right
            }
            Stage::Ending { .. } if answer.is_stale() => Verdict::Failed(Fault::Stale),
            Stage::Ending { .. } => {
                Verdict::Wrong(format!("validate with a revoked token: {}, not 401", said(answer)))
            }
            Stage::Out | Stage::LoggingIn => Verdict::Right,
        }
    }

    /// Whether this session is through.
    fn look(&mut self, now: Nanos) {
        let Stage::Ending { sent, refused, by } = &self.stage else { return };
        let is_late = now.saturating_sub(*sent) > PATIENCE;
        if !is_late && (refused.is_none() || by.contains(&None)) {
            return;
        }
        for (to, took) in by.iter().enumerate() {
            let cell = self.cells.entry((self.from, to)).or_default();
            match took {
                Some(took) => cell.record(Some(*took), Some(401), None),
                None => cell.record(Some(PATIENCE), None, Some(Fault::Timeout)),
            }
        }
        self.next();
    }
}

impl Scenario for Propagation {
    fn ask(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        self.look(now);
        match &mut self.stage {
            Stage::Out if spot.target == self.from => {
                self.crowd.write_login(spot, 0, out);
                self.stage = Stage::LoggingIn;
                Some(self.note(Kind::Login, spot, 0))
            }
            Stage::Out | Stage::LoggingIn => None,
            Stage::Seen(seen) => {
                if !seen[spot.target] {
                    self.crowd.write_probe(spot, out);
                    return Some(self.note(Kind::Validate, spot, 0));
                }
                if spot.target != self.from || seen.contains(&false) {
                    return None;
                }
                self.crowd.write_logout(spot, out);
                let by = vec![None; self.targets];
                self.stage = Stage::Ending { sent: now, refused: None, by };
                Some(self.note(Kind::Logout, spot, 0))
            }
            Stage::Ending { refused, by, .. } => {
                if by[spot.target].is_some() {
                    return None;
                }
                let must = refused.is_some_and(|refused| refused.is_by(spot.target));
                self.crowd.write_probe(spot, out);
                Some(self.note(Kind::ValidateRevoked, spot, u32::from(must)))
            }
        }
    }

    fn answered(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        match note.kind {
            Kind::Login => {
                if answer.status != 200 || !self.crowd.takes_login(answer) {
                    self.stage = Stage::Out;
                    return Verdict::Failed(Fault::Status(answer.status));
                }
                self.stage = Stage::Seen(vec![false; self.targets]);
                Verdict::Right
            }
            Kind::Logout => {
                let visible = answer.visible();
                let by = Refused::by(visible, note.spot.target, self.targets);
                if let Stage::Ending { refused, .. } = &mut self.stage
                    && note.epoch == self.round
                {
                    if answer.status != 204 {
                        self.next();
                        return Verdict::Failed(Fault::Status(answer.status));
                    }
                    *refused = Some(by);
                }
                self.look(now);
                Verdict::Right
            }
            _ => self.probed(note, answer, now),
        }
    }

    fn lost(&mut self, note: &Note, now: Nanos) {
        match note.kind {
            Kind::Login => self.stage = Stage::Out,
            // What it did is not known.
            Kind::Logout if note.epoch == self.round => self.next(),
            _ => self.look(now),
        }
    }

    fn pairs(&self) -> Vec<(usize, usize, Cell)> {
        self.cells.iter().map(|(&(from, to), cell)| (from, to, cell.clone())).collect()
    }

    fn measure(&mut self) {
        self.cells.clear();
    }
}
