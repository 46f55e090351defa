//! The one table of all settings. Flags, the environment, the file, `--help` and docs/SETTINGS.md are made from this
//! table.

use std::fmt::Write as _;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// `PALISADE_<name>` in the environment, lower case in the file, with hyphens as a flag.
    pub name: &'static str,
    /// Whether the setting has a flag. Secrets have none, because `ps` shows flags.
    pub flag: bool,
    /// The default; `None` if the node computes it, or there is none.
    pub default: Option<&'static str>,
    /// One line for `--help`.
    pub help: &'static str,
    /// The default in words, for a setting whose `default` is `None`.
    default_words: &'static str,
    /// The full meaning and the allowed values, for docs/SETTINGS.md.
    meaning: &'static str,
}

impl Spec {
    /// The flag, whether or not the setting has one.
    #[must_use]
    pub fn flag_name(&self) -> String {
        format!("--{}", self.name.to_lowercase().replace('_', "-"))
    }

    const fn with_default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn computed(self, default_words: &'static str) -> Self {
        Self { default_words, ..self }
    }

    const fn secret(self) -> Self {
        Self { flag: false, ..self }
    }
}

const fn spec(name: &'static str, help: &'static str, meaning: &'static str) -> Spec {
    Spec { name, flag: true, default: None, help, default_words: "none", meaning }
}

/// Settings that belong together, under a title.
type Group = (&'static str, &'static [Spec]);

