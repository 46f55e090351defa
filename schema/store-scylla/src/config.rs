//! The address of the database, in one line: `cql://…`.

use std::{fmt, path::PathBuf, str::FromStr};

use percent_encoding::percent_decode_str;

/// The port of a host without one: that of CQL.
const DEFAULT_PORT: u16 = 9042;
/// Limit of the length of a keyspace's name on both servers, in bytes.
const KEYSPACE_NAME_MAX: usize = 48;
/// The error sentence about options.
const OPTIONS: &str = "the options are replication_factor, replication, local_dc, rack, tls and tls_ca";

/// The address of the database, with the credentials and options to connect to it.
///
/// `cql://[user:password@]host[:port][,host[:port]…]/keyspace[?option=value[&…]]`
///
/// | option | means | without it |
/// |---|---|---|
/// | `replication_factor` | replicas in each data centre, for a keyspace that the node creates | 3, or the number of nodes |
/// | `replication` | replicas in each named data centre: `dc1:3,dc2:2` | as above |
/// | `local_dc` | the data centre whose nodes are preferred | no preference |
/// | `rack` | the rack whose nodes are preferred; needs `local_dc` | no preference |
/// | `tls` | `on`: connections are encrypted and servers verified | `off` |
/// | `tls_ca` | a PEM file of the certificate authorities that may sign servers' certificates; needs `tls=on` | the system's |
///
/// User and password are percent-decoded. The driver connects by address, so a server's certificate
/// must name its IP address.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) login: Option<Login>,
    pub(crate) hosts: Vec<String>,
    pub(crate) keyspace: String,
    pub(crate) replication: Replication,
    pub(crate) local_dc: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) tls: Option<Tls>,
}

impl Config {
    /// Whether both name a keyspace of the same database, as far as their texts tell.
    #[must_use]
    pub fn is_same_store(&self, other: &Self) -> bool {
        self.keyspace == other.keyspace && self.hosts.iter().any(|host| other.hosts.contains(host))
    }
}

/// A user and a password of the database.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// How many replicas a keyspace has that the node creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replication {
    /// Three in each data centre, or as many as it has nodes.
    ByNodes,
    /// This number in each data centre.
    Everywhere(u8),
    /// These numbers in these data centres, none in others.
    In(Vec<(String, u8)>),
}

/// How servers are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The PEM file of certificate authorities; `None` for the system's.
    pub(crate) ca: Option<PathBuf>,
}

/// The text is no address of a database. The error describes the allowed form and never quotes the text,
/// which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(&'static str);

const FORM: BadConfig = BadConfig(
    "the address of the database is cql://[user:password@]host:port[,host:port]/keyspace[?option=value]",
);
const LOGIN: BadConfig = BadConfig("before the @ of the address stand user:password, percent-encoded");
const HOST: BadConfig = BadConfig(
    "a host of the address is a name, an IPv4 address or an IPv6 address in [], with a port from 1 to 65535",
);
const KEYSPACE: BadConfig =
    BadConfig("the keyspace begins with a letter and has at most 48 letters a-z, digits and underscores");
const REPLICATION: BadConfig =
    BadConfig("replication_factor is a number from 1 to 9; replication is dc1:3,dc2:3; not both");
const PLACE: BadConfig = BadConfig("local_dc and rack are names; rack needs local_dc");
const TLS: BadConfig = BadConfig("tls is on or off; tls_ca is a path and needs tls=on");
const TWICE: BadConfig = BadConfig("each option of the address is given once at most");

impl Config {
    /// Reads the files that the options name, so that a wrong path is found before anything is created.
    ///
    /// # Errors
    /// Why a file cannot be used, as a sentence for an operator.
    pub fn check_files(&self) -> Result<(), String> {
        self.tls.as_ref().map_or(Ok(()), |tls| crate::tls::client(tls).map(drop))
    }
}

impl FromStr for Config {
    type Err = BadConfig;

    fn from_str(text: &str) -> Result<Self, BadConfig> {
        let rest = text.strip_prefix("cql://").ok_or(FORM)?;
        let (before, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, keyspace) = before.rsplit_once('/').ok_or(FORM)?;
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(parse_login(login)?), hosts),
            None => (None, authority),
        };
        let mut config = Self {
            login,
            hosts: hosts.split(',').map(parse_host).collect::<Result<_, _>>()?,
            keyspace: parse_keyspace(keyspace)?,
            replication: Replication::ByNodes,
            local_dc: None,
            rack: None,
            tls: None,
        };
        Options::parse(options)?.apply_to(&mut config)?;
        Ok(config)
    }
}

