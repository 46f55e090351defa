//! Measures how long a revocation takes from each node to each: logs in, logs out on one node, asks all until
//! they refuse.
//!
//! Promises: the latency is from *sending* the logout to *sending* the first request that was refused, so it
//! never contains the way of the refusing answer. A request that was sent before the logout and was refused
//! counts as 0. Each thread has one session at a time and asks the nodes without a pause. A 200 to a request
//! that was sent after the logout was answered with k = n is wrong, however late it comes. A node that cannot
//! be asked or does not answer delays a round by at most [`ROUND_TIMEOUT`], and is an error of its pair.

use std::collections::BTreeMap;

use super::{InFlight, Judgement, NodePair, Route, Scenario};
use crate::{
    answer::Answer,
    clock::{Nanos, SECOND},
    record::{Cell, ErrorKind, RequestKind},
    session_pool::{RefusedAt, SessionPool, describe},
};

/// How long a node may take to accept or to refuse the token. A node that takes longer to refuse counts as this
/// long.
const ROUND_TIMEOUT: Nanos = 30 * SECOND;

/// The stage of a round.
enum Stage {
    /// No session: the next request is a log-in.
    LoggedOut,
    /// The log-in was sent.
    LoggingIn { since: Nanos },
    /// Asks until every node has accepted the token.
    Accepting { since: Nanos, accepted: Vec<bool> },
    /// The logout was sent: asks until every node has refused the token.
    Refusing {
        sent: Nanos,
        /// Which targets must refuse the token, once the logout is answered.
        must_refuse: Option<RefusedAt>,
        /// By target: how long it took to refuse.
        took: Vec<Option<Nanos>>,
    },
}

/// Measures revocations with one thread.
pub struct Propagation {
    pool: SessionPool,
    targets: usize,
    stage: Stage,
    /// The number of the round; answers to requests of earlier rounds are late.
    round: u32,
    /// The target of the log-in and the logout.
    from: usize,
    /// Validations of this round without an answer. One of them may have been sent earlier than the first
    /// refused one.
    in_flight: usize,
    cells: BTreeMap<NodePair, Cell>,
}

impl Propagation {
    /// A measurement with the sessions of this pool.
    #[must_use]
    pub fn new(pool: SessionPool, targets: usize) -> Self {
        Self {
            pool,
            targets,
            stage: Stage::LoggedOut,
            round: 0,
            from: 0,
            in_flight: 0,
            cells: BTreeMap::new(),
        }
    }

    /// Begins the next round.
    fn next_round(&mut self) {
        self.stage = Stage::LoggedOut;
        self.round += 1;
        self.in_flight = 0;
        self.from = (self.from + 1) % self.targets;
    }

    fn request(&self, kind: RequestKind, route: Route, extra: u32) -> InFlight {
        InFlight { kind, route, subject: 0, epoch: self.round, extra, due: 0, sent: 0 }
    }

    fn judge_probe(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        let target = request.route.target;
        let is_refused = answer.status == 401;
        if !matches!(answer.status, 200 | 401) {
            return Judgement::Failed(ErrorKind::Status(answer.status));
        }
        if request.extra == 1 && answer.status == 200 {
            if answer.is_stale() {
                return Judgement::Failed(ErrorKind::Stale);
            }
            return Judgement::Wrong(format!("validate with a revoked token: {}, not 401", describe(answer)));
        }
        if request.epoch != self.round {
            return Judgement::Correct;
        }
        if self.pool.has_expired(answer, now) {
            let is_ended = matches!(self.stage, Stage::Refusing { .. });
            self.next_round();
            // A revoked token may be refused as expired.
            return if is_ended {
                Judgement::Correct
            } else {
                Judgement::Failed(ErrorKind::Status(answer.status))
            };
        }
        match &mut self.stage {
            Stage::Accepting { .. } if is_refused => {
                self.next_round();
                Judgement::Wrong(format!("validate with a good token: {}", describe(answer)))
            }
            Stage::Accepting { accepted, .. } => {
                accepted[target] = true;
                Judgement::Correct
            }
            Stage::Refusing { sent, took, .. } if is_refused => {
                let latency = request.sent.saturating_sub(*sent);
                took[target] = Some(took[target].map_or(latency, |before| before.min(latency)));
                self.check_round(now);
                Judgement::Correct
            }
            // Sent before the logout was answered, or to a target that need not refuse yet.
            Stage::Refusing { .. } => {
                self.check_round(now);
                Judgement::Correct
            }
            Stage::LoggedOut | Stage::LoggingIn { .. } => Judgement::Correct,
        }
    }

