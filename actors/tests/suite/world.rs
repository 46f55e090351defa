//! The actors of a node on a store of their own. The test controls everything around them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actors::superusers::PrivilegeLock;
use actors::{
    Actors, Context, Durability, FactSink, Facts, Lifetimes, Receipt, StoredSessions, delete_revoked_rows,
    session::RefreshPolicy,
};
use async_trait::async_trait;
use schema::{
    Entropy, Fact, FactKind, SessionId, Timestamp, UserId,
    horizon::manual::ManualClocks,
    id::{KeyId, TokenId},
    token::AccessClaims,
    user::User,
};
use store::{Result as StoreResult, Stores, conformance::sample::Samples};
use tempfile::TempDir;

use crate::faults::{Faults, faulty, lock};

/// The time at which each test starts.
pub const START: Timestamp = Timestamp::from_secs(2_000_000_000);
pub const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);
pub const REFRESH: RefreshPolicy =
    RefreshPolicy { ttl: Duration::from_secs(30 * 24 * 3600), grace: Duration::from_secs(10) };
/// How long a test waits for anything before it fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// One store and the node that runs on it.
pub struct World {
    /// The store without faults, for setup and assertions.
    pub stores: Stores,
    pub faults: Arc<Faults>,
    pub clock: Arc<ManualClocks>,
    pub sink: Arc<Sink>,
    pub samples: Samples,
    pub node: Node,
    _directory: TempDir,
}

/// The actors of a node and the facts that it has applied.
pub struct Node {
    pub actors: Actors,
    pub facts: Arc<Facts>,
}

impl World {
    pub async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let stores = store_redb::open(&directory.path().join("store.redb")).await.unwrap().stores;
        let faults = Arc::<Faults>::default();
        let clock = ManualClocks::at(START);
        let sink = Arc::new(Sink::new(faulty(&stores, &faults), faults.clone()));
        let node = node(&stores, &faults, &clock, &sink).await;
        Self { stores, faults, clock, sink, samples: Samples::at(START), node, _directory: directory }
    }

    /// Starts another node on the same store. It applies only the facts that the test gives it.
    pub async fn another_node(&self) -> Node {
        node(&self.stores, &self.faults, &self.clock, &self.sink).await
    }

    pub async fn user(&self) -> User {
        self.samples.stored_user(&self.stores).await
    }

    /// The stored user.
    pub async fn stored(&self, user: UserId) -> User {
        self.stores.users.get(user).await.unwrap().unwrap()
    }

    pub async fn has_row(&self, user: UserId, session: SessionId) -> bool {
        self.stores.sessions.get(user, session).await.unwrap().is_some()
    }
}

impl std::ops::Deref for World {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

async fn node(stores: &Stores, faults: &Arc<Faults>, clock: &Arc<ManualClocks>, sink: &Arc<Sink>) -> Node {
    let lifetimes = Lifetimes { access_ttl: ACCESS_TTL, access_horizon: Timestamp::EPOCH };
    let clocks = clock.clocks();
    let facts = Arc::new(Facts::new(sink.clone(), clocks.clone(), lifetimes));
    let context = Context {
        stores: faulty(stores, faults),
        facts: facts.clone(),
        clock: clocks,
        entropy: Arc::new(Seeded(AtomicU64::new(1))),
        refresh: REFRESH,
        privileges: PrivilegeLock::default(),
    };
    Node { actors: Actors::start(context).await.unwrap(), facts }
}

impl Node {
    /// Whether the node refuses an access token with this version of the user.
    pub fn refuses(&self, user: UserId, session: SessionId, version: u64) -> bool {
        self.facts.denials().refuses(&AccessClaims {
            user,
            session,
            token: TokenId::from_bytes([9; 16]),
            key: KeyId::from_bytes([9; 16]),
            version,
            issued_at: 0,
            expires_at: u64::MAX,
            is_access: true,
        })
    }

    /// Whether the user has the permission according to the cache.
    pub async fn may(&self, user: UserId, permission: &str) -> bool {
        self.actors.permissions.with(user, |snapshot| snapshot.has(permission)).await.unwrap()
    }

    pub fn apply_all(&self, facts: &[Fact]) {
        facts.iter().for_each(|fact| self.facts.apply(fact));
    }
}

/// A counter: its values differ within a run and are the same in each run.
struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let n = self.0.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&n.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// A sink without a disk and peers: it keeps the published facts, deletes rows in the store, and remembers
/// the rows that it could not delete. Its faults have the name `sink.publish`.
pub struct Sink {
    stores: Stores,
    faults: Arc<Faults>,
    published: Mutex<Vec<Fact>>,
    /// The kinds of facts whose rows are not deleted yet.
    pending: Mutex<Vec<FactKind>>,
}

impl Sink {
    fn new(stores: Stores, faults: Arc<Faults>) -> Self {
        Self { stores, faults, published: Mutex::default(), pending: Mutex::default() }
    }

    /// The published facts in the order of publishing.
    pub fn published(&self) -> Vec<Fact> {
        lock(&self.published).clone()
    }

    pub fn has(&self, kind: FactKind) -> bool {
        self.times(kind) > 0
    }

    pub fn times(&self, kind: FactKind) -> usize {
        lock(&self.published).iter().filter(|fact| fact.kind == kind).count()
    }

    /// Retries the deletions that failed, and returns how many are still pending.
    pub async fn delete_pending(&self) -> usize {
        let kinds = std::mem::take(&mut *lock(&self.pending));
        self.delete(kinds).await
    }

    /// Deletes the rows of these facts, and returns how many failed.
    async fn delete(&self, kinds: impl IntoIterator<Item = FactKind>) -> usize {
        let mut failed = Vec::new();
        for kind in kinds {
            if delete_revoked_rows(&self.stores, &kind).await.is_err() {
                failed.push(kind);
            }
        }
        lock(&self.pending).extend_from_slice(&failed);
        failed.len()
    }
}

#[async_trait]
impl FactSink for Sink {
    async fn publish(&self, facts: &[Fact], rows: StoredSessions) -> StoreResult<Receipt> {
        let publish = async {
            lock(&self.published).extend_from_slice(facts);
            let to_delete = facts.iter().filter(|_| rows == StoredSessions::Delete);
            let failed = self.delete(to_delete.map(|fact| fact.kind).collect::<Vec<_>>()).await;
            let durability = if failed == 0 { Durability::Store } else { Durability::Journal };
            Ok(Receipt { visible: 0, live: 0, durability })
        };
        self.faults.around("sink.publish", publish).await
    }
}

/// Awaits the future and panics when it takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_TIMEOUT, future).await {
        Ok(done) => done,
        Err(_) => panic!("took longer than {WAIT_TIMEOUT:?}: {what}"),
    }
}

/// Polls `look` until it is true, and panics when that takes too long.
pub async fn eventually(what: &str, look: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !look().await {
        assert!(start.elapsed() < WAIT_TIMEOUT, "took longer than {WAIT_TIMEOUT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Starts a call and drops it when it waits at the hold.
pub async fn abandoned<T>(call: impl Future<Output = T>, hold: &crate::faults::Hold) {
    let abandon = async {
        tokio::select! {
            _ = call => panic!("the call ended before it was abandoned"),
            () = hold.reached(1) => {}
        }
    };
    within("a call that waits", abandon).await;
}
