//! The sessions and tokens of one thread: which requests can be made with them, and which answers are wrong.
//!
//! Promises: an answer is counted as wrong only if no concurrent request could explain it. A token is "good"
//! from the log-in's answer until its logout is *sent*. It is "revoked" once the logout was *answered*; at a
//! node other than the one that was asked, only if all live nodes had acknowledged (`Palisade-Visible: k/n`, k
//! = n) and no larger n was seen in this run. In between, every answer is correct. After a lost answer, the
//! outcome of the request is unknown and is not guessed. A request that was never sent is undone. Never shares
//! a session with another thread.

mod batch;
mod check;
mod session;
mod token;
mod validate;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{Arc, atomic::AtomicU32},
};

pub use check::Permissions;
pub use token::{RefusedAt, RevokedToken, Token, TokenPair};

use crate::{
    answer::Answer,
    clock::{Nanos, SECOND},
    random::{Part, Random, Zipf},
    record::{ErrorKind, RequestKind},
    scenario::{InFlight, Judgement, Mix, Route, Scenario},
    target::Target,
};

/// A token is not used in the last moments before it expires: an answer may take time, and clocks differ a
/// little.
pub const TOKEN_MARGIN: Nanos = 2 * SECOND;
/// How far the clocks of nodes may differ.
const CLOCK_SKEW_MAX: Nanos = 60 * SECOND;
/// How many revoked tokens a thread keeps asking about; newer ones replace the oldest.
const REVOKED_TOKENS_MAX: usize = 10_000;
/// The time between two attempts to renew the tokens of a session.
const RENEWAL_INTERVAL: Nanos = SECOND;
/// How often a random session is tried before a scan.
const RANDOM_PICKS_MAX: usize = 8;
/// How many sessions a scan tries, in order.
const SCANNED_MAX: usize = 256;

/// A user of the run.
#[derive(Debug, Clone)]
pub struct User {
    /// Unique to the run.
    pub email: String,
    /// Which of the run's permissions the user has, one bit each.
    pub permissions: u32,
}

/// A session in use, or room for one.
pub struct Session {
    /// Index among the thread's users.
    pub user: u32,
    /// The access tokens, the newest last.
    pub tokens: Vec<Token>,
    /// The refresh token, which is spent at most once; `None` if it may be spent.
    pub refresh: Option<Box<str>>,
    /// The request that is in flight.
    pub state: State,
    /// Raised whenever its tokens may cease to be good.
    pub epoch: u32,
}

/// Which request changes a session at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum State {
    Alive,
    Refreshing,
    /// A log-in for its user is in flight. Until it is answered, the present tokens stay good.
    LoggingIn,
    Ending,
    Empty,
}

/// Which tokens a batch asks about.
#[derive(Debug, Clone)]
pub struct BatchPlan {
    /// Tokens in one batch.
    pub size: usize,
    /// The kinds of validation that the tokens are for, with their shares.
    pub kinds: Vec<(RequestKind, f64)>,
}

/// The data that the pools of all threads share.
pub struct PoolContext {
    /// The targets.
    pub targets: Vec<Target>,
    /// The password of every user of the run. Never shown.
    pub password: String,
    /// The queries of checks.
    pub permissions: Permissions,
    /// The content of batches.
    pub batch: BatchPlan,
    /// The mix of requests.
    pub mix: Mix,
    /// Zipf's exponent in the choice of sessions.
    pub zipf: f64,
    /// The largest n of `Palisade-Visible: k/n` so far.
    pub largest: AtomicU32,
    /// Prepared heads of requests, by target.
    heads: Vec<Heads>,
}

/// The parts of requests to one target that never change.
struct Heads {
    validate: String,
    check: String,
    after_path: String,
    base: String,
}

impl PoolContext {
    /// The context for these targets.
    #[must_use]
    pub fn new(
        targets: Vec<Target>,
        password: String,
        permissions: Permissions,
        mix: Mix,
        batch: BatchPlan,
        zipf: f64,
    ) -> Self {
        let heads = targets.iter().map(|target| {
            let base = format!("{}/api/v1", target.base);
            let host = format!(" HTTP/1.1\r\nHost: {}\r\n", target.authority);
            Heads {
                validate: format!("GET {base}/auth_token/validation{host}Authorization: Bearer "),
                check: format!("GET {base}/users/me/combined_permissions/validation?permissions="),
                after_path: host,
                base,
            }
        });
        let heads = heads.collect();
        let largest = AtomicU32::new(0);
        Self { targets, password, permissions, batch, mix, zipf, largest, heads }
    }
}

/// One thread's part of the prepared accounts.
#[derive(Default)]
pub struct PoolShare {
    /// The thread that it is for.
    pub part: Part,
    /// Users.
    pub users: Vec<User>,
    /// Sessions.
    pub sessions: Vec<Session>,
    /// Revoked tokens.
    pub revoked: Vec<RevokedToken>,
    /// Expired tokens.
    pub expired: Vec<Box<str>>,
}

