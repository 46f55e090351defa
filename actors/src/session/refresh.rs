//! Spending a refresh token: one compare-and-set, the same successor for all, an alarm on reuse.

use std::{net::IpAddr, time::Duration};

use schema::{
    LoginId, SessionId, Timestamp, UserId,
    login::{Login, Outcome},
    session::{Presented, SecretHash, Session},
    store::Rotated,
    user::User,
};

use super::end;
use crate::{ActorError, Context};

/// How often a lost compare-and-set is looked at again.
const ATTEMPTS: usize = 8;

/// The hash of no token.
const NO_TOKEN: SecretHash = SecretHash::new([0; 32]);

/// How refresh tokens live.
#[derive(Debug, Clone, Copy)]
pub struct RefreshPolicy {
    /// How long one lives unspent.
    pub ttl: Duration,
    /// How long a spent one still gets its successor.
    pub grace: Duration,
}

/// A refresh token was shown. Its tag is good: it was issued for this session.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are what their types say")]
pub struct RefreshRequest {
    pub user: UserId,
    pub session: SessionId,
    /// The user's version when the token was issued.
    pub version: u64,
    /// The token shown.
    pub presented: SecretHash,
    /// The token that it is spent for: the same whoever asks, and however often.
    pub successor: SecretHash,
    pub ip_address: IpAddr,
    pub user_agent: Option<String>,
}

/// What the caller gets tokens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// The version that the tokens are to carry.
    pub version: u64,
    /// The end of the successor.
    pub expires_at: Timestamp,
}

/// Why a refresh token gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshRefusal {
    /// The session ended, or this ended it.
    Revoked,
    /// The token's life is over.
    Expired,
}

pub(super) async fn refresh(
    context: &Context,
    request: &RefreshRequest,
) -> Result<Result<Refreshed, RefreshRefusal>, ActorError> {
    let stores = &context.stores;
    let (user, session) = tokio::try_join!(
        stores.users.get(request.user),
        stores.sessions.get(request.user, request.session),
    )?;
    let (Some(user), Some(mut session)) = (user, session) else { return Ok(Err(RefreshRefusal::Revoked)) };
    let mut confirmed = false;
    for _ in 0..ATTEMPTS {
        let now = context.clock.now();
        let policy = context.refresh;
        let presented = session.presented(&request.presented, now, policy.grace);
        let looks_stale = presented == Presented::Reused || request.version > session.user_version;
        if looks_stale && !confirmed {
            // A plain read may be behind, in a store of several nodes; a compare-and-set is not, also
            // one that cannot win. Only what it says is reason for an alarm.
            match stores.sessions.rotate(&NO_TOKEN, &session).await? {
                Rotated::Lost(current) => (session, confirmed) = (*current, true),
                Rotated::Done | Rotated::Gone => return Ok(Err(RefreshRefusal::Revoked)),
            }
            continue;
        }
        if is_dead(context, request, &user, &session) {
            return Ok(Err(RefreshRefusal::Revoked));
        }
        let version = session.user_version;
        match presented {
            Presented::Live if session.expires_at <= now => return Ok(Err(RefreshRefusal::Expired)),
            Presented::Live => {
                // Whole seconds, as the token says it.
                let expires_at = Timestamp::from_secs(now.plus(policy.ttl).as_secs());
                let next = session.rotated(request.successor, expires_at, now, policy.grace);
                match stores.sessions.rotate(&request.presented, &next).await? {
                    Rotated::Done => return Ok(Ok(Refreshed { version, expires_at })),
                    Rotated::Lost(current) => (session, confirmed) = (*current, true),
                    Rotated::Gone => return Ok(Err(RefreshRefusal::Revoked)),
                }
            }
            Presented::Grace { successor_expires_at: expires_at } => {
                return Ok(Ok(Refreshed { version, expires_at }));
            }
            Presented::Reused => {
                revoke_reused(context, request, &session).await?;
                return Ok(Err(RefreshRefusal::Revoked));
            }
        }
    }
    Err(ActorError::Busy)
}

/// Whether the session or the user's permission to use it ended. The version that was heard counts
/// beside the stored one: a revocation may be known here before the store has it.
fn is_dead(context: &Context, request: &RefreshRequest, user: &User, session: &Session) -> bool {
    let denials = context.facts.denials();
    let at_least = user.version.max(denials.user_version(user.id));
    !user.active
        || denials.refuses_session(session.id)
        || session.user_version < at_least
        || request.version < session.user_version
}

/// Somebody has a copy of a spent token: nobody can tell the thief from the owner, so the session
/// ends for both, and the owner can read why.
async fn revoke_reused(
    context: &Context,
    request: &RefreshRequest,
    session: &Session,
) -> Result<(), ActorError> {
    tracing::warn!(user = %request.user, session = %request.session, "a spent refresh token was shown again");
    let time = context.clock.now();
    let login = Login {
        id: LoginId::new(time, context.entropy.id()),
        user: request.user,
        time,
        ip_address: request.ip_address,
        device: session.device.clone(),
        user_agent: request.user_agent.clone(),
        outcome: Outcome::RefreshReuse,
    };
    let ended = [request.session];
    let denied = end::deny(context, request.user, &ended);
    tokio::try_join!(end::finish(context, request.user, &ended, denied), async {
        Ok(context.stores.logins.record(&login).await?)
    })?;
    Ok(())
}
