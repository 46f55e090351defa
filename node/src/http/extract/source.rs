//! The source of a request, resolved only when it is needed: for an uncached token, and for a body.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, request::Parts},
};

use super::client::{self, Peer};
use crate::{
    app::App,
    scheduling::source::{Network, Source},
    settings::Settings,
};

/// The peer and the head of a request, from which its [`Source`] is resolved on demand.
#[derive(Debug, Clone, Copy)]
pub struct LazySource<'a> {
    peer: SocketAddr,
    head: Head<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Head<'a> {
    Headers(&'a HeaderMap),
    /// A complete HTTP/1.1 head, parsed only on demand.
    Bytes(&'a [u8]),
}

impl<'a> LazySource<'a> {
    /// The source of a request in the router. Without a known peer it is 0.0.0.0.
    #[must_use]
    pub fn of(extensions: &Extensions, headers: &'a HeaderMap) -> Self {
        let unspecified = Peer(SocketAddr::from(([0, 0, 0, 0], 0)));
        let Peer(peer) = extensions.get().copied().unwrap_or(unspecified);
        Self { peer, head: Head::Headers(headers) }
    }

    /// Like [`Self::of`], from the parts of a request.
    #[must_use]
    pub fn of_parts(parts: &'a Parts) -> Self {
        Self::of(&parts.extensions, &parts.headers)
    }

    /// The source of a request with these headers on a connection with this peer.
    #[must_use]
    pub const fn with_headers(peer: SocketAddr, headers: &'a HeaderMap) -> Self {
        Self { peer, head: Head::Headers(headers) }
    }

    /// The source of a request with this HTTP/1.1 head on a connection with this peer.
    #[must_use]
    pub const fn with_head(peer: SocketAddr, head: &'a [u8]) -> Self {
        Self { peer, head: Head::Bytes(head) }
    }

    /// The source whose share the request uses. Reads headers only if the peer is a trusted proxy.
    #[must_use]
    pub fn resolve(&self, settings: &Settings) -> Source {
        let peer = self.peer.ip().to_canonical();
        if !settings.trusts(peer) {
            return Source { network: Network::from(peer), connection: self.peer, is_proxy: false };
        }
        let client = match self.head {
            Head::Headers(headers) => client::quiet_address(peer, headers, settings),
            Head::Bytes(head) => client::quiet_address(peer, &forwarded(head), settings),
        };
        Source {
            network: Network::from(client),
            connection: self.peer,
            is_proxy: settings.trusts(client.to_canonical()),
        }
    }
}

impl FromRequestParts<Arc<App>> for Source {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(LazySource::of_parts(parts).resolve(&app.settings))
    }
}

/// The `X-Forwarded-For` headers in a head.
fn forwarded(head: &[u8]) -> HeaderMap {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let mut found = HeaderMap::new();
    if request.parse(head).is_ok() {
        for header in request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(FORWARDED_FOR.as_str())) {
            if let Ok(value) = HeaderValue::from_bytes(header.value) {
                found.append(FORWARDED_FOR, value);
            }
        }
    }
    found
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The most headers that are parsed in a head; the fast path accepts fewer.
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::settings::{self, Sources};

    #[test]
    fn bytes_and_parsed_headers_resolve_to_the_same_source() {
        let mut sources = Sources::default();
        sources.flags.insert("TRUSTED_PROXIES", "10.0.0.0/8".to_owned());
        let settings = settings::read(&sources).unwrap().0;
        let source = |peer: &str, lines: &[&str]| {
            let peer = SocketAddr::new(peer.parse().unwrap(), 7);
            let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", lines.concat());
            let mut headers = HeaderMap::new();
            for line in lines {
                let value = line.split_once(':').unwrap().1.trim();
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let of_head = LazySource::with_head(peer, head.as_bytes()).resolve(&settings);
            assert_eq!(of_head, LazySource::with_headers(peer, &headers).resolve(&settings), "{lines:?}");
            of_head
        };
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        let stranger = source("192.0.2.1", &["X-Forwarded-For: 198.51.100.7\r\n"]);
        assert_eq!(
            (stranger.network, stranger.is_proxy),
            (network("192.0.2.1"), false),
            "its header is not trusted"
        );
        let client =
            source("10.0.0.1", &["X-Forwarded-For: 203.0.113.9\r\n", "x-forwarded-for: 198.51.100.7\r\n"]);
        assert_eq!((client.network, client.is_proxy), (network("198.51.100.7"), false));
        assert!(source("10.0.0.1", &[]).is_proxy, "the proxy names no client");
    }
}
