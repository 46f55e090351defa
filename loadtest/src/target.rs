//! Where requests go, and the guard that keeps them from going to strangers.
//!
//! Promises: without `--yes-i-own-it` every address of every target is a loopback address, looked up once;
//! requests go only to the addresses that were looked at, so a name cannot change its meaning in between.
//! Never speaks TLS: nodes speak plain HTTP, and what stands before them is not what is measured.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use thiserror::Error;

/// A base URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it is shown: `http://127.0.0.1:8080`.
    pub url: String,
    /// What `Host` says.
    pub authority: String,
    /// What paths begin with: empty, or `/auth`.
    pub base: String,
    /// Where it is.
    pub address: SocketAddr,
}

/// Why a target is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TargetError {
    #[error("`{0}`: nodes speak plain HTTP; give the address behind the proxy that ends TLS")]
    Tls(String),
    #[error("`{0}` is no base URL: give one like http://127.0.0.1:8080")]
    Shape(String),
    #[error("`{url}` cannot be looked up: {why}")]
    Lookup { url: String, why: String },
    #[error(
        "`{url}` is at {address}, which is not this machine. A load test is an attack on who does not expect \
         it: add --yes-i-own-it if this deployment is yours"
    )]
    Stranger { url: String, address: IpAddr },
}

/// Reads a base URL and looks it up. `owned`: it may be on another machine.
pub fn parse(text: &str, owned: bool) -> Result<Target, TargetError> {
    let (authority, base) = split(text)?;
    let lookup = if has_port(&authority) { authority.clone() } else { format!("{authority}:80") };
    let failed = |why: String| TargetError::Lookup { url: text.to_owned(), why };
    let addresses: Vec<SocketAddr> =
        lookup.to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
    if !owned && let Some(stranger) = addresses.iter().find(|address| !is_loopback(address.ip())) {
        return Err(TargetError::Stranger { url: text.to_owned(), address: stranger.ip() });
    }
    // `localhost` is ::1 first; nodes listen on 127.0.0.1 unless told otherwise.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let address = *address.ok_or_else(|| failed("no address".into()))?;
    Ok(Target { url: format!("http://{authority}{base}"), authority, base, address })
}

fn split(text: &str) -> Result<(String, String), TargetError> {
    let shape = || TargetError::Shape(text.to_owned());
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(TargetError::Tls(text.to_owned())),
        Some(_) => return Err(shape()),
        None => text,
    };
    let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
    let base = base.trim_end_matches('/');
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let odd = |c: char| "?#@\\".contains(c);
    if authority.is_empty() || !visible(rest) || rest.contains(odd) {
        return Err(shape());
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
    fn a_base_url_is_read() {
        let target = parse("http://127.0.0.1:8080/auth/", false).unwrap();
        assert_eq!((target.authority.as_str(), target.base.as_str()), ("127.0.0.1:8080", "/auth"));
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(parse("127.0.0.9", false).unwrap().address, "127.0.0.9:80".parse().unwrap());
        assert_eq!(parse("http://[::1]:81", false).unwrap().address, "[::1]:81".parse().unwrap());
        assert!(parse("http://localhost:8080", false).unwrap().address.ip().is_loopback());
    }

    #[test]
    fn strangers_are_refused() {
        for url in [
            "http://192.0.2.1",
            "10.0.0.1:80",
            "http://0.0.0.0:1",
            "http://[2001:db8::1]:80",
            "http://[::]:1",
        ] {
            assert!(matches!(parse(url, false), Err(TargetError::Stranger { .. })), "{url}");
            assert!(parse(url, true).is_ok(), "{url}");
        }
        assert!(parse("http://[::ffff:192.0.2.1]:1", false).is_err());
        assert!(parse("http://[::ffff:127.0.0.1]:1", false).is_ok());
    }

    #[test]
    fn what_is_no_base_url_is_said() {
        for url in [
            "",
            "http://",
            "ftp://127.0.0.1",
            "http://a@127.0.0.1",
            "http://127.0.0.1/?a",
            "http://127.0.0.1:80\r\n",
        ] {
            assert!(matches!(parse(url, true), Err(TargetError::Shape(_))), "{url}");
        }
        assert!(matches!(parse("https://127.0.0.1", true), Err(TargetError::Tls(_))));
    }
}
