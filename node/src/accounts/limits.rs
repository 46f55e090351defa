//! Limits of log-ins and registrations.
//!
//! | what | limit | arithmetic |
//! |---|---|---|
//! | failed log-ins of an account from places where its owner has not logged in lately | locks | [`schema::limit::Failures`] |
//! | failed log-ins of an account from its known places, counted apart | locks | [`schema::limit::Failures`] |
//! | failed log-ins from an address, for any account | throttles to a rate | [`Bucket`] |
//! | registrations from an address | throttles to a rate | [`Bucket`] |
//!
//! So a stranger that guesses passwords locks the account for strangers, and its owner still logs in from
//! home. The node reads an account's places from the store (one row, by a digest of the email) only after a
//! failed attempt, or while one of the account's two counters is locked. The work is the same whether or not
//! the account exists.
//!
//! [`Counters`] keep the numbers: in this node's memory ([`LocalCounters`]), or also in a cache that nodes
//! share. Counters may forget; then a limit is softer, with no other harm. Time comes from a clock that does
//! not jump, so setting the wall clock neither ends nor lengthens a lock.

mod local;
mod subject;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use schema::{
    Clock, Timestamp,
    email::FoldedEmail,
    limit::{Bucket, Counters, Rate},
    login::LOGIN_RETENTION,
    place::Place,
    time,
};
use store::Logins;

use local::{Bounded, lock};
use subject::{Account, counted, known_key, known_keys, label};
pub use {
    local::LocalCounters,
    subject::{Limited, List, Named, Origin, Subject},
};

/// Limits that a list shows.
const LISTED_MAX: usize = 100;
/// Subjects that are checked for a list: each may cost a request to Redis.
const CHECKED_MAX: usize = 2_000;
/// The shortest time between two notes of the same place in the store.
const NOTE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// The lifetime of a known place in the cache.
const KNOWN_TTL: Duration = Duration::from_secs(600);

/// Counts of limit events since the node started.
#[derive(Debug, Default)]
pub struct LimitCounts {
    /// Accounts locked.
    pub accounts: AtomicU64,
    /// Addresses throttled for log-ins.
    pub addresses: AtomicU64,
    /// Addresses throttled for registrations.
    pub registrations: AtomicU64,
    /// Limits lifted by operators and admins.
    pub lifted: AtomicU64,
}

/// The rates from the settings; `None` if a limit is off.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the settings of their names")]
pub struct Rates {
    pub account: Option<Rate>,
    pub address: Option<Rate>,
    pub registration: Option<Rate>,
}

/// Counts log-ins and registrations, and enforces their limits.
pub struct Limits {
    counters: Arc<dyn Counters>,
    logins: Arc<dyn Logins>,
    /// The clock of limits, which does not jump.
    steady: Arc<dyn Clock>,
    /// The clock of displayed times and of the log-in history.
    wall: Arc<dyn Clock>,
    rates: Rates,
    /// A cache of known places, valid for [`KNOWN_TTL`].
    known: Mutex<Bounded<Known>>,
    /// The subjects that this node saw limited.
    seen: Mutex<Bounded<Seen>>,
    /// Counts of limit events.
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
    /// Until this time, the subject is not counted, logged and announced again.
    until: Timestamp,
}

impl Limits {
    /// Limits with these rates.
    #[must_use]
    pub fn new(
        counters: Arc<dyn Counters>,
        logins: Arc<dyn Logins>,
        steady: Arc<dyn Clock>,
        wall: Arc<dyn Clock>,
        rates: Rates,
    ) -> Self {
        let known = Mutex::default();
        let seen = Mutex::default();
        Self { counters, logins, steady, wall, rates, known, seen, counts: LimitCounts::default() }
    }

