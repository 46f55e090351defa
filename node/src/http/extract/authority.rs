//! Extractors that carry authority: when a handler runs, the caller is known and authorized.
//!
//! | extractor | guarantees |
//! |---|---|
//! | [`Caller`] | an active access token |
//! | [`CallerAllowStale`] | the same, even on a node that is too stale to decide anything else |
//! | [`PermissionsAdmin`] | and `permissions_admin` or `all_all` |
//! | [`UsersAdmin`] | and `users_admin` or `all_all` |
//! | [`ReadUser`] | a user `{id}` that the caller may read: itself, or any for `users_admin` |
//! | [`ModifyUser`] | a user that the caller may modify: see [`TargetUser::require_still_modify`] |
//! | [`ReadGrants`] | a user whose grants the caller may read: itself, or any for `permissions_admin` |
//! | [`ModifyGrants`] | a user, and `permissions_admin` or `all_all` |
//! | [`Authorized`] | any of these and a body, checked again after the body has arrived |
//!
//! A caller without the right to ask is not told whether a user exists: 403 comes before 404.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use schema::{
    Refusal, UserId, decide,
    permission::{ALL_ALL, BUILT_IN, PERMISSIONS_ADMIN, USERS_ADMIN},
    token::AccessClaims,
};

use serde::de::DeserializeOwned;

use super::{
    body::Body,
    credential::{Token, token},
    source::LazySource,
};
use crate::{app::App, http::respond::problem::Problem};

/// The caller, identified by an active access token.
pub struct Caller {
    /// The token's claims.
    pub claims: AccessClaims,
    app: Arc<App>,
}

/// Checks the access token of a request, and counts the verdict.
///
/// # Errors
/// The refusal.
pub async fn check(app: &App, token: Token<'_>, source: LazySource<'_>) -> Result<AccessClaims, Refusal> {
    let verdict = match token {
        Ok(token) => app.tokens.check(token, || source.resolve(&app.settings)).await,
        Err(refusal) => Err(refusal),
    };
    app.metrics.verdict(verdict.err());
    verdict
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let claims = check(app, token(&parts.headers), LazySource::of_parts(parts)).await?;
        Ok(Self { claims, app: app.clone() })
    }
}

/// A caller that is accepted even if the node is stale: it may only revoke what is its own, or read the
/// cluster's state.
pub struct CallerAllowStale(pub Caller);

impl FromRequestParts<Arc<App>> for CallerAllowStale {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let verdict = match token(&parts.headers) {
            Ok(token) => {
                let source = || LazySource::of_parts(parts).resolve(&app.settings);
                app.tokens.check_ignoring_staleness(token, source).await
            }
            Err(refusal) => Err(refusal),
        };
        app.metrics.verdict(verdict.err());
        Ok(Self(Caller { claims: verdict?, app: app.clone() }))
    }
}

impl Caller {
    /// Whether the caller has at least one of these permissions.
    ///
    /// # Errors
    /// The caller's permissions are not cached and cannot be read now.
    pub async fn has_any(&self, names: &[&str]) -> Result<bool, Problem> {
        has_any(&self.app, self.claims.user, names).await
    }

    /// Succeeds if the caller has at least one of `names` by the store: for changes, since a revocation made on
    /// another node a moment ago may not have arrived here.
    ///
    /// # Errors
    /// 403, or when that is not known.
    pub async fn require_any_now(&self, names: &[&str]) -> Result<(), Problem> {
        if has_any_now(&self.app, self.claims.user, names).await? {
            Ok(())
        } else {
            Err(Problem::forbidden())
        }
    }

    /// Succeeds if the caller has at least one of `names`.
    ///
    /// # Errors
    /// 403, or when that is not known.
    pub async fn require_any(&self, names: &[&str]) -> Result<(), Problem> {
        require_any(&self.app, self.claims.user, names).await
    }
}

