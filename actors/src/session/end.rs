//! Ending sessions: the fact first, on the caller's thread; then fact and store side by side.

use schema::{SessionId, UserId, fact::FactKind};

use crate::{ActorError, Context, Receipt};

/// One session of a user. Gone already is no error.
pub(super) async fn one(context: &Context, user: UserId, session: SessionId) -> Result<Receipt, ActorError> {
    let revoked = [FactKind::SessionRevoked { session }];
    let (receipt, _) = tokio::try_join!(context.facts.take_away(&revoked), async {
        Ok(context.stores.sessions.end(user, session).await?)
    })?;
    Ok(receipt)
}

/// Every session of a user but one.
pub(super) async fn others(context: &Context, user: UserId, keep: SessionId) -> Result<Receipt, ActorError> {
    let ended = context.stores.sessions.end_all(user, Some(keep)).await?;
    let kinds: Vec<_> = ended.into_iter().map(|session| FactKind::SessionRevoked { session }).collect();
    context.facts.take_away(&kinds).await
}
