//! Spending a refresh token: one compare-and-set, the same successor for all callers, an alarm on reuse.

use std::{net::IpAddr, sync::Arc, time::Duration};

use schema::{
    LoginId, SessionId, Timestamp, UserId,
    login::{Login, MAX_LOGINS, Outcome},
    session::{Presented, SecretHash, Session},
};
use store::{
    Rotated, StoreError,
    cas::{self, Attempt, Pacing},
};

use super::{
    end,
    memory::{KnownSession, Memory},
};
use crate::{ActorError, Context};

/// Attempts to spend a refresh token.
const REFRESH_ATTEMPTS_MAX: usize = 8;

/// The lifetimes of refresh tokens.
#[derive(Debug, Clone, Copy)]
pub struct RefreshPolicy {
    /// How long an unspent token lives.
    pub ttl: Duration,
    /// How long a spent token still gets its successor.
    pub grace: Duration,
}

/// A request with a refresh token. The caller has verified the token's tag: it was issued for this session.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are what their types say")]
pub struct RefreshRequest {
    pub user: UserId,
    pub session: SessionId,
    /// The user's version when the token was issued.
    pub version: u64,
    /// The hash of the presented token.
    pub presented: SecretHash,
    /// The hash of the token that replaces it: the same in every request with the presented token.
    pub successor: SecretHash,
    pub ip_address: IpAddr,
    pub user_agent: Option<String>,
}

/// The result of a successful refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// The user version for the new tokens.
    pub version: u64,
    /// The expiry of the successor.
    pub expires_at: Timestamp,
}

/// The reason why a refresh token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshRefusal {
    /// The session has ended, or reuse of the token has ended it.
    Revoked,
    /// The token has expired.
    Expired,
}

/// The outcome of a refresh that the store answered.
pub(super) type Refresh = Result<Refreshed, RefreshRefusal>;

/// A session as this node knows it, and how far the node can rely on that.
struct Candidate {
    seen: KnownSession,
    /// Whether the session comes from a certain read or a lost compare-and-set, so that an alarm may rest on
    /// it.
    is_confirmed: bool,
    /// Whether the session comes from this node's memory.
    is_from_memory: bool,
}

impl Candidate {
    const fn read(seen: KnownSession) -> Self {
        Self { seen, is_confirmed: false, is_from_memory: false }
    }
}

/// Spends the refresh token, or returns what it was spent for within its grace. A token that is presented
/// after its grace revokes its session.
///
/// # Errors
/// When the store does not answer, or other writers win every compare-and-set.
pub(super) async fn refresh(
    context: &Context,
    memory: &Arc<Memory>,
    request: &RefreshRequest,
) -> Result<Refresh, ActorError> {
    let candidate = match memory.known(context, request.session, &request.presented) {
        Some(seen) => Candidate { is_from_memory: true, ..Candidate::read(seen) },
        None => match read(context, request).await? {
            Some(seen) => Candidate::read(seen),
            None => return Ok(Err(RefreshRefusal::Revoked)),
        },
    };
    // A lost rotation returns the current session, and mostly another node has spent the same token.
    cas::retry(Pacing::AtOnce(REFRESH_ATTEMPTS_MAX), candidate, |candidate| {
        attempt(context, memory, request, candidate)
    })
    .await
}

/// The time of one attempt by both clocks.
#[derive(Clone, Copy)]
struct Now {
    wall: Timestamp,
    /// By the clock without jumps, which measures the grace: a jump neither ends nor extends it.
    steady: Timestamp,
}

/// Decides about the token by the candidate; reads the session again first if a decision needs it.
async fn attempt(
    context: &Context,
    memory: &Arc<Memory>,
    request: &RefreshRequest,
    candidate: Candidate,
) -> Result<Attempt<Refresh, Candidate>, ActorError> {
    let now = Now { wall: context.clock.now(), steady: context.clock.steady() };
    let session = &candidate.seen.session;
    let presented = session.presented(&request.presented, now.steady, context.refresh.grace);
    let looks_stale = presented == Presented::Reused || request.version > session.user_version;
    if looks_stale && !candidate.is_confirmed {
        return confirm(context, request, candidate).await;
    }
    if is_revoked(context, request, &candidate.seen) {
        return Ok(Attempt::Done(Err(RefreshRefusal::Revoked)));
    }
    let is_reused = presented == Presented::Reused;
    if is_reused && is_unanswered(context, memory, request, session, now) {
        let refreshed = Refreshed { version: session.user_version, expires_at: session.expires_at };
        return Ok(Attempt::Done(Ok(refreshed)));
    }
    match presented {
        Presented::Live if session.expires_at <= now.wall => Ok(Attempt::Done(Err(RefreshRefusal::Expired))),
        Presented::Live => rotate(context, memory, request, candidate, now).await,
        Presented::Grace { successor_expires_at: expires_at } => {
            Ok(Attempt::Done(Ok(Refreshed { version: session.user_version, expires_at })))
        }
        Presented::Reused => {
            revoke_reused(context, request, session).await?;
            Ok(Attempt::Done(Err(RefreshRefusal::Revoked)))
        }
    }
}

