//! The parts of a running node, and the order in which they start.
//!
//! [`App::start`] does everything that needs no answer from a store: settings, data directory, the node's
//! identity, the records in its journal, actors. [`App::bootstrap`] then reads the keys and the ledger. Until that
//! is done the node decides nothing: every question about tokens and permissions is answered 503. With an
//! embedded store it is done before the node serves; with a database that is down it may take a while.
//!
//! Never: it knows nothing of HTTP, of the command line or of the control socket.

mod rounds;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::cluster::Cluster;
use actors::{
    Actors, Context, FactSink, Facts, Lifetimes, SharedCache, session::RefreshPolicy,
    superusers::PrivilegeLock,
};
use cache_redis::{Cache, CachedGrants, RedisCounters};
use schema::{
    Clock, Clocks, Entropy, Subject, Timestamp, horizon::SteadyClock, key::KeySet, limit::Counters,
};
use store::{GrantsStore, StoreError, Stores};
use token_verify::Expected;
use tokio::sync::Notify;

use crate::{
    accounts::{
        Accounts,
        limits::{Limits, LocalCounters, Rates},
        permission_queries::PermissionQueries,
    },
    clock::{BootClock, SystemClock, SystemEntropy, boot_id},
    credentials::{
        keys::{self, KeyError, KeyRing, MasterKey, SealError},
        passwords::PasswordPool,
        tokens::{self, Tokens, TokensContext},
    },
    logging::occasional::Warnings,
    metrics::Metrics,
    revocation::{
        FactFeed, Journal, LedgerReader, LedgerWriter,
        adopt::PeerJournal,
        freshness::Freshness,
        journal::Record,
        peers::{self, JoinError, Joining, PeerFactHandler, Peering},
        sync_state::SyncState,
    },
    scheduling::{background::Background, budget::Budget},
    settings::Settings,
    storage::{
        backend::{BackendError, StoreBackend},
        clock_file::ClockFile,
        data_dir::{DataDir, DataDirError, Identity},
    },
};

/// How long a key is published before it signs, where other nodes have to know it.
const KEY_PUBLICATION: Duration = Duration::from_secs(15);
/// How long a node that starts waits for its peers' logs. What it does not get comes from the ledger.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that an entry of the permission cache in Redis is used.
const CACHE_AGE_MAX: Duration = Duration::from_secs(600);

/// Everything that handlers and operators work with.
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct App {
    pub settings: Settings,
    pub data_dir: DataDir,
    pub identity: Identity,
    pub stores: Stores,
    pub backend: StoreBackend,
    pub cache: Option<Cache>,
    pub log: Arc<LedgerWriter>,
    pub peer_journal: Arc<PeerJournal>,
    pub facts: Arc<Facts>,
    pub actors: Actors,
    pub ring: Arc<KeyRing>,
    pub master: Arc<MasterKey>,
    pub tokens: Tokens,
    pub passwords: PasswordPool,
    pub limits: Limits,
    /// The memory of requests.
    pub bodies: Arc<Budget>,
    pub metrics: Metrics,
    pub warnings: Warnings,
    pub permission_queries: PermissionQueries,
    /// The wall clock: by it tokens expire.
    pub clock: Arc<dyn Clock>,
    /// The wall clock and boot time: by both of them things are forgotten.
    pub clocks: Arc<Clocks>,
    pub clock_file: Arc<ClockFile>,
    pub entropy: Arc<dyn Entropy>,
    pub started_at: Timestamp,
    pub background: Arc<Background>,
    /// How old this node's knowledge of revocations is.
    pub freshness: Arc<Freshness>,
    /// Whether this node may decide.
    pub sync: Arc<SyncState>,
    /// Wakes the task that reads the keys.
    pub keys_changed: Arc<Notify>,
    /// Notified when the node is to end, as by a signal.
    pub end: Arc<Notify>,
    peers: OnceLock<Arc<Cluster>>,
    /// The records that the journal held when the node started.
    recovered: Vec<Record>,
    is_draining: AtomicBool,
}

/// What an [`App`] is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: keys and lifetimes become what the settings say.
    Serve,
    /// For one command beside no node: they stay as the last node left them.
    Operate,
}

