//! Limits of login and registration.
//!
//! The arithmetic is [`schema::limit`]; where the numbers are kept is behind [`Counters`]: in this
//! node's memory ([`LocalCounters`]), or in a cache that nodes share. Counters may forget; then a
//! limit is softer, and nothing else.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use schema::{
    Clock, Timestamp,
    email::FoldedEmail,
    limit::{Bucket, Counters, Failures, Rate},
};

/// How many accounts and addresses are remembered; beyond, the one that came first is forgotten.
const REMEMBERED: usize = 100_000;

/// Who is limited: a counter's key, of one length whatever was typed as an email.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(String);

impl Key {
    fn account(email: &FoldedEmail) -> Self {
        let digest = digest(&SHA256, email.as_str().as_bytes());
        Self(format!("login account {}", URL_SAFE_NO_PAD.encode(digest)))
    }

    fn address(what: &str, address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => format!("{what} address {address}"),
            // One customer has at least a /64 (RFC 6177), so that is what is counted.
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{what} address {a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        })
    }
}

/// Whether something may go on.
pub type Leave = Result<(), Timestamp>;

/// Counts and limits.
pub struct Limits {
    counters: Arc<dyn Counters>,
    clock: Arc<dyn Clock>,
    account: Option<Rate>,
    address: Option<Rate>,
    registration: Option<Rate>,
}

impl Limits {
    /// With the rates of the settings; `None` where a limit is off.
    #[must_use]
    pub fn new(
        counters: Arc<dyn Counters>,
        clock: Arc<dyn Clock>,
        account: Option<Rate>,
        address: Option<Rate>,
        registration: Option<Rate>,
    ) -> Self {
        Self { counters, clock, account, address, registration }
    }

    /// Whether this account may be tried from this address; else when it may be.
    ///
    /// # Errors
    /// The end of the lock.
    pub async fn may_log_in(&self, email: &FoldedEmail, address: IpAddr) -> Leave {
        let now = self.clock.now();
        let mut until = None;
        for (rate, key) in
            [(self.account, Key::account(email)), (self.address, Key::address("login", address))]
        {
            if rate.is_some()
                && let Some(failures) = self.counters.failures(&key.0).await
                && failures.is_locked(now)
            {
                until = until.max(Some(failures.locked_until));
            }
        }
        until.map_or(Ok(()), Err)
    }

    /// Counts a failure; says whether it locked the account.
    pub async fn failed(&self, email: &FoldedEmail, address: IpAddr) -> bool {
        let now = self.clock.now();
        if let Some(rate) = self.address {
            self.counters.fail(&Key::address("login", address).0, rate, now).await;
        }
        match self.account {
            Some(rate) => self.counters.fail(&Key::account(email).0, rate, now).await.is_locked(now),
            None => false,
        }
    }

    /// A good login ends the row of failures of the account. The address goes on being counted:
    /// one good account must not cover guessing at others.
    pub async fn succeeded(&self, email: &FoldedEmail) {
        if self.account.is_some() {
            self.counters.forget(&Key::account(email).0).await;
        }
    }

    /// Until when the account is locked.
    pub async fn locked_until(&self, email: &FoldedEmail) -> Option<Timestamp> {
        self.account?;
        let failures = self.counters.failures(&Key::account(email).0).await?;
        failures.is_locked(self.clock.now()).then_some(failures.locked_until)
    }

    /// Ends the lock of an account.
    pub async fn unlock(&self, email: &FoldedEmail) {
        self.counters.forget(&Key::account(email).0).await;
    }

    /// Whether this address may register one more.
    ///
    /// # Errors
    /// When it may.
    pub async fn may_register(&self, address: IpAddr) -> Leave {
        match self.registration {
            Some(rate) => {
                self.counters.take(&Key::address("register", address).0, rate, self.clock.now()).await
            }
            None => Ok(()),
        }
    }
}

/// Counters in this node's memory.
#[derive(Default)]
pub struct LocalCounters {
    failures: Mutex<Bounded<Failures>>,
    buckets: Mutex<Bounded<Bucket>>,
}

#[async_trait]
impl Counters for LocalCounters {
    async fn failures(&self, key: &str) -> Option<Failures> {
        lock(&self.failures).map.get(key).copied().flatten()
    }

    async fn fail(&self, key: &str, rate: Rate, now: Timestamp) -> Failures {
        lock(&self.failures).update(key, |previous| Failures::after(previous, rate, now))
    }

    async fn forget(&self, key: &str) {
        lock(&self.failures).forget(key);
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

impl<T: Copy> Bounded<T> {
    fn forget(&mut self, key: &str) {
        if let Some(value) = self.map.get_mut(key) {
            *value = None;
        }
    }

    fn update(&mut self, key: &str, change: impl FnOnce(Option<T>) -> T) -> T {
        let previous = self.map.get(key).copied();
        let next = change(previous.flatten());
        self.map.insert(key.to_owned(), Some(next));
        if previous.is_none() {
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
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_ipv6_customer_is_one_address_and_a_mapped_one_is_ipv4() {
        let key = |text: &str| Key::address("login", text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), key("2001:db8:1:2::9"));
        assert_ne!(key("2001:db8:1:2::"), key("2001:db8:1:3::"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let counters = LocalCounters::default();
        let rate = Rate { count: 1, window: Duration::from_secs(60) };
        for n in 0..REMEMBERED + 10 {
            counters.fail(&n.to_string(), rate, Timestamp::EPOCH).await;
        }
        assert_eq!(lock(&counters.failures).map.len(), REMEMBERED);
        assert!(counters.failures("0").await.is_none());
        assert!(counters.failures(&(REMEMBERED + 9).to_string()).await.is_some());
    }
}