    /// Checks whether a log-in to this account from this address may be attempted.
    ///
    /// # Errors
    /// The remaining time of the lock.
    #[tracing::instrument(name = "limits", skip_all)]
    pub async fn may_log_in(&self, email: &FoldedEmail, address: IpAddr) -> Result<(), Duration> {
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

    /// The remaining lock time of one of the account's counters.
    async fn lock(&self, account: &Account<'_>, from: Origin) -> Option<Duration> {
        let now = self.steady.now();
        self.counters.failures(&account.subject(from).key(), now).await?.locked_for(now)
    }

    /// Whether the owner of the account has recently logged in from this place. A place that cannot be read
    /// is not known.
    async fn origin(&self, account: &Account<'_>, address: IpAddr) -> Origin {
        self.origin_since(self.last_from(account, address).await)
    }

    fn origin_since(&self, last: Option<Timestamp>) -> Origin {
        let oldest = self.wall.now().minus(LOGIN_RETENTION);
        if last.is_some_and(|last| last > oldest) { Origin::Known } else { Origin::Elsewhere }
    }

    /// When the account's owner last logged in from this place.
    async fn last_from(&self, account: &Account<'_>, address: IpAddr) -> Option<Timestamp> {
        let place = Place::of(address);
        let key = known_key(account.key, place);
        if let Some(last) = self.remembered(&key) {
            return Some(last);
        }
        let found = self.logins.last_from(account.key, place).await;
        let last =
            found.inspect_err(|error| tracing::debug!(%error, "places of an account could not be read"));
        let last = last.ok().flatten()?;
        self.remember(&key, last);
        Some(last)
    }

    /// Counts a failure. Returns the lock time if this failure has locked the account.
    #[tracing::instrument(name = "limits", skip_all)]
    pub async fn failed(&self, email: &FoldedEmail, address: IpAddr) -> Option<Duration> {
        let now = self.steady.now();
        if let Some(rate) = self.rates.address {
            let subject = Subject::Address { address: counted(address) };
            let key = subject.key();
            let _ = self.counters.take(&key, rate, now).await;
            if let Some(wait) = Bucket::wait(self.counters.bucket(&key, rate, now).await, rate, now) {
                self.throttled(&subject, rate, wait, &self.counts.addresses).await;
            }
        }
        let rate = self.rates.account?;
        let account = Account::of(email);
        let from = self.origin(&account, address).await;
        let subject = account.subject(from);
        let locked = self.counters.fail(&subject.key(), rate, now).await.locked_for(now)?;
        // Concurrent attempts lock the account once.
        if !self.see(&subject, locked) {
            return None;
        }
        self.counts.accounts.fetch_add(1, Ordering::Relaxed);
        self.counters.announce(&label(&subject), locked).await;
        Some(locked)
    }

    /// Counts, logs and announces that an address has reached its limit, once per window of the rate.
    async fn throttled(&self, subject: &Subject, rate: Rate, wait: Duration, count: &AtomicU64) {
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

    /// Records a limited subject. Returns whether it is new: not recorded before, or its limit had ended.
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

    /// Records a successful log-in: it resets the account's failures for this kind of place, and makes the
    /// place known. The address keeps its count: one owned account must not cover guessing at others.
    #[tracing::instrument(name = "limits", skip_all)]
    pub async fn succeeded(&self, email: &FoldedEmail, address: IpAddr) {
        if self.rates.account.is_none() {
            return;
        }
        let account = Account::of(email);
        let last = self.last_from(&account, address).await;
        let key = account.subject(self.origin_since(last)).key();
        tokio::join!(self.counters.forget(&key), self.note(&account, address, last));
    }

    /// Notes that the owner of the account is at this address.
    pub async fn owner_is_at(&self, email: &FoldedEmail, address: IpAddr) {
        if self.rates.account.is_some() {
            let account = Account::of(email);
            let last = self.last_from(&account, address).await;
            self.note(&account, address, last).await;
        }
    }

    /// Notes a log-in of the account's owner from this address; `last` is the previous one from there.
    async fn note(&self, account: &Account<'_>, address: IpAddr, last: Option<Timestamp>) {
        let place = Place::of(address);
        let now = self.wall.now();
        // A last note in the future, by a clock that was ahead, is replaced.
        if last.is_some_and(|last| last <= now && now.since(last) < NOTE_INTERVAL) {
            return;
        }
        match self.logins.note_place(account.key, place, now).await {
            Ok(()) => self.remember(&known_key(account.key, place), now),
            Err(error) => tracing::warn!(%error, "place of a log-in could not be stored"),
        }
    }

    fn remember(&self, key: &str, last: Timestamp) {
        let at = self.steady.now();
        lock(&self.known).update(key, |_| Known { last, at });
    }

    fn remembered(&self, key: &str) -> Option<Timestamp> {
        let Known { last, at } = lock(&self.known).get(key)?;
        let now = self.steady.now();
        (at <= now && now.since(at) < KNOWN_TTL).then_some(last)
    }

    /// Deletes the known places of a released email. Other nodes may cache them for ten minutes.
    pub async fn forget_places(&self, email: &FoldedEmail) {
        let account = Account::of(email).key;
        lock(&self.known).forget_all(&known_keys(account));
        if let Err(error) = self.logins.forget_places(account).await {
            tracing::warn!(%error, "known places of a released email could not be deleted; they will expire");
        }
    }

    /// When the longer of the account's locks ends, by the wall clock.
    pub async fn locked_until(&self, email: &FoldedEmail) -> Option<Timestamp> {
        self.rates.account?;
        let account = Account::of(email);
        let (elsewhere, known) =
            tokio::join!(self.lock(&account, Origin::Elsewhere), self.lock(&account, Origin::Known));
        elsewhere.max(known).map(|remaining| self.wall.now().plus(remaining))
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

    /// Lifts all limits of the subject that an operator names, and returns those that held.
    pub async fn clear(&self, named: &Named) -> Vec<Limited> {
        let account = |account: &str, digest: &str| {
            let subject =
                |from| Subject::Account { account: account.to_owned(), digest: digest.to_owned(), from };
            vec![subject(Origin::Elsewhere), subject(Origin::Known)]
        };
        let subjects = match named {
            Named::Email(email) => {
                let found = Account::of(email);
                [Origin::Elsewhere, Origin::Known].map(|from| found.subject(from)).to_vec()
            }
            Named::Digest(digest) => account(&format!("#{digest}"), digest),
            Named::Address(address) => {
                let address = address.to_string();
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

    /// Whether the counts are shared with other nodes and reachable.
    pub async fn are_shared(&self) -> bool {
        self.counters.announced().await.is_some()
    }

    /// Lists the limits that hold now: of all nodes if they share counts, else of this node.
    pub async fn list(&self) -> List {
        let announced = self.counters.announced().await;
        let shared = announced.is_some();
        let mut subjects: Vec<Subject> = lock(&self.seen).values().map(|seen| seen.subject.clone()).collect();
        let labels = announced.unwrap_or_default();
        subjects.extend(labels.iter().filter_map(|label| serde_json::from_str(label).ok()));
        subjects.sort();
        subjects.dedup();
        let mut more = subjects.len().saturating_sub(CHECKED_MAX);
        subjects.truncate(CHECKED_MAX);
        let mut limits = Vec::new();
        for subject in subjects {
            let key = subject.key();
            match self.limited(subject).await {
                Some(_) if limits.len() == LISTED_MAX => more += 1,
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
        let remaining = match rate {
            None => self.counters.failures(&key, now).await?.locked_for(now)?,
            Some(rate) => Bucket::wait(self.counters.bucket(&key, rate, now).await, rate, now)?,
        };
        let seconds = time::millis(remaining).div_ceil(1_000);
        Some(Limited { subject, seconds, until: self.wall.now().plus(remaining).to_string() })
    }

    /// Counts a registration from this address.
    ///
    /// # Errors
    /// The time to wait, if the address has reached its limit.
    #[tracing::instrument(name = "limits", skip_all)]
    pub async fn may_register(&self, address: IpAddr) -> Result<(), Duration> {
        let Some(rate) = self.rates.registration else { return Ok(()) };
        let subject = Subject::Registration { address: counted(address) };
        let now = self.steady.now();
        let Err(until) = self.counters.take(&subject.key(), rate, now).await else { return Ok(()) };
        let wait = until.since(now);
        self.throttled(&subject, rate, wait, &self.counts.registrations).await;
        Err(wait)
    }
}

#[cfg(test)]
mod tests;
