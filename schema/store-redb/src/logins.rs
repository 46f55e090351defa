//! Login histories, with an index by time.

use async_trait::async_trait;
use schema::{
    Horizon, LoginId, UserId,
    login::{LOGIN_RETENTION, Login},
    page::{Page, PageOf},
    store::{Logins, Result},
};

use crate::{
    rows::{Change, Rows, Span},
    store::Store,
    table::{LOGIN_TIMES, LOGINS},
};

#[async_trait]
impl Logins for Store {
    async fn record(&self, login: &Login) -> Result<()> {
        let login = login.clone();
        self.change(move |change| {
            if !change.has(&LOGINS, &(login.user, login.id))? {
                change.put(&LOGINS, &(login.user, login.id), &login)?;
                change.put(&LOGIN_TIMES, &(login.time, login.user, login.id), &())?;
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, user: UserId, page: PageOf<LoginId>) -> Result<Page<Login, LoginId>> {
        self.read(move |rows| {
            let seen = page.after.map(|id| (user, id));
            let span = Span::of(&user).before(seen.as_ref());
            let found = rows.scan_back(&LOGINS, &span, page.limit.saturating_add(1))?;
            let logins = found.into_iter().map(|(_, login)| login).collect();
            Ok(Page::cut(logins, page.limit, |login: &Login| login.id))
        })
        .await
    }
}

/// Removes the history of a user that is deleted.
pub(crate) fn forget(change: &Change<'_>, user: UserId) -> Result<()> {
    for (key, login) in change.scan(&LOGINS, &Span::of(&user), usize::MAX)? {
        change.remove(&LOGINS, &key)?;
        change.remove(&LOGIN_TIMES, &(login.time, login.user, login.id))?;
    }
    Ok(())
}

/// Removes entries that have been kept long enough; says how many.
pub(crate) fn sweep(change: &Change<'_>, horizon: Horizon, limit: usize) -> Result<usize> {
    let kept_from = horizon.time().minus(LOGIN_RETENTION);
    let old = change.scan(&LOGIN_TIMES, &Span::up_to(&kept_from), limit)?;
    for (time, ()) in &old {
        let (_, user, id) = *time;
        change.remove(&LOGIN_TIMES, time)?;
        change.remove(&LOGINS, &(user, id))?;
    }
    Ok(old.len())
}