/// The sessions of one thread.
pub struct SessionPool {
    context: Arc<PoolContext>,
    random: Random,
    zipf: Zipf,
    users: Vec<User>,
    sessions: Vec<Session>,
    /// Sessions without tokens.
    empty: Vec<u32>,
    revoked: Vec<RevokedToken>,
    /// Which revoked token is replaced next.
    revoked_next: usize,
    expired: Vec<Box<str>>,
    /// The session to renew next comes first.
    renewals: BinaryHeap<Reverse<Renewal>>,
    /// The sessions in `renewals`, each of which is there once.
    pending: HashSet<u32>,
    /// The content of batches in flight, by id.
    batches: HashMap<u32, batch::BatchItems>,
    batch_next: u32,
}

/// A session that needs a newer token. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Renewal {
    at: Nanos,
    subject: u32,
    /// When its newest token expires.
    until: Nanos,
}

/// Where a good token is.
struct GoodToken {
    /// The index of its session.
    subject: u32,
    /// Its index among the session's tokens.
    token: usize,
}

impl SessionPool {
    /// The pool of one thread.
    #[must_use]
    pub fn new(context: Arc<PoolContext>, share: PoolShare, seed: u64, now: Nanos) -> Self {
        let zipf = Zipf::new(share.sessions.len(), context.zipf, share.part);
        let count = u32::try_from(share.sessions.len()).unwrap_or(u32::MAX);
        let mut pool = Self {
            context,
            random: Random::new(seed),
            zipf,
            users: share.users,
            sessions: share.sessions,
            empty: Vec::new(),
            revoked: share.revoked,
            revoked_next: 0,
            expired: share.expired,
            renewals: BinaryHeap::new(),
            pending: HashSet::new(),
            batches: HashMap::new(),
            batch_next: 0,
        };
        (0..count).for_each(|subject| pool.schedule_renewal(subject, now));
        pool
    }

    /// Schedules a renewal for when three quarters of the newest token's lifetime are over.
    fn schedule_renewal(&mut self, subject: u32, now: Nanos) {
        if let Some(newest) = self.sessions[subject as usize].tokens.last()
            && self.pending.insert(subject)
        {
            let at = now + (newest.until.saturating_sub(now) / 4 * 3).max(RENEWAL_INTERVAL);
            self.renewals.push(Reverse(Renewal { at, subject, until: newest.until }));
        }
    }

    fn pick_kind(random: &mut Random, kinds: &[(RequestKind, f64)]) -> Option<RequestKind> {
        if let [(kind, _)] = kinds {
            return Some(*kind);
        }
        let mut at = random.unit() * kinds.iter().map(|(_, share)| share).sum::<f64>();
        for &(kind, share) in kinds {
            if at < share {
                return Some(kind);
            }
            at -= share;
        }
        kinds.last().map(|(kind, _)| *kind)
    }

    /// A token that is good now.
    fn pick_good_token(&mut self, now: Nanos) -> Option<GoodToken> {
        let count = self.sessions.len();
        let first = self.zipf.pick(&mut self.random);
        for attempt in 0..RANDOM_PICKS_MAX + count.min(SCANNED_MAX) {
            let at = match attempt {
                0 => first,
                // At random, so that the choice does not depend on which sessions are busy; then in order.
                1..RANDOM_PICKS_MAX => self.zipf.pick(&mut self.random),
                _ => (first + attempt) % count,
            };
            let session = self.sessions.get(at)?;
            if matches!(session.state, State::Ending | State::Empty) {
                continue;
            }
            let token = self.random.below(session.tokens.len());
            // The newest lives longest.
            for token in [token, session.tokens.len().saturating_sub(1)] {
                if session.tokens.get(token).is_some_and(|token| token.until > now + TOKEN_MARGIN) {
                    return Some(GoodToken { subject: u32::try_from(at).ok()?, token });
                }
            }
        }
        None
    }

    /// Which targets must refuse the tokens that a call at `target` revoked, by its answer.
    #[must_use]
    pub fn refused_by(&self, answer: &Answer<'_>, target: usize) -> RefusedAt {
        RefusedAt::from_visible(answer.visible(), target, self.context.targets.len(), &self.context.largest)
    }

    fn in_flight(&self, kind: RequestKind, route: Route, subject: u32, extra: u32) -> InFlight {
        let epoch = self.sessions.get(subject as usize).map_or(0, |session| session.epoch);
        InFlight { kind, route, subject, epoch, extra, due: 0, sent: 0 }
    }

    /// Whether the session's tokens are as good as when the request was sent.
    fn is_unchanged(&self, request: &InFlight) -> bool {
        self.sessions.get(request.subject as usize).is_some_and(|session| session.epoch == request.epoch)
    }

    /// Whether one of the session's tokens is so old that a node whose clock is fast reports it as expired.
    fn may_be_expired(&self, subject: u32, now: Nanos) -> bool {
        let session = self.sessions.get(subject as usize);
        session.is_some_and(|session| session.tokens.iter().any(|token| token.until < now + CLOCK_SKEW_MAX))
    }

