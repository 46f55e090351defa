//! The network that counts as one client.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv4 address, or the /64 of an IPv6 address, since each customer has at least one /64 (RFC 6177). An IPv4
/// address in its IPv6-mapped form (RFC 4291, section 2.5.5.2) counts as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
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

/// Parses an address, or a network as it is written by [`fmt::Display`].
impl FromStr for Network {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_suffix("/64") {
            Some(network) => network.parse::<Ipv6Addr>().map(|address| Self::from(IpAddr::V6(address))),
            None => text.parse::<IpAddr>().map(Self::from),
        }
    }
}

/// Writes an IPv4 address, or an IPv6 network such as `2001:db8:0:1::/64`.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(bits) => {
                let [a, b, c, d] = [bits >> 48, bits >> 32, bits >> 16, *bits].map(|bits| bits & 0xffff);
                write!(f, "{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn ipv6_64_is_one_network_and_mapped_address_is_ipv4() {
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_ne!(network("::"), network("0.0.0.0"));
        for text in ["", "192.0.2", "192.0.2.1/64", "192.0.2.1/32", "2001:db8::/48", "2001:db8::/64/64"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn written_network_parses_to_itself(bits: u128, v4: bool) {
            let address: IpAddr = match u32::try_from(bits >> 96) {
                Ok(bits) if v4 => Ipv4Addr::from_bits(bits).into(),
                _ => Ipv6Addr::from_bits(bits).into(),
            };
            let network = Network::from(address);
            assert_eq!(network.to_string().parse(), Ok(network), "{}", network);
        }
    }
}
