//! What a node is made of, and the order in which it comes up.
//!
//! Settings, data directory, store, who this node is, keys, what has been taken away, actors. Only
//! then anything is served: a node that does not know what was revoked answers nothing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use actors::{Actors, Context, Facts, Lifetimes, session::RefreshPolicy, superusers::PowerLock};
use schema::{Clock, Entropy, Stores, Timestamp, store::StoreError, time::CLOCK_SKEW, token::Expected};
use store_redb::{OpenError, Stats};

use crate::{
    clock::{SystemClock, SystemEntropy},
    data_dir::{DataDir, DataDirError, Identity},
    http::routes,
    keys::{self, KeyError, KeyRing, MasterKey, SealError},
    ledger::{self, LedgerWriter},
    limits::{Limits, LocalCounters},
    metrics::Metrics,
    passwords::PasswordPool,
    settings::Settings,
    tokens::{Tokens, TokensContext},
};

/// Everything that handlers and operators work with.
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct App {
    pub settings: Settings,
    pub data_dir: DataDir,
    pub identity: Identity,
    pub stores: Stores,
    pub store_stats: Arc<Stats>,
    pub facts: Arc<Facts>,
    pub actors: Actors,
    pub ring: Arc<KeyRing>,
    pub master: Arc<MasterKey>,
    pub tokens: Tokens,
    pub passwords: PasswordPool,
    pub limits: Limits,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub started_at: Timestamp,
    ready: AtomicBool,
}

/// What an [`App`] is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: keys and lifetimes become what the settings say.
    Serve,
    /// For one command beside no node: they stay as the last node left them.
    Operate,
}

/// Why a node does not come up. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the error of its name")]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the password threads do not start: {0}")]
    Passwords(#[from] std::io::Error),
    #[error("the actors do not start: {0}")]
    Actors(#[from] ractor::SpawnErr),
}

impl App {
    /// Brings a node up, but serves nothing yet.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn start(settings: Settings, purpose: Purpose) -> Result<Arc<Self>, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let data_dir = DataDir::open(&settings.data_dir)?;
        let opened = store_redb::open(&data_dir.store()).await?;
        let stores = opened.stores;
        let identity = data_dir.identity(settings.node_name.as_deref(), &*clock, &*entropy)?;
        let master = Arc::new(MasterKey::new(match &settings.master_key {
            Some(key) => key.clone(),
            None => data_dir.master_key(&*entropy, stores.keys.load().await?.revision == 0)?,
        }));
        let tools = keys::Tools { stores: &stores, master: &master, clock: &*clock, entropy: &*entropy };
        let (algorithm, access_ttl) = (settings.signing_algorithm, settings.access_ttl);
        let key_set = match purpose {
            Purpose::Serve => keys::ensure(tools, algorithm, access_ttl).await?,
            Purpose::Operate => keys::stored(tools, algorithm, access_ttl).await?,
        };
        let ring = Arc::new(KeyRing::new(&key_set, &master)?);

        let sink = Arc::new(LedgerWriter::start(stores.clone(), identity.origin()));
        let lifetimes = Lifetimes { access_ttl: key_set.access_ttl, access_horizon: key_set.access_horizon };
        let facts = Arc::new(Facts::new(sink, clock.clone(), lifetimes));
        keys::deny_revoked(&key_set, facts.denials());
        let heard = ledger::read_all(&stores, &facts).await?;
        facts.denials().forget(clock.now(), CLOCK_SKEW);
        tracing::info!(
            node = identity.name,
            incarnation = identity.incarnation,
            facts = heard,
            "the ledger is read"
        );

        let actors = Actors::start(Context {
            stores: stores.clone(),
            facts: facts.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            refresh: RefreshPolicy { ttl: settings.refresh_ttl, grace: settings.refresh_grace },
            power: PowerLock::default(),
        })
        .await?;
        let tokens = Tokens::new(TokensContext {
            expected: Expected { issuer: settings.issuer.clone(), audience: settings.audience.clone() },
            access_ttl: settings.access_ttl,
            ring: ring.clone(),
            master: master.clone(),
            stores: stores.clone(),
            denials: facts.denials().clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        })?;
        let limits = Limits::new(
            Arc::new(LocalCounters::default()),
            clock.clone(),
            settings.login_account_failures,
            settings.login_address_failures,
            settings.registration_rate,
        );
        Ok(Arc::new(Self {
            passwords: PasswordPool::start(&entropy)?,
            metrics: Metrics::new(routes()),
            started_at: clock.now(),
            ready: AtomicBool::new(true),
            store_stats: opened.stats,
            settings,
            data_dir,
            identity,
            stores,
            facts,
            actors,
            ring,
            master,
            tokens,
            limits,
            clock,
            entropy,
        }))
    }

    /// Whether the node takes traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// From now on the node takes no new traffic.
    pub fn drain(&self) {
        self.ready.store(false, Ordering::Release);
    }

    /// What changes of keys work with.
    #[must_use]
    pub fn key_tools(&self) -> keys::Tools<'_> {
        keys::Tools {
            stores: &self.stores,
            master: &self.master,
            clock: &*self.clock,
            entropy: &*self.entropy,
        }
    }
}
