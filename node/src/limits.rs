//! Limits of log-in and registration.
//!
//! | what | limit | arithmetic |
//! |---|---|---|
//! | failed log-ins of an account from places where its owner has not logged in lately | locks | [`Failures`] |
//! | failed log-ins of an account from its known places, counted apart | locks | [`Failures`] |
//! | failed log-ins from an address, whatever the account | slows to a rate | [`Bucket`] |
//! | registrations from an address | slows to a rate | [`Bucket`] |
//!
//! So a stranger who guesses locks the account for strangers, and its owner still logs in from home.
//! Which places an account has is asked of the store (one row) only when an attempt has failed or
//! when one of the account's two counters is locked, by a digest of the email: it takes the same
//! whether or not the account exists.
//!
//! Where the numbers are kept is behind [`Counters`]: in this node's memory ([`LocalCounters`]), or
//! also in a cache that nodes share. Counters may forget; then a limit is softer, and nothing else.
//! Time is taken from a clock that does not jump, so setting the wall clock neither ends nor
//! lengthens a lock.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use schema::{
    Clock, Timestamp,
    email::{Email, FoldedEmail},
    limit::{Bucket, Counters, Failures, Rate},
    login::LOGIN_RETENTION,
    place::{AccountKey, Place},
    store::Logins,
    time,
};
use serde::{Deserialize, Serialize};

/// How many accounts and addresses are remembered; beyond, the one that came first is forgotten.
const REMEMBERED: usize = 100_000;
/// How many limits are listed at most.
const LISTED: usize = 100;
/// How many are looked at for a list: each may be a question to Redis.
const LOOKED_AT: usize = 2_000;
/// A place that was noted in the store less than so long ago is not noted again.
const NOTED_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// How long a known place is cached.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// What is limited, and how an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// Log-ins of an account.
    Account {
        /// The email as it was typed, when it is one; else `#` and the digest: people type
        /// passwords into the wrong field.
        account: String,
        /// The digest, which is part of the counter's key.
        digest: String,
        /// Whether from known places, or from all others.
        from: Origin,
    },
    /// Log-ins from an address.
    Address {
        /// An IPv4 address, or an IPv6 network of 64 bits.
        address: String,
    },
    /// Registrations from an address.
    Registration {
        /// As above.
        address: String,
    },
}

/// Where attempts to log in to an account come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A place where its owner has logged in lately.
    Known,
    /// Anywhere else.
    Elsewhere,
}

impl Subject {
    /// The counter's key, of one length whatever was typed as an email.
    fn key(&self) -> String {
        match self {
            Self::Account { digest, from: Origin::Elsewhere, .. } => format!("login account {digest}"),
            Self::Account { digest, from: Origin::Known, .. } => format!("login account {digest} known"),
            Self::Address { address } => format!("login address {address}"),
            Self::Registration { address } => format!("register address {address}"),
        }
    }
}

/// How an address is counted.
fn counted(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        // One customer has at least a /64 (RFC 6177), so that is what is counted.
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// An account that somebody tries to log in to, whether or not it exists.
struct Account<'a> {
    email: &'a FoldedEmail,
    key: AccountKey,
}

impl<'a> Account<'a> {
    fn of(email: &'a FoldedEmail) -> Self {
        let mut bytes = [0; AccountKey::BYTES];
        bytes.copy_from_slice(digest(&SHA256, email.as_str().as_bytes()).as_ref());
        Self { email, key: AccountKey::from_bytes(bytes) }
    }

    fn subject(&self, from: Origin) -> Subject {
        let digest = URL_SAFE_NO_PAD.encode(self.key.as_bytes());
        let is_email = self.email.as_str().parse::<Email>().is_ok();
        let account = if is_email { self.email.as_str().to_owned() } else { format!("#{digest}") };
        Subject::Account { account, digest, from }
    }
}

/// A limit that holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// What is limited.
    #[serde(flatten)]
    pub subject: Subject,
    /// For how long, in whole seconds.
    pub seconds: u64,
    /// Until when, by the wall clock.
    pub until: String,
}

/// A line for a person.
impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Account { account, from: Origin::Elsewhere, .. } => {
                write!(f, "account  {account}  locked but for its known places")?;
            }
            Subject::Account { account, from: Origin::Known, .. } => {
                write!(f, "account  {account}  locked in its known places")?;
            }
            Subject::Address { address } => write!(f, "address  {address}  log-ins slowed")?,
            Subject::Registration { address } => write!(f, "address  {address}  registrations slowed")?,
        }
        write!(f, "  {} s", self.seconds)
    }
}