    /// Judges an unexpected answer to a request with a good token.
    fn judge_refusal_of_good(&self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        let is_excused = answer.status == 401
            && contains(answer.body, b"expired")
            && (now.saturating_sub(request.sent) >= TOKEN_MARGIN
                || self.may_be_expired(request.subject, now));
        if !matches!(answer.status, 401 | 422) || is_excused {
            return Judgement::Failed(ErrorKind::Status(answer.status));
        }
        if self.is_unchanged(request) {
            let name = request.kind.name();
            return Judgement::Wrong(format!("{name} with a good token: {}", describe(answer)));
        }
        // The session was being ended: either answer is correct.
        Judgement::Correct
    }

    fn request_of_kind(
        &mut self,
        kind: RequestKind,
        route: Route,
        now: Nanos,
        out: &mut Vec<u8>,
    ) -> Option<InFlight> {
        match kind {
            RequestKind::Validate => self.request_valid(route, now, out),
            RequestKind::ValidateRevoked => {
                self.request_revoked(route, out).or_else(|| self.request_valid(route, now, out))
            }
            RequestKind::ValidateForged => self.request_forged(route, now, out),
            RequestKind::ValidateExpired => {
                self.request_expired(route, out).or_else(|| self.request_valid(route, now, out))
            }
            RequestKind::Batch => self.request_batch(route, now, out),
            RequestKind::Check => self.request_check(route, now, out),
            RequestKind::Login => self.request_login(route, out),
            RequestKind::Refresh => self.request_refresh(route, None, out),
            RequestKind::Logout => self.request_logout(route, now, out),
            RequestKind::Fixed => None,
        }
    }

    /// A request that renews tokens which are about to expire; only in the last lane, which is the one that
    /// writes.
    fn request_renewal(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        if route.lane + 1 != self.context.mix.len() {
            return None;
        }
        while let Some(&Reverse(Renewal { at, subject, until })) = self.renewals.peek()
            && at <= now
        {
            self.renewals.pop();
            self.pending.remove(&subject);
            let session = &self.sessions[subject as usize];
            if session.state != State::Alive {
                // The end of the request in flight schedules a renewal.
                continue;
            }
            if session.tokens.last().is_some_and(|newest| newest.until != until) {
                self.schedule_renewal(subject, now);
                continue;
            }
            if session.refresh.is_some() {
                return self.request_refresh(route, Some(subject), out);
            }
            return self.log_in_for(route, subject, out);
        }
        None
    }
}

impl Scenario for SessionPool {
    fn write_request(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        if let Some(request) = self.request_renewal(route, now, out) {
            return Some(request);
        }
        let kind = Self::pick_kind(&mut self.random, self.context.mix.get(route.lane)?)?;
        self.request_of_kind(kind, route, now, out)
    }

    fn judge(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        match request.kind {
            RequestKind::Validate if answer.status == 200 => Judgement::Correct,
            RequestKind::Validate => self.judge_refusal_of_good(request, answer, now),
            RequestKind::ValidateRevoked => validate::judge_revoked(request, answer),
            RequestKind::ValidateForged => validate::judge_forged(answer),
            RequestKind::ValidateExpired => validate::judge_expired(answer),
            RequestKind::Batch => self.judge_batch(request, answer, now),
            RequestKind::Check => self.judge_check(request, answer, now),
            RequestKind::Login => self.judge_login(request, answer, now),
            RequestKind::Refresh => self.judge_refresh(request, answer, now),
            RequestKind::Logout => self.judge_logout(request, answer, now),
            RequestKind::Fixed => Judgement::Correct,
        }
    }

    fn on_lost(&mut self, request: &InFlight, now: Nanos) {
        match request.kind {
            RequestKind::Batch => drop(self.batches.remove(&request.subject)),
            RequestKind::Login => self.on_failed_login(request, now),
            RequestKind::Refresh => self.on_failed_refresh(request, now),
            RequestKind::Logout => self.clear_session(request.subject),
            _ => {}
        }
    }

    fn on_unsent(&mut self, request: &InFlight, now: Nanos) {
        match request.kind {
            RequestKind::Refresh | RequestKind::Logout => self.undo_unsent(request, now),
            _ => self.on_lost(request, now),
        }
    }

    fn default_kind(&self, lane: usize) -> RequestKind {
        let first = self.context.mix.get(lane).and_then(|kinds| kinds.first());
        first.map_or(RequestKind::Validate, |(kind, _)| *kind)
    }
}

/// The status and message of an answer, for the user. Never holds a token.
pub fn describe(answer: &Answer<'_>) -> String {
    let msg = answer.json().and_then(|json| json.get("msg")?.as_str().map(str::to_owned)).unwrap_or_default();
    describe_status(answer.status, &msg)
}

/// As [`describe`], from the status and the field `msg`.
pub fn describe_status(status: u16, msg: &str) -> String {
    let is_secret = msg.contains("eyJ") || msg.contains("prt_");
    let msg: String = msg.chars().filter(|c| !c.is_control()).take(100).collect();
    if is_secret || msg.is_empty() { status.to_string() } else { format!("{status} `{msg}`") }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests;