/// Why a node does not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the error of its name")]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Tokens(#[from] tokens::StartError),
    #[error(
        "the journal in the data directory cannot be opened: {0}; when the disk is full, make room or set PALISADE_JOURNAL_SIZE to less"
    )]
    Journal(io::Error),
    #[error("PALISADE_REDIS: {0}")]
    Redis(#[from] cache_redis::OpenError),
    #[error("a thread does not start: {0}")]
    Thread(#[from] io::Error),
    #[error("{0}")]
    Join(#[from] JoinError),
    #[error("the actors do not start: {0}")]
    Actors(#[from] ractor::SpawnErr),
}

impl App {
    /// Starts the parts of a node. It decides nothing before [`Self::bootstrap`] has returned.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn start(settings: Settings, metrics: Metrics) -> Result<Arc<Self>, StartError> {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let data_dir = DataDir::open(&settings.data_dir)?;
        let NodeClocks { clock, clocks, clock_file, steady } = NodeClocks::open(&data_dir)?;
        let (stores, backend) = StoreBackend::open(&settings, &data_dir, &clocks, &entropy).await?;
        let identity = data_dir.identity(settings.node_name.as_deref(), &*clock, &*entropy)?;
        let master = MasterKey::new(match &settings.master_key {
            Some(key) => key.clone(),
            None => data_dir.master_key(&*entropy, stores.keys.load().await?.revision == 0)?,
        });
        let master = Arc::new(master.accepting(settings.master_key_accepted.clone()));

        let journal = Journal::open(data_dir.path(), settings.journal_size);
        let (journal, recovered) = journal.map_err(StartError::Journal)?;
        let is_shared = backend.is_shared();
        let origin = identity.origin();
        let log =
            LedgerWriter::start(stores.clone(), steady.clone(), origin, journal, &recovered, is_shared)?;
        let log = Arc::new(log);
        let (cache, grants) = shared_cache(&settings, &stores, &master, &steady)?;
        let facts = facts(&settings, &log, &clocks, grants.as_ref());
        recovered.iter().for_each(|record| facts.apply(&record.entry.fact));

        let context = Context {
            stores: stores.clone(),
            facts: facts.clone(),
            clock: clocks.clone(),
            entropy: entropy.clone(),
            refresh: RefreshPolicy { ttl: settings.refresh_ttl, grace: settings.refresh_grace },
            privileges: PrivilegeLock::default(),
        };
        let grants = grants.map_or(stores.grants.clone(), |grants| grants as Arc<dyn GrantsStore>);
        let actors = Actors::start_reading(context, grants).await?;
        let freshness =
            Freshness::new(is_shared, settings.max_staleness, settings.stale_policy, clocks.clone());
        let freshness = Arc::new(freshness);
        let ring = Arc::new(KeyRing::default());
        let tokens = Tokens::new(TokensContext {
            freshness: freshness.clone(),
            expected: Expected { issuer: settings.issuer.clone(), audience: settings.audience.clone() },
            access_ttl: settings.access_ttl,
            ring: ring.clone(),
            master: master.clone(),
            stores: stores.clone(),
            denials: facts.denials().clone(),
            clock: clock.clone(),
            clocks: clocks.clone(),
            clock_file: clock_file.clone(),
            entropy: entropy.clone(),
        })?;
        let end = Arc::new(Notify::new());
        Ok(Arc::new(Self {
            passwords: PasswordPool::start(&entropy)?,
            bodies: Budget::new(usize::try_from(settings.body_budget).unwrap_or(usize::MAX)),
            limits: limits(&settings, cache.as_ref(), &stores, steady, clock.clone()),
            metrics,
            warnings: Warnings::default(),
            permission_queries: PermissionQueries::default(),
            started_at: clock.now(),
            background: Arc::new(Background::new(clocks.clone())),
            sync: Arc::new(SyncState::new(facts.clone(), freshness.clone(), end.clone())),
            freshness,
            keys_changed: Arc::default(),
            end,
            peers: OnceLock::new(),
            recovered,
            is_draining: AtomicBool::new(false),
            settings,
            data_dir,
            identity,
            stores,
            backend,
            cache,
            peer_journal: Arc::new(PeerJournal::new(log.clone())),
            log,
            facts,
            actors,
            ring,
            master,
            tokens,
            clock,
            clocks,
            clock_file,
            entropy,
        }))
    }

    /// Joins the cluster of the settings, if there is one: from now on facts are exchanged with peers, though
    /// the node decides nothing yet. Call it once, before [`Self::bootstrap`].
    ///
    /// # Errors
    /// When the addresses cannot be used.
    pub async fn join(&self) -> Result<(), StartError> {
        let Some(settings) = &self.settings.cluster else { return Ok(()) };
        let handler = PeerFactHandler {
            facts: self.facts.clone(),
            journal: self.peer_journal.clone(),
            keys_changed: self.keys_changed.clone(),
            acknowledgements: self.metrics.acknowledgements.clone(),
        };
        let joining = Joining {
            settings,
            identity: &self.identity,
            ack_deadline: self.settings.ack_deadline,
            recovered: self.recovered.iter().map(|record| record.entry).collect(),
            handler,
            clocks: self.clocks.clone(),
            entropy: self.entropy.clone(),
        };
        let cluster = peers::join(joining).await?;
        self.log.feed(cluster.clone());
        let _ = self.peers.set(cluster);
        Ok(())
    }

    /// The cluster, if this node has joined one.
    #[must_use]
    pub fn peers(&self) -> Option<&Arc<Cluster>> {
        self.peers.get()
    }

    /// What background tasks with peers work with, if this node has joined a cluster.
    #[must_use]
    pub fn peering(&self) -> Option<Peering> {
        Some(Peering {
            cluster: self.peers()?.clone(),
            origin: self.identity.origin(),
            facts: self.facts.clone(),
            journal: self.peer_journal.clone(),
            stores: self.stores.clone(),
            clocks: self.clocks.clone(),
            sync: self.sync.clone(),
            background: self.background.clone(),
        })
    }

    /// Reads the keys and the ledger. After this the node decides.
    ///
    /// # Errors
    /// `Store`, when the store does not answer: call it again. Any other error is final.
    pub async fn bootstrap(&self, purpose: Purpose) -> Result<LedgerReader, StartError> {
        let (algorithm, access_ttl) = (self.settings.signing_algorithm, self.settings.access_ttl);
        let set = match purpose {
            Purpose::Serve => keys::ensure(self.key_tools(), algorithm, access_ttl).await,
            Purpose::Operate => keys::stored(self.key_tools(), algorithm, access_ttl).await,
        };
        let set = set.map_err(not_final)?;
        let (began, at) = (self.clock.now(), self.clocks.monotonic());
        let origin = self.identity.origin();
        // Before it decides anything, so that an earlier process with this identity, if one still runs, ends.
        if purpose == Purpose::Serve {
            self.stores.ledger.begin_life(origin).await?;
        }
        // Peers first: they are faster, and what they have need not be read.
        if let Some(peers) = self.peers()
            && !peers.catch_up(CATCH_UP_TIMEOUT).await
        {
            tracing::warn!(
                "some live nodes could not be reached; their revocations are read from the ledger"
            );
        }
        let feed = self.peers().map(|peers| peers.clone() as Arc<dyn FactFeed>);
        let (reader, count) = LedgerReader::begin(&self.stores, &self.facts, origin, feed).await?;
        // Last: with keys in the ring the node decides.
        self.install_key_set(&set).map_err(not_final)?;
        self.mark_ledger_read(began, at);
        let Identity { name, incarnation, .. } = &self.identity;
        tracing::info!(node = name, incarnation, facts = count, "read the ledger");
        Ok(reader)
    }

    /// Uses this key set from now on, unless a newer one is in use.
    ///
    /// # Errors
    /// When it cannot be decrypted: it was encrypted with another master key.
    pub fn install_key_set(&self, set: &KeySet) -> Result<(), KeyError> {
        // First: with keys in the ring the node decides.
        if set.revision > 0 {
            self.tokens.refresh.set_root(&self.master.root_of(set)?)?;
        }
        self.ring.replace(set, &self.master, self.facts.denials())?;
        // If nodes disagree on `ACCESS_TTL`, tokens are issued with the shortest value, and revocations are kept
        // for the longest.
        let own = self.settings.access_ttl;
        self.tokens.set_access_ttl(own.min(set.access_ttl));
        self.facts.set_lifetimes(Lifetimes {
            access_ttl: own.max(set.access_ttl),
            access_horizon: set.access_horizon,
        });
        Ok(())
    }

    /// The ledger was read to its end; the read began at these times of the wall clock and the monotonic clock.
    pub fn mark_ledger_read(&self, wall: Timestamp, at: Duration) {
        self.sync.mark_ledger_read(wall, at);
        if let Some(peers) = self.peers() {
            peers.mark_ledger_read(at);
        }
    }

    /// Whether the node is about to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// From now on the node takes no new traffic.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// The use cases of accounts.
    #[must_use]
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts {
            stores: &self.stores,
            actors: &self.actors,
            facts: &self.facts,
            passwords: &self.passwords,
            tokens: &self.tokens,
            limits: &self.limits,
            metrics: &self.metrics,
            clock: &*self.clock,
            entropy: &*self.entropy,
            refresh_ttl: self.settings.refresh_ttl,
        }
    }

    /// What changes of keys need.
    #[must_use]
    pub fn key_tools(&self) -> keys::Tools<'_> {
        keys::Tools {
            stores: &self.stores,
            master: &self.master,
            clock: &*self.clock,
            entropy: &*self.entropy,
            horizon: self.clocks.horizon(),
            latest_expiry: self.clocks.high_water().latest_expiry(),
            // Other nodes read the keys of a shared store from time to time.
            published: if self.backend.is_shared() { KEY_PUBLICATION } else { Duration::ZERO },
        }
    }
}

