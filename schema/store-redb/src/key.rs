//! Keys as bytes that sort like the lists.
//!
//! An id is its 16 bytes, a number or time is 8 bytes big-endian, a tuple is the concatenation of its
//! parts. Only the last part of a key may vary in length, so no separator is needed, and no key is the
//! prefix of another by accident.

use schema::{
    KeyId, LoginId, Name, NodeId, PermissionId, RoleId, SessionId, Timestamp, UserId,
    ledger::Origin,
    permission::Grant,
    place::{AccountKey, Place},
};

/// The typed key of a row.
pub(crate) trait Key: Sized {
    /// Appends the bytes of the key.
    fn put(&self, bytes: &mut Vec<u8>);

    /// Reads the key from the front of `bytes` and advances them; `None` if they hold no such key.
    fn cut(bytes: &mut &[u8]) -> Option<Self>;

    /// The bytes of the key.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48);
        self.put(&mut bytes);
        bytes
    }

    /// Parses a key of exactly these bytes.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let key = Self::cut(&mut bytes)?;
        bytes.is_empty().then_some(key)
    }
}

fn cut<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

macro_rules! ids {
    ($($id:ident)*) => {$(
        impl Key for $id {
            fn put(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(self.as_bytes());
            }
            fn cut(bytes: &mut &[u8]) -> Option<Self> {
                cut(bytes).map(Self::from_bytes)
            }
        }
    )*};
}

ids! { UserId SessionId RoleId PermissionId LoginId KeyId NodeId AccountKey Place }

impl Key for u64 {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_be_bytes());
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        cut(bytes).map(Self::from_be_bytes)
    }
}

impl Key for Timestamp {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.as_millis().put(bytes);
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        u64::cut(bytes).map(Self::from_millis)
    }
}

impl Key for Origin {
    fn put(&self, bytes: &mut Vec<u8>) {
        (self.node, self.incarnation).put(bytes);
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        let (node, incarnation) = Key::cut(bytes)?;
        Some(Self { node, incarnation })
    }
}

impl Key for Grant {
    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Role(id) => {
                bytes.push(b'r');
                id.put(bytes);
            }
            Self::Permission(id) => {
                bytes.push(b'p');
                id.put(bytes);
            }
        }
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        match cut(bytes)? {
            [b'r'] => Key::cut(bytes).map(Self::Role),
            [b'p'] => Key::cut(bytes).map(Self::Permission),
            _ => None,
        }
    }
}

/// Reads the rest of the key as text.
fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(std::mem::take(bytes)).ok()
}

impl Key for Name {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.as_str().as_bytes());
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        text(bytes).map(Self::from_stored)
    }
}

impl Key for String {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.as_bytes());
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        text(bytes).map(str::to_owned)
    }
}

/// The key of a table with a single row, and the prefix of every key.
impl Key for () {
    fn put(&self, _: &mut Vec<u8>) {}
    fn cut(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
        self.1.put(bytes);
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::cut(bytes)?, B::cut(bytes)?))
    }
}

impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
        self.1.put(bytes);
        self.2.put(bytes);
    }
    fn cut(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::cut(bytes)?, B::cut(bytes)?, C::cut(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_round_trip() {
        let key = (Timestamp::from_millis(7), UserId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]));
        assert_eq!(Key::decode(&key.encode()), Some(key));
        let origin = Origin { node: NodeId::from_bytes([3; 16]), incarnation: u64::MAX };
        assert_eq!(Key::decode(&(origin, 9_u64).encode()), Some((origin, 9_u64)));
        for grant in
            [Grant::Role(RoleId::from_bytes([4; 16])), Grant::Permission(PermissionId::from_bytes([4; 16]))]
        {
            assert_eq!(Key::decode(&grant.encode()), Some(grant));
        }
        let place = (AccountKey::from_bytes([5; 32]), Place::of([192, 0, 2, 1].into()));
        assert_eq!(Key::decode(&place.encode()), Some(place));
        assert_eq!(<(UserId, u64)>::decode(&[0; 25]), None, "one byte too many");
        assert_eq!(<(UserId, u64)>::decode(&[0; 23]), None, "one byte too few");
        assert_eq!(Grant::decode(&[b'x'; 17]), None);
    }

    #[test]
    fn encoded_keys_sort_like_keys() {
        let early = (Timestamp::from_millis(255), UserId::from_bytes([255; 16]));
        let late = (Timestamp::from_millis(256), UserId::from_bytes([0; 16]));
        assert!(early.encode() < late.encode());
    }
}
