//! Extractors that carry authority: when a handler runs, the caller and what they may do are
//! known.
//!
//! | extractor | guarantees |
//! |---|---|
//! | [`Caller`] | a good access token |
//! | [`Leaver`] | the same, also where nothing else is decided since too little is known |
//! | [`PermissionsAdmin`] | and `permissions_admin` or `all_all` |
//! | [`UsersAdmin`] | and `users_admin` or `all_all` |
//! | [`Reading`] | a user `{id}` that the caller may read: itself, or any for `users_admin` |
//! | [`Changing`] | the same for changing; a user with built-in permissions only by itself, by a holder of all of them, or by `all_all` |
//! | [`ReadingGrants`] | a user whose grants the caller may read: itself, or any for `permissions_admin` |
//! | [`Granting`] | a user, and `permissions_admin` or `all_all` |
//! | [`Authorized`] | any of these and a body, in force when all of the body is there |
//!
//! Whether a user exists is never told to who has no right to ask: 403 comes before 404.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderMap, header, request::Parts},
    response::{IntoResponse, Response},
};
use schema::{
    Refusal, UserId,
    authorization::bearer,
    decide,
    permission::{ALL_ALL, BUILT_IN, PERMISSIONS_ADMIN, USERS_ADMIN},
    token::AccessClaims,
};

use serde::de::DeserializeOwned;

use super::{asker::Asker, body::Body, problem::Problem};
use crate::app::App;

/// Who calls: an access token that is good now.
pub struct Caller {
    /// What the token says.
    pub claims: AccessClaims,
    app: Arc<App>,
}

/// What a request shows as its token, or what is wrong with how it does so.
pub type Token<'a> = Result<&'a [u8], Refusal>;

/// The one token of the request.
pub fn token(headers: &HeaderMap) -> Token<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Refusal::RepeatedHeader);
    }
    bearer(value.map(axum::http::HeaderValue::as_bytes))
}

/// The verdict on the request's access token, counted.
///
/// # Errors
/// The refusal.
pub async fn check(app: &App, token: Token<'_>, asker: Asker<'_>) -> Result<AccessClaims, Refusal> {
    let verdict = match token {
        Ok(token) => app.tokens.check(token, || asker.source(&app.settings)).await,
        Err(refusal) => Err(refusal),
    };
    app.metrics.verdict(verdict.err());
    verdict
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let claims = check(app, token(&parts.headers), Asker::of_parts(parts)).await?;
        Ok(Self { claims, app: app.clone() })
    }
}

/// A caller who wants to take something of its own away.
pub struct Leaver(pub Caller);

impl FromRequestParts<Arc<App>> for Leaver {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let verdict = match token(&parts.headers) {
            Ok(token) => {
                let source = || Asker::of_parts(parts).source(&app.settings);
                app.tokens.check_to_take_away(token, source).await
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
    /// When that is not known and cannot be read now.
    pub async fn has_any(&self, names: &[&str]) -> Result<bool, Problem> {
        has_any(&self.app, self.claims.user, names).await
    }

    /// Goes on only for who has at least one of these permissions, as the store says now: for changes.
    /// What another node took away a moment ago may not have been heard here.
    ///
    /// # Errors
    /// 403, or when that is not known.
    pub async fn certainly_has_any(&self, names: &[&str]) -> Result<(), Problem> {
        if certainly_has_any(&self.app, self.claims.user, names).await? {
            Ok(())
        } else {
            Err(Problem::forbidden())
        }
    }

    /// Goes on only for who has at least one of these permissions.
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

/// Goes on only for a user who has at least one of these permissions.
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

/// On a store of its own a node hears every change before it is answered, so it need not ask.
async fn certainly_has_any(app: &App, user: UserId, names: &[&str]) -> Result<bool, Problem> {
    if !app.backing.is_shared() {
        return has_any(app, user, names).await;
    }
    let effective = app.stores.grants.effective(user).await?;
    Ok(effective.combined.iter().any(|permission| names.contains(&permission.name.as_str())))
}

/// The built-in permissions that a user holds, directly or by a role, as the store says now.
async fn certainly_held(app: &App, user: UserId) -> Result<BTreeSet<&'static str>, Problem> {
    let built_in = || BUILT_IN.into_iter().map(|(name, _)| name);
    if !app.backing.is_shared() {
        let held = |snapshot: &actors::Snapshot| built_in().filter(|name| snapshot.has(name)).collect();
        return Ok(app.actors.permissions.with(user, held).await?);
    }
    let effective = app.stores.grants.effective(user).await?;
    let has = |name: &&str| effective.combined.iter().any(|permission| permission.name.as_str() == *name);
    Ok(built_in().filter(has).collect())
}

/// A caller who may manage permissions and roles.
pub struct PermissionsAdmin(pub Caller);

impl FromRequestParts<Arc<App>> for PermissionsAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.certainly_has_any(&[PERMISSIONS_ADMIN, ALL_ALL]).await?;
        Ok(Self(caller))
    }
}

