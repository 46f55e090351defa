//! Facts and ids that are made from numbers, and the numbers that are read back from them.

use schema::{
    FactKind, NodeId, SessionId, Subject, TokenId, UserId, id::KeyId, ledger::Origin, token::AccessClaims,
};

pub(super) fn node_id(index: usize) -> NodeId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(index as u64 + 1).to_be_bytes());
    NodeId::from_bytes(id)
}

pub(super) fn index_of(origin: Origin) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&origin.node.as_bytes()[8..]);
    usize::try_from(u64::from_be_bytes(bytes)).unwrap_or(0) - 1
}

/// The id of this number. It is never nil: peers refuse an id that no object can have.
fn id(number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[15] = 1;
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

/// The fact of this number.
pub(super) fn kind(number: u64, is_cheap: bool) -> FactKind {
    match if is_cheap { 0 } else { number % 6 } {
        1 => FactKind::SessionRevoked {
            user: UserId::from_bytes([7; 16]),
            session: SessionId::from_bytes(id(number)),
        },
        2 => FactKind::UserVersion { user: UserId::from_bytes(id(number % 3)), at_least: number + 1 },
        3 => FactKind::KeyRetired { key: KeyId::from_bytes(id(number)) },
        4 => FactKind::PermissionsChanged { subject: Subject::User(UserId::from_bytes(id(number))) },
        _ => FactKind::TokenRevoked { token: TokenId::from_bytes(id(number)) },
    }
}

/// The number that a fact was made from; `None` for a fact that no node published.
pub(super) fn number(kind: &FactKind) -> Option<u64> {
    let bytes = match kind {
        FactKind::SessionRevoked { session, .. } => session.as_bytes(),
        FactKind::TokenRevoked { token } => token.as_bytes(),
        FactKind::UserVersion { at_least, .. } => return Some(at_least - 1),
        FactKind::KeyRetired { key } => key.as_bytes(),
        FactKind::PermissionsChanged { subject: Subject::User(user) } => user.as_bytes(),
        FactKind::PermissionsChanged { .. } => return None,
    };
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    Some(u64::from_be_bytes(number)).filter(|number| *number < u64::MAX / 2)
}

/// The claims of a token that the fact revokes; `None` for a fact that revokes no token.
pub(super) fn revoked_claims(kind: &FactKind) -> Option<AccessClaims> {
    let mut claims = AccessClaims {
        user: UserId::from_bytes([1; 16]),
        session: SessionId::from_bytes([1; 16]),
        token: TokenId::from_bytes([1; 16]),
        key: KeyId::from_bytes([1; 16]),
        version: 0,
        issued_at: 0,
        expires_at: u64::MAX,
        is_access: true,
    };
    match *kind {
        FactKind::SessionRevoked { session, .. } => claims.session = session,
        FactKind::TokenRevoked { token } => claims.token = token,
        FactKind::UserVersion { user, at_least } => {
            claims.user = user;
            claims.version = at_least - 1;
        }
        FactKind::KeyRetired { key } => claims.key = key,
        FactKind::PermissionsChanged { .. } => return None,
    }
    Some(claims)
}

/// A set of numbers, a bit for each.
#[derive(Debug, Default)]
pub(super) struct NumberSet(Vec<u64>);

impl NumberSet {
    /// Returns whether the number is new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = bit_of(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let (word, bit) = bit_of(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The word of a number and the mask of its bit.
fn bit_of(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(0), 1 << (number % 64))
}