/// Which limits hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List {
    /// Whether it is what all nodes share, or what this node counts.
    pub shared: bool,
    /// The first ones.
    pub limits: Vec<Limited>,
    /// How many there are beside.
    pub more: usize,
}

/// What an operator names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// An account, by its email.
    Email(FoldedEmail),
    /// An account, by the digest that a list shows for what is no email.
    Digest(String),
    /// An address.
    Address(IpAddr),
}

impl Named {
    /// Reads an email, an IPv4 or IPv6 address, a network of 64 bits, or `#` and a digest.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(digest) = text.strip_prefix('#') {
            let bytes = URL_SAFE_NO_PAD.decode(digest).ok()?;
            return (bytes.len() == AccountKey::BYTES).then(|| Self::Digest(digest.to_owned()));
        }
        if text.contains('@') {
            return Some(Self::Email(FoldedEmail::of(text)));
        }
        text.strip_suffix("/64").unwrap_or(text).parse().ok().map(Self::Address)
    }
}

/// Whether something may go on; else how long to wait.
pub type Leave = Result<(), Duration>;

/// Counted since the node started.
#[derive(Debug, Default)]
pub struct LimitCounts {
    /// Accounts locked.
    pub accounts: AtomicU64,
    /// Addresses slowed, for log-ins.
    pub addresses: AtomicU64,
    /// Addresses slowed, for registrations.
    pub registrations: AtomicU64,
    /// Limits lifted by operators and admins.
    pub lifted: AtomicU64,
}

/// The rates of the settings; `None` where a limit is off.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the settings of their names")]
pub struct Rates {
    pub account: Option<Rate>,
    pub address: Option<Rate>,
    pub registration: Option<Rate>,
}

/// Counts and limits.
pub struct Limits {
    counters: Arc<dyn Counters>,
    logins: Arc<dyn Logins>,
    /// Does not jump: for limits.
    steady: Arc<dyn Clock>,
    /// For what is shown, and for the history of log-ins.
    wall: Arc<dyn Clock>,
    rates: Rates,
    /// A cache of known places, valid for [`KNOWN_FOR`].
    known: Mutex<Bounded<Known>>,
    /// What this node saw limited.
    seen: Mutex<Bounded<Seen>>,
    /// What happened.
    pub counts: LimitCounts,
}

/// A cached place of an account.
#[derive(Clone, Copy)]
struct Known {
    last: Timestamp,
    /// When it was cached, by the steady clock.
    at: Timestamp,
}

#[derive(Clone)]
struct Seen {
    subject: Subject,
    /// Until then it need not be counted, logged and announced again.
    until: Timestamp,
}

impl Limits {
    /// With the rates of the settings.
    #[must_use]
    pub fn new(
        counters: Arc<dyn Counters>,
        logins: Arc<dyn Logins>,
        steady: Arc<dyn Clock>,
        wall: Arc<dyn Clock>,
        rates: Rates,
    ) -> Self {
        let (known, seen) = (Mutex::default(), Mutex::default());
        Self { counters, logins, steady, wall, rates, known, seen, counts: LimitCounts::default() }
    }

    /// Whether this account may be tried from this address; else how long to wait.
    ///
    /// # Errors
    /// For how long it is locked.
    pub async fn may_log_in(&self, email: &FoldedEmail, address: IpAddr) -> Leave {
        let (by_address, by_account) =
            tokio::join!(self.address_wait(address), self.account_wait(email, address));
        by_address.max(by_account).map_or(Ok(()), Err)
    }

    async fn address_wait(&self, address: IpAddr) -> Option<Duration> {
        let rate = self.rates.address?;
        let subject = Subject::Address { address: counted(address) };
        let now = self.steady.now();
        Bucket::wait(self.counters.bucket(&subject.key(), rate, now).await, rate, now)
    }

    async fn account_wait(&self, email: &FoldedEmail, address: IpAddr) -> Option<Duration> {
        self.rates.account?;
        let account = Account::of(email);
        let (elsewhere, known) =
            tokio::join!(self.lock(&account, Origin::Elsewhere), self.lock(&account, Origin::Known));
        if elsewhere.is_none() && known.is_none() {
            return None;
        }
        match self.origin(&account, address).await {
            Origin::Known => known,
            Origin::Elsewhere => elsewhere,
        }
    }

