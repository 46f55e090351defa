//! The source of a request, for sharing scarce resources fairly.
//!
//! A [`Source`] decides turns in queues ([`crate::scheduling::fair`]) and shares of budgets
//! ([`crate::scheduling::budget`]).
//!
//! Never: it grants no authority. A wrong source makes something slower and does no other harm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where work comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// This node itself: work without a request.
    Own,
    /// A client's network.
    Client(schema::Network),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self::Client(address.into())
    }
}

/// The source of a request: the client's network and connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The client's network.
    pub network: Network,
    /// The other end of the connection: the client's, or that of a proxy in front of it.
    pub connection: SocketAddr,
    /// Whether the network is a trusted proxy that did not name its client. It stands for many clients, so
    /// the share of one client does not limit it.
    pub is_proxy: bool,
}

impl Source {
    /// This node itself: an operator's command, or work at startup.
    pub const OWN: Self = Self {
        network: Network::Own,
        connection: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        is_proxy: false,
    };
}
