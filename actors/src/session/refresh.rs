//! Spending a refresh token: one compare-and-set, the same successor for all, an alarm on reuse.

use std::{net::IpAddr, sync::Arc, time::Duration};

use schema::{
    LoginId, SessionId, StoreError, Timestamp, UserId,
    login::{Login, MAX_LOGINS, Outcome},
    session::{Presented, SecretHash, Session},
    store::Rotated,
};

use super::{
    end,
    memory::{Known, Memory},
};
use crate::{ActorError, Context};

/// How often a lost compare-and-set is looked at again.
const ATTEMPTS: usize = 8;

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
    memory: &Arc<Memory>,
    request: &RefreshRequest,
) -> Result<Result<Refreshed, RefreshRefusal>, ActorError> {
    const REVOKED: Result<Refreshed, RefreshRefusal> = Err(RefreshRefusal::Revoked);
    let sessions = &context.stores.sessions;
    let known = memory.known(context, request.session, &request.presented);
    let mut from_memory = known.is_some();
    let Some(mut seen) = (match known {
        Some(known) => Some(known),
        None => look(context, request).await?,
    }) else {
        return Ok(REVOKED);
    };
    let mut confirmed = false;
    for _ in 0..ATTEMPTS {
        // The grace is measured by a clock without jumps: one within it ends no session, and none draws it out.
        let (wall, now) = (context.clock.now(), context.clock.steady());
        let policy = context.refresh;
        let session = &seen.session;
        let mut presented = session.presented(&request.presented, now, policy.grace);
        let looks_stale = presented == Presented::Reused || request.version > session.user_version;
        if looks_stale && !confirmed {
            // A plain read may be behind, in a store of several nodes. Only what is certain is reason
            // for an alarm.
            let Some(latest) = sessions.latest(request.user, request.session).await? else {
                return Ok(REVOKED);
            };
            (seen.session, confirmed) = (latest, true);
            continue;
        }
        if is_dead(context, request, &seen) {
            return Ok(REVOKED);
        }
        if presented == Presented::Reused
            && session.live == request.successor
            && (memory.is_owed(session, &request.presented, now, policy.grace)
                || memory.was_spent_in_outage(session, &request.presented, now, policy.grace))
        {
            presented = Presented::Grace { successor_expires_at: session.expires_at };
        }
        let version = session.user_version;
        match presented {
            Presented::Live if session.expires_at <= wall => return Ok(Err(RefreshRefusal::Expired)),
            Presented::Live => {
                let renewed = wall.plus(policy.ttl);
                // A wall clock before the last use was set back: the session keeps its later end.
                let was_set_back = wall < session.last_used_at;
                let end = if was_set_back { renewed.max(session.expires_at) } else { renewed };
                // Whole seconds, as the token says it.
                let expires_at = Timestamp::from_secs(end.as_secs());
                let next = session.rotated(request.successor, expires_at, now, policy.grace);
                let next = Session { last_used_at: wall.max(session.last_used_at), ..next };
                match sessions.rotate(session, &next).await {
                    Ok(Rotated::Done) => {
                        memory.know(Known { session: next, ..seen });
                        return Ok(Ok(Refreshed { version, expires_at }));
                    }
                    Ok(Rotated::Gone) => return Ok(REVOKED),
                    Ok(Rotated::Lost(current)) => {
                        if std::mem::take(&mut from_memory) {
                            // What is known of the user may be as old as what was known of the session.
                            let Some(fresh) = look(context, request).await? else { return Ok(REVOKED) };
                            seen = fresh;
                        }
                        (seen.session, confirmed) = (*current, true);
                    }
                    Err(error) => {
                        if matches!(error, StoreError::Unavailable(_)) {
                            // At once: the next one who shows the token may be waiting already.
                            memory.was_unanswered(session.live, now);
                            settle(context, memory, session, request.successor);
                        }
                        return Err(error.into());
                    }
                }
            }
            Presented::Grace { successor_expires_at: expires_at } => {
                return Ok(Ok(Refreshed { version, expires_at }));
            }
            Presented::Reused => {
                revoke_reused(context, request, &seen.session).await?;
                return Ok(REVOKED);
            }
        }
    }
    Err(ActorError::Busy)
}

/// As it is stored; `None` when the user or the session is not there, or may not log in.
async fn look(context: &Context, request: &RefreshRequest) -> Result<Option<Known>, ActorError> {
    let stores = &context.stores;
    let at = context.clock.monotonic();
    let (user, session) = tokio::try_join!(
        stores.users.get(request.user),
        stores.sessions.get(request.user, request.session),
    )?;
    if let Some(session) = &session {
        // Its tokens may be of a node whose clock was ahead.
        let used_at = session.last_used_at.max(session.created_at);
        let expiry = used_at.plus(context.facts.lifetimes().access_ttl);
        context.clock.high_water().saw_expiry(expiry.as_secs());
    }
    let active = user.filter(|user| user.active);
    Ok(active.zip(session).map(|(user, session)| Known { session, user_version: user.version, at }))
}

fn settle(context: &Context, memory: &Arc<Memory>, previous: &Session, successor: SecretHash) {
    let (context, memory, previous) = (context.clone(), memory.clone(), previous.clone());
    tokio::spawn(async move { memory.settle(&context, &previous, successor).await });
}

/// Whether the session ended. The version that was heard counts beside the stored one: a revocation
/// may be known here before the store has it.
fn is_dead(context: &Context, request: &RefreshRequest, seen: &Known) -> bool {
    let denials = context.facts.denials();
    denials.refuses_session(request.session)
        || denials.refuses_version(request.user, seen.session.user_version)
        || seen.session.user_version < seen.user_version
        || request.version < seen.session.user_version
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
    let denied = end::deny(context, Timestamp::EPOCH, request.user, &ended);
    tokio::try_join!(context.facts.publish(denied), async {
        Ok(context.stores.logins.record(&login, MAX_LOGINS).await?)
    })?;
    Ok(())
}
