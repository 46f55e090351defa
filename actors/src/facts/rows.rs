//! Deletes the stored sessions that facts revoke.
//!
//! Promises: a repeated call is harmless. Never: deciding whether a session is revoked; the facts say it.

use schema::{
    FactKind, UserId,
    version::{MAX_VERSION, ended_below},
};
use store::{
    Replaced, Result, StoreError, Stores,
    cas::{self, Attempt, Pacing, ROW_ATTEMPTS_MAX},
};

/// Deletes the rows of the sessions that a fact revokes: one session, or all sessions of a user below a
/// version. In the latter case the user's stored version is raised first. A repeated call and a missing
/// row are no error.
///
/// # Errors
/// When the store does not answer; the caller retries.
pub async fn delete_revoked_rows(stores: &Stores, kind: &FactKind) -> Result<()> {
    match *kind {
        FactKind::SessionRevoked { user, session } => stores.sessions.end(user, session).await.map(drop),
        // No node makes such a fact; the denials ignore it too.
        FactKind::UserVersion { at_least, .. } if at_least > MAX_VERSION => Ok(()),
        FactKind::UserVersion { user, at_least } => {
            raise_version(stores, user, at_least).await?;
            stores.sessions.end_older(user, ended_below(at_least)).await
        }
        FactKind::TokenRevoked { .. } | FactKind::KeyRetired { .. } | FactKind::PermissionsChanged { .. } => {
            Ok(())
        }
    }
}

/// Raises the user's stored version to at least this one.
async fn raise_version(stores: &Stores, user: UserId, at_least: u64) -> Result<()> {
    let Some(user) = stores.users.get(user).await? else { return Ok(()) };
    cas::retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), user, |mut user| async move {
        if user.version >= at_least {
            return Ok(Attempt::Done(()));
        }
        user.version = at_least;
        user.revision += 1;
        match stores.users.replace(&user).await? {
            Replaced::Done | Replaced::Gone => Ok(Attempt::Done(())),
            Replaced::Changed(current) => Ok(Attempt::Lost(*current)),
            Replaced::EmailTaken => {
                Err(StoreError::Inconsistent("email already claimed although the change kept it".into()))
            }
        }
    })
    .await
}