/// The options of an address, decoded but not yet checked.
#[derive(Default)]
struct Options {
    replication_factor: Option<String>,
    replication: Option<String>,
    local_dc: Option<String>,
    rack: Option<String>,
    tls: Option<String>,
    tls_ca: Option<String>,
}

impl Options {
    fn parse(text: &str) -> Result<Self, BadConfig> {
        let mut options = Self::default();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or(BadConfig(OPTIONS))?;
            let option = match name {
                "replication_factor" => &mut options.replication_factor,
                "replication" => &mut options.replication,
                "local_dc" => &mut options.local_dc,
                "rack" => &mut options.rack,
                "tls" => &mut options.tls,
                "tls_ca" => &mut options.tls_ca,
                _ => return Err(BadConfig(OPTIONS)),
            };
            if option.replace(decode(value, BadConfig(OPTIONS))?).is_some() {
                return Err(TWICE);
            }
        }
        Ok(options)
    }

    /// Checks the options and sets them.
    fn apply_to(self, config: &mut Config) -> Result<(), BadConfig> {
        config.replication = match (self.replication_factor, self.replication) {
            (None, None) => Replication::ByNodes,
            (Some(factor), None) => Replication::Everywhere(parse_factor(&factor)?),
            (None, Some(each)) => Replication::In(parse_replication(&each)?),
            (Some(_), Some(_)) => return Err(REPLICATION),
        };
        let named = |name: &Option<String>| name.as_ref().is_none_or(|name| is_topology_name(name));
        if !named(&self.local_dc) || !named(&self.rack) || (self.rack.is_some() && self.local_dc.is_none()) {
            return Err(PLACE);
        }
        config.local_dc = self.local_dc;
        config.rack = self.rack;
        config.tls = match (self.tls.as_deref(), self.tls_ca) {
            (None | Some("off"), None) => None,
            (Some("on"), None) => Some(Tls { ca: None }),
            (Some("on"), Some(path)) if !path.is_empty() => Some(Tls { ca: Some(path.into()) }),
            _ => return Err(TLS),
        };
        Ok(())
    }
}

fn decode(text: &str, otherwise: BadConfig) -> Result<String, BadConfig> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| otherwise)
}

fn parse_login(text: &str) -> Result<Login, BadConfig> {
    let (user, password) = text.split_once(':').ok_or(LOGIN)?;
    // The characters that separate hosts, path and options must be encoded, else the rest is misread.
    if user.is_empty() || text.contains(['/', '@']) {
        return Err(LOGIN);
    }
    Ok(Login { user: decode(user, LOGIN)?, password: decode(password, LOGIN)? })
}

/// Parses a host with or without a port into `host:port`.
fn parse_host(text: &str) -> Result<String, BadConfig> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(HOST)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| HOST)?;
            (
                format!("[{address}]"),
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(HOST)?) },
            )
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
                return Err(HOST);
            }
            (host.to_owned(), port)
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(HOST)?,
    };
    Ok(format!("{host}:{port}"))
}

fn parse_keyspace(text: &str) -> Result<String, BadConfig> {
    let is_valid = text.len() <= KEYSPACE_NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_valid { Ok(text.to_owned()) } else { Err(KEYSPACE) }
}

fn parse_factor(text: &str) -> Result<u8, BadConfig> {
    text.parse().ok().filter(|factor| (1..=9).contains(factor)).ok_or(REPLICATION)
}

fn parse_replication(text: &str) -> Result<Vec<(String, u8)>, BadConfig> {
    let mut each: Vec<(String, u8)> = Vec::new();
    for part in text.split(',') {
        let (dc, factor) = part.rsplit_once(':').ok_or(REPLICATION)?;
        if !is_topology_name(dc) || each.iter().any(|(other, _)| other == dc) {
            return Err(REPLICATION);
        }
        each.push((dc.to_owned(), parse_factor(factor)?));
    }
    Ok(each)
}

/// Whether a text is a valid name of a data centre or rack. Such names become part of a CQL statement, so
/// characters that could end a string are not allowed.
fn is_topology_name(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-._ ".contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(plain)
}