/// A caller who may manage users.
pub struct UsersAdmin(pub Caller);

impl FromRequestParts<Arc<App>> for UsersAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.certainly_has_any(&[USERS_ADMIN, ALL_ALL]).await?;
        Ok(Self(caller))
    }
}

/// The user that `{id}` names, not yet known to exist, and who asks.
pub struct OnUser {
    /// Who asks.
    pub caller: Caller,
    /// The user.
    pub user: UserId,
}

impl OnUser {
    /// Whether the caller asks about itself.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.user == self.caller.claims.user
    }

    /// Goes on for the user itself, and for who has one of these permissions.
    ///
    /// # Errors
    /// 403, or when that is not known.
    pub async fn own_or(&self, names: &[&str]) -> Result<(), Problem> {
        if self.is_own() { Ok(()) } else { self.caller.require_any(names).await }
    }

    /// Goes on when all that allowed the change still does: to be asked after work that took time,
    /// such as hashing, right before the change.
    ///
    /// # Errors
    /// The refusal of the token, 403, or when that is not known.
    pub async fn still_may_change(&self, app: &App) -> Result<(), Problem> {
        decide(&self.caller.claims, app.clock.now(), app.facts.denials())?;
        self.may_change(app).await
    }

    /// Goes on for the user itself, and for a users admin who holds every built-in permission that
    /// the user holds, or `all_all`.
    ///
    /// This is the one place that decides who may change another user. Without the second half, a
    /// users admin could set the password of a user with other power and log in as that user.
    async fn may_change(&self, app: &App) -> Result<(), Problem> {
        if self.is_own() {
            return Ok(());
        }
        let caller = certainly_held(app, self.caller.claims.user).await?;
        if !caller.contains(ALL_ALL) {
            if !caller.contains(USERS_ADMIN) {
                return Err(Problem::forbidden());
            }
            let user = certainly_held(app, self.user).await?;
            if !user.is_subset(&caller) {
                return Err(Problem::forbidden());
            }
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<App>> for OnUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = segment(parts, app, "id").await?;
        let user = user_named(&id, caller.claims.user)?;
        Ok(Self { caller, user })
    }
}

/// A user whom the caller may read.
pub struct Reading(pub OnUser);

impl FromRequestParts<Arc<App>> for Reading {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = OnUser::from_request_parts(parts, app).await?;
        on.own_or(&[USERS_ADMIN, ALL_ALL]).await?;
        Ok(Self(on))
    }
}

/// A user whom the caller may change: see [`OnUser::still_may_change`].
pub struct Changing(pub OnUser);

impl FromRequestParts<Arc<App>> for Changing {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = OnUser::from_request_parts(parts, app).await?;
        on.may_change(app).await?;
        Ok(Self(on))
    }
}

/// A user whose roles and permissions the caller may read.
pub struct ReadingGrants(pub OnUser);

impl FromRequestParts<Arc<App>> for ReadingGrants {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = OnUser::from_request_parts(parts, app).await?;
        on.own_or(&[PERMISSIONS_ADMIN, ALL_ALL]).await?;
        Ok(Self(on))
    }
}

/// A user whom the caller may give roles and permissions, as far as it has power over them.
pub struct Granting(pub OnUser);

impl FromRequestParts<Arc<App>> for Granting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = OnUser::from_request_parts(parts, app).await?;
        on.caller.certainly_has_any(&[PERMISSIONS_ADMIN, ALL_ALL]).await?;
        Ok(Self(on))
    }
}

/// Authority and a body. A body may take its time, and meanwhile the caller may be revoked or lose
/// what allows the call: so authority is checked before the body is read, to refuse early, and
/// again when all of it is there.
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

/// A segment of the path, decoded. One that is no UTF-8 names nothing: 404.
///
/// # Errors
/// 404.
pub async fn segment(parts: &mut Parts, app: &Arc<App>, name: &str) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, app).await.map_err(|_| Problem::not_found())?;
    let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(Problem::not_found)
}

/// The last segment of a path, read as what it names; 404 when it cannot be one.
pub struct Named<T>(pub T);

/// What can be named in a path, and by which parameter.
pub trait InPath: Sized {
    /// The parameter's name.
    const PARAMETER: &'static str;
    /// Reads it.
    fn read(text: &str) -> Option<Self>;
}

/// Of what is there, also under a name that could not be given today.
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