async fn has_any(app: &App, user: UserId, names: &[&str]) -> Result<bool, Problem> {
    let has = |snapshot: &actors::Snapshot| names.iter().any(|name| snapshot.has(name));
    Ok(app.actors.permissions.with(user, has).await?)
}

/// Succeeds if the user has at least one of `names`.
///
/// # Errors
/// 403, or when that is not known.
pub async fn require_any(app: &App, user: UserId, names: &[&str]) -> Result<(), Problem> {
    if has_any(app, user, names).await? { Ok(()) } else { Err(Problem::forbidden()) }
}

/// The user that a segment of a path names: an id, or `me`.
///
/// # Errors
/// 404.
pub fn user_named(text: &str, caller: UserId) -> Result<UserId, Problem> {
    if text == "me" { Ok(caller) } else { text.parse().map_err(|_| Problem::not_found()) }
}

/// Whether the user has at least one of `names` by the store. With a store of its own the node applies every
/// change before it answers it, so its own snapshot is as new.
async fn has_any_now(app: &App, user: UserId, names: &[&str]) -> Result<bool, Problem> {
    if !app.backend.is_shared() {
        return has_any(app, user, names).await;
    }
    let effective = app.stores.grants.effective(user).await?;
    Ok(effective.combined.iter().any(|permission| names.contains(&permission.name.as_str())))
}

/// The built-in permissions that a user holds, directly or by a role, by the store.
async fn held_now(app: &App, user: UserId) -> Result<BTreeSet<&'static str>, Problem> {
    let built_in = || BUILT_IN.into_iter().map(|(name, _)| name);
    if !app.backend.is_shared() {
        let held = |snapshot: &actors::Snapshot| built_in().filter(|name| snapshot.has(name)).collect();
        return Ok(app.actors.permissions.with(user, held).await?);
    }
    let effective = app.stores.grants.effective(user).await?;
    let has = |name: &&str| effective.combined.iter().any(|permission| permission.name.as_str() == *name);
    Ok(built_in().filter(has).collect())
}

/// A caller with `permissions_admin` or `all_all`: it may manage permissions and roles.
pub struct PermissionsAdmin(pub Caller);

impl FromRequestParts<Arc<App>> for PermissionsAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.require_any_now(&[PERMISSIONS_ADMIN, ALL_ALL]).await?;
        Ok(Self(caller))
    }
}

/// A caller with `users_admin` or `all_all`: it may manage users.
pub struct UsersAdmin(pub Caller);

impl FromRequestParts<Arc<App>> for UsersAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.require_any_now(&[USERS_ADMIN, ALL_ALL]).await?;
        Ok(Self(caller))
    }
}

/// The caller and the user that `{id}` names. The user may not exist.
pub struct TargetUser {
    /// The caller.
    pub caller: Caller,
    /// The user.
    pub user: UserId,
}

impl TargetUser {
    /// Whether the user is the caller.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.user == self.caller.claims.user
    }

    /// Succeeds if the caller is the user, or has at least one of `names`.
    ///
    /// # Errors
    /// 403, or when that is not known.
    pub async fn require_self_or(&self, names: &[&str]) -> Result<(), Problem> {
        if self.is_own() { Ok(()) } else { self.caller.require_any(names).await }
    }

    /// Succeeds if the caller's token is still good and it may still modify the user. Call it right before the
    /// change, after work that took time, such as hashing.
    ///
    /// # Errors
    /// The refusal of the token, 403, or when that is not known.
    pub async fn require_still_modify(&self, app: &App) -> Result<(), Problem> {
        decide(&self.caller.claims, app.clock.now(), app.facts.denials())?;
        self.require_modify(app).await
    }

    /// Succeeds if the caller is the user, has `all_all`, or has `users_admin` and every built-in permission
    /// that the user has.
    ///
    /// This is the one rule for changes to another user. Without the subset of built-in permissions, a users
    /// admin could set the password of a more privileged user and log in as that user.
    async fn require_modify(&self, app: &App) -> Result<(), Problem> {
        if self.is_own() {
            return Ok(());
        }
        let caller = held_now(app, self.caller.claims.user).await?;
        if !caller.contains(ALL_ALL) {
            if !caller.contains(USERS_ADMIN) {
                return Err(Problem::forbidden());
            }
            let user = held_now(app, self.user).await?;
            if !user.is_subset(&caller) {
                return Err(Problem::forbidden());
            }
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<App>> for TargetUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = segment(parts, app, "id").await?;
        let user = user_named(&id, caller.claims.user)?;
        Ok(Self { caller, user })
    }
}

