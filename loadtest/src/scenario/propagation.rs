//! How long a revocation takes from each node to each: log in, log out on one, ask all until they refuse.
//!
//! Promises: what is measured is from *sending* the logout to *sending* the first request that was refused,
//! so it never counts the refusing answer's own way; a request that was sent before the logout and refused
//! counts as 0. One session at a time in each thread: nodes are asked without a pause, and nothing else is.
//! A 200 that was asked for after the logout was answered with k = n is wrong, however late it comes. Who cannot
//! be asked or does not answer holds up nothing for longer than [`PATIENCE`], and is an error of its pair.

use std::collections::BTreeMap;

use super::{Note, Scenario, Spot, Verdict};
use crate::{
    answer::Answer,
    clock::{Nanos, SECOND},
    crowd::{Crowd, Refused, said},
    record::{Cell, Fault, Kind},
};

/// A node that does not refuse within this is given up: it counts as this long. So is one that does not take
/// the token.
const PATIENCE: Nanos = 30 * SECOND;

/// What is under way.
enum Stage {
    /// Nobody is logged in.
    Out,
    LoggingIn {
        since: Nanos,
    },
    /// Until every node has taken the token.
    Seen {
        since: Nanos,
        seen: Vec<bool>,
    },
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
    /// Questions of this round without an answer: one of them may have been refused before another one.
    under_way: usize,
    cells: BTreeMap<(usize, usize), Cell>,
}

impl Propagation {
    /// With these users.
    #[must_use]
    pub fn new(crowd: Crowd, targets: usize) -> Self {
        Self { crowd, targets, stage: Stage::Out, round: 0, from: 0, under_way: 0, cells: BTreeMap::new() }
    }

    fn next(&mut self) {
        self.stage = Stage::Out;
        self.round += 1;
        self.under_way = 0;
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
        if note.extra == 1 && answer.status == 200 {
            if answer.is_stale() {
                return Verdict::Failed(Fault::Stale);
            }
            return Verdict::Wrong(format!("validate with a revoked token: {}, not 401", said(answer)));
        }
        if note.epoch != self.round {
            return Verdict::Right;
        }
        if self.crowd.has_expired(answer, now) {
            let is_ended = matches!(self.stage, Stage::Ending { .. });
            self.next();
            // A revoked one that has expired is refused as such.
            return if is_ended { Verdict::Right } else { Verdict::Failed(Fault::Status(answer.status)) };
        }
        match &mut self.stage {
            Stage::Seen { .. } if is_refused => {
                self.next();
                Verdict::Wrong(format!("validate with a good token: {}", said(answer)))
            }
            Stage::Seen { seen, .. } => {
                seen[target] = true;
                Verdict::Right
            }
            Stage::Ending { sent, by, .. } if is_refused => {
                let took = note.sent.saturating_sub(*sent);
                by[target] = Some(by[target].map_or(took, |before| before.min(took)));
                self.look(now);
                Verdict::Right
            }
            // Asked before the logout was answered, or where nothing was promised.
            Stage::Ending { .. } => {
                self.look(now);
                Verdict::Right
            }
            Stage::Out | Stage::LoggingIn { .. } => Verdict::Right,
        }
    }

