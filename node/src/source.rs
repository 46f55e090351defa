//! Where a request comes from, for sharing what is scarce.
//!
//! A [`Source`] decides whose turn it is ([`crate::fair`]) and whose share is used up ([`crate::budget`]). It
//! grants nothing: it may be wrong, and then something is slower, and nothing else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The network that counts as one client: an IPv4 address, or an IPv6 /64, of which one customer has at least
/// one (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// This node: work that no request asked for.
    Own,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            #[allow(clippy::cast_possible_truncation, reason = "64 of 128 bits are left")]
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The client's network.
    pub network: Network,
    /// The other end of the connection: the client's, or that of a proxy in front of it.
    pub connection: SocketAddr,
    /// Whether the network is a trusted proxy that did not say for whom it asks: it stands for many clients,
    /// and no share of one client is its bound.
    pub is_proxy: bool,
}

impl Source {
    /// This node itself: an operator's command, the work of a start.
    pub const OWN: Self = Self {
        network: Network::Own,
        connection: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        is_proxy: false,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_customer_is_one_network_and_a_mapped_address_is_ipv4() {
        let of = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_ne!(of("::"), of("0.0.0.0"));
    }
}
