//! Ending sessions: the node denies them first, then makes that durable, then deletes their rows.

use schema::{SessionId, Timestamp, UserId, fact::FactKind};

use crate::{
    ActorError, Context,
    facts::{Denied, StoredSessions},
};

/// Denies sessions of a user on this node from now on, at least until `expiry`.
pub(super) fn deny(context: &Context, expiry: Timestamp, user: UserId, sessions: &[SessionId]) -> Denied {
    let kinds: Vec<_> =
        sessions.iter().map(|session| FactKind::SessionRevoked { user, session: *session }).collect();
    context.facts.deny_beyond(expiry, &kinds, StoredSessions::Delete)
}

/// The ids of a user's sessions except `keep`, including sessions whose rows are unreadable.
pub(super) async fn others(
    context: &Context,
    user: UserId,
    keep: SessionId,
) -> Result<Vec<SessionId>, ActorError> {
    let mut others = context.stores.sessions.ids(user).await?;
    others.retain(|id| *id != keep);
    Ok(others)
}
