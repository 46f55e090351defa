//! Ending sessions: refused first, then durable, then gone from the store.

use schema::{SessionId, Timestamp, UserId, fact::FactKind};

use crate::{
    ActorError, Context,
    facts::{Denied, Rows},
};

/// Refuses sessions of a user from now on, until `expiry` at least.
pub(super) fn deny(context: &Context, expiry: Timestamp, user: UserId, sessions: &[SessionId]) -> Denied {
    let kinds: Vec<_> =
        sessions.iter().map(|session| FactKind::SessionRevoked { user, session: *session }).collect();
    context.facts.deny_beyond(expiry, &kinds, Rows::End)
}

/// The ids of a user's sessions except one, including sessions whose rows cannot be read.
pub(super) async fn others(
    context: &Context,
    user: UserId,
    keep: SessionId,
) -> Result<Vec<SessionId>, ActorError> {
    let mut others = context.stores.sessions.ids(user).await?;
    others.retain(|id| *id != keep);
    Ok(others)
}