    /// A validation of this round has its answer, or gets none.
    fn on_end(&mut self, request: &InFlight) {
        let is_validation = matches!(request.kind, RequestKind::Validate | RequestKind::ValidateRevoked);
        if is_validation && request.epoch == self.round {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// Ends the round if all targets have refused the token, or if it takes too long.
    fn check_round(&mut self, now: Nanos) {
        let is_late = |since: Nanos| now.saturating_sub(since) > ROUND_TIMEOUT;
        let (sent, must_refuse, took) = match &self.stage {
            Stage::Refusing { sent, must_refuse, took } => (*sent, must_refuse, took),
            Stage::LoggingIn { since } if is_late(*since) => {
                self.give_up(vec![self.from]);
                return;
            }
            Stage::Accepting { since, accepted } if is_late(*since) => {
                let missing: Vec<usize> = (0..accepted.len()).filter(|&to| !accepted[to]).collect();
                // If all have accepted the token, the logout could not be sent.
                self.give_up(if missing.is_empty() { vec![self.from] } else { missing });
                return;
            }
            _ => return,
        };
        if !is_late(sent) && (must_refuse.is_none() || took.contains(&None) || self.in_flight > 0) {
            return;
        }
        for (to, took) in took.iter().enumerate() {
            let cell = self.cells.entry(NodePair { from: self.from, to }).or_default();
            match took {
                Some(took) => cell.record(Some(*took), Some(401), None),
                None => cell.record(Some(ROUND_TIMEOUT), None, Some(ErrorKind::Timeout)),
            }
        }
        self.next_round();
    }

    /// Counts an error for each of these targets and begins the next round.
    fn give_up(&mut self, on: Vec<usize>) {
        for to in on {
            self.cells.entry(NodePair { from: self.from, to }).or_default().record(
                None,
                None,
                Some(ErrorKind::Timeout),
            );
        }
        self.next_round();
    }
}

impl Scenario for Propagation {
    fn write_request(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        self.check_round(now);
        match &mut self.stage {
            Stage::LoggedOut if route.target == self.from => {
                self.pool.write_login(route, 0, out);
                self.stage = Stage::LoggingIn { since: now };
                Some(self.request(RequestKind::Login, route, 0))
            }
            Stage::LoggedOut | Stage::LoggingIn { .. } => None,
            Stage::Accepting { accepted, .. } => {
                if !accepted[route.target] {
                    self.pool.write_probe(route, out);
                    self.in_flight += 1;
                    return Some(self.request(RequestKind::Validate, route, 0));
                }
                if route.target != self.from || accepted.contains(&false) {
                    return None;
                }
                self.pool.write_logout(route, out);
                let took = vec![None; self.targets];
                self.stage = Stage::Refusing { sent: now, must_refuse: None, took };
                Some(self.request(RequestKind::Logout, route, 0))
            }
            Stage::Refusing { must_refuse, took, .. } => {
                if took[route.target].is_some() {
                    return None;
                }
                let must = must_refuse.is_some_and(|refused| refused.includes(route.target));
                self.pool.write_probe(route, out);
                self.in_flight += 1;
                Some(self.request(RequestKind::ValidateRevoked, route, u32::from(must)))
            }
        }
    }

    fn judge(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        self.on_end(request);
        match request.kind {
            RequestKind::Login if request.epoch != self.round => Judgement::Correct,
            RequestKind::Login => {
                if answer.status != 200 || !self.pool.accept_login(answer, request.sent) {
                    // The next target may do better.
                    self.next_round();
                    return Judgement::Failed(ErrorKind::Status(answer.status));
                }
                self.stage = Stage::Accepting { since: now, accepted: vec![false; self.targets] };
                Judgement::Correct
            }
            RequestKind::Logout => {
                let promised = self.pool.refused_by(answer, request.route.target);
                if let Stage::Refusing { must_refuse, .. } = &mut self.stage
                    && request.epoch == self.round
                {
                    if answer.status != 204 {
                        self.next_round();
                        return Judgement::Failed(ErrorKind::Status(answer.status));
                    }
                    *must_refuse = Some(promised);
                }
                self.check_round(now);
                Judgement::Correct
            }
            _ => self.judge_probe(request, answer, now),
        }
    }

    fn on_lost(&mut self, request: &InFlight, now: Nanos) {
        self.on_end(request);
        match request.kind {
            // The effect of the request is unknown.
            RequestKind::Login | RequestKind::Logout if request.epoch == self.round => self.next_round(),
            _ => self.check_round(now),
        }
    }

    fn pairs(&self) -> Vec<(NodePair, Cell)> {
        self.cells.iter().map(|(pair, cell)| (*pair, cell.clone())).collect()
    }

    fn start_measuring(&mut self) {
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
        random::Part,
        session_pool::{BatchPlan, Permissions, PoolContext, PoolShare, Session, State, User},
    };

    const NO: &str = "401 x";

    struct Rounds(Propagation);

    impl Rounds {
        fn of(targets: usize) -> Self {
            let target = |n| crate::target::parse(&format!("http://127.0.0.1:{}", 1 + n), false).unwrap();
            let targets: Vec<_> = (0..targets).map(target).collect();
            let count = targets.len();
            let context = PoolContext::new(
                targets,
                "pw".into(),
                Permissions::default(),
                vec![vec![]],
                BatchPlan { size: 1, kinds: Vec::new() },
                0.0,
            );
            let session =
                Session { user: 0, tokens: Vec::new(), refresh: None, state: State::Empty, epoch: 0 };
            let users = vec![User { email: "a@b".into(), permissions: 0 }];
            let part = Part { index: 0, count: 1 };
            let share = PoolShare { part, users, sessions: vec![session], ..PoolShare::default() };
            Self(Propagation::new(SessionPool::new(Arc::new(context), share, 1, 0), count))
        }

        fn ask(&mut self, target: usize, now: Nanos) -> Option<InFlight> {
            let mut request = self.0.write_request(Route { lane: 0, target }, now, &mut Vec::new())?;
            request.due = now;
            request.sent = now;
            Some(request)
        }

        fn sent(&mut self, target: usize, kind: RequestKind, now: Nanos) -> InFlight {
            let request = self.ask(target, now).expect("something to ask");
            assert_eq!(request.kind, kind);
            request
        }

        fn tell(&mut self, request: &InFlight, head: &str, body: &str, now: Nanos) -> Judgement {
            let text = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let mut scratch = Vec::new();
            let Parsed::Whole { answer, .. } = parse(text.as_bytes(), &mut scratch) else { panic!("{text}") };
            self.0.judge(request, &answer, now)
        }

        fn log_in(&mut self, from: usize, life_s: u32) {
            let login = self.sent(from, RequestKind::Login, 0);
            let pair =
                format!(r#"{{"access_token":"eyJ.a.b","refresh_token":"prt_1","expires_in":{life_s}}}"#);
            assert_eq!(self.tell(&login, "200 OK", &pair, 0), Judgement::Correct);
        }

        /// Logs in at time 0, lets all targets accept the token, and sends the logout.
        fn log_out(&mut self, targets: usize, now: Nanos) -> InFlight {
            self.log_in(0, 900);
            for target in 0..targets {
                let probe = self.sent(target, RequestKind::Validate, 1);
                assert_eq!(self.tell(&probe, "200 OK", "{}", 2), Judgement::Correct);
            }
            self.sent(0, RequestKind::Logout, now)
        }

        fn pair(&self, from: usize, to: usize) -> Cell {
            let pairs = self.0.pairs();
            let found = pairs.into_iter().find(|(pair, _)| *pair == NodePair { from, to });
            found.map(|(_, cell)| cell).unwrap_or_default()
        }
    }

    #[test]
    fn latency_ends_at_the_first_sent_refusal() {
        let mut rounds = Rounds::of(1);
        let logout = rounds.log_out(1, 10 * MILLI);
        let first = rounds.sent(0, RequestKind::ValidateRevoked, 12 * MILLI);
        let second = rounds.sent(0, RequestKind::ValidateRevoked, 15 * MILLI);
        assert_eq!(rounds.tell(&second, NO, "{}", 16 * MILLI), Judgement::Correct);
        assert_eq!(
            rounds.tell(&logout, "204 x\r\nPalisade-Visible: 0/0", "", 17 * MILLI),
            Judgement::Correct
        );
        assert_eq!(rounds.pair(0, 0).requests, 0, "one is in flight");
        assert_eq!(rounds.tell(&first, NO, "{}", 20 * MILLI), Judgement::Correct);
        let cell = rounds.pair(0, 0);
        assert_eq!((cell.requests, cell.failed()), (1, 0));
        assert!((1_990..=2_010).contains(&cell.quantile(1.0)), "{}", cell.quantile(1.0));
    }

    #[test]
    fn late_acceptance_is_wrong() {
        let mut rounds = Rounds::of(1);
        let logout = rounds.log_out(1, 10);
        rounds.tell(&logout, "204 x\r\nPalisade-Visible: 0/0", "", 11);
        let late = rounds.sent(0, RequestKind::ValidateRevoked, 12);
        let probe = rounds.sent(0, RequestKind::ValidateRevoked, 13);
        rounds.tell(&probe, NO, "{}", 14);
        rounds.0.check_round(11 + ROUND_TIMEOUT + SECOND);
        assert_ne!(rounds.0.round, late.epoch, "the round is over");
        assert!(matches!(rounds.tell(&late, "200 OK", "{}", 15 + ROUND_TIMEOUT), Judgement::Wrong(_)));
    }

    #[test]
    fn failed_login_is_retried_elsewhere() {
        let mut rounds = Rounds::of(2);
        let login = rounds.sent(0, RequestKind::Login, 0);
        assert_eq!(rounds.tell(&login, "503 x", "{}", 1), Judgement::Failed(ErrorKind::Status(503)));
        assert!(rounds.ask(0, 2).is_none());
        let login = rounds.sent(1, RequestKind::Login, 2);
        rounds.0.on_lost(&login, 3);
        rounds.sent(0, RequestKind::Login, 4);
    }

    #[test]
    fn node_that_never_accepts_is_given_up() {
        let mut rounds = Rounds::of(2);
        rounds.log_in(0, 900);
        let probe = rounds.sent(0, RequestKind::Validate, 1);
        rounds.tell(&probe, "200 OK", "{}", 2);
        let probe = rounds.sent(1, RequestKind::Validate, 1);
        assert_eq!(rounds.tell(&probe, "503 x", "{}", 2), Judgement::Failed(ErrorKind::Status(503)));
        assert!(rounds.ask(0, ROUND_TIMEOUT).is_none());
        rounds.sent(1, RequestKind::Login, ROUND_TIMEOUT + SECOND);
        assert_eq!((rounds.pair(0, 0).failed(), rounds.pair(0, 1).failed()), (0, 1));
    }

    #[test]
    fn expired_token_is_not_a_wrong_answer() {
        let expired = r#"{"msg":"Token has expired"}"#;
        for (life_s, is_wrong) in [(10, false), (900, true)] {
            let mut rounds = Rounds::of(1);
            rounds.log_in(0, life_s);
            let probe = rounds.sent(0, RequestKind::Validate, SECOND);
            let verdict = rounds.tell(&probe, NO, expired, SECOND);
            assert_eq!(matches!(verdict, Judgement::Wrong(_)), is_wrong, "{verdict:?}");
        }
    }
}
