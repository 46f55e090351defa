//! From texts to values: each with what is allowed.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schema::{
    limit::{Rate, parse_duration},
    token::Algorithm,
};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use super::{
    ClusterSettings, CorsOrigins, LogFormat, LogSettings, Settings, SettingsError, StalePolicy, StoreSetting,
    origin, source::Given,
};
use cluster::secret::Secret;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Makes the settings of what was given.
pub(super) fn settings(mut given: BTreeMap<&'static str, Given>) -> Result<Settings, SettingsError> {
    let mut take = |name: &str| given.remove(name);
    let store = store(take("STORE"))?;
    let master_key = secret(take("MASTER_KEY"))?;
    if matches!(store, StoreSetting::Cql(_)) && master_key.is_none() {
        let allowed =
            "with a CQL store: 32 bytes of base64, the same on every node (`openssl rand -base64 32`)";
        let (name, given) = ("PALISADE_MASTER_KEY".into(), "not set".into());
        return Err(SettingsError::Wrong { name, given, allowed: allowed.into() });
    }
    let cluster = Cluster {
        listen: optional(take("CLUSTER_LISTEN"), ADDRESS, peer_address)?,
        advertise: optional(take("CLUSTER_ADVERTISE"), REACHABLE, |text| {
            peer_address(text).filter(|text| !text.starts_with("0.0.0.0:") && !text.starts_with("[::]:"))
        })?,
        seeds: optional(take("CLUSTER_SEEDS"), "host:port, separated by commas", |text| {
            let seeds = text.split(',').map(|seed| peer_address(seed.trim()));
            if text.trim().is_empty() { Some(Vec::new()) } else { seeds.collect() }
        })?,
        name: required(take("CLUSTER_NAME"), "1 to 64 of A-Z a-z 0-9 _ . : -", |text| {
            schema::Name::is_valid(text).then(|| text.to_owned())
        })?,
        secret: hidden(take("CLUSTER_SECRET"), CLUSTER_SECRET, |text| {
            Some(Zeroizing::new(STANDARD.decode(text.trim()).ok()?))
        })?,
    };
    Ok(Settings {
        cluster: cluster.settings(&store)?,
        ack_deadline: duration(take("ACK_DEADLINE"), "0ms to 10s", Duration::ZERO, Duration::from_secs(10))?,
        max_staleness: duration(
            take("MAX_STALENESS"),
            "100ms to 24h",
            Duration::from_millis(100),
            Duration::from_secs(DAY),
        )?,
        stale_policy: required(take("STALE_POLICY"), "open, closed", |text| match text {
            "open" => Some(StalePolicy::Open),
            "closed" => Some(StalePolicy::Closed),
            _ => None,
        })?,
        store,
        store_migrate: required(take("STORE_MIGRATE"), "on, off", switch)?,
        redis: redis(take("REDIS"))?,
        journal_size: required(
            take("JOURNAL_SIZE"),
            "a number and KiB, MiB or GiB; here 64KiB to 1GiB",
            bytes,
        )?,
        listen: required(take("LISTEN"), ADDRESS, address)?,
        data_dir: required(take("DATA_DIR"), "a path", |text| (!text.is_empty()).then(|| text.into()))?,
        node_name: optional(take("NODE_NAME"), "1 to 64 of A-Z a-z 0-9 _ . : -", |text| {
            schema::Name::is_valid(text).then(|| text.to_owned())
        })?,
        master_key,
        issuer: required(take("ISSUER"), CLAIM, claim)?,
        audience: required(take("AUDIENCE"), CLAIM, claim)?,
        signing_algorithm: required(take("SIGNING_ALGORITHM"), "EdDSA, ES256, RS256", algorithm)?,
        access_ttl: seconds(take("ACCESS_TTL"), "1s to 24h", 1, DAY)?,
        refresh_ttl: seconds(take("REFRESH_TTL"), "1s to 3650d", 1, 3_650 * DAY)?,
        refresh_grace: seconds(take("REFRESH_GRACE"), "0s to 5m", 0, 300)?,
        drain_grace: seconds(take("DRAIN_GRACE"), "0s to 10m", 0, 600)?,
        operator_listen: optional(take("OPERATOR_LISTEN"), ADDRESS, address)?,
        public_url: optional(take("PUBLIC_URL"), origin::PUBLIC_URL, origin::public_url)?,
        cors_origins: optional(take("CORS_ORIGINS"), origin::ORIGINS, origin::origins)?
            .unwrap_or(CorsOrigins::None),
        trusted_proxies: optional(
            take("TRUSTED_PROXIES"),
            "addresses or networks, as in 10.0.0.0/8,::1",
            |text| {
                let network = |part: &str| {
                    part.parse()
                        .ok()
                        .or_else(|| part.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from))
                };
                list(text).map(network).collect()
            },
        )?
        .unwrap_or_default(),
        login_account_failures: required(take("LOGIN_ACCOUNT_FAILURES"), RATE, rate)?,
        login_address_failures: required(take("LOGIN_ADDRESS_FAILURES"), RATE, rate)?,
        registration_rate: required(take("REGISTRATION_RATE"), RATE, rate)?,
        log: LogSettings {
            filter: required(take("LOG"), "error, warn, info, debug, trace, or a tracing filter", |text| {
                EnvFilter::try_new(text).ok().map(|_| text.to_owned())
            })?,
            format: optional(take("LOG_FORMAT"), "text or json", |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            })?,
        },
    })
}

const CLUSTER_SECRET: &str =
    "at least 32 bytes of base64, the same on every node (`openssl rand -base64 32`)";

