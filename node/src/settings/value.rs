//! From texts to values: each with what is allowed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use schema::{
    limit::{Rate, parse_duration},
    token::Algorithm,
};
use zeroize::Zeroizing;

use super::{
    ClusterSettings, CorsOrigins, ListenWhen, LogFormat, LogSettings, SPECS, Settings, SettingsError,
    StalePolicy, StoreSetting, TraceSettings, accepted, log_filter, origin, source::Given,
};
use cluster::secret::Secret;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const ONE_HOUR: Duration = Duration::from_secs(HOUR);
const MAX_STALENESS_MIN: Duration = Duration::from_millis(100);

/// Makes the settings of what was given. Adds warnings about values that are allowed and hardly meant.
pub(super) fn settings(
    mut given: BTreeMap<&'static str, Given>,
    warnings: &mut Vec<String>,
) -> Result<Settings, SettingsError> {
    let mut take = |name: &str| given.remove(name);
    let store = store(take("STORE"))?;
    let master_key = secret(take("MASTER_KEY"))?;
    let master_key_accepted = secret(take("MASTER_KEY_ACCEPTED"))?;
    accepted::check("MASTER_KEY", master_key.as_ref(), master_key_accepted.as_ref(), warnings)?;
    if matches!(store, StoreSetting::Cql(_)) && master_key.is_none() {
        let allowed =
            "with a CQL store: 32 bytes of base64, the same on every node (`openssl rand -base64 32`)";
        let (name, given) = ("PALISADE_MASTER_KEY".into(), "not set".into());
        return Err(SettingsError::Wrong { name, given, allowed: allowed.into() });
    }
    let cluster = Cluster {
        listen: optional(take("CLUSTER_LISTEN"), ADDRESS, peer_address)?,
        advertise: optional(take("CLUSTER_ADVERTISE"), REACHABLE, reachable_address)?,
        seeds: optional(take("CLUSTER_SEEDS"), "host:port, separated by commas", peer_addresses)?,
        name: required(take("CLUSTER_NAME"), NAME, name)?,
        secret: hidden(take("CLUSTER_SECRET"), CLUSTER_SECRET, base64_bytes)?,
        accepted: hidden(take("CLUSTER_SECRET_ACCEPTED"), CLUSTER_SECRET, base64_bytes)?,
    };
    let sample = required(take("OTLP_SAMPLE"), "a number from 0 to 1", share)?;
    let settings = Settings {
        traces: optional(take("OTLP_ENDPOINT"), origin::OTLP_ENDPOINT, origin::otlp_url)?
            .map(|url| TraceSettings { url, sample }),
        cluster: cluster.settings(&store, warnings)?,
        ack_deadline: duration(take("ACK_DEADLINE"), "0ms to 10s", Duration::ZERO, Duration::from_secs(10))?,
        max_staleness: duration(take("MAX_STALENESS"), "100ms to 24h", MAX_STALENESS_MIN, 24 * ONE_HOUR)?,
        stale_policy: required(take("STALE_POLICY"), "open, closed", StalePolicy::parse)?,
        store,
        store_migrate: required(take("STORE_MIGRATE"), "on, off", switch)?,
        redis: redis(take("REDIS"))?,
        journal_size: size(take("JOURNAL_SIZE"), "64KiB to 1GiB", 64 << 10..=1 << 30)?,
        body_budget: size(take("BODY_BUDGET"), "32MiB to 64GiB", 32 << 20..=64 << 30)?,
        listen: required(take("LISTEN"), ADDRESS, address)?,
        listen_when: required(take("LISTEN_WHEN"), "start or ready", ListenWhen::parse)?,
        data_dir: required(take("DATA_DIR"), DIRECTORY, directory)?,
        node_name: optional(take("NODE_NAME"), NAME, name)?,
        master_key,
        master_key_accepted,
        issuer: required(take("ISSUER"), CLAIM, claim)?,
        audience: required(take("AUDIENCE"), CLAIM, claim)?,
        signing_algorithm: required(take("SIGNING_ALGORITHM"), "EdDSA, ES256, RS256", algorithm)?,
        access_ttl: seconds(take("ACCESS_TTL"), "1s to 24h", 1, DAY)?,
        refresh_ttl: seconds(take("REFRESH_TTL"), "1s to 3650d", 1, 3_650 * DAY)?,
        refresh_grace: seconds(take("REFRESH_GRACE"), "0s to 5m", 0, 300)?,
        drain_grace: seconds(take("DRAIN_GRACE"), "0s to 10m", 0, 600)?,
        idle_timeout: seconds(take("IDLE_TIMEOUT"), "1s to 1h", 1, HOUR)?,
        connections_per_address: optional(take("CONNECTIONS_PER_ADDRESS"), CONNECTIONS, connections)?,
        operator_listen: optional(take("OPERATOR_LISTEN"), ADDRESS, address)?,
        public_url: optional(take("PUBLIC_URL"), origin::PUBLIC_URL, origin::public_url)?,
        cors_origins: optional(take("CORS_ORIGINS"), origin::ORIGINS, origin::origins)?
            .unwrap_or(CorsOrigins::None),
        trusted_proxies: optional(take("TRUSTED_PROXIES"), NETWORKS, networks)?.unwrap_or_default(),
        login_account_failures: required(take("LOGIN_ACCOUNT_FAILURES"), RATE, rate)?,
        login_address_failures: required(take("LOGIN_ADDRESS_FAILURES"), RATE, rate)?,
        registration_rate: required(take("REGISTRATION_RATE"), RATE, rate)?,
        log: LogSettings {
            filter: required(take("LOG"), log_filter::ALLOWED, |text| log_filter::parse(text, warnings))?,
            format: optional(take("LOG_FORMAT"), "text or json", LogFormat::parse)?,
        },
    };
    listeners_are_apart(&settings)?;
    Ok(settings)
}