/// Reads the session again for the next attempt. A plain read may be behind in a store of several
/// nodes, and only a certain read is reason for an alarm.
async fn confirm(
    context: &Context,
    request: &RefreshRequest,
    candidate: Candidate,
) -> Result<Attempt<Refresh, Candidate>, ActorError> {
    let latest = context.stores.sessions.latest(request.user, request.session).await?;
    let Some(session) = latest else { return Ok(Attempt::Done(Err(RefreshRefusal::Revoked))) };
    let seen = KnownSession { session, ..candidate.seen };
    Ok(Attempt::Lost(Candidate { seen, is_confirmed: true, ..candidate }))
}

/// Whether the token was spent by a rotation that the store did not answer, so that it still gets its
/// successor.
fn is_unanswered(
    context: &Context,
    memory: &Memory,
    request: &RefreshRequest,
    session: &Session,
    now: Now,
) -> bool {
    let grace = context.refresh.grace;
    session.live == request.successor
        && (memory.is_owed(session, &request.presented, now.steady, grace)
            || memory.was_spent_in_outage(session, &request.presented, now.steady, grace))
}

/// Spends the live token by one compare-and-set.
async fn rotate(
    context: &Context,
    memory: &Arc<Memory>,
    request: &RefreshRequest,
    mut candidate: Candidate,
    now: Now,
) -> Result<Attempt<Refresh, Candidate>, ActorError> {
    let session = &candidate.seen.session;
    let next = rotated(context, request, session, now);
    match context.stores.sessions.rotate(session, &next).await {
        Ok(Rotated::Done) => {
            let refreshed = Refreshed { version: session.user_version, expires_at: next.expires_at };
            memory.remember(KnownSession { session: next, ..candidate.seen });
            Ok(Attempt::Done(Ok(refreshed)))
        }
        Ok(Rotated::Gone) => Ok(Attempt::Done(Err(RefreshRefusal::Revoked))),
        Ok(Rotated::Lost(current)) => {
            if candidate.is_from_memory {
                // The remembered user version may be as old as the remembered session.
                let Some(seen) = read(context, request).await? else {
                    return Ok(Attempt::Done(Err(RefreshRefusal::Revoked)));
                };
                candidate = Candidate::read(seen);
            }
            candidate.seen.session = *current;
            candidate.is_confirmed = true;
            Ok(Attempt::Lost(candidate))
        }
        Err(error) => {
            if matches!(error, StoreError::Unavailable(_)) {
                // At once: the next request with this token may be waiting already.
                memory.note_unanswered(session.live, now.steady);
                settle(context, memory, session, request.successor);
            }
            Err(error.into())
        }
    }
}

/// The session after its live token was spent for the successor.
fn rotated(context: &Context, request: &RefreshRequest, session: &Session, now: Now) -> Session {
    let renewed = now.wall.plus(context.refresh.ttl);
    // If the wall clock shows a time before the last use, it was set back: the session keeps its later end.
    let was_set_back = now.wall < session.last_used_at;
    let end = if was_set_back { renewed.max(session.expires_at) } else { renewed };
    // In whole seconds, as in the token.
    let expires_at = Timestamp::from_secs(end.as_secs());
    let next = session.rotated(request.successor, expires_at, now.steady, context.refresh.grace);
    Session { last_used_at: now.wall.max(session.last_used_at), ..next }
}

/// Reads the session and its user; `None` if one of them does not exist or the user is disabled.
async fn read(context: &Context, request: &RefreshRequest) -> Result<Option<KnownSession>, ActorError> {
    let stores = &context.stores;
    let at = context.clock.monotonic();
    let (user, session) = tokio::try_join!(
        stores.users.get(request.user),
        stores.sessions.get(request.user, request.session),
    )?;
    if let Some(session) = &session {
        // A node whose clock was ahead may have issued its tokens.
        let used_at = session.last_used_at.max(session.created_at);
        let expiry = used_at.plus(context.facts.lifetimes().access_ttl);
        context.clock.high_water().saw_expiry(expiry.as_secs());
    }
    let active = user.filter(|user| user.active);
    Ok(active.zip(session).map(|(user, session)| KnownSession { session, user_version: user.version, at }))
}

/// Extends the grace of the spent token on a task of its own.
fn settle(context: &Context, memory: &Arc<Memory>, previous: &Session, successor: SecretHash) {
    let context = context.clone();
    let memory = memory.clone();
    let previous = previous.clone();
    tokio::spawn(async move { memory.settle(&context, &previous, successor).await });
}

/// Whether the session is revoked. The denials count beside the stored version, because this node may know
/// a revocation before the store has it.
fn is_revoked(context: &Context, request: &RefreshRequest, seen: &KnownSession) -> bool {
    let denials = context.facts.denials();
    denials.refuses_session(request.session)
        || denials.refuses_version(request.user, seen.session.user_version)
        || seen.session.user_version < seen.user_version
        || request.version < seen.session.user_version
}

/// Revokes the session of a token that was presented after its grace, and records that in the log-in
/// history for the owner. Two parties have the token, and the node cannot tell the owner from the thief.
async fn revoke_reused(
    context: &Context,
    request: &RefreshRequest,
    session: &Session,
) -> Result<(), ActorError> {
    tracing::warn!(
        user = %request.user,
        session = %request.session,
        "spent refresh token presented again; revoking its session"
    );
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