/// A user that the caller may read.
pub struct ReadUser(pub TargetUser);

impl FromRequestParts<Arc<App>> for ReadUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = TargetUser::from_request_parts(parts, app).await?;
        on.require_self_or(&[USERS_ADMIN, ALL_ALL]).await?;
        Ok(Self(on))
    }
}

/// A user that the caller may modify.
pub struct ModifyUser(pub TargetUser);

impl FromRequestParts<Arc<App>> for ModifyUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = TargetUser::from_request_parts(parts, app).await?;
        on.require_modify(app).await?;
        Ok(Self(on))
    }
}

/// A user whose roles and permissions the caller may read.
pub struct ReadGrants(pub TargetUser);

impl FromRequestParts<Arc<App>> for ReadGrants {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = TargetUser::from_request_parts(parts, app).await?;
        on.require_self_or(&[PERMISSIONS_ADMIN, ALL_ALL]).await?;
        Ok(Self(on))
    }
}

/// A user whose grants the caller may change, within the privileges that the caller holds itself.
pub struct ModifyGrants(pub TargetUser);

impl FromRequestParts<Arc<App>> for ModifyGrants {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = TargetUser::from_request_parts(parts, app).await?;
        on.caller.require_any_now(&[PERMISSIONS_ADMIN, ALL_ALL]).await?;
        Ok(Self(on))
    }
}

/// Authority and a body. While the body arrives, the caller may be revoked or lose its authority. So
/// authority is checked before the body is read, to refuse early, and again after all of it has arrived.
pub struct Authorized<A, T>(pub A, pub T);

impl<A, T> FromRequest<Arc<App>> for Authorized<A, T>
where
    A: FromRequestParts<Arc<App>> + Send,
    T: DeserializeOwned + Send,
{
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        A::from_request_parts(&mut parts, app).await.map_err(IntoResponse::into_response)?;
        let request = Request::from_parts(parts.clone(), body);
        let read = Body::<T>::from_request(request, app).await.map_err(IntoResponse::into_response)?;
        let authority = A::from_request_parts(&mut parts, app).await;
        Ok(Self(authority.map_err(IntoResponse::into_response)?, read.0))
    }
}

/// A decoded segment of the path.
///
/// # Errors
/// 404 if the segment is not UTF-8.
pub async fn segment(parts: &mut Parts, app: &Arc<App>, name: &str) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, app).await.map_err(|_| Problem::not_found())?;
    let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(Problem::not_found)
}

/// The thing that a segment of the path names. A segment that cannot be such a name is 404.
pub struct Named<T>(pub T);

/// A thing that a parameter of a path can name.
pub trait InPath: Sized {
    /// The parameter's name.
    const PARAMETER: &'static str;
    /// Parses the segment.
    fn read(text: &str) -> Option<Self>;
}

/// Also accepts names that exist but could not be given to new things today.
impl InPath for schema::Name {
    const PARAMETER: &'static str = "name";
    fn read(text: &str) -> Option<Self> {
        Self::to_look_up(text)
    }
}

impl InPath for schema::SessionId {
    const PARAMETER: &'static str = "sid";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl<T: InPath> FromRequestParts<Arc<App>> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let text = segment(parts, app, T::PARAMETER).await?;
        T::read(&text).map(Self).ok_or_else(Problem::not_found)
    }
}