const GROUPS: &[Group] = &[
    (
        "The node",
        &[
            spec("LISTEN", "HTTP listens here, host:port", "`host:port` of HTTP/1.1 and HTTP/2 without TLS (h2c). Put TLS in front.").with_default("127.0.0.1:8080"),
            spec("LISTEN_WHEN", "When the node listens there: start, ready", "`start` or `ready`: when the node listens on `LISTEN`. With `ready`, connections are refused until the node is ready for the first time, health checks on `LISTEN` too. It is for load balancers that find nodes by DNS and do not ask for their health.").with_default("start"),
            spec("OPERATOR_LISTEN", "Moves health and metrics to a listener of their own, host:port", "`host:port` of a listener of their own for health, metrics and `GET /api/v1/cluster`, which are then not on `LISTEN`.").computed("on `LISTEN`"),
            spec("DATA_DIR", "Embedded store, journal, control socket, keys; made if absent, 0700", "Directory of the embedded store, the journal, the control socket and the keys; made if absent, with mode 0700; for one process at a time. If it holds other things (`lost+found`) or cannot be closed to other users (a volume of a group), the node uses a folder `palisade` in it.").with_default("./palisade-data"),
            spec("NODE_NAME", "The name in logs and metrics [default: made once, kept in the data directory]", "1 to 64 of `A-Z a-z 0-9 _ . : -`: the name in logs and health.").computed("made once, kept in the data directory"),
            spec("PUBLIC_URL", "The URL at which people and providers reach this deployment; https, or http on loopback", "The URL at which people and identity providers reach this deployment, with its path if it has one. It is the server in the OpenAPI document. `https`, or `http` on loopback."),
            spec("DRAIN_GRACE", "How long the node still serves after SIGTERM, 0s to 10m", "How long the node still serves after SIGTERM, SIGINT or SIGHUP, 0s to 10m. Readiness is 503 from the signal on.").with_default("3s"),
            spec("LOG", "What is logged: error, warn, info, debug, trace, off; also of one target, as in info,palisade=debug", "`off`, `error`, `warn`, `info`, `debug`, `trace`, and the level of single targets, as in `warn,palisade=debug`.").with_default("info"),
            spec("OTLP_ENDPOINT", "Where traces are sent by OTLP over HTTP, as in http://jaeger:4318", "Where traces are sent by OTLP over HTTP: the URL of a collector, as in `http://jaeger:4318`; `/v1/traces` is added to it. Without it no span is made. See [traces](OPERATIONS.md#traces).").computed("none: no traces"),
            spec("OTLP_SAMPLE", "The share of requests that are traced, 0 to 1", "The share of requests that are traced, 0 to 1, of those that bring no `traceparent`. A request with a `traceparent` is traced if its flag `sampled` is set.").with_default("0.01"),
            spec("LOG_FORMAT", "text or json [default: text on a terminal, else json]", "`text` or `json`.").computed("`text` on a terminal, else `json`"),
        ],
    ),
    (
        "The store",
        &[
            spec("STORE", "redb, the embedded one, or cql://user:password@host:port,…/keyspace", "`redb`, the embedded store, or `cql://user:password@host:port,host:port/keyspace`: see [a shared store](OPERATIONS.md#a-shared-store).").with_default("redb"),
            spec("STORE_MIGRATE", "Whether this node makes and migrates the tables of a CQL store: on, off", "`on` or `off`: whether this node makes and migrates the tables of a CQL store. With `off`, `palisade schema migrate` does.").with_default("on"),
            spec("REDIS", "An optional cache that nodes share: redis://…", "`redis://user:password@host:6379/0`, an optional cache that nodes share."),
            spec("JOURNAL_SIZE", "Disk for revocations while the store is down, 64KiB to 1GiB", "Disk that is reserved for revocations while the store is down, 64KiB to 1GiB. 64MiB hold some 200,000 of them.").with_default("64MiB"),
            spec("MASTER_KEY", "Seals the signing keys, 32 bytes of base64; required with CQL [default: made in the data directory]", "32 bytes of base64 (`openssl rand -base64 32`) that encrypt the signing keys. Required with a CQL store, the same on every node. There is no flag, since flags show in `ps`.").computed("alone: made in the data directory").secret(),
            spec("MASTER_KEY_ACCEPTED", "A second master key with which the signing keys may be sealed, while the key is replaced", "A second key with which the signing keys may be encrypted, in the form of `MASTER_KEY`. It is for [replacing the master key](OPERATIONS.md#replacing-the-master-key) while the nodes run, and unset otherwise.").secret(),
        ],
    ),
    (
        "The cluster",
        &[
            spec("CLUSTER_LISTEN", "UDP and TCP for other nodes, host:port [default: none, the node is alone]", "`host:port`, UDP for gossip and TCP for links between nodes. Needs a shared store.").computed("none: the node is alone"),
            spec("CLUSTER_ADVERTISE", "The address at which other nodes reach this one, host:port [default: the listen address]", "`host:port` at which other nodes reach this one.").computed("the listen address, or the one that reaches the first seed"),
            spec("CLUSTER_SEEDS", "Addresses of other nodes, host:port,…; names are resolved repeatedly", "`host:port`, separated by commas, where other nodes may be. Names are resolved again and again, and all their addresses are used."),
            spec("CLUSTER_NAME", "The cluster's name; nodes of another name are refused", "1 to 64 of `A-Z a-z 0-9 _ . : -`. Nodes of another name are refused.").with_default("palisade"),
            spec("CLUSTER_SECRET", "The secret that the nodes of a cluster share, at least 32 bytes of base64; required in a cluster", "At least 32 bytes of base64 (`openssl rand -base64 32`), the same on every node. Required in a cluster. There is no flag, since flags show in `ps`.").secret(),
            spec("CLUSTER_SECRET_ACCEPTED", "A second secret that peers may have, while the secret is replaced", "A second secret that peers may have, in the form of `CLUSTER_SECRET`. It is for [replacing the secret](OPERATIONS.md#replacing-the-cluster-secret) while the nodes run, and unset otherwise.").secret(),
            spec("ACK_DEADLINE", "How long a revocation waits for live nodes, 0ms to 10s", "How long a revocation waits for the other live nodes, 0ms to 10s.").with_default("50ms"),
            spec("MAX_STALENESS", "How long a node decides without news of the revocations of others, 100ms to 24h", "How long a node decides without news of the revocations of others, 100ms to 24h.").with_default("30s"),
            spec("STALE_POLICY", "What a node beyond MAX_STALENESS does: it answers with Palisade-Stale (open) or 503 (closed)", "What a node does beyond `MAX_STALENESS`: `open` answers with `Palisade-Stale: <ms>`, `closed` answers 503.").with_default("open"),
        ],
    ),
    (
        "Tokens",
        &[
            spec("ISSUER", "The iss claim", "The claim `iss`.").with_default("palisade"),
            spec("AUDIENCE", "The aud claim", "The claim `aud`.").with_default("palisade"),
            spec("SIGNING_ALGORITHM", "EdDSA, ES256 or RS256", "`EdDSA`, `ES256` or `RS256`.").with_default("EdDSA"),
            spec("ACCESS_TTL", "Life of an access token, 1s to 24h", "Life of an access token, 1s to 24h.").with_default("15m"),
            spec("REFRESH_TTL", "Life of a refresh token, 1s to 3650d", "Life of a refresh token, and of a session without a refresh, 1s to 3650d.").with_default("30d"),
            spec("REFRESH_GRACE", "How long a spent refresh token gets the same successor, 0s to 5m", "How long a spent refresh token gets the same successor, 0s to 5m.").with_default("10s"),
        ],
    ),
    (
        "Clients and limits",
        &[
            spec("CORS_ORIGINS", "Origins that browsers may call from, separated by commas, or *", "Origins that browsers may call from, separated by commas, or `*`; also of applications, as in `capacitor://localhost`."),
            spec("TRUSTED_PROXIES", "Networks whose X-Forwarded-For is believed, separated by commas", "Addresses or networks of proxies whose `X-Forwarded-For` is believed, separated by commas. List all of them: a proxy that is not listed counts as one client, with one client's share of connections."),
            spec("LOGIN_ACCOUNT_FAILURES", "Failed logins that lock an account, or off", "Failed log-ins that lock an account for a minute, doubling to an hour; or `off`. Failures from places where the owner logged in during the last 90 days (a /24, or a /64 of IPv6) are counted apart, so that a stranger does not lock the owner out at home.").with_default("10/15m"),
            spec("LOGIN_ADDRESS_FAILURES", "Failed log-ins that slow an address to that rate, or off", "Failed log-ins of an address (IPv6: a /64), which is then slowed to that rate and recovers as time passes; or `off`.").with_default("100/15m"),
            spec("REGISTRATION_RATE", "Registrations of an address, or off", "Registrations of an address; `off` means no limit. To close registration, block `POST /api/v1/users` in front of the node.").with_default("20/1m"),
            spec("CONNECTIONS_PER_ADDRESS", "Connections that an address may have (IPv6: a /64) [default: a quarter of all]", "How many connections an address may have (IPv6: a /64; networks in `TRUSTED_PROXIES` any number). Beyond it, and when all connections are taken, only health and metrics are answered; the rest gets 503 with `Retry-After`, and the connection is closed.").computed("a quarter of all"),
            spec("IDLE_TIMEOUT", "How long an idle connection stays, 1s to 1h; the head of a request and the taking of an answer at most 30s of it", "How long an idle connection stays, 1s to 1h, by HTTP/1.1 and HTTP/2. The head of a request, and a client that does not take an answer, have as long, but at most 30 s.").with_default("75s"),
            spec("BODY_BUDGET", "Memory for requests and answers under way, 32MiB to 64GiB", "Memory for requests and answers under way, 32MiB to 64GiB. One address has a quarter at most; beyond that: 503 with `Retry-After`.").with_default("256MiB"),
        ],
    ),
];

