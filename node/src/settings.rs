//! Settings: a flag beats `PALISADE_<NAME>`, which beats the file, which beats the default.
//!
//! [`SPECS`] is the one table of them; flags, environment, file, `--help` and the README's table
//! come from it. A wrong value, an unknown key in the file, or both `X` and `X_FILE` end the start
//! with the name, what was given and what is allowed. An empty value is unset. An unknown `PALISADE_`
//! variable is a warning, since orchestrators set their own.
//!
//! Values are judged in one place, [`read`], for every command. Whether this machine can do what they
//! say (an address that is its own, a directory that can be made) is judged in one other,
//! [`machine::check`], before a command makes anything.

pub mod machine;
pub(crate) mod origin;
pub(crate) mod source;
pub(crate) mod value;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use cluster::secret::Secret;
use ipnet::IpNet;
use schema::{limit::Rate, token::Algorithm};
use zeroize::Zeroizing;

pub use origin::PublicUrl;
pub use source::{Sources, read};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// `PALISADE_<name>` in the environment, lower case in the file, with hyphens as a flag.
    pub name: &'static str,
    /// Whether there is a flag: not for secrets, since flags show in `ps`.
    pub flag: bool,
    /// `None` when it is made or computed.
    pub default: Option<&'static str>,
    /// What it means.
    pub help: &'static str,
}

const fn spec(name: &'static str, default: Option<&'static str>, help: &'static str) -> Spec {
    Spec { name, flag: true, default, help }
}

/// Every setting.
pub const SPECS: &[Spec] = &[
    spec("LISTEN", Some("127.0.0.1:8080"), "HTTP listens here, host:port"),
    spec(
        "DATA_DIR",
        Some("./palisade-data"),
        "Embedded store, journal, control socket, keys; made if absent, 0700",
    ),
    spec("STORE", Some("redb"), "redb, the embedded one, or cql://user:password@host:port,…/keyspace"),
    spec(
        "STORE_MIGRATE",
        Some("on"),
        "Whether this node makes and migrates the tables of a CQL store: on, off",
    ),
    spec("REDIS", None, "An optional cache that nodes share: redis://…"),
    spec("JOURNAL_SIZE", Some("64MiB"), "Disk for revocations while the store is down, 64KiB to 1GiB"),
    spec("NODE_NAME", None, "The name in logs and metrics [default: made once, kept in the data directory]"),
    Spec {
        name: "MASTER_KEY",
        flag: false,
        default: None,
        help: "Seals the signing keys, 32 bytes of base64; required with CQL [default: made in the data directory]",
    },
    spec("CLUSTER_LISTEN", None, "UDP and TCP for other nodes, host:port [default: none, the node is alone]"),
    spec("CLUSTER_ADVERTISE", None, "How other nodes reach it, host:port [default: the listen address]"),
    spec("CLUSTER_SEEDS", None, "Where other nodes may be, host:port,…; names are looked up again and again"),
    spec("CLUSTER_NAME", Some("palisade"), "Nodes of other names are refused"),
    Spec {
        name: "CLUSTER_SECRET",
        flag: false,
        default: None,
        help: "What nodes of a cluster know and nobody else, at least 32 bytes of base64; required in a cluster",
    },
    spec("ACK_DEADLINE", Some("50ms"), "How long a revocation waits for live nodes, 0ms to 10s"),
    spec("MAX_STALENESS", Some("30s"), "How long a node decides without hearing from others, 100ms to 24h"),
    spec("STALE_POLICY", Some("open"), "Then it answers with Palisade-Stale (open) or 503 (closed)"),
    spec("ISSUER", Some("palisade"), "The iss claim"),
    spec("AUDIENCE", Some("palisade"), "The aud claim"),
    spec("SIGNING_ALGORITHM", Some("EdDSA"), "EdDSA, ES256 or RS256"),
    spec("ACCESS_TTL", Some("15m"), "Life of an access token, 1s to 24h"),
    spec("REFRESH_TTL", Some("30d"), "Life of a refresh token, 1s to 3650d"),
    spec("REFRESH_GRACE", Some("10s"), "How long a spent refresh token gets the same successor, 0s to 5m"),
    spec("DRAIN_GRACE", Some("3s"), "How long it still serves after SIGTERM, 0s to 10m"),
    spec(
        "IDLE_TIMEOUT",
        Some("75s"),
        "How long an idle connection stays, 1s to 1h; the head of a request and the taking of an answer at most 30s of it",
    ),
    spec(
        "CONNECTIONS_PER_ADDRESS",
        None,
        "Connections that an address may have (IPv6: a /64) [default: a quarter of all]",
    ),
    spec("BODY_BUDGET", Some("256MiB"), "Memory for requests and answers under way, 32MiB to 64GiB"),
    spec("OPERATOR_LISTEN", None, "Moves health and metrics to a listener of their own, host:port"),
    spec(
        "PUBLIC_URL",
        None,
        "The URL at which people and providers reach this deployment; https, or http on loopback",
    ),
    spec("CORS_ORIGINS", None, "Origins that browsers may call from, separated by commas, or *"),
    spec("TRUSTED_PROXIES", None, "Networks whose X-Forwarded-For is believed, separated by commas"),
    spec("LOGIN_ACCOUNT_FAILURES", Some("10/15m"), "Failed logins that lock an account, or off"),
    spec(
        "LOGIN_ADDRESS_FAILURES",
        Some("100/15m"),
        "Failed log-ins that slow an address to that rate, or off",
    ),
    spec("REGISTRATION_RATE", Some("20/1m"), "Registrations of an address, or off"),
    spec(
        "LOG",
        Some("info"),
        "What is logged: error, warn, info, debug, trace, off; also of one target, as in info,palisade=debug",
    ),
    spec("LOG_FORMAT", None, "text or json [default: text on a terminal, else json]"),
];

