//! Tests of limits, with clocks, places and counters that the tests control.

use std::{collections::HashMap, sync::atomic::AtomicBool};

use async_trait::async_trait;
use schema::{
    LoginId, UserId,
    login::Login,
    page::{Page, PageOf},
    place::AccountKey,
};
use store::{self, StoreError};

use super::{local::COUNTERS_MAX, *};

const ACCOUNT: Rate = Rate { count: 10, window: Duration::from_secs(900) };
const ADDRESS: Rate = Rate { count: 100, window: Duration::from_secs(900) };
const REGISTRATION: Rate = Rate { count: 2, window: Duration::from_secs(60) };
const DAY: Duration = Duration::from_secs(24 * 3600);

struct TestClock(AtomicU64);

impl TestClock {
    fn forward(&self, by: Duration) {
        self.0.fetch_add(time::millis(by), Ordering::SeqCst);
    }
    fn back(&self, by: Duration) {
        self.0.fetch_sub(time::millis(by), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A store of places that counts reads and writes.
#[derive(Default)]
struct Places {
    rows: Mutex<HashMap<(AccountKey, Place), Timestamp>>,
    reads: AtomicU64,
    writes: AtomicU64,
    down: AtomicBool,
}

impl Places {
    fn answers(&self, count: &AtomicU64) -> store::Result<()> {
        count.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) { Err(StoreError::unavailable_because("down")) } else { Ok(()) }
    }
}

#[async_trait]
impl Logins for Places {
    async fn record(&self, _: &Login, _: usize) -> store::Result<()> {
        Ok(())
    }
    async fn list(&self, _: UserId, _: PageOf<LoginId>) -> store::Result<Page<Login, LoginId>> {
        Err(StoreError::unavailable_because("the history is not read"))
    }
    async fn note_place(&self, account: AccountKey, place: Place, time: Timestamp) -> store::Result<()> {
        self.answers(&self.writes)?;
        lock(&self.rows).insert((account, place), time);
        Ok(())
    }
    async fn last_from(&self, account: AccountKey, place: Place) -> store::Result<Option<Timestamp>> {
        self.answers(&self.reads)?;
        Ok(lock(&self.rows).get(&(account, place)).copied())
    }
    async fn forget_places(&self, account: AccountKey) -> store::Result<()> {
        lock(&self.rows).retain(|(of, _), _| *of != account);
        Ok(())
    }
}

struct World {
    limits: Limits,
    steady: Arc<TestClock>,
    wall: Arc<TestClock>,
    places: Arc<Places>,
}

impl World {
    fn new() -> Self {
        Self::on(&Arc::default())
    }

    /// A second node, or the same one after a restart.
    fn on(places: &Arc<Places>) -> Self {
        let clock = || Arc::new(TestClock(AtomicU64::new(1_800_000_000_000)));
        let steady = clock();
        let wall = clock();
        let rates =
            Rates { account: Some(ACCOUNT), address: Some(ADDRESS), registration: Some(REGISTRATION) };
        let counters = Arc::new(LocalCounters::default());
        let limits = Limits::new(counters, places.clone(), steady.clone(), wall.clone(), rates);
        Self { limits, steady, wall, places: places.clone() }
    }

    fn forward(&self, by: Duration) {
        self.steady.forward(by);
        self.wall.forward(by);
    }

    async fn fail(&self, times: u32, email: &str, from: &str) -> Option<Duration> {
        let mut locked = None;
        for _ in 0..times {
            locked = self.limits.failed(&FoldedEmail::of(email), ip(from)).await;
        }
        locked
    }

    async fn may(&self, email: &str, from: &str) -> bool {
        self.limits.may_log_in(&FoldedEmail::of(email), ip(from)).await.is_ok()
    }

    async fn log_in(&self, email: &str, from: &str) {
        self.limits.succeeded(&FoldedEmail::of(email), ip(from)).await;
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const ANN: &str = "ann@example.org";
const HOME: &str = "192.0.2.7";
const STRANGER: &str = "203.0.113.9";

#[tokio::test]
async fn stranger_locks_the_account_for_strangers_only() {
    let world = World::new();
    world.log_in(ANN, HOME).await;
    assert_eq!(world.fail(10, ANN, STRANGER).await, Some(Duration::from_secs(60)));
    assert!(!world.may(ANN, STRANGER).await);
    assert!(!world.may(ANN, "198.51.100.1").await, "another stranger");
    assert!(world.may(ANN, HOME).await);
    assert!(world.may(ANN, "192.0.2.200").await, "of the same /24");
    // The stranger tries for days; the owner is at home.
    for _ in 0..100 {
        world.forward(Duration::from_secs(3600));
        world.fail(10, ANN, STRANGER).await;
        assert!(world.may(ANN, HOME).await);
        world.log_in(ANN, HOME).await;
    }
    assert!(!world.may(ANN, STRANGER).await, "the owner's log-ins forgive no stranger");
}

#[tokio::test]
async fn failures_at_home_lock_home_only() {
    let world = World::new();
    world.log_in(ANN, HOME).await;
    assert_eq!(world.fail(9, ANN, HOME).await, None);
    world.log_in(ANN, HOME).await;
    assert_eq!(world.fail(10, ANN, HOME).await, Some(Duration::from_secs(60)));
    assert!(!world.may(ANN, HOME).await);
    assert!(world.may(ANN, STRANGER).await);
    world.forward(Duration::from_secs(61));
    assert!(world.may(ANN, HOME).await);
}

#[tokio::test]
async fn place_is_known_for_90_days_on_all_nodes() {
    let first = World::new();
    first.log_in(ANN, "2001:db8:1:2::7").await;
    let second = World::on(&first.places);
    second.fail(10, ANN, STRANGER).await;
    assert!(second.may(ANN, "2001:db8:1:2:ffff::1").await);
    assert!(!second.may(ANN, "2001:db8:1:3::7").await);
    second.forward(DAY * 91);
    second.fail(10, ANN, STRANGER).await;
    assert!(!second.may(ANN, "2001:db8:1:2::7").await);
}

#[tokio::test]
async fn unknown_email_costs_as_many_reads_as_a_known_one() {
    let world = World::new();
    world.log_in(ANN, HOME).await;
    let mut asked = Vec::new();
    for email in [ANN, "nobody@example.org"] {
        let before = world.places.reads.load(Ordering::SeqCst);
        let mut answers = Vec::new();
        for _ in 0..12 {
            answers.push(world.may(email, STRANGER).await);
            answers.push(world.fail(1, email, STRANGER).await.is_some());
        }
        asked.push((answers, world.places.reads.load(Ordering::SeqCst) - before));
    }
    assert_eq!(asked[0], asked[1]);
}

#[tokio::test]
async fn usual_log_in_reads_places_rarely_and_writes_daily() {
    let world = World::new();
    for _ in 0..50 {
        assert!(world.may(ANN, HOME).await);
        world.log_in(ANN, HOME).await;
    }
    let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
    assert_eq!((count(&world.places.reads), count(&world.places.writes)), (1, 1));
    world.forward(KNOWN_TTL);
    world.log_in(ANN, HOME).await;
    assert_eq!((count(&world.places.reads), count(&world.places.writes)), (2, 1));
    world.forward(DAY);
    world.log_in(ANN, HOME).await;
    assert_eq!((count(&world.places.reads), count(&world.places.writes)), (3, 2));
}

#[tokio::test]
async fn all_places_are_unknown_while_the_store_is_down() {
    let world = World::new();
    world.log_in(ANN, HOME).await;
    let other = World::on(&world.places);
    world.places.down.store(true, Ordering::SeqCst);
    assert_eq!(other.fail(10, ANN, HOME).await, Some(Duration::from_secs(60)));
    assert!(!other.may(ANN, HOME).await);
    other.log_in(ANN, "198.51.100.1").await;
    world.places.down.store(false, Ordering::SeqCst);
    assert!(other.may(ANN, HOME).await, "what was counted elsewhere locks elsewhere");
}

#[tokio::test]
async fn address_is_throttled_and_recovers() {
    let world = World::new();
    for n in 0..100 {
        assert!(world.may("x", STRANGER).await, "{n}");
        world.fail(1, &format!("{n}@example.org"), STRANGER).await;
    }
    assert!(!world.may(ANN, STRANGER).await);
    assert!(world.may(ANN, HOME).await);
    // With a typo after each wait, the wait never exceeds nine seconds.
    for n in 0..1_000 {
        let wait = world.limits.may_log_in(&FoldedEmail::of("x"), ip(STRANGER)).await.unwrap_err();
        assert!(wait <= Duration::from_secs(9), "{wait:?}");
        world.forward(wait);
        assert!(world.may("x", STRANGER).await);
        world.fail(1, &format!("{n}@example.com"), STRANGER).await;
    }
    world.forward(ADDRESS.window / 2);
    for n in 0..50 {
        assert!(world.may("x", STRANGER).await, "{n}");
        world.fail(1, &format!("{n}@example.net"), STRANGER).await;
    }
    assert!(!world.may("x", STRANGER).await);
}

#[tokio::test]
async fn clock_that_jumps_neither_ends_nor_lengthens_a_lock() {
    let world = World::new();
    world.fail(10, ANN, STRANGER).await;
    world.wall.forward(DAY);
    assert!(!world.may(ANN, STRANGER).await);
    world.wall.back(DAY * 2);
    let left = world.limits.may_log_in(&FoldedEmail::of(ANN), ip(STRANGER)).await.unwrap_err();
    assert_eq!(left, Duration::from_secs(60));
    world.steady.forward(left);
    assert!(world.may(ANN, STRANGER).await);
}

#[tokio::test]
async fn limits_are_listed_and_cleared_by_email_and_address() {
    let world = World::new();
    world.log_in(ANN, HOME).await;
    world.fail(10, ANN, STRANGER).await;
    world.fail(10, ANN, HOME).await;
    world.fail(10, "my secret password", "2001:db8:1:2::7").await;
    for n in 0..100 {
        world.fail(1, &n.to_string(), "2001:db8:1:2::7").await;
    }
    for _ in 0..3 {
        let _ = world.limits.may_register(ip(HOME)).await;
    }
    let list = world.limits.list().await;
    assert!(!list.shared && list.more == 0);
    let text = serde_json::to_value(&list.limits).unwrap();
    assert!(!text.to_string().contains("secret"), "what is no email is not shown: {text}");
    let kinds: Vec<_> = list
        .limits
        .iter()
        .map(|limited| match &limited.subject {
            Subject::Account { account, from, .. } => format!("{account} {from:?}"),
            Subject::Address { address } => format!("address {address}"),
            Subject::Registration { address } => format!("registration {address}"),
        })
        .collect();
    let digest = kinds[0].strip_suffix(" Elsewhere").unwrap().to_owned();
    assert_eq!(
        kinds[1..],
        [
            format!("{ANN} Known"),
            format!("{ANN} Elsewhere"),
            "address 2001:db8:1:2::/64".into(),
            format!("registration {HOME}"),
        ]
    );
    for (named, lifted) in
        [("ANN@example.org", 2), ("2001:db8:1:2::/64", 1), (HOME, 1), (digest.as_str(), 1), (ANN, 0)]
    {
        let cleared = world.limits.clear(&Named::read(named).unwrap()).await;
        assert_eq!(cleared.len(), lifted, "{named}");
    }
    assert!(world.limits.list().await.limits.is_empty());
    assert!(world.may(ANN, HOME).await && world.may(ANN, STRANGER).await);
    assert!(world.may("x", "2001:db8:1:2::9").await);
    assert!(world.limits.may_register(ip(HOME)).await.is_ok());
}

#[test]
fn only_emails_digests_and_addresses_are_named() {
    for (text, named) in [
        ("Ann@Example.org", Named::Email(FoldedEmail::of(ANN))),
        (" 192.0.2.1 ", Named::Address(ip("192.0.2.1").into())),
        ("2001:db8::/64", Named::Address(ip("2001:db8::").into())),
    ] {
        assert_eq!(Named::read(text), Some(named), "{text}");
    }
    for bad in ["", "ann", "192.0.2", "192.0.2.0/24", "#", "#x", "#ann@example.org"] {
        assert_eq!(Named::read(bad), None, "{bad}");
    }
}

#[test]
fn ipv6_customer_is_one_address_and_a_mapped_one_is_ipv4() {
    let counted = |text: &str| counted(ip(text));
    assert_eq!(counted("2001:db8:1:2:3:4:5:6"), counted("2001:db8:1:2::9"));
    assert_ne!(counted("2001:db8:1:2::"), counted("2001:db8:1:3::"));
    assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
    assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
}

#[tokio::test]
async fn memory_of_limits_is_bounded() {
    let counters = LocalCounters::default();
    let rate = Rate { count: 1, window: Duration::from_secs(60) };
    for n in 0..COUNTERS_MAX + 10 {
        counters.fail(&n.to_string(), rate, Timestamp::EPOCH).await;
    }
    assert_eq!(lock(&counters.failures).map.len(), COUNTERS_MAX);
    assert!(counters.failures("0", Timestamp::EPOCH).await.is_none());
    assert!(counters.failures(&(COUNTERS_MAX + 9).to_string(), Timestamp::EPOCH).await.is_some());
}
