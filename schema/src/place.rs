//! The network that a log-in comes from and the account that it is for, as limits need them.

use std::net::IpAddr;

use crate::Network;

/// An access network: the /24 of an IPv4 address, or the [`Network`] of an IPv6 address. A user that logs in
/// again from home usually has the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place([u8; Self::BYTES]);

impl Place {
    /// The length of a place in bytes.
    pub const BYTES: usize = 9;

    /// The place of an address. An IPv4 address in its IPv6-mapped form counts as IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut bytes = [0; Self::BYTES];
        match Network::from(address) {
            Network::V4(address) => {
                bytes[0] = 4;
                bytes[1..4].copy_from_slice(&address.octets()[..3]);
            }
            Network::V6(bits) => {
                bytes[0] = 6;
                bytes[1..].copy_from_slice(&bits.to_be_bytes());
            }
        }
        Self(bytes)
    }

    /// The bytes of the place, as stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The place with these stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

/// An account that a client tried to log in to, whether or not it exists: a digest of the folded email. It
/// holds nothing about the user, so that lookups take the same time for existing and other accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey([u8; Self::BYTES]);

impl AccountKey {
    /// The length of the digest in bytes.
    pub const BYTES: usize = 32;

    /// The account with this digest.
    #[must_use]
    pub const fn from_bytes(digest: [u8; Self::BYTES]) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_share_a_place() {
        let place = |text: &str| Place::of(text.parse().unwrap());
        assert_eq!(place("192.0.2.1"), place("192.0.2.254"));
        assert_eq!(place("192.0.2.1"), place("::ffff:192.0.2.9"));
        assert_ne!(place("192.0.2.1"), place("192.0.3.1"));
        assert_eq!(place("2001:db8:1:2::1"), place("2001:db8:1:2:3:4:5:6"));
        assert_ne!(place("2001:db8:1:2::1"), place("2001:db8:1:3::1"));
        assert_ne!(place("0.0.0.1"), place("::1"));
        let some = place("2001:db8:1:2::1");
        assert_eq!(Place::from_bytes(*some.as_bytes()), some);
    }
}