/// How many settings there are.
const COUNT: usize = {
    let mut count = 0;
    let mut group = 0;
    while group < GROUPS.len() {
        count += GROUPS[group].1.len();
        group += 1;
    }
    count
};

const ALL: [Spec; COUNT] = {
    let mut all = [spec("", "", ""); COUNT];
    let mut at = 0;
    let mut group = 0;
    while group < GROUPS.len() {
        let specs = GROUPS[group].1;
        let mut n = 0;
        while n < specs.len() {
            all[at] = specs[n];
            at += 1;
            n += 1;
        }
        group += 1;
    }
    all
};

/// Every setting.
pub const SPECS: &[Spec] = &ALL;

/// docs/SETTINGS.md.
#[must_use]
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for (title, specs) in GROUPS {
        let _ =
            write!(text, "\n## {title}\n\n| flag, `PALISADE_` name | default | meaning |\n|---|---|---|\n");
        for spec in *specs {
            let flag = if spec.flag { format!("`{}` ", spec.flag_name()) } else { String::new() };
            let default =
                spec.default.map_or_else(|| spec.default_words.to_owned(), |text| format!("`{text}`"));
            let _ = writeln!(text, "| {flag}`{}` | {default} | {} |", spec.name, spec.meaning);
        }
    }
    text
}

const HEAD: &str = "\
# Settings

A flag beats `PALISADE_<NAME>`, which beats the file (`--config palisade.toml` or `PALISADE_CONFIG`; keys in lower \
case), which beats the default. `PALISADE_<NAME>_FILE` names a file that holds the value (also of `PALISADE_CONFIG` \
and `PALISADE_SUPERUSER_PASSWORD`). An empty value is unset. A value that is wrong, or that this machine cannot \
follow, ends the start before anything is made; `palisade check-config` says the same beforehand. An unknown \
`PALISADE_` variable is a warning.

Durations are numbers with `ms`, `s`, `m`, `h` or `d`; sizes with `KiB`, `MiB` or `GiB`; rates are a number and a \
time, as in `10/15m`.

(This page is what `palisade settings` prints: the table is in `node/src/settings/specs.rs`.)
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_document_is_what_the_table_says() {
        assert_eq!(
            include_str!("../../../docs/SETTINGS.md"),
            document(),
            "palisade settings > docs/SETTINGS.md"
        );
    }

    #[test]
    fn names_are_unique() {
        for (n, spec) in SPECS.iter().enumerate() {
            assert!(SPECS[..n].iter().all(|other| other.name != spec.name), "{}", spec.name);
        }
    }
}