const NAME: &str = "1 to 64 of A-Z a-z 0-9 _ . : -";
const CONNECTIONS: &str = "a number from 1 to 1000000";
const NETWORKS: &str = "addresses or networks, as in 10.0.0.0/8,::1";

fn name(text: &str) -> Option<String> {
    schema::Name::is_valid(text).then(|| text.to_owned())
}

fn reachable_address(text: &str) -> Option<String> {
    let is_reachable = |address: SocketAddr| !address.ip().is_unspecified();
    peer_address(text).filter(|text| text.parse().map_or(true, is_reachable))
}

fn peer_addresses(text: &str) -> Option<Vec<String>> {
    text.split(',').map(|seed| peer_address(seed.trim())).collect()
}

fn share(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|share| is_decimal && (0.0..=1.0).contains(share))
}

fn connections(text: &str) -> Option<usize> {
    number(text).filter(|number| (1..=1_000_000).contains(number))
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |part: &str| part.parse().ok().or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from));
    list(text).map(network).collect::<Option<Vec<_>>>().filter(|networks| !networks.is_empty())
}

fn size(given: Option<Given>, range: &str, bounds: RangeInclusive<u64>) -> Result<u64, SettingsError> {
    let allowed = format!("a number and KiB, MiB or GiB; here {range}");
    required(given, &allowed, |text| bytes(text).filter(|bytes| bounds.contains(bytes)))
}

/// Two listeners on one address: the second could not be opened.
fn listeners_are_apart(settings: &Settings) -> Result<(), SettingsError> {
    let cluster = settings.cluster.as_ref().map(|cluster| cluster.listen.as_str());
    let listeners = [
        ("LISTEN", Some(settings.listen.as_str())),
        ("OPERATOR_LISTEN", settings.operator_listen.as_deref()),
        ("CLUSTER_LISTEN", cluster),
    ];
    let listeners: Vec<_> =
        listeners.into_iter().filter_map(|(name, address)| Some((name, address?))).collect();
    for (n, (name, address)) in listeners.iter().enumerate() {
        if let Some((other, _)) = listeners[..n].iter().find(|(_, other)| overlap(address, other)) {
            return Err(SettingsError::Wrong {
                name: format!("PALISADE_{name}"),
                given: (*address).to_owned(),
                allowed: format!("another address than that of PALISADE_{other}"),
            });
        }
    }
    Ok(())
}

/// Whether two listeners cannot both be open. Names are compared as text, since what they resolve to may change;
/// `localhost` is always this machine (RFC 6761, section 6.3), by IPv4 or IPv6.
fn overlap(one: &str, other: &str) -> bool {
    let ours = fixed_addresses(one);
    let theirs = fixed_addresses(other);
    if ours.is_empty() || theirs.is_empty() {
        return one.eq_ignore_ascii_case(other) && !one.ends_with(":0");
    }
    let all = |address: SocketAddr, other: SocketAddr| {
        address.ip().is_unspecified() && (address.is_ipv6() || other.is_ipv4())
    };
    let collide = |a: SocketAddr, b: SocketAddr| {
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || all(a, b) || all(b, a))
    };
    ours.iter().any(|a| theirs.iter().any(|b| collide(*a, *b)))
}