/// The clocks of a node, and the file that carries them over a restart.
pub(crate) struct NodeClocks {
    clock: Arc<dyn Clock>,
    pub(crate) clocks: Arc<Clocks>,
    clock_file: Arc<ClockFile>,
    /// Does not jump.
    steady: Arc<dyn Clock>,
}

impl NodeClocks {
    pub(crate) fn open(data_dir: &DataDir) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (clock_file, saved) = ClockFile::open(data_dir)?;
        let clocks = Arc::new(Clocks::new(clock.clone(), Arc::new(BootClock), &boot_id(), saved));
        let steady = Arc::new(SteadyClock(clocks.clone()));
        Ok(Self { clock, clocks, clock_file: Arc::new(clock_file), steady })
    }
}

fn facts(
    settings: &Settings,
    log: &Arc<LedgerWriter>,
    clocks: &Arc<Clocks>,
    grants: Option<&Arc<CachedGrants>>,
) -> Arc<Facts> {
    let lifetimes = Lifetimes { access_ttl: settings.access_ttl, access_horizon: Timestamp::EPOCH };
    let facts = Facts::new(log.clone() as Arc<dyn FactSink>, clocks.clone(), lifetimes);
    Arc::new(match grants {
        Some(grants) => facts.with_shared_cache(Arc::new(GrantsCacheInvalidator(grants.clone()))),
        None => facts,
    })
}

