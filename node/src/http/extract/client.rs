//! The client of a request: its address and its user agent.
//!
//! `X-Forwarded-For` is trusted only as far as the chain of trusted proxies reaches: from the right, the first
//! address that is not a trusted proxy is the client. Without a trusted proxy the header has no effect.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use schema::text::UserAgent;

use super::source::LazySource;
use crate::{
    accounts::Client, app::App, http::respond::problem::Problem, logging::occasional::excerpt,
    settings::Settings,
};

/// The header in which proxies append the address of their client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the connection, put into each request by the server.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let unspecified = Peer(SocketAddr::from(([0, 0, 0, 0], 0)));
        let Peer(peer) = parts.extensions.get().copied().unwrap_or(unspecified);
        let user_agent = parts
            .headers
            .get(header::USER_AGENT)
            .map(|value| UserAgent::clean(&String::from_utf8_lossy(value.as_bytes())).into_string());
        let source = LazySource::of_parts(parts).resolve(&app.settings);
        Ok(Self { ip_address: address(peer.ip(), &parts.headers, app), user_agent, source })
    }
}

/// The client's address, and a problem with the headers, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found<'a> {
    Address(IpAddr),
    /// The request has `X-Forwarded-For`, but no proxy is trusted.
    Ignored(IpAddr),
    /// A trusted proxy sent this hop, which cannot be parsed. The address is that of the last readable hop.
    Unreadable(IpAddr, &'a [u8]),
}

/// The client's address, as far as it is known. Problems with the headers are not logged.
pub(super) fn quiet_address(peer: IpAddr, headers: &HeaderMap, settings: &Settings) -> IpAddr {
    match find(peer, headers, settings) {
        Found::Address(address) | Found::Ignored(address) | Found::Unreadable(address, _) => address,
    }
}

/// Finds the client: from the connection's peer leftwards, as far as the proxies are trusted.
fn find<'a>(peer: IpAddr, headers: &'a HeaderMap, settings: &Settings) -> Found<'a> {
    let mut client = peer.to_canonical();
    let values = headers.get_all(FORWARDED_FOR);
    if settings.trusted_proxies.is_empty() {
        let is_there = values.iter().next().is_some();
        return if is_there { Found::Ignored(client) } else { Found::Address(client) };
    }
    // Each proxy appends, so the nearest one wrote the end of the last line (RFC 9110, section 5.3).
    for hop in values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
        // Empty list elements are ignored (RFC 9110, section 5.6.1.2).
        let hop = hop.trim_ascii();
        if hop.is_empty() {
            continue;
        }
        if !settings.trusts(client) {
            break;
        }
        match read_hop(hop) {
            Some(address) => client = address,
            None => return Found::Unreadable(client, hop),
        }
    }
    Found::Address(client)
}