/// The addresses of `host:port`, unless the host is a name that has to be looked up.
fn fixed_addresses(text: &str) -> Vec<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return vec![SocketAddr::new(address.ip().to_canonical(), address.port())];
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Vec::new() };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_local = host == "localhost" || host.ends_with(".localhost");
    let local: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    match port.parse() {
        Ok(port) if is_local => local.map(|ip| SocketAddr::new(ip, port)).to_vec(),
        _ => Vec::new(),
    }
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
    accepted: Option<Zeroizing<Vec<u8>>>,
}

impl Cluster {
    /// `None` when nothing is to listen: the node is alone.
    fn settings(
        self,
        store: &StoreSetting,
        warnings: &mut Vec<String>,
    ) -> Result<Option<ClusterSettings>, SettingsError> {
        accepted::check("CLUSTER_SECRET", self.secret.as_ref(), self.accepted.as_ref(), warnings)?;
        let secret = self.secret.map(|secret| Secret::new(secret, &self.name)).transpose();
        let mut secret = secret.map_err(|_| wrong("CLUSTER_SECRET", HIDDEN, CLUSTER_SECRET))?;
        if let (Some(own), Some(accepted)) = (secret.clone(), self.accepted) {
            let both = own.accepting(accepted);
            secret = Some(both.map_err(|_| wrong("CLUSTER_SECRET_ACCEPTED", HIDDEN, CLUSTER_SECRET))?);
        }
        let Some(listen) = self.listen else {
            return match (self.advertise, self.seeds) {
                (None, None) => {
                    if secret.is_some() {
                        let warning = "PALISADE_CLUSTER_SECRET is set and PALISADE_CLUSTER_LISTEN is not: the node is in no cluster";
                        warnings.push(warning.into());
                    }
                    Ok(None)
                }
                _ => {
                    Err(wrong("CLUSTER_LISTEN", "not set", "with seeds or an advertised address: host:port"))
                }
            };
        };
        if matches!(store, StoreSetting::Embedded) {
            let allowed = "only with a store that nodes share: set PALISADE_STORE to cql://…";
            return Err(wrong("CLUSTER_LISTEN", &listen, allowed));
        }
        Ok(Some(ClusterSettings {
            listen,
            advertise: self.advertise,
            seeds: self.seeds.unwrap_or_default(),
            secret: secret.ok_or_else(|| wrong("CLUSTER_SECRET", "not set", CLUSTER_SECRET))?,
            name: self.name,
        }))
    }
}

pub(super) fn wrong(name: &str, given: &str, allowed: &str) -> SettingsError {
    SettingsError::Wrong {
        name: format!("PALISADE_{name}"),
        given: given.to_owned(),
        allowed: allowed.to_owned(),
    }
}

fn base64_bytes(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    STANDARD.decode(text.trim()).ok().map(Zeroizing::new)
}

/// The store that a flag names in the form of `STORE`.
///
/// # Errors
/// When it is no store.
pub fn store_setting(flag: &str, text: String) -> Result<StoreSetting, SettingsError> {
    store(Some(Given { name: flag.to_owned(), text }))
}

fn store(given: Option<Given>) -> Result<StoreSetting, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(StoreSetting::Embedded) };
    if text == "redb" {
        return Ok(StoreSetting::Embedded);
    }
    if !text.starts_with("cql://") {
        let allowed = "redb, or cql://[user:password@]host:port,host:port/keyspace".into();
        return Err(SettingsError::Wrong { name, given: shown("STORE", &text), allowed });
    }
    match text.parse::<store_scylla::Config>() {
        Ok(config) => Ok(StoreSetting::Cql(Box::new(config))),
        Err(why) => Err(SettingsError::Refused { name, given: shown("STORE", &text), why: why.to_string() }),
    }
}

fn redis(given: Option<Given>) -> Result<Option<String>, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(None) };
    match cache_redis::check_url(&text) {
        Ok(()) => Ok(Some(text)),
        Err(why) => Err(SettingsError::Refused { name, given: shown("REDIS", &text), why: why.to_string() }),
    }
}

pub(super) const HIDDEN: &str = "(hidden)";
/// Most characters of a wrong value that are repeated in the error.
const SHOWN_CHARS: usize = 200;

