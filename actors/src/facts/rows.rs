//! The rows of what was revoked.

use schema::{
    FactKind, Stores, UserId,
    store::{Replaced, Result, StoreError},
    user::{MAX_VERSION, ended_below},
};

/// How often a lost compare-and-set is tried again.
const ATTEMPTS: usize = 16;

/// Ends the rows that a fact is about: of one session, or of all of a user below a version, which
/// the user's row then has. Done before is done again, and what is not there needs nothing.
///
/// # Errors
/// When the store does not answer; to be called again.
pub async fn end_rows(stores: &Stores, kind: &FactKind) -> Result<()> {
    match *kind {
        FactKind::SessionRevoked { user, session } => stores.sessions.end(user, session).await.map(drop),
        // As the denials: nobody makes such a one.
        FactKind::UserVersion { at_least, .. } if at_least > MAX_VERSION => Ok(()),
        FactKind::UserVersion { user, at_least } => {
            raise(stores, user, at_least).await?;
            stores.sessions.end_older(user, ended_below(at_least)).await
        }
        FactKind::TokenRevoked { .. } | FactKind::KeyRetired { .. } | FactKind::PermissionsChanged { .. } => {
            Ok(())
        }
    }
}

async fn raise(stores: &Stores, user: UserId, at_least: u64) -> Result<()> {
    let Some(mut user) = stores.users.get(user).await? else { return Ok(()) };
    for _ in 0..ATTEMPTS {
        if user.version >= at_least {
            return Ok(());
        }
        let mut next = user.clone();
        (next.version, next.revision) = (at_least, user.revision + 1);
        match stores.users.replace(&next).await? {
            Replaced::Done | Replaced::Gone => return Ok(()),
            Replaced::Changed(current) => user = *current,
            Replaced::EmailTaken => {
                return Err(StoreError::Inconsistent("an email was taken by who did not change it".into()));
            }
        }
    }
    Err(StoreError::unavailable("the user changes all the time"))
}