    /// For how long a counter of the account is locked.
    async fn lock(&self, account: &Account<'_>, from: Origin) -> Option<Duration> {
        let now = self.steady.now();
        self.counters.failures(&account.subject(from).key(), now).await?.locked_for(now)
    }

    /// Whether the owner of the account logged in from this place lately. What cannot be read is not
    /// known.
    async fn origin(&self, account: &Account<'_>, address: IpAddr) -> Origin {
        self.origin_since(self.last_from(account, address).await)
    }

    fn origin_since(&self, last: Option<Timestamp>) -> Origin {
        let oldest = self.wall.now().minus(LOGIN_RETENTION);
        if last.is_some_and(|last| last > oldest) { Origin::Known } else { Origin::Elsewhere }
    }

    /// When the owner of the account last logged in from this place.
    async fn last_from(&self, account: &Account<'_>, address: IpAddr) -> Option<Timestamp> {
        let place = Place::of(address);
        let key = known_key(account.key, place);
        if let Some(last) = self.remembered(&key) {
            return Some(last);
        }
        let found = self.logins.last_from(account.key, place).await;
        let last =
            found.inspect_err(|error| tracing::debug!(%error, "the places of an account cannot be read"));
        let last = last.ok().flatten()?;
        self.remember(&key, last);
        Some(last)
    }

    /// Counts a failure; gives for how long the account is locked, when it was not before.
    pub async fn failed(&self, email: &FoldedEmail, address: IpAddr) -> Option<Duration> {
        let now = self.steady.now();
        if let Some(rate) = self.rates.address {
            let subject = Subject::Address { address: counted(address) };
            let key = subject.key();
            let _ = self.counters.take(&key, rate, now).await;
            if let Some(wait) = Bucket::wait(self.counters.bucket(&key, rate, now).await, rate, now) {
                self.slowed(&subject, rate, wait, &self.counts.addresses).await;
            }
        }
        let rate = self.rates.account?;
        let account = Account::of(email);
        let from = self.origin(&account, address).await;
        let subject = account.subject(from);
        let locked = self.counters.fail(&subject.key(), rate, now).await.locked_for(now)?;
        // Those that were tried at the same time lock it once.
        if !self.see(&subject, locked) {
            return None;
        }
        self.counts.accounts.fetch_add(1, Ordering::Relaxed);
        self.counters.announce(&label(&subject), locked).await;
        Some(locked)
    }