/// What a node is started with.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the setting of its name; see SPECS")]
pub struct Settings {
    pub listen: String,
    pub data_dir: PathBuf,
    pub store: StoreSetting,
    pub store_migrate: bool,
    pub redis: Option<String>,
    pub journal_size: u64,
    pub node_name: Option<String>,
    pub master_key: Option<Zeroizing<[u8; 32]>>,
    pub cluster: Option<ClusterSettings>,
    pub ack_deadline: Duration,
    pub max_staleness: Duration,
    pub stale_policy: StalePolicy,
    pub issuer: String,
    pub audience: String,
    pub signing_algorithm: Algorithm,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    pub refresh_grace: Duration,
    pub drain_grace: Duration,
    pub idle_timeout: Duration,
    pub connections_per_address: Option<usize>,
    pub body_budget: u64,
    pub operator_listen: Option<String>,
    pub public_url: Option<PublicUrl>,
    pub cors_origins: CorsOrigins,
    pub trusted_proxies: Vec<IpNet>,
    pub login_account_failures: Option<Rate>,
    pub login_address_failures: Option<Rate>,
    pub registration_rate: Option<Rate>,
    pub log: LogSettings,
}

/// Where everything lasting is.
#[derive(Debug, Clone)]
pub enum StoreSetting {
    /// In one file of this node.
    Embedded,
    /// In a database that nodes share.
    Cql(Box<store_scylla::Config>),
}

/// How to be one of many.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the setting of its name; see SPECS")]
pub struct ClusterSettings {
    pub listen: String,
    pub advertise: Option<String>,
    pub seeds: Vec<String>,
    pub name: String,
    pub secret: Secret,
}

/// What a node answers that does not know what was taken away lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StalePolicy {
    /// What it knows, and how old that is.
    Open,
    /// That it cannot know.
    Closed,
}

impl StalePolicy {
    /// As it is set.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// How to log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A `tracing` filter.
    pub filter: String,
    /// `None`: text on a terminal, else JSON.
    pub format: Option<LogFormat>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// From where browsers may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// From the node's own origin only.
    None,
    /// From anywhere.
    Any,
    /// From these, in the form in which browsers send them.
    Listed(Vec<String>),
}

impl CorsOrigins {
    /// Whether this origin may call.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
        }
    }
}

impl Settings {
    /// Whether the peer at this address may say for whom it speaks.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| {
            network.contains(&peer)
                // A network of IPv4 addresses in their IPv6 form (RFC 4291, section 2.5.5.2).
                || matches!(peer, IpAddr::V4(peer) if network.prefix_len() >= 96
                    && network.contains(&IpAddr::V6(peer.to_ipv6_mapped())))
        })
    }
}

/// A setting is wrong: its name, what was given, what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that cannot be.
    #[error("{name} is {given:?}; allowed: {allowed}")]
    Wrong {
        /// Where it came from.
        name: String,
        /// What was given; `(hidden)` for a secret.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// A value that is refused for a reason of its own.
    #[error("{name} is {given:?}: {why}")]
    Refused {
        /// Where it came from.
        name: String,
        /// What was given, without a secret in it.
        given: String,
        /// Why it is refused, in a sentence that says what is allowed.
        why: String,
    },
    /// Bytes that are not UTF-8.
    #[error("{name} is not UTF-8 text; allowed: UTF-8 text")]
    NotText {
        /// The variable.
        name: String,
    },
    /// Both `X` and `X_FILE`.
    #[error("both {name} and {name}_FILE are set; set one of them")]
    Both {
        /// The variable.
        name: String,
    },
    /// A file that cannot be read.
    #[error("{name} names the file {path:?}, which cannot be read: {why}")]
    File {
        /// The setting.
        name: String,
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// A key that there is not.
    #[error("{path:?} has the unknown key {key:?}; known: {known}")]
    UnknownKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// All that there are.
        known: String,
    },
}
