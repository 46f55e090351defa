//! Login histories, with an index by time.

use async_trait::async_trait;
use schema::{
    LoginId, Timestamp, UserId,
    login::{LOGIN_RETENTION, Login, is_trimming},
    page::{Page, PageOf},
    store::{Logins, Result},
};

use crate::{
    rows::{Change, Row, Rows, Span},
    store::{STEP, Store},
    table::{LOGIN_TIMES, LOGINS},
};

#[async_trait]
impl Logins for Store {
    async fn record(&self, login: &Login, max: usize) -> Result<()> {
        let login = login.clone();
        self.change(move |change| {
            if change.has(&LOGINS, &(login.user, login.id))? {
                return Ok(());
            }
            change.put(&LOGINS, &(login.user, login.id), &login)?;
            change.put(&LOGIN_TIMES, &(login.time, login.user, login.id), &())?;
            if is_trimming(login.id, max) {
                let too_many = change.count_in(&LOGINS, &Span::of(&login.user))?.saturating_sub(max);
                forget(change, login.user, too_many.min(STEP))?;
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, user: UserId, page: PageOf<LoginId>) -> Result<Page<Login, LoginId>> {
        self.read(move |rows| {
            let seen = page.after.map(|id| (user, id));
            let span = Span::of(&user).before(seen.as_ref());
            let found = rows.list_back(&LOGINS, &span, page.limit.saturating_add(1))?;
            let logins = found.into_iter().map(|(_, login)| login).collect();
            Ok(Page::cut(logins, page.limit, |login: &Login| login.id))
        })
        .await
    }
}

/// Removes the oldest entries of a user, at most so many; says how many there were.
pub(crate) fn forget(change: &Change<'_>, user: UserId, most: usize) -> Result<usize> {
    let oldest = change.look_at(&LOGINS, &Span::of(&user), most)?;
    for (key, login) in &oldest {
        change.remove(&LOGINS, key)?;
        // Of one that cannot be read, the sweep removes this.
        if let Row::Good(login) = login {
            change.remove(&LOGIN_TIMES, &(login.time, login.user, login.id))?;
        }
    }
    Ok(oldest.len())
}

/// Removes entries that have been kept long enough; says how many.
pub(crate) fn sweep(change: &Change<'_>, now: Timestamp, limit: usize) -> Result<usize> {
    let old = change.scan(&LOGIN_TIMES, &Span::up_to(&now.minus(LOGIN_RETENTION)), limit)?;
    for (time, ()) in &old {
        let (_, user, id) = *time;
        change.remove(&LOGIN_TIMES, time)?;
        change.remove(&LOGINS, &(user, id))?;
    }
    Ok(old.len())
}
