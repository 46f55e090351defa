//! Users, their sessions and tokens, as one thread knows them: what may be asked about them and what must
//! be answered.
//!
//! Promises: an answer is called wrong only when nothing that was under way could excuse it. A token is
//! "good" from the log-in's answer until its logout is *sent*; it is "revoked" once the logout was
//! *answered* and, at a node that was not the one which was told, only when all live nodes knew
//! (`Palisade-Visible: k/n`, k = n) and never more of them were live in this run. In between every answer is
//! right. What a lost answer would have said is not known and not guessed. What was never sent is undone. Never shares a session with another thread.

mod batch;
mod check;
mod session;
mod validate;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

pub use check::Permissions;

use crate::{
    answer::Answer,
    clock::{Nanos, SECOND, nanos},
    random::{Random, Zipf},
    record::{Fault, Kind},
    scenario::{Note, Scenario, Spot, Verdict},
    target::Target,
};

/// A token is used up to so long before its end: an answer may take time, and clocks differ a little.
pub const MARGIN: Nanos = 2 * SECOND;
/// The clocks of nodes may differ by so much.
const SKEW: Nanos = 60 * SECOND;
/// So many ended tokens are asked about; older ones are forgotten.
const DEAD: usize = 10_000;
/// Between two tries to renew what a session has.
const RENEWAL: Nanos = SECOND;
/// How often another session is tried when one is busy.
const TRIES: usize = 8;
/// And then so many in order.
const SCAN: usize = 256;

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Deed {
    Valid,
    Revoked,
    Forged,
    Expired,
    Batch,
    Check,
    Login,
    Refresh,
    Logout,
}

impl Deed {
    /// As what it is counted.
    const fn kind(self) -> Kind {
        match self {
            Self::Valid => Kind::Validate,
            Self::Revoked => Kind::ValidateRevoked,
            Self::Forged => Kind::ValidateForged,
            Self::Expired => Kind::ValidateExpired,
            Self::Batch => Kind::Batch,
            Self::Check => Kind::Check,
            Self::Login => Kind::Login,
            Self::Refresh => Kind::Refresh,
            Self::Logout => Kind::Logout,
        }
    }
}

/// Things to do, each with its share; by lane.
pub type Mix = Vec<Vec<(Deed, f64)>>;

/// Somebody.
#[derive(Debug, Clone)]
pub struct User {
    /// Unique to the run.
    pub email: String,
    /// Which of the run's permissions they have, by bit.
    pub permissions: u32,
}

/// An access token.
#[derive(Clone)]
pub struct Token {
    /// As it is sent.
    pub text: Box<str>,
    /// When it expires.
    pub until: Nanos,
}

/// A session that is used, or a place for one.
pub struct Session {
    /// Place among the thread's users.
    pub user: u32,
    /// Newest last.
    pub tokens: Vec<Token>,
    /// Spent at most once; `None` when it may be spent.
    pub refresh: Option<Box<str>>,
    /// What is under way.
    pub state: State,
    /// Raised when its tokens may stop to be good.
    pub epoch: u32,
}

/// What is under way with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum State {
    Alive,
    Refreshing,
    /// Somebody logs in for it; what it has is good meanwhile.
    LoggingIn,
    Ending,
    Empty,
}

/// Where a revoked token must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// By every target.
    Everywhere,
    /// By this one.
    At(usize),
    /// By nobody who is known.
    Unknown,
}

impl Refused {
    /// By what the revoking call answered at `target`, one of so many. With one target it may be a proxy
    /// before several nodes; with several, each is a node. `largest`: the largest n of the run so far.
    #[must_use]
    pub fn by(visible: Option<(u32, u32)>, target: usize, targets: usize, largest: &AtomicU32) -> Self {
        let largest = visible.map_or(0, |(_, n)| largest.fetch_max(n, Relaxed));
        let others = u32::try_from(targets).unwrap_or(u32::MAX) - 1;
        match visible {
            // A node that was not counted as live when it was said promises nothing.
            Some((k, n)) if k == n && n >= others.max(largest) => Self::Everywhere,
            _ if targets > 1 => Self::At(target),
            _ => Self::Unknown,
        }
    }