/// Shows the user, never the password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("user", &self.login.as_ref().map(|login| &login.user))
            .field("hosts", &self.hosts)
            .field("keyspace", &self.keyspace)
            .field("replication", &self.replication)
            .field("local_dc", &self.local_dc)
            .field("rack", &self.rack)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Config {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn shortest_and_longest_address_parse() {
        let shortest = parsed("cql://db/palisade");
        assert_eq!((shortest.hosts, shortest.keyspace.as_str()), (vec!["db:9042".to_owned()], "palisade"));
        assert!(shortest.login.is_none() && shortest.tls.is_none());
        let longest = parsed(
            "cql://ann:p%40ss%3Aw%2Ford@db-1.example.org,10.0.0.1:9142,[::1],[2001:db8::1]:7/p_1\
             ?replication=dc1:3,dc%202:2&local_dc=dc1&rack=r1&tls=on&tls_ca=%2Fetc%2Fca.pem",
        );
        let login = longest.login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("ann", "p@ss:w/ord"));
        assert_eq!(
            longest.hosts,
            ["db-1.example.org:9042", "10.0.0.1:9142", "[::1]:9042", "[2001:db8::1]:7"]
        );
        assert_eq!(longest.replication, Replication::In(vec![("dc1".into(), 3), ("dc 2".into(), 2)]));
        assert_eq!((longest.local_dc.as_deref(), longest.rack.as_deref()), (Some("dc1"), Some("r1")));
        assert_eq!(longest.tls, Some(Tls { ca: Some("/etc/ca.pem".into()) }));
        assert_eq!(parsed("cql://db/p?replication_factor=5").replication, Replication::Everywhere(5));
        assert_eq!(parsed("cql://db/p?tls=off").tls, None);
        assert_eq!(parsed("cql://ann:@db/p").login.unwrap().password, "");
        assert_eq!(parsed("cql://ann:a:b@db/p").login.unwrap().password, "a:b");
    }

    #[test]
    fn invalid_address_is_rejected_without_the_password() {
        let long = format!("cql://u:S3CRET@db/{}", "k".repeat(49));
        for wrong in [
            "",
            "S3CRET",
            "redb://u:S3CRET@db/p",
            "cql:/u:S3CRET@db/p",
            "cql://u:S3CRET@db",
            "cql://u:S3CRET@/p",
            "cql://u:S3CRET@db/",
            "cql://u:S3CRET@db/P",
            "cql://u:S3CRET@db/1p",
            "cql://u:S3CRET@db/_p",
            "cql://u:S3CRET@db/p-q",
            "cql://u:S3CRET@db/p;drop",
            "cql://u:S3CRET@db/\u{e4}",
            &long,
            "cql://S3CRET@db/p",
            "cql://:S3CRET@db/p",
            "cql://u:S3CRET%ff@db/p",
            "cql://u:S3C/RET@db/p",
            "cql://u:S3C@RET@db/p",
            "cql://u:S3C?RET@db/p",
            "cql://u:S3CRET@db:0/p",
            "cql://u:S3CRET@db:65536/p",
            "cql://u:S3CRET@db:/p",
            "cql://u:S3CRET@db:x/p",
            "cql://u:S3CRET@db,/p",
            "cql://u:S3CRET@a b/p",
            "cql://u:S3CRET@[::1/p",
            "cql://u:S3CRET@[::g]/p",
            "cql://u:S3CRET@[::1]x/p",
            "cql://u:S3CRET@db/p?unknown=S3CRET",
            "cql://u:S3CRET@db/p?tls",
            "cql://u:S3CRET@db/p?tls=yes",
            "cql://u:S3CRET@db/p?tls=on&tls=on",
            "cql://u:S3CRET@db/p?tls_ca=/x",
            "cql://u:S3CRET@db/p?tls=off&tls_ca=/x",
            "cql://u:S3CRET@db/p?tls=on&tls_ca=",
            "cql://u:S3CRET@db/p?rack=r1",
            "cql://u:S3CRET@db/p?local_dc=",
            "cql://u:S3CRET@db/p?local_dc=a'b",
            "cql://u:S3CRET@db/p?replication_factor=0",
            "cql://u:S3CRET@db/p?replication_factor=10",
            "cql://u:S3CRET@db/p?replication_factor=x",
            "cql://u:S3CRET@db/p?replication_factor=3&replication=dc1:3",
            "cql://u:S3CRET@db/p?replication=dc1",
            "cql://u:S3CRET@db/p?replication=dc1:3,",
            "cql://u:S3CRET@db/p?replication=dc1:3,dc1:2",
            "cql://u:S3CRET@db/p?replication=d'c:3",
        ] {
            let error = wrong.parse::<Config>().map(drop).expect_err(wrong);
            assert!(!error.to_string().contains("S3C"), "{wrong}: {error}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let text = format!("{:?}", parsed("cql://ann:S3CRET@db/p"));
        assert!(text.contains("ann") && !text.contains("S3CRET"), "{text}");
    }
}
