//! Tests of the parts of the protocol. `tests/schedules.rs` tests them together.

use proptest::prelude::*;
use schema::{
    Fact, FactKind, NodeId, PermissionId, RoleId, SessionId, Subject, Timestamp, TokenId, UserId, id::KeyId,
    ledger::Origin, version::MAX_VERSION,
};

use super::message as wire;

mod log;
mod message;
mod replicator;

const fn origin(node: u8) -> Origin {
    Origin { node: NodeId::from_bytes([node; 16]), incarnation: 1 }
}

fn any_id() -> impl Strategy<Value = [u8; 16]> {
    any::<[u8; 16]>().prop_filter("no id", |id| ![[0; 16], [0xff; 16]].contains(id))
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let kind = prop_oneof![
        (any_id(), any_id()).prop_map(|(user, session)| FactKind::SessionRevoked {
            user: UserId::from_bytes(user),
            session: SessionId::from_bytes(session)
        }),
        any_id().prop_map(|id| FactKind::TokenRevoked { token: TokenId::from_bytes(id) }),
        (any_id(), 0..=MAX_VERSION)
            .prop_map(|(user, at_least)| FactKind::UserVersion { user: UserId::from_bytes(user), at_least }),
        any_id().prop_map(|id| FactKind::KeyRetired { key: KeyId::from_bytes(id) }),
        (any_id(), 0..3_u8).prop_map(|(id, of)| FactKind::PermissionsChanged {
            subject: match of {
                0 => Subject::User(UserId::from_bytes(id)),
                1 => Subject::Role(RoleId::from_bytes(id)),
                _ => Subject::Permission(PermissionId::from_bytes(id)),
            }
        }),
    ];
    (kind, 0..=wire::TIME_MAX_MS).prop_map(|(kind, ms)| Fact { kind, until: Timestamp::from_millis(ms) })
}

/// A fact that differs for every number.
fn fact(n: u64, until: Timestamp) -> Fact {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    Fact { kind: FactKind::TokenRevoked { token: TokenId::from_bytes(id) }, until }
}
