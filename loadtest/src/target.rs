//! The targets of requests, and the guard against load on machines of others.
//!
//! Promises: without `--yes-i-own-it`, every address of every target is a loopback address. A name is looked up
//! once, and requests go only to the address that was checked, so a name cannot change its meaning in between.
//! Never speaks TLS: nodes speak plain HTTP, and a proxy before them is not what is measured.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use thiserror::Error;

/// The base URL of a node, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL as it is shown: `http://127.0.0.1:8080`.
    pub url: String,
    /// The value of `Host`.
    pub authority: String,
    /// The prefix of paths: empty, or `/auth`.
    pub base: String,
    /// The address that requests go to.
    pub address: SocketAddr,
}

/// Why a text is not a target.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TargetError {
    #[error("`{0}`: nodes speak plain HTTP; give the address behind the proxy that ends TLS")]
    Tls(String),
    #[error("`{0}` is not a base URL such as http://127.0.0.1:8080")]
    NotABaseUrl(String),
    #[error("`{url}` cannot be looked up: {why}")]
    Lookup { url: String, why: String },
    #[error(
        "`{url}` is at {address}, which is not this machine. An unexpected load test is an attack: add --yes-i-own-it if \
         this deployment is yours"
    )]
    NotThisMachine { url: String, address: IpAddr },
}

/// Parses a base URL and looks up its address, which may be on another machine only if `owned`.
pub fn parse(text: &str, owned: bool) -> Result<Target, TargetError> {
    let (authority, base) = split(text)?;
    let lookup = if has_port(&authority) { authority.clone() } else { format!("{authority}:80") };
    let failed = |why: String| TargetError::Lookup { url: text.to_owned(), why };
    let addresses: Vec<SocketAddr> =
        lookup.to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
    if !owned && let Some(stranger) = addresses.iter().find(|address| !is_loopback(address.ip())) {
        return Err(TargetError::NotThisMachine { url: text.to_owned(), address: stranger.ip() });
    }
    // `localhost` is ::1 first, but nodes listen on 127.0.0.1 by default.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let address = *address.ok_or_else(|| failed("no address".into()))?;
    Ok(Target { url: format!("http://{authority}{base}"), authority, base, address })
}

fn split(text: &str) -> Result<(String, String), TargetError> {
    let not_a_base_url = || TargetError::NotABaseUrl(text.to_owned());
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(TargetError::Tls(text.to_owned())),
        Some(_) => return Err(not_a_base_url()),
        None => text,
    };
    let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
    let base = base.trim_end_matches('/');
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let odd = |c: char| "?#@\\".contains(c);
    if authority.is_empty() || !visible(rest) || rest.contains(odd) {
        return Err(not_a_base_url());
    }
    let base = if base.is_empty() { String::new() } else { format!("/{base}") };
    Ok((authority.to_owned(), base))
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && (!host.contains(':') || host.ends_with(']'))
    })
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_parsed() {
        let target = parse("http://127.0.0.1:8080/auth/", false).unwrap();
        assert_eq!((target.authority.as_str(), target.base.as_str()), ("127.0.0.1:8080", "/auth"));
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(parse("127.0.0.9", false).unwrap().address, "127.0.0.9:80".parse().unwrap());
        assert_eq!(parse("http://[::1]:81", false).unwrap().address, "[::1]:81".parse().unwrap());
        assert!(parse("http://localhost:8080", false).unwrap().address.ip().is_loopback());
    }

    #[test]
    fn other_machines_are_refused() {
        for url in [
            "http://192.0.2.1",
            "10.0.0.1:80",
            "http://0.0.0.0:1",
            "http://[2001:db8::1]:80",
            "http://[::]:1",
        ] {
            assert!(matches!(parse(url, false), Err(TargetError::NotThisMachine { .. })), "{url}");
            assert!(parse(url, true).is_ok(), "{url}");
        }
        assert!(parse("http://[::ffff:192.0.2.1]:1", false).is_err());
        assert!(parse("http://[::ffff:127.0.0.1]:1", false).is_ok());
    }

    #[test]
    fn other_texts_are_refused() {
        for url in [
            "",
            "http://",
            "ftp://127.0.0.1",
            "http://a@127.0.0.1",
            "http://127.0.0.1/?a",
            "http://127.0.0.1:80\r\n",
        ] {
            assert!(matches!(parse(url, true), Err(TargetError::NotABaseUrl(_))), "{url}");
        }
        assert!(matches!(parse("https://127.0.0.1", true), Err(TargetError::Tls(_))));
    }
}
