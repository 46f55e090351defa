//! Ending sessions: refused first, then durable, then gone from the store.

use schema::{SessionId, Timestamp, UserId, fact::FactKind, page::MAX_LIMIT, page::PageOf};

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

/// The sessions of a user but one.
pub(super) async fn others(
    context: &Context,
    user: UserId,
    keep: SessionId,
) -> Result<Vec<SessionId>, ActorError> {
    let (mut others, mut after) = (Vec::new(), None);
    loop {
        let page = context.stores.sessions.list(user, PageOf { after, limit: MAX_LIMIT }).await?;
        others.extend(page.items.iter().map(|session| session.id).filter(|id| *id != keep));
        after = page.next;
        if after.is_none() {
            return Ok(others);
        }
    }
}