    /// An address has come to its limit: counted, logged and announced once in the rate's time.
    async fn slowed(&self, subject: &Subject, rate: Rate, wait: Duration, count: &AtomicU64) {
        if !self.see(subject, rate.window) {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let (address, of) = match subject {
            Subject::Address { address } => (address, "failed log-ins"),
            Subject::Registration { address } => (address, "registrations"),
            Subject::Account { .. } => return,
        };
        tracing::warn!(address, of, wait_s = wait.as_secs_f64(), "an address is slowed");
        self.counters.announce(&label(subject), rate.window).await;
    }

    /// Remembers what was seen limited; says whether that is news: the same was not seen before it
    /// would have ended.
    fn see(&self, subject: &Subject, lasting: Duration) -> bool {
        let now = self.steady.now();
        let mut is_news = false;
        lock(&self.seen).update(&subject.key(), |seen| {
            let until = seen.map(|seen| seen.until).filter(|until| *until > now);
            is_news = until.is_none();
            Seen { subject: subject.clone(), until: until.unwrap_or(now.plus(lasting)) }
        });
        is_news
    }

    /// A good log-in ends the row of failures of the account, from places like this one. The address
    /// goes on being counted: one good account must not cover guessing at others. From now on the
    /// place is known.
    pub async fn succeeded(&self, email: &FoldedEmail, address: IpAddr) {
        if self.rates.account.is_none() {
            return;
        }
        let account = Account::of(email);
        let last = self.last_from(&account, address).await;
        let key = account.subject(self.origin_since(last)).key();
        tokio::join!(self.counters.forget(&key), self.note(&account, address, last));
    }

    /// Notes that the owner of an account is at this address.
    pub async fn owner_is_at(&self, email: &FoldedEmail, address: IpAddr) {
        if self.rates.account.is_some() {
            let account = Account::of(email);
            let last = self.last_from(&account, address).await;
            self.note(&account, address, last).await;
        }
    }

    /// Records a log-in of the account's owner from this address; `last` is the previous one from there.
    async fn note(&self, account: &Account<'_>, address: IpAddr, last: Option<Timestamp>) {
        let (place, now) = (Place::of(address), self.wall.now());
        // Also when the clock was ahead at the last note.
        if last.is_some_and(|last| last <= now && now.since(last) < NOTED_AGAIN) {
            return;
        }
        match self.logins.note_place(account.key, place, now).await {
            Ok(()) => self.remember(&known_key(account.key, place), now),
            Err(error) => tracing::warn!(%error, "the place of a log-in was not noted"),
        }
    }

    fn remember(&self, key: &str, last: Timestamp) {
        let at = self.steady.now();
        lock(&self.known).update(key, |_| Known { last, at });
    }

    fn remembered(&self, key: &str) -> Option<Timestamp> {
        let Known { last, at } = lock(&self.known).get(key)?;
        let now = self.steady.now();
        (at <= now && now.since(at) < KNOWN_FOR).then_some(last)
    }

    /// Forgets the known places of an email that no account has any more. Other nodes may have them cached for
    /// ten minutes.
    pub async fn forget_places(&self, email: &FoldedEmail) {
        let account = Account::of(email).key;
        lock(&self.known).forget_all(&known_keys(account));
        if let Err(error) = self.logins.forget_places(account).await {
            tracing::warn!(%error, "known places of a released email were not deleted; they expire by themselves");
        }
    }

    /// Until when the account is locked, by the wall clock: the longer one of its locks.
    pub async fn locked_until(&self, email: &FoldedEmail) -> Option<Timestamp> {
        self.rates.account?;
        let account = Account::of(email);
        let (elsewhere, known) =
            tokio::join!(self.lock(&account, Origin::Elsewhere), self.lock(&account, Origin::Known));
        elsewhere.max(known).map(|left| self.wall.now().plus(left))
    }

    /// Ends the locks of an account.
    pub async fn unlock(&self, email: &FoldedEmail) {
        let account = Account::of(email);
        for from in [Origin::Elsewhere, Origin::Known] {
            self.lift(&account.subject(from)).await;
        }
    }

    async fn lift(&self, subject: &Subject) {
        let key = subject.key();
        self.counts.lifted.fetch_add(1, Ordering::Relaxed);
        lock(&self.seen).forget(&key);
        match subject {
            Subject::Account { .. } => self.counters.forget(&key).await,
            Subject::Address { .. } | Subject::Registration { .. } => self.counters.refill(&key).await,
        }
    }

    /// Lifts every limit of what an operator names; says which there were.
    pub async fn clear(&self, named: &Named) -> Vec<Limited> {
        let account = |account: &str, digest: &str| {
            let subject = |from| {
                let (account, digest) = (account.to_owned(), digest.to_owned());
                Subject::Account { account, digest, from }
            };
            vec![subject(Origin::Elsewhere), subject(Origin::Known)]
        };
        let subjects = match named {
            Named::Email(email) => {
                let found = Account::of(email);
                [Origin::Elsewhere, Origin::Known].map(|from| found.subject(from)).to_vec()
            }
            Named::Digest(digest) => account(&format!("#{digest}"), digest),
            Named::Address(address) => {
                let address = counted(*address);
                vec![Subject::Address { address: address.clone() }, Subject::Registration { address }]
            }
        };
        let mut lifted = Vec::new();
        for subject in subjects {
            lifted.extend(self.limited(subject.clone()).await);
            self.lift(&subject).await;
        }
        lifted
    }

    /// Whether the counts are shared with other nodes and can be reached.
    pub async fn are_shared(&self) -> bool {
        self.counters.announced().await.is_some()
    }

    /// Every limit that holds now: of all nodes when they share counts, else of this one.
    pub async fn list(&self) -> List {
        let announced = self.counters.announced().await;
        let shared = announced.is_some();
        let mut subjects: Vec<Subject> = lock(&self.seen).values().map(|seen| seen.subject.clone()).collect();
        let labels = announced.unwrap_or_default();
        subjects.extend(labels.iter().filter_map(|label| serde_json::from_str(label).ok()));
        subjects.sort();
        subjects.dedup();
        let mut more = subjects.len().saturating_sub(LOOKED_AT);
        subjects.truncate(LOOKED_AT);
        let mut limits = Vec::new();
        for subject in subjects {
            let key = subject.key();
            match self.limited(subject).await {
                Some(_) if limits.len() == LISTED => more += 1,
                Some(limited) => limits.push(limited),
                None => lock(&self.seen).forget(&key),
            }
        }
        List { shared, limits, more }
    }

    async fn limited(&self, subject: Subject) -> Option<Limited> {
        let now = self.steady.now();
        let key = subject.key();
        let rate = match subject {
            Subject::Account { .. } => None,
            Subject::Address { .. } => Some(self.rates.address?),
            Subject::Registration { .. } => Some(self.rates.registration?),
        };
        let left = match rate {
            None => self.counters.failures(&key, now).await?.locked_for(now)?,
            Some(rate) => Bucket::wait(self.counters.bucket(&key, rate, now).await, rate, now)?,
        };
        let seconds = time::millis(left).div_ceil(1_000);
        Some(Limited { subject, seconds, until: self.wall.now().plus(left).to_string() })
    }

    /// Whether this address may register one more.
    ///
    /// # Errors
    /// How long to wait.
    pub async fn may_register(&self, address: IpAddr) -> Leave {
        let Some(rate) = self.rates.registration else { return Ok(()) };
        let subject = Subject::Registration { address: counted(address) };
        let now = self.steady.now();
        let Err(until) = self.counters.take(&subject.key(), rate, now).await else { return Ok(()) };
        let wait = until.since(now);
        self.slowed(&subject, rate, wait, &self.counts.registrations).await;
        Err(wait)
    }
}

fn known_key(account: AccountKey, place: Place) -> String {
    known_keys(account) + &URL_SAFE_NO_PAD.encode(place.as_bytes())
}

/// The common prefix of the keys of an account's places.
fn known_keys(account: AccountKey) -> String {
    URL_SAFE_NO_PAD.encode(account.as_bytes())
}

fn label(subject: &Subject) -> String {
    serde_json::to_string(subject).unwrap_or_default()
}

/// Counters in this node's memory.
#[derive(Default)]
pub struct LocalCounters {
    failures: Mutex<Bounded<Failures>>,
    buckets: Mutex<Bounded<Bucket>>,
}

#[async_trait]
impl Counters for LocalCounters {
    async fn failures(&self, key: &str, now: Timestamp) -> Option<Failures> {
        lock(&self.failures).get(key).filter(|failures| failures.is_credible(now))
    }