/// What may be shown of a text that was given for this setting: nothing of a secret, and no password of a
/// URL.
pub(super) fn shown(setting: &str, text: &str) -> String {
    let is_secret = SPECS.iter().any(|spec| spec.name == setting && !spec.flag);
    // A text that is no URL where a URL is due may be anything, such as the password that belongs into it.
    let is_word = || text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_unclear = matches!(setting, "STORE" | "REDIS") && !text.contains("://") && !is_word();
    if is_secret || is_unclear { HIDDEN.to_owned() } else { masked(text) }
}

/// The text, without the login and the options of a URL: an unencoded password may hold any character, so
/// everything before the last `@` is hidden.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return shortened(text) };
    let (login, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{HIDDEN}@"), rest),
        None => (String::new(), rest),
    };
    let (rest, options) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, format!("?{HIDDEN}")),
        None => (rest, String::new()),
    };
    // `scheme://user:password`, where the host was forgotten.
    let is_host = |host: &str| {
        host.ends_with(']')
            || host.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let hosts = rest.split('/').next().unwrap_or_default();
    let rest = if hosts.split(',').all(is_host) { rest } else { HIDDEN };
    shortened(&format!("{scheme}://{login}{rest}{options}"))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const DIRECTORY: &str = "a path, which is taken literally: without quotes, ~, $ or white space around it, \
                         and with at most 255 bytes between two slashes";

fn directory(text: &str) -> Option<PathBuf> {
    let is_literal = !text.starts_with(['~', '$', '\'']) && !text.ends_with('\'') && !text.contains('"');
    let is_short = text.len() < 4_000 && text.split('/').all(|part| part.len() <= 255);
    let is_path = !text.contains("://") && text.trim() == text && !text.chars().any(is_invisible);
    (is_literal && is_short && is_path).then(|| text.into())
}

/// Separators of lines, marks of direction and characters without a width, beside controls.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Digits alone: `parse` would take a sign too.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit: u64 = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn optional<T>(
    given: Option<Given>,
    allowed: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, SettingsError> {
    let Some(Given { name, text }) = given else { return Ok(None) };
    match read(&text) {
        Some(value) => Ok(Some(value)),
        None => Err(SettingsError::Wrong { name, given: masked(&text), allowed: allowed.to_owned() }),
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
        given: masked(&text),
        allowed: allowed.to_owned(),
    })
}

const ADDRESS: &str =
    "host:port, as in 127.0.0.1:8080, [::1]:8080 or localhost:8080; no multicast or broadcast address";

fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let host_is_good = if host.starts_with('[') {
        text.parse::<SocketAddrV6>().is_ok()
    } else {
        host.parse::<Ipv4Addr>().is_ok() || is_name(host)
    };
    (host_is_good && number::<u16>(port).is_some() && !is_of_a_group(text)).then(|| text.to_owned())
}

/// Whether this is a multicast or the broadcast address: no connection can be made to one.
fn is_of_a_group(text: &str) -> bool {
    let ip = text.parse().ok().map(|address: SocketAddr| address.ip().to_canonical());
    ip.is_some_and(|ip| ip.is_multicast() || ip == Ipv4Addr::BROADCAST)
}

/// A name that can be looked up (RFC 1123, section 2.1; underscores too, since container networks have
/// them). One that ends with a number is an IPv4 address with a mistake in it.
fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    host.len() <= 253 && host.split('.').all(label) && !host.rsplit('.').next().is_some_and(is_number)
}

const REACHABLE: &str = "host:port that other nodes can reach, as in 10.0.0.7:7080";

/// One address of a node, with a port that is known.
fn peer_address(text: &str) -> Option<String> {
    address(text).filter(|text| text.rsplit_once(':').is_some_and(|(_, port)| port.parse() != Ok(0_u16)))
}

const CLAIM: &str = "1 to 200 visible characters, without white space around them";

fn claim(text: &str) -> Option<String> {
    let is_plain = text.trim() == text && !text.chars().any(is_invisible);
    (is_plain && (1..=200).contains(&text.chars().count())).then(|| text.to_owned())
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

const RATE: &str = "off, or a number, a slash and a duration of at most 30d, as in 10/15m";

fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "off" {
        return Some(None);
    }
    let rate = text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse::<Rate>())?.ok()?;
    (rate.window <= Duration::from_secs(30 * DAY)).then_some(Some(rate))
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