/// What was given about a cluster.
struct Cluster {
    listen: Option<String>,
    advertise: Option<String>,
    seeds: Option<Vec<String>>,
    name: String,
    secret: Option<Zeroizing<Vec<u8>>>,
}

impl Cluster {
    /// `None` when nothing is to listen: the node is alone.
    fn settings(self, store: &StoreSetting) -> Result<Option<ClusterSettings>, SettingsError> {
        let wrong = |name: &str, given: &str, allowed: &str| {
            let (name, given, allowed) = (format!("PALISADE_{name}"), given.to_owned(), allowed.to_owned());
            SettingsError::Wrong { name, given, allowed }
        };
        let Some(listen) = self.listen else {
            return match (self.advertise, self.seeds) {
                (None, None) => Ok(None),
                _ => {
                    Err(wrong("CLUSTER_LISTEN", "not set", "with seeds or an advertised address: host:port"))
                }
            };
        };
        if matches!(store, StoreSetting::Embedded) {
            let allowed = "only with a store that nodes share: set PALISADE_STORE to cql://…";
            return Err(wrong("CLUSTER_LISTEN", &listen, allowed));
        }
        let secret = self.secret.ok_or_else(|| wrong("CLUSTER_SECRET", "not set", CLUSTER_SECRET))?;
        let secret = Secret::new(secret, &self.name);
        Ok(Some(ClusterSettings {
            listen,
            advertise: self.advertise,
            seeds: self.seeds.unwrap_or_default(),
            secret: secret.map_err(|_| wrong("CLUSTER_SECRET", "(hidden)", CLUSTER_SECRET))?,
            name: self.name,
        }))
    }
}

fn store(given: Option<Given>) -> Result<StoreSetting, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(StoreSetting::Embedded) };
    if text == "redb" {
        return Ok(StoreSetting::Embedded);
    }
    // It may have a password in it, so what was given is not repeated.
    let wrong =
        |why: String| SettingsError::Wrong { name: name.clone(), given: "(hidden)".into(), allowed: why };
    if !text.starts_with("cql://") {
        return Err(wrong("redb, or cql://[user:password@]host:port,host:port/keyspace".into()));
    }
    let config = text.parse::<store_scylla::Config>().map_err(|error| wrong(error.to_string()))?;
    Ok(StoreSetting::Cql(Box::new(config)))
}

/// It may have a password in it, so what was given is not repeated.
fn redis(given: Option<Given>) -> Result<Option<String>, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(None) };
    match cache_redis::check_url(&text) {
        Ok(()) => Ok(Some(text)),
        Err(error) => {
            Err(SettingsError::Wrong { name, given: "(hidden)".into(), allowed: error.to_string() })
        }
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit: u64 = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (64 << 10..=1 << 30).contains(&bytes).then_some(bytes)
}

fn optional<T>(
    given: Option<Given>,
    allowed: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(None) };
    match read(&text) {
        Some(value) => Ok(Some(value)),
        None => Err(SettingsError::Wrong { name, given: text, allowed: allowed.to_owned() }),
    }
}

/// A setting with a default: it is always given.
fn required<T>(
    given: Option<Given>,
    allowed: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, SettingsError> {
    let given = given.unwrap_or(Given { name: "a setting".into(), text: String::new() });
    let (name, text) = (given.name.clone(), given.text.clone());
    optional(Some(given), allowed, read)?.ok_or(SettingsError::Wrong {
        name,
        given: text,
        allowed: allowed.to_owned(),
    })
}

const ADDRESS: &str = "host:port, as in 127.0.0.1:8080 or [::1]:8080";

fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let plain = !host.is_empty() && (host.starts_with('[') == host.ends_with(']'));
    (plain && port.parse::<u16>().is_ok() && !host.contains(char::is_whitespace)).then(|| text.to_owned())
}

const REACHABLE: &str = "host:port that other nodes can reach, as in 10.0.0.7:7080";

/// One address of a node, with a port that is known.
fn peer_address(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_[]%".contains(c);
    let (host, port) = text.rsplit_once(':')?;
    let brackets = host.starts_with('[') || !host.contains(':');
    address(text).filter(|_| text.chars().all(plain) && brackets && port.parse() != Ok(0_u16))
}

const CLAIM: &str = "1 to 200 characters";

fn claim(text: &str) -> Option<String> {
    (1..=200).contains(&text.chars().count()).then(|| text.to_owned())
}

fn algorithm(text: &str) -> Option<Algorithm> {
    [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256]
        .into_iter()
        .find(|algorithm| algorithm.as_str() == text)
}

fn duration(
    given: Option<Given>,
    allowed: &str,
    least: Duration,
    most: Duration,
) -> Result<Duration, SettingsError> {
    required(given, &format!("a duration such as 500ms, 10s, 15m, 12h, 30d; here {allowed}"), |text| {
        parse_duration(text).filter(|duration| (least..=most).contains(duration))
    })
}

fn seconds(given: Option<Given>, allowed: &str, least: u64, most: u64) -> Result<Duration, SettingsError> {
    duration(given, allowed, Duration::from_secs(least), Duration::from_secs(most))
}

const RATE: &str = "off, or a number, a slash and a duration, as in 10/15m";

fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn secret(given: Option<Given>) -> Result<Option<Zeroizing<[u8; 32]>>, SettingsError> {
    hidden(given, "32 bytes of base64, as `openssl rand -base64 32` makes them", decode_key)
}

fn hidden<T>(
    given: Option<Given>,
    allowed: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(None) };
    let wrong = SettingsError::Wrong { name, given: "(hidden)".into(), allowed: allowed.to_owned() };
    read(&text).map(Some).ok_or(wrong)
}

/// 32 bytes of standard base64.
pub(crate) fn decode_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).ok()?);
    <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
}
