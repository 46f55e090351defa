//! Where log-ins come from, and which account they are for, as far as limits need to know.

use std::net::IpAddr;

/// An access network: the /24 of an IPv4 address, the /64 of an IPv6 address (RFC 6177). A person
/// who logs in again from home mostly has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place([u8; Self::BYTES]);

impl Place {
    /// How many bytes it has.
    pub const BYTES: usize = 9;

    /// The place of an address. An IPv4 address in its IPv6 form is that IPv4 address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut bytes = [0; Self::BYTES];
        match address.to_canonical() {
            IpAddr::V4(address) => {
                bytes[0] = 4;
                bytes[1..4].copy_from_slice(&address.octets()[..3]);
            }
            IpAddr::V6(address) => {
                bytes[0] = 6;
                bytes[1..].copy_from_slice(&address.octets()[..8]);
            }
        }
        Self(bytes)
    }

    /// For a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// From a store.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

/// An account that somebody tried to log in to, whether or not it exists: a digest of its email,
/// folded. So that looking something up takes the same for both, nothing about users is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey([u8; Self::BYTES]);

impl AccountKey {
    /// How many bytes it has.
    pub const BYTES: usize = 32;

    /// Of this digest.
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
    fn neighbours_are_of_one_place_and_others_of_another() {
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