/// The address of a hop: an IPv4 or IPv6 address, perhaps in brackets, with a port, with a zone
/// (RFC 4007, section 11), or in quotes, as proxies write it.
fn read_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let text = quoted.unwrap_or(text).trim();
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
                return None;
            }
            host
        }
        None => match text.split_once(':') {
            // A single colon separates IPv4 and port. IPv6 has at least two.
            Some((host, port)) if !port.contains(':') => {
                return host.parse().ok().filter(|_| is_port(port)).map(IpAddr::V4);
            }
            _ => text,
        },
    };
    // A zone has a meaning on the proxy's machine only.
    let host = match host.split_once('%') {
        Some((host, zone)) if host.contains(':') && !zone.is_empty() => host,
        Some(_) => return None,
        None => host,
    };
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// The client's address. Logs a warning if `X-Forwarded-For` is ignored or unreadable.
fn address(peer: IpAddr, headers: &HeaderMap, app: &App) -> IpAddr {
    match find(peer, headers, &app.settings) {
        Found::Address(address) => address,
        Found::Ignored(address) => {
            if !app.warnings.forwarded_ignored.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    peer = %address,
                    "X-Forwarded-For ignored: PALISADE_TRUSTED_PROXIES is not set, so all clients of a proxy \
                     share one address and its limits. Logged once"
                );
            }
            address
        }
        Found::Unreadable(address, hop) => {
            app.metrics.forwarded_unreadable();
            if let Some(left_out) = app.warnings.forwarded_unreadable.due(app.clocks.monotonic()) {
                let hop = excerpt(&String::from_utf8_lossy(hop));
                tracing::warn!(
                    proxy = %address, ?hop, left_out,
                    "X-Forwarded-For of a trusted proxy cannot be read: using the proxy's own address"
                );
            }
            address
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::settings::{self, Sources};

    const PROXY: &str = "10.0.0.1";

    fn settings(trusted: Option<&str>) -> Settings {
        let trusted = trusted.map(|trusted| ("PALISADE_TRUSTED_PROXIES".into(), trusted.into()));
        let sources = Sources { environment: trusted.into_iter().collect(), ..Sources::default() };
        settings::read(&sources).unwrap().0
    }

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let line = |line: &&[u8]| (FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        lines.iter().map(line).collect()
    }

    #[test]
    fn every_form_of_a_hop_is_read() {
        let settings = settings(Some("10.0.0.0/8,2001:db8:ffff::/48,::ffff:192.168.0.0/112"));
        for (lines, client) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["198.51.100.7:51234"][..], "198.51.100.7"),
            (&[r#""198.51.100.7:51234""#][..], "198.51.100.7"),
            (&["2001:db8::7"][..], "2001:db8::7"),
            (&["[2001:db8::7]"][..], "2001:db8::7"),
            (&["[2001:db8::7]:443"][..], "2001:db8::7"),
            (&[r#""[2001:db8::7]""#][..], "2001:db8::7"),
            (&[r#""[2001:db8::7]:443""#][..], "2001:db8::7"),
            (&["fe80::7%eth0"][..], "fe80::7"),
            (&["[fe80::7%25eth0]:443"][..], "fe80::7"),
            (&["::ffff:198.51.100.7"][..], "198.51.100.7"),
            (&["[::ffff:198.51.100.7]:443"][..], "198.51.100.7"),
            (&["198.51.100.7,"][..], "198.51.100.7"),
            (&[" ,\t198.51.100.7 , ,"][..], "198.51.100.7"),
            (&["198.51.100.7", ""][..], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7"][..], "198.51.100.7"),
            (&["203.0.113.9", "198.51.100.7"][..], "198.51.100.7"),
            (&["198.51.100.7, 10.1.1.1", "[2001:db8:ffff::1]:80, 192.168.3.4"][..], "198.51.100.7"),
            (&["nonsense, 198.51.100.7, 10.1.1.1:80"][..], "198.51.100.7"),
            (&["10.2.2.2, 10.1.1.1"][..], "10.2.2.2"),
            (&[","][..], PROXY),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            let headers = headers(&lines);
            for peer in [PROXY, "::ffff:10.0.0.1"] {
                let found = find(peer.parse().unwrap(), &headers, &settings);
                assert_eq!(found, Found::Address(client.parse().unwrap()), "{lines:?}");
            }
        }
    }

    #[test]
    fn unreadable_hop_leaves_the_address_of_the_last_proxy() {
        let settings = settings(Some("10.0.0.0/8"));
        for hop in [
            &b"unknown"[..],
            b"_hidden",
            b"198.51.100.7:port",
            b"198.51.100.7:123456",
            b"198.51.100.7 203.0.113.9",
            b"198.51.100.007",
            b"198.51.100.7%eth0",
            b"[2001:db8::7",
            b"2001:db8::7]",
            b"[2001:db8::7]443",
            b"[2001:db8::7]:x",
            b"\"198.51.100.7",
            b"2001:db8::7%",
            b"\xff\xfe",
            b"for=198.51.100.7",
        ] {
            let headers = headers(&[b"198.51.100.7", hop]);
            let found = find(PROXY.parse().unwrap(), &headers, &settings);
            assert_eq!(found, Found::Unreadable(PROXY.parse().unwrap(), hop), "{hop:?}");
            let headers = self::headers(&[b"203.0.113.9", hop, b"10.1.1.1"]);
            let found = find(PROXY.parse().unwrap(), &headers, &settings);
            assert_eq!(found, Found::Unreadable("10.1.1.1".parse().unwrap(), hop), "{hop:?}");
        }
    }

    #[test]
    fn untrusted_peer_cannot_set_its_address() {
        let headers = headers(&[b"203.0.113.9, nonsense"]);
        let stranger: IpAddr = "198.51.100.7".parse().unwrap();
        assert_eq!(find(stranger, &headers, &settings(Some("10.0.0.0/8"))), Found::Address(stranger));
        assert_eq!(find(stranger, &headers, &settings(None)), Found::Ignored(stranger));
        assert_eq!(find(stranger, &HeaderMap::new(), &settings(None)), Found::Address(stranger));
    }

    proptest::proptest! {
        #[test]
        fn address_is_read_in_every_form(address: IpAddr, port: u16) {
            let forms = match address {
                IpAddr::V4(_) => vec![format!("{address}"), format!("{address}:{port}")],
                IpAddr::V6(_) => {
                    vec![format!("{address}"), format!("[{address}]"), format!("[{address}]:{port}")]
                }
            };
            for form in forms {
                let expected = Some(address.to_canonical());
                proptest::prop_assert_eq!(read_hop(form.as_bytes()), expected);
                proptest::prop_assert_eq!(read_hop(format!("\"{form}\"").as_bytes()), expected);
            }
        }

        #[test]
        fn arbitrary_hop_does_not_panic(hop: Vec<u8>) {
            let _ = read_hop(&hop);
        }
    }
}