    async fn fail(&self, key: &str, rate: Rate, now: Timestamp) -> Failures {
        lock(&self.failures).update(key, |previous| Failures::after(previous, rate, now))
    }

    async fn bucket(&self, key: &str, rate: Rate, now: Timestamp) -> Option<Bucket> {
        lock(&self.buckets).get(key).filter(|bucket| bucket.is_credible(rate, now))
    }

    async fn take(&self, key: &str, rate: Rate, now: Timestamp) -> Result<(), Timestamp> {
        let mut leave = Ok(());
        lock(&self.buckets).update(key, |previous| {
            let (bucket, answer) = Bucket::take(previous, rate, now);
            leave = answer;
            bucket
        });
        leave
    }

    async fn forget(&self, key: &str) {
        lock(&self.failures).forget(key);
    }

    async fn refill(&self, key: &str) {
        lock(&self.buckets).forget(key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A map that forgets what came first.
struct Bounded<T> {
    /// Each key is in `order` once; what was forgotten keeps its place there.
    map: HashMap<String, Option<T>>,
    order: VecDeque<String>,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T: Clone> Bounded<T> {
    fn get(&self, key: &str) -> Option<T> {
        self.map.get(key).cloned().flatten()
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.map.values().flatten()
    }

    fn forget_all(&mut self, beginning: &str) {
        let found = self.map.iter_mut().filter(|(key, _)| key.starts_with(beginning));
        found.for_each(|(_, value)| *value = None);
    }

    fn forget(&mut self, key: &str) {
        if let Some(value) = self.map.get_mut(key) {
            *value = None;
        }
    }

    fn update(&mut self, key: &str, change: impl FnOnce(Option<T>) -> T) -> T {
        let previous = self.map.get(key).cloned();
        let is_new = previous.is_none();
        let next = change(previous.flatten());
        self.map.insert(key.to_owned(), Some(next.clone()));
        if is_new {
            self.order.push_back(key.to_owned());
            while self.order.len() > REMEMBERED {
                if let Some(oldest) = self.order.pop_front() {
                    self.map.remove(&oldest);
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests;