    /// Whether this target must refuse it.
    #[must_use]
    pub fn is_by(self, target: usize) -> bool {
        match self {
            Self::Everywhere => true,
            Self::At(place) => place == target,
            Self::Unknown => false,
        }
    }
}

/// A token that was revoked.
#[derive(Clone)]
pub struct Dead {
    /// As it is sent.
    pub text: Box<str>,
    /// Where it must be refused.
    pub refused: Refused,
}

/// What threads have in common.
pub struct Common {
    /// Where to.
    pub targets: Vec<Target>,
    /// Of every user of the run. Never shown.
    pub password: String,
    /// What is asked in checks.
    pub permissions: Permissions,
    /// Tokens in one batch, and of what kinds they are.
    pub batch: (usize, Vec<(Deed, f64)>),
    /// What is asked, by lane.
    pub mix: Mix,
    /// Zipf's exponent in the choice of sessions.
    pub zipf: f64,
    /// The largest n of `Palisade-Visible: k/n` until now.
    pub largest: AtomicU32,
    /// Requests that all targets understand: the beginning up to the token, by target.
    heads: Vec<Heads>,
}

struct Heads {
    validate: String,
    check: String,
    after_path: String,
    base: String,
}

impl Common {
    /// For these targets.
    #[must_use]
    pub fn new(
        targets: Vec<Target>,
        password: String,
        permissions: Permissions,
        mix: Mix,
        batch: (usize, Vec<(Deed, f64)>),
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

/// What one thread begins with.
#[derive(Default)]
pub struct Seeds {
    /// Which thread of how many.
    pub place: (usize, usize),
    /// Users.
    pub users: Vec<User>,
    /// Sessions.
    pub sessions: Vec<Session>,
    /// Revoked tokens.
    pub dead: Vec<Dead>,
    /// Expired tokens.
    pub expired: Vec<Box<str>>,
}

/// One thread's users.
pub struct Crowd {
    common: Arc<Common>,
    random: Random,
    zipf: Zipf,
    users: Vec<User>,
    sessions: Vec<Session>,
    empty: Vec<u32>,
    dead: Vec<Dead>,
    dead_next: usize,
    expired: Vec<Box<str>>,
    /// When which session needs a newer token than the one that ends then.
    renewals: BinaryHeap<Reverse<(Nanos, u32, Nanos)>>,
    /// Who is among them: once.
    pending: HashSet<u32>,
    batches: HashMap<u32, batch::Asked>,
    batch_next: u32,
}

impl Crowd {
    /// With what it begins.
    #[must_use]
    pub fn new(common: Arc<Common>, seeds: Seeds, seed: u64, now: Nanos) -> Self {
        let zipf = Zipf::new(seeds.sessions.len(), common.zipf, seeds.place);
        let count = u32::try_from(seeds.sessions.len()).unwrap_or(u32::MAX);
        let mut crowd = Self {
            common,
            random: Random::new(seed),
            zipf,
            users: seeds.users,
            sessions: seeds.sessions,
            empty: Vec::new(),
            dead: seeds.dead,
            dead_next: 0,
            expired: seeds.expired,
            renewals: BinaryHeap::new(),
            pending: HashSet::new(),
            batches: HashMap::new(),
            batch_next: 0,
        };
        (0..count).for_each(|subject| crowd.schedule(subject, now));
        crowd
    }

    /// When three quarters of its newest token's life are over, it needs a new one.
    fn schedule(&mut self, subject: u32, now: Nanos) {
        if let Some(newest) = self.sessions[subject as usize].tokens.last()
            && self.pending.insert(subject)
        {
            let at = now + (newest.until.saturating_sub(now) / 4 * 3).max(RENEWAL);
            self.renewals.push(Reverse((at, subject, newest.until)));
        }
    }

    fn choose(random: &mut Random, deeds: &[(Deed, f64)]) -> Option<Deed> {
        if let [(deed, _)] = deeds {
            return Some(*deed);
        }
        let mut at = random.unit() * deeds.iter().map(|(_, share)| share).sum::<f64>();
        for &(deed, share) in deeds {
            if at < share {
                return Some(deed);
            }
            at -= share;
        }
        deeds.last().map(|(deed, _)| *deed)
    }

    /// A session with a token that is good now.
    fn good(&mut self, now: Nanos) -> Option<(u32, usize)> {
        let count = self.sessions.len();
        let first = self.zipf.pick(&mut self.random);
        for attempt in 0..TRIES + count.min(SCAN) {
            let at = match attempt {
                0 => first,
                // Then any, for the choice is not to depend on who is busy; at last whoever there is.
                1..TRIES => self.zipf.pick(&mut self.random),
                _ => (first + attempt) % count,
            };
            let session = self.sessions.get(at)?;
            if matches!(session.state, State::Ending | State::Empty) {
                continue;
            }
            let token = self.random.below(session.tokens.len());
            // The newest lives longest.
            for token in [token, session.tokens.len().saturating_sub(1)] {
                if session.tokens.get(token).is_some_and(|token| token.until > now + MARGIN) {
                    return Some((u32::try_from(at).ok()?, token));
                }
            }
        }
        None
    }

    /// Where what was revoked at `target` must be refused, by what was answered.
    #[must_use]
    pub fn refused_by(&self, answer: &Answer<'_>, target: usize) -> Refused {
        Refused::by(answer.visible(), target, self.common.targets.len(), &self.common.largest)
    }

    fn note(&self, kind: Kind, spot: Spot, subject: u32, extra: u32) -> Note {
        let epoch = self.sessions.get(subject as usize).map_or(0, |session| session.epoch);
        Note { kind, spot, subject, epoch, extra, due: 0, sent: 0 }
    }

    /// Whether the session is what it was when the request was sent.
    fn is_unchanged(&self, note: &Note) -> bool {
        self.sessions.get(note.subject as usize).is_some_and(|session| session.epoch == note.epoch)
    }

    /// Whether one of its tokens is so old that a node whose clock is fast calls it expired.
    fn may_be_expired(&self, subject: u32, now: Nanos) -> bool {
        let session = self.sessions.get(subject as usize);
        session.is_some_and(|session| session.tokens.iter().any(|token| token.until < now + SKEW))
    }

    /// A good token was shown, and another answer than it should have came.
    fn not_right(&self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        let excused = answer.status == 401
            && find(answer.body, b"expired")
            && (now.saturating_sub(note.sent) >= MARGIN || self.may_be_expired(note.subject, now));
        if matches!(answer.status, 401 | 422) && self.is_unchanged(note) && !excused {
            return Verdict::Wrong(format!("{} with a good token: {}", note.kind.name(), said(answer)));
        }
        if matches!(answer.status, 401 | 422) && !excused {
            // Its session was being ended: either answer is right.
            return Verdict::Right;
        }
        Verdict::Failed(Fault::Status(answer.status))
    }

    fn do_it(&mut self, deed: Deed, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        match deed {
            Deed::Valid => self.ask_valid(spot, now, out),
            Deed::Revoked => self.ask_revoked(spot, out).or_else(|| self.ask_valid(spot, now, out)),
            Deed::Forged => self.ask_forged(spot, now, out),
            Deed::Expired => self.ask_expired(spot, out).or_else(|| self.ask_valid(spot, now, out)),
            Deed::Batch => self.ask_batch(spot, now, out),
            Deed::Check => self.ask_check(spot, now, out),
            Deed::Login => self.ask_login(spot, now, out),
            Deed::Refresh => self.ask_refresh(spot, None, out),
            Deed::Logout => self.ask_logout(spot, now, out),
        }
    }

    /// Tokens that are about to expire are renewed, in whatever lane does the writing.
    fn renew(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        if spot.lane + 1 != self.common.mix.len() {
            return None;
        }
        while let Some(&Reverse((at, subject, until))) = self.renewals.peek()
            && at <= now
        {
            self.renewals.pop();
            self.pending.remove(&subject);
            let session = &self.sessions[subject as usize];
            if session.state != State::Alive {
                // Who ends what is under way sees to it.
                continue;
            }
            if session.tokens.last().is_some_and(|newest| newest.until != until) {
                self.schedule(subject, now);
                continue;
            }
            if session.refresh.is_some() {
                return self.ask_refresh(spot, Some(subject), out);
            }
            return self.log_in_for(spot, subject, out);
        }
        None
    }
}

impl Scenario for Crowd {
    fn ask(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        if let Some(note) = self.renew(spot, now, out) {
            return Some(note);
        }
        let deed = Self::choose(&mut self.random, self.common.mix.get(spot.lane)?)?;
        self.do_it(deed, spot, now, out)
    }

    fn answered(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        match note.kind {
            Kind::Validate => {
                if answer.status == 200 {
                    Verdict::Right
                } else {
                    self.not_right(note, answer, now)
                }
            }
            Kind::ValidateRevoked => validate::revoked(note, answer),
            Kind::ValidateForged => validate::forged(answer),
            Kind::ValidateExpired => validate::expired(answer),
            Kind::Batch => self.answered_batch(note, answer, now),
            Kind::Check => self.answered_check(note, answer, now),
            Kind::Login => self.answered_login(note, answer, now),
            Kind::Refresh => self.answered_refresh(note, answer, now),
            Kind::Logout => self.answered_logout(note, answer, now),
            Kind::Fixed => Verdict::Right,
        }
    }

    fn lost(&mut self, note: &Note, now: Nanos) {
        match note.kind {
            Kind::Batch => drop(self.batches.remove(&note.subject)),
            Kind::Login => self.lost_login(note, now),
            Kind::Refresh => self.lost_refresh(note, now),
            Kind::Logout => self.empty_out(note.subject),
            _ => {}
        }
    }

    fn unsent(&mut self, note: &Note, now: Nanos) {
        match note.kind {
            Kind::Refresh | Kind::Logout => self.takes_back(note, now),
            _ => self.lost(note, now),
        }
    }

    fn first(&self, lane: usize) -> Kind {
        let deed = self.common.mix.get(lane).and_then(|deeds| deeds.first()).map(|(deed, _)| *deed);
        deed.map_or(Kind::Validate, Deed::kind)
    }
}

/// What an answer said, for people: no token is in it.
pub fn said(answer: &Answer<'_>) -> String {
    let msg = answer.json().and_then(|json| json.get("msg")?.as_str().map(str::to_owned)).unwrap_or_default();
    said_of(answer.status, &msg)
}

/// The same, of the status and the `msg`.
pub fn said_of(status: u16, msg: &str) -> String {
    let is_secret = msg.contains("eyJ") || msg.contains("prt_");
    let msg: String = msg.chars().filter(|c| !c.is_control()).take(100).collect();
    if is_secret || msg.is_empty() { status.to_string() } else { format!("{status} `{msg}`") }
}

fn find(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What a log-in or a refresh answered: the access token, the refresh token, the access token's life.
pub fn pair(answer: &Answer<'_>) -> Option<(Box<str>, Box<str>, Nanos)> {
    pair_of(&answer.json()?)
}

/// The same, of the body.
pub fn pair_of(body: &serde_json::Value) -> Option<(Box<str>, Box<str>, Nanos)> {
    let text = |name: &str| body.get(name)?.as_str().map(Box::<str>::from);
    let life = std::time::Duration::from_secs(body.get("expires_in")?.as_u64()?);
    Some((text("access_token")?, text("refresh_token")?, nanos(life)))
}

#[cfg(test)]
mod tests;
