//! Who is at the other end: the address that counts, and what the client calls itself.
//!
//! `X-Forwarded-For` is believed only as far as the chain of trusted proxies reaches: from the
//! right, the first address that is no trusted proxy is the client. A client that is not behind a
//! trusted proxy changes nothing with it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use schema::text::UserAgent;

use super::problem::Problem;
use crate::{app::App, settings::Settings};

/// The address of the connection, put into each request by the server.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address.
    pub ip_address: IpAddr,
    /// `User-Agent`, cleaned and cut to a bound.
    pub user_agent: Option<String>,
}

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let unspecified = Peer(SocketAddr::from(([0, 0, 0, 0], 0)));
        let Peer(peer) = parts.extensions.get().copied().unwrap_or(unspecified);
        let user_agent = parts
            .headers
            .get(header::USER_AGENT)
            .map(|value| UserAgent::clean(&String::from_utf8_lossy(value.as_bytes())).into_string());
        Ok(Self { ip_address: address(peer.ip(), &parts.headers, &app.settings), user_agent })
    }
}

fn address(peer: IpAddr, headers: &HeaderMap, settings: &Settings) -> IpAddr {
    let mut client = peer.to_canonical();
    let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let hops = values.iter().rev().flat_map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.rsplit(',').map(|hop| hop.trim().parse::<IpAddr>().ok())
    });
    for hop in hops {
        if !settings.trusts(client) {
            break;
        }
        match hop {
            Some(hop) => client = hop.to_canonical(),
            None => break,
        }
    }
    client
}