fn limits(
    settings: &Settings,
    cache: Option<&Cache>,
    stores: &Stores,
    steady: Arc<dyn Clock>,
    clock: Arc<dyn Clock>,
) -> Limits {
    let local: Arc<dyn Counters> = Arc::new(LocalCounters::default());
    let counters = match cache {
        Some(cache) => Arc::new(RedisCounters::new(cache.clone(), local)),
        None => local,
    };
    let rates = Rates {
        account: settings.login_account_failures,
        address: settings.login_address_failures,
        registration: settings.registration_rate,
    };
    Limits::new(counters, stores.logins.clone(), steady, clock, rates)
}

/// A store that does not answer may do so later.
fn not_final(error: KeyError) -> StartError {
    match error {
        KeyError::Store(error) => StartError::Store(error),
        other => StartError::Keys(other),
    }
}

/// Passes invalidations on to the permission cache in Redis.
struct GrantsCacheInvalidator(Arc<CachedGrants>);

impl SharedCache for GrantsCacheInvalidator {
    fn invalidate(&self, subject: Subject) {
        self.0.invalidate(subject);
    }

    fn invalidate_all(&self) {
        self.0.invalidate_all();
    }
}

type MaybeCached = (Option<Cache>, Option<Arc<CachedGrants>>);

fn shared_cache(
    settings: &Settings,
    stores: &Stores,
    master: &MasterKey,
    clock: &Arc<dyn Clock>,
) -> Result<MaybeCached, StartError> {
    let Some(url) = &settings.redis else { return Ok((None, None)) };
    // Nodes with the old and the new master key, while it is replaced, have caches of their own.
    let secret = master.own().derive("shared cache")?;
    // Clusters that share a Redis have other secrets, and so other keys.
    let cache = Cache::open(url, "palisade", secret.as_slice(), clock.clone())?;
    // An entry is believed as long as the fact that would make it old is remembered.
    let max_age = CACHE_AGE_MAX.min(settings.access_ttl);
    let grants = CachedGrants::new(stores.grants.clone(), cache.clone(), max_age);
    Ok((Some(cache), Some(Arc::new(grants))))
}
