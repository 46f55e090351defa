//! Settings: a flag beats `PALISADE_<NAME>`, which beats the file, which beats the default.
//!
//! [`SPECS`] is the one table of all settings: flags, environment, file, `--help` and docs/SETTINGS.md are made from
//! that table.
//! A wrong value, an unknown key in the file, or both `X` and `X_FILE` end the start with the name, what was
//! given and what is allowed. An empty value is unset. An unknown `PALISADE_` variable is a warning, since
//! orchestrators set their own.
//!
//! For every command, [`read`] validates all values. `boot::machine::check` checks whether this machine
//! supports them (a local address, a directory that can be created), before a command creates anything.

mod accepted;
pub(crate) mod file;
mod log_filter;
pub(crate) mod origin;
pub(crate) mod source;
mod specs;
pub(crate) mod value;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use cluster::secret::Secret;
use ipnet::IpNet;
use schema::{limit::Rate, token::Algorithm};
use zeroize::Zeroizing;

pub use origin::PublicUrl;
pub use source::{Sources, read};
pub use specs::{SPECS, Spec, document};
pub use value::store_setting;

/// The settings of a node.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the setting of its name; see SPECS")]
pub struct Settings {
    pub listen: String,
    pub listen_when: ListenWhen,
    pub data_dir: PathBuf,
    pub store: StoreSetting,
    pub store_migrate: bool,
    pub redis: Option<String>,
    pub journal_size: u64,
    pub node_name: Option<String>,
    pub master_key: Option<Zeroizing<[u8; 32]>>,
    pub master_key_accepted: Option<Zeroizing<[u8; 32]>>,
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
    pub traces: Option<TraceSettings>,
}

/// The settings of traces.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// Where spans are sent, with the path.
    pub url: String,
    /// The share of requests without a `traceparent` that are traced, 0 to 1.
    pub sample: f64,
}

/// When a node listens for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenWhen {
    /// As soon as it starts. Until it is ready, it answers 503.
    Start,
    /// When it is ready. Until then, connections are refused.
    Ready,
}

impl ListenWhen {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "start" => Some(Self::Start),
            "ready" => Some(Self::Ready),
            _ => None,
        }
    }
}

/// The store of a node.
#[derive(Debug, Clone)]
pub enum StoreSetting {
    /// The embedded store, a file of this node.
    Embedded,
    /// A database that nodes share.
    Cql(Box<store_scylla::Config>),
}

/// The settings of a node's cluster.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the setting of its name; see SPECS")]
pub struct ClusterSettings {
    pub listen: String,
    pub advertise: Option<String>,
    pub seeds: Vec<String>,
    pub name: String,
    pub secret: Secret,
}

/// What a node does when it may have missed recent revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StalePolicy {
    /// The node answers from what it knows, and discloses how old that is.
    Open,
    /// The node answers that it cannot know.
    Closed,
}

impl StalePolicy {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "open" => Some(Self::Open),
            "closed" => Some(Self::Closed),
            _ => None,
        }
    }

    /// The value as written in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// The settings of logging.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The `tracing` filter.
    pub filter: String,
    /// The format; `None` for text on a terminal and JSON elsewhere.
    pub format: Option<LogFormat>,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The origins from which browsers may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// The node's own origin only.
    None,
    /// All origins.
    Any,
    /// These origins, in the form in which browsers send them.
    Listed(Vec<String>),
}

impl CorsOrigins {
    /// Whether browsers may call from this origin.
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
    /// Whether the sender at this address is a trusted proxy, which may name its client.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| {
            network.contains(&peer)
                // The network may hold IPv4 addresses in their IPv6 form (RFC 4291, section 2.5.5.2).
                || matches!(peer, IpAddr::V4(peer) if network.prefix_len() >= 96
                    && network.contains(&IpAddr::V6(peer.to_ipv6_mapped())))
        })
    }
}

/// An error in the settings: the name, the given value, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not allowed.
    #[error("{name} is {given:?}; allowed: {allowed}")]
    Wrong {
        /// The flag, variable or key that gave the value.
        name: String,
        /// The given value; `(hidden)` for a secret.
        given: String,
        /// The allowed values, in words.
        allowed: String,
    },
    /// A value that is refused for a specific reason.
    #[error("{name} is {given:?}: {why}")]
    Refused {
        /// The flag, variable or key that gave the value.
        name: String,
        /// The given value, without secrets.
        given: String,
        /// The reason, in a sentence that says what is allowed.
        why: String,
    },
    /// A value that is not UTF-8.
    #[error("{name} is not UTF-8 text; allowed: UTF-8 text")]
    NotText {
        /// The variable.
        name: String,
    },
    /// Both `X` and `X_FILE` are set.
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
        /// The reason.
        why: String,
    },
    /// An unknown key in the settings file.
    #[error("{path:?} has the unknown key {key:?}; known: {known}")]
    UnknownKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// All known keys.
        known: String,
    },
}
