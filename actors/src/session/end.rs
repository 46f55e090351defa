//! Ending sessions: refused first, then durable, then gone from the store.
//!
//! The fact outlives access tokens, the row in the store a month. Should the row not go although
//! the fact is durable, the fact is made to live as long as the refresh token that the row keeps.

use std::time::Duration;

use schema::{SessionId, UserId, fact::FactKind, page::MAX_LIMIT, page::PageOf};

use crate::{ActorError, Context, Receipt, facts::Denied};

const ATTEMPTS: usize = 3;
const BETWEEN: Duration = Duration::from_millis(50);

/// Refuses sessions of a user from now on.
pub(super) fn deny(context: &Context, user: UserId, sessions: &[SessionId]) -> Denied {
    context.facts.deny(&facts(user, sessions))
}

/// Makes the end of denied sessions last.
pub(super) async fn finish(
    context: &Context,
    user: UserId,
    sessions: &[SessionId],
    denied: Denied,
) -> Result<Receipt, ActorError> {
    let receipt = context.facts.publish(denied).await;
    let mut left = Vec::new();
    for session in sessions {
        if !end(context, user, *session).await {
            left.push(*session);
        }
    }
    if left.is_empty() {
        return receipt;
    }
    let until = context.clock.now().plus(context.refresh.ttl);
    context.facts.publish(context.facts.deny_until(&facts(user, &left), until)).await
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

fn facts(user: UserId, sessions: &[SessionId]) -> Vec<FactKind> {
    sessions.iter().map(|session| FactKind::SessionRevoked { user, session: *session }).collect()
}

async fn end(context: &Context, user: UserId, session: SessionId) -> bool {
    for attempt in 1..=ATTEMPTS {
        match context.stores.sessions.end(user, session).await {
            Ok(_) => return true,
            Err(error) => {
                tracing::warn!(%user, %session, %error, attempt, "a session is not gone from the store");
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
    false
}