    /// One of the questions of this round has its answer, or gets none.
    fn is_through(&mut self, note: &Note) {
        let is_question = matches!(note.kind, Kind::Validate | Kind::ValidateRevoked);
        if is_question && note.epoch == self.round {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    /// Whether this session is through.
    fn look(&mut self, now: Nanos) {
        let is_late = |since: Nanos| now.saturating_sub(since) > PATIENCE;
        let (sent, refused, by) = match &self.stage {
            Stage::Ending { sent, refused, by } => (*sent, refused, by),
            Stage::LoggingIn { since } if is_late(*since) => {
                self.give_up(vec![self.from]);
                return;
            }
            Stage::Seen { since, seen } if is_late(*since) => {
                let unseen: Vec<usize> = (0..seen.len()).filter(|&to| !seen[to]).collect();
                // All have taken it when the one that is to end it cannot be asked.
                self.give_up(if unseen.is_empty() { vec![self.from] } else { unseen });
                return;
            }
            _ => return,
        };
        if !is_late(sent) && (refused.is_none() || by.contains(&None) || self.under_way > 0) {
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

    /// Nothing is known of these but that they did not do their part.
    fn give_up(&mut self, on: Vec<usize>) {
        for to in on {
            self.cells.entry((self.from, to)).or_default().record(None, None, Some(Fault::Timeout));
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
                self.stage = Stage::LoggingIn { since: now };
                Some(self.note(Kind::Login, spot, 0))
            }
            Stage::Out | Stage::LoggingIn { .. } => None,
            Stage::Seen { seen, .. } => {
                if !seen[spot.target] {
                    self.crowd.write_probe(spot, out);
                    self.under_way += 1;
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
                self.under_way += 1;
                Some(self.note(Kind::ValidateRevoked, spot, u32::from(must)))
            }
        }
    }

    fn answered(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        self.is_through(note);
        match note.kind {
            Kind::Login if note.epoch != self.round => Verdict::Right,
            Kind::Login => {
                if answer.status != 200 || !self.crowd.takes_login(answer, note.sent) {
                    // Another one may do better.
                    self.next();
                    return Verdict::Failed(Fault::Status(answer.status));
                }
                self.stage = Stage::Seen { since: now, seen: vec![false; self.targets] };
                Verdict::Right
            }
            Kind::Logout => {
                let by = self.crowd.refused_by(answer, note.spot.target);
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
        self.is_through(note);
        match note.kind {
            // What it did is not known.
            Kind::Login | Kind::Logout if note.epoch == self.round => self.next(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        answer::{Parsed, parse},
        clock::MILLI,
        crowd::{Common, Permissions, Seeds, Session, State, User},
    };

    const NO: &str = "401 x";

    struct Rounds(Propagation);

    impl Rounds {
        fn of(targets: usize) -> Self {
            let target = |n| crate::target::parse(&format!("http://127.0.0.1:{}", 1 + n), false).unwrap();
            let targets: Vec<_> = (0..targets).map(target).collect();
            let count = targets.len();
            let common =
                Common::new(targets, "pw".into(), Permissions::default(), vec![vec![]], (1, vec![]), 0.0);
            let session =
                Session { user: 0, tokens: Vec::new(), refresh: None, state: State::Empty, epoch: 0 };
            let users = vec![User { email: "a@b".into(), permissions: 0 }];
            let seeds = Seeds { place: (0, 1), users, sessions: vec![session], ..Seeds::default() };
            Self(Propagation::new(Crowd::new(Arc::new(common), seeds, 1, 0), count))
        }

        fn ask(&mut self, target: usize, now: Nanos) -> Option<Note> {
            let mut note = self.0.ask(Spot { lane: 0, target }, now, &mut Vec::new())?;
            (note.due, note.sent) = (now, now);
            Some(note)
        }

        fn sent(&mut self, target: usize, kind: Kind, now: Nanos) -> Note {
            let note = self.ask(target, now).expect("something to ask");
            assert_eq!(note.kind, kind);
            note
        }

        fn tell(&mut self, note: &Note, head: &str, body: &str, now: Nanos) -> Verdict {
            let text = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let mut scratch = Vec::new();
            let Parsed::Whole { answer, .. } = parse(text.as_bytes(), &mut scratch) else { panic!("{text}") };
            self.0.answered(note, &answer, now)
        }

        fn log_in(&mut self, from: usize, life_s: u32) {
            let login = self.sent(from, Kind::Login, 0);
            let pair =
                format!(r#"{{"access_token":"eyJ.a.b","refresh_token":"prt_1","expires_in":{life_s}}}"#);
            assert_eq!(self.tell(&login, "200 OK", &pair, 0), Verdict::Right);
        }

        /// Logged in at 0 and seen by all; the logout is sent.
        fn log_out(&mut self, targets: usize, now: Nanos) -> Note {
            self.log_in(0, 900);
            for target in 0..targets {
                let probe = self.sent(target, Kind::Validate, 1);
                assert_eq!(self.tell(&probe, "200 OK", "{}", 2), Verdict::Right);
            }
            self.sent(0, Kind::Logout, now)
        }

        fn pair(&self, from: usize, to: usize) -> Cell {
            let pairs = self.0.pairs();
            pairs
                .into_iter()
                .find(|pair| (pair.0, pair.1) == (from, to))
                .map(|pair| pair.2)
                .unwrap_or_default()
        }
    }

    #[test]
    fn what_is_measured_is_the_first_that_was_sent_and_not_the_first_that_was_answered() {
        let mut rounds = Rounds::of(1);
        let logout = rounds.log_out(1, 10 * MILLI);
        let first = rounds.sent(0, Kind::ValidateRevoked, 12 * MILLI);
        let second = rounds.sent(0, Kind::ValidateRevoked, 15 * MILLI);
        assert_eq!(rounds.tell(&second, NO, "{}", 16 * MILLI), Verdict::Right);
        assert_eq!(rounds.tell(&logout, "204 x\r\nPalisade-Visible: 0/0", "", 17 * MILLI), Verdict::Right);
        assert_eq!(rounds.pair(0, 0).requests, 0, "one is under way");
        assert_eq!(rounds.tell(&first, NO, "{}", 20 * MILLI), Verdict::Right);
        let cell = rounds.pair(0, 0);
        assert_eq!((cell.requests, cell.failed()), (1, 0));
        assert!((1_990..=2_010).contains(&cell.quantile(1.0)), "{}", cell.quantile(1.0));
    }

    #[test]
    fn an_acceptance_that_comes_late_is_as_wrong() {
        let mut rounds = Rounds::of(1);
        let logout = rounds.log_out(1, 10);
        rounds.tell(&logout, "204 x\r\nPalisade-Visible: 0/0", "", 11);
        let late = rounds.sent(0, Kind::ValidateRevoked, 12);
        let probe = rounds.sent(0, Kind::ValidateRevoked, 13);
        rounds.tell(&probe, NO, "{}", 14);
        rounds.0.look(11 + PATIENCE + SECOND);
        assert_ne!(rounds.0.round, late.epoch, "the round is over");
        assert!(matches!(rounds.tell(&late, "200 OK", "{}", 15 + PATIENCE), Verdict::Wrong(_)));
    }

    #[test]
    fn a_log_in_that_fails_is_tried_elsewhere() {
        let mut rounds = Rounds::of(2);
        let login = rounds.sent(0, Kind::Login, 0);
        assert_eq!(rounds.tell(&login, "503 x", "{}", 1), Verdict::Failed(Fault::Status(503)));
        assert!(rounds.ask(0, 2).is_none());
        let login = rounds.sent(1, Kind::Login, 2);
        rounds.0.lost(&login, 3);
        rounds.sent(0, Kind::Login, 4);
    }

    #[test]
    fn who_never_takes_the_token_is_given_up() {
        let mut rounds = Rounds::of(2);
        rounds.log_in(0, 900);
        let probe = rounds.sent(0, Kind::Validate, 1);
        rounds.tell(&probe, "200 OK", "{}", 2);
        let probe = rounds.sent(1, Kind::Validate, 1);
        assert_eq!(rounds.tell(&probe, "503 x", "{}", 2), Verdict::Failed(Fault::Status(503)));
        assert!(rounds.ask(0, PATIENCE).is_none());
        rounds.sent(1, Kind::Login, PATIENCE + SECOND);
        assert_eq!((rounds.pair(0, 0).failed(), rounds.pair(0, 1).failed()), (0, 1));
    }

    #[test]
    fn an_expired_token_is_no_wrong_answer() {
        let expired = r#"{"msg":"Token has expired"}"#;
        for (life_s, is_wrong) in [(10, false), (900, true)] {
            let mut rounds = Rounds::of(1);
            rounds.log_in(0, life_s);
            let probe = rounds.sent(0, Kind::Validate, SECOND);
            let verdict = rounds.tell(&probe, NO, expired, SECOND);
            assert_eq!(matches!(verdict, Verdict::Wrong(_)), is_wrong, "{verdict:?}");
        }
    }
}
