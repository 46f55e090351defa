//! Login histories and known places, each with an index by time.

use async_trait::async_trait;
use schema::{
    Horizon, LoginId, Timestamp, UserId,
    login::{LOGIN_RETENTION, Login, MAX_PLACES, is_trimming},
    page::{Page, PageOf},
    place::{AccountKey, Place},
};
use store::{Logins, Result};

use crate::{
    rows::{Change, Row, Rows, Span},
    store::{REMOVALS_PER_CHANGE_MAX, Store},
    table::{LOGIN_PLACE_TIMES, LOGIN_PLACES, LOGIN_TIMES, LOGINS},
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
                let excess = change.count_in(&LOGINS, &Span::of(&login.user))?.saturating_sub(max);
                remove_oldest(change, login.user, excess.min(REMOVALS_PER_CHANGE_MAX))?;
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

    async fn note_place(&self, account: AccountKey, place: Place, time: Timestamp) -> Result<()> {
        self.change(move |change| {
            let last = change.get(&LOGIN_PLACES, &(account, place))?;
            if last.is_some_and(|last| last >= time) {
                return Ok(());
            }
            if let Some(last) = last {
                change.remove(&LOGIN_PLACE_TIMES, &(last, account, place))?;
            } else {
                let mut places = change.scan(&LOGIN_PLACES, &Span::of(&account), usize::MAX)?;
                places.sort_unstable_by_key(|(_, time)| *time);
                let beyond = (places.len() + 1).saturating_sub(MAX_PLACES);
                for ((_, place), time) in places.into_iter().take(beyond) {
                    change.remove(&LOGIN_PLACES, &(account, place))?;
                    change.remove(&LOGIN_PLACE_TIMES, &(time, account, place))?;
                }
            }
            change.put(&LOGIN_PLACES, &(account, place), &time)?;
            change.put(&LOGIN_PLACE_TIMES, &(time, account, place), &())
        })
        .await
    }

    async fn last_from(&self, account: AccountKey, place: Place) -> Result<Option<Timestamp>> {
        self.read(move |rows| rows.get(&LOGIN_PLACES, &(account, place))).await
    }

    async fn forget_places(&self, account: AccountKey) -> Result<()> {
        self.change(move |change| {
            for ((_, place), time) in change.scan(&LOGIN_PLACES, &Span::of(&account), usize::MAX)? {
                change.remove(&LOGIN_PLACES, &(account, place))?;
                change.remove(&LOGIN_PLACE_TIMES, &(time, account, place))?;
            }
            Ok(())
        })
        .await
    }
}

/// Removes at most `limit` of the oldest entries of a user. Returns their number.
pub(crate) fn remove_oldest(change: &Change<'_>, user: UserId, limit: usize) -> Result<usize> {
    let oldest = change.scan_rows(&LOGINS, &Span::of(&user), limit)?;
    for (key, login) in &oldest {
        change.remove(&LOGINS, key)?;
        // The index row of an entry that does not parse is left to the sweep.
        if let Row::Parsed(login) = login {
            change.remove(&LOGIN_TIMES, &(login.time, login.user, login.id))?;
        }
    }
    Ok(oldest.len())
}

/// Removes at most `limit` entries older than the retention time. Returns their number.
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

/// Removes at most `limit` places without a login during the retention time. Returns their number.
pub(crate) fn sweep_places(change: &Change<'_>, horizon: Horizon, limit: usize) -> Result<usize> {
    let kept_from = horizon.time().minus(LOGIN_RETENTION);
    let old = change.scan(&LOGIN_PLACE_TIMES, &Span::up_to(&kept_from), limit)?;
    for (row, ()) in &old {
        let (_, account, place) = *row;
        change.remove(&LOGIN_PLACE_TIMES, row)?;
        change.remove(&LOGIN_PLACES, &(account, place))?;
    }
    Ok(old.len())
}
