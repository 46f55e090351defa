//! Login histories, a partition per user and month, newest first, and the known places of accounts. Rows
//! expire by their TTL.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use schema::{
    LoginId, Timestamp, UserId,
    login::{LOGIN_RETENTION, Login, MAX_PLACES, Outcome, is_trimming},
    page::{Page, PageOf},
    place::{AccountKey, Place},
};
use scylla::{DeserializeRow, value::CqlTimestamp};
use store::{Logins, Result};
use uuid::Uuid;

use crate::{
    convert,
    statement::Cql,
    store::{At, Store},
};

/// How far the clock of the node that wrote an entry may be ahead of ours.
const CLOCK_LEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Limit of the months that have unexpired entries.
const MONTHS_KEPT_MAX: i32 = 5;

#[derive(DeserializeRow)]
struct LoginRow {
    user: Uuid,
    id: Uuid,
    time: Option<CqlTimestamp>,
    ip_address: Option<IpAddr>,
    device: Option<String>,
    user_agent: Option<String>,
    outcome: Option<String>,
}

#[derive(DeserializeRow)]
struct OneLogin {
    id: Uuid,
}

#[derive(DeserializeRow)]
struct KnownPlace {
    place: Vec<u8>,
    time: CqlTimestamp,
}

#[derive(DeserializeRow)]
struct PlaceRow {
    time: CqlTimestamp,
}

#[async_trait]
impl Logins for Store {
    async fn record(&self, login: &Login, max: usize) -> Result<()> {
        let now = self.settled();
        let end = login.time.plus(LOGIN_RETENTION);
        if end <= now {
            return Ok(());
        }
        let values = (
            login.user.uuid(),
            month(login.id),
            login.id.uuid(),
            convert::time(login.time),
            login.ip_address,
            login.device.as_deref(),
            login.user_agent.as_deref(),
            outcome_text(login.outcome),
            convert::ttl_until(end, now),
        );
        self.within(self.write(Cql::LoginAdd, values)).await?;
        if is_trimming(login.id, max)
            && let Err(error) = self.within(self.trim_logins(login.user, max)).await
        {
            tracing::warn!(user = %login.user, %error, "login history not trimmed; it stays above its limit");
        }
        Ok(())
    }

    async fn list(&self, user: UserId, page: PageOf<LoginId>) -> Result<Page<Login, LoginId>> {
        self.within(async {
            let wanted = page.limit.saturating_add(1);
            let months = self.months();
            let newest = page.after.map_or(*months.end(), |after| month(after).min(*months.end()));
            let before = page.after.map_or(Uuid::max(), LoginId::uuid);
            let mut logins = Vec::new();
            for month in (*months.start()..=newest).rev() {
                logins.extend(self.logins_before(user, month, before, wanted - logins.len()).await?);
                if logins.len() >= wanted {
                    break;
                }
            }
            Ok(Page::cut(logins, page.limit, |login: &Login| login.id))
        })
        .await
    }

    async fn note_place(&self, account: AccountKey, place: Place, time: Timestamp) -> Result<()> {
        let now = self.now();
        let end = time.plus(LOGIN_RETENTION);
        if end <= now {
            return Ok(());
        }
        let ttl = convert::ttl_until(end, now);
        let key = &account.as_bytes()[..];
        let values = (key, &place.as_bytes()[..], convert::time(time), ttl);
        self.within(async {
            self.make_room_for_place(account, place).await?;
            self.write(Cql::PlaceNote, values).await
        })
        .await
    }

    async fn last_from(&self, account: AccountKey, place: Place) -> Result<Option<Timestamp>> {
        let values = (&account.as_bytes()[..], &place.as_bytes()[..]);
        let row = self.within(self.row::<PlaceRow>(At::Quorum, Cql::PlaceLast, values)).await?;
        Ok(row.map(|row| convert::timestamp(row.time)))
    }

    async fn forget_places(&self, account: AccountKey) -> Result<()> {
        self.within(self.write(Cql::PlacesForget, (&account.as_bytes()[..],))).await
    }
}

impl Store {
    /// Removes the oldest places beyond [`MAX_PLACES`]. Concurrent notes may leave a few more.
    async fn make_room_for_place(&self, account: AccountKey, new: Place) -> Result<()> {
        let key = &account.as_bytes()[..];
        let mut places = self.read::<KnownPlace>(At::Quorum, Cql::Places, (key,)).await?;
        if places.iter().any(|known| known.place == new.as_bytes()) {
            return Ok(());
        }
        places.sort_unstable_by_key(|known| known.time.0);
        let beyond = (places.len() + 1).saturating_sub(MAX_PLACES);
        for known in places.iter().take(beyond) {
            self.write(Cql::PlaceForget, (key, &known.place[..])).await?;
        }
        Ok(())
    }

    /// The months that may have entries, oldest first.
    fn months(&self) -> RangeInclusive<i32> {
        let now = self.now();
        let oldest = convert::month(now.minus(LOGIN_RETENTION).minus(CLOCK_LEAD_MAX));
        oldest..=convert::month(now.plus(CLOCK_LEAD_MAX))
    }

    /// The next `limit` entries of a month, newest first, without those that do not parse.
    async fn logins_before(
        &self,
        user: UserId,
        month: i32,
        before: Uuid,
        limit: usize,
    ) -> Result<Vec<Login>> {
        let mut logins = Vec::new();
        let mut before = before;
        loop {
            let missing = limit - logins.len();
            let values = (user.uuid(), month, before, convert::limit(missing));
            let rows = self.read::<LoginRow>(At::Quorum, Cql::LoginsBefore, values).await?;
            let is_last = rows.len() < missing;
            before = rows.last().map_or(before, |row| row.id);
            logins.extend(rows.into_iter().filter_map(|row| {
                let id = LoginId::from_bytes(*row.id.as_bytes());
                let read = login(row);
                if read.is_none() {
                    tracing::error!(%user, login = %id, "a login cannot be read; `palisade store check` names it");
                }
                read
            }));
            if is_last || logins.len() >= limit {
                return Ok(logins);
            }
        }
    }

    /// The entries of a user that do not parse: table and id of each.
    pub(crate) async fn unreadable_logins(&self, user: UserId) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for month in self.months() {
            let values = (user.uuid(), month, Uuid::max(), i32::MAX);
            for row in self.read::<LoginRow>(At::Quorum, Cql::LoginsBefore, values).await? {
                let id = LoginId::from_bytes(*row.id.as_bytes());
                if login(row).is_none() {
                    found.push(("logins".to_owned(), id.to_string()));
                }
            }
        }
        Ok(found)
    }

    /// Removes the oldest entries of a user beyond `max`.
    async fn trim_logins(&self, user: UserId, max: usize) -> Result<()> {
        let mut room = max.max(1);
        for month in self.months().rev() {
            let values = (user.uuid(), month, convert::limit(room + 1));
            let ids = self.read::<OneLogin>(At::Quorum, Cql::LoginIds, values).await?;
            if ids.len() <= room {
                room -= ids.len();
            } else if let Some(last) = room.checked_sub(1).and_then(|last| ids.get(last)) {
                self.write(Cql::LoginsTrim, (user.uuid(), month, last.id)).await?;
                room = 0;
            } else {
                self.write(Cql::LoginsRemove, (user.uuid(), month)).await?;
            }
        }
        Ok(())
    }

    /// Deletes the history of a user.
    pub(crate) async fn delete_logins(&self, user: UserId) -> Result<()> {
        let newest = convert::month(self.now().plus(CLOCK_LEAD_MAX));
        let months = newest - MONTHS_KEPT_MAX..=newest;
        let deletions = months.map(|month| self.write(Cql::LoginsRemove, (user.uuid(), month)));
        try_join_all(deletions).await.map(drop)
    }
}

/// The month of an entry, by the time in its id, so that entries have the same order by month as by id.
fn month(id: LoginId) -> i32 {
    convert::month(convert::made_at(id.as_bytes()))
}

/// Parses a row; `None` if a column is missing or malformed.
fn login(row: LoginRow) -> Option<Login> {
    Some(Login {
        id: LoginId::from_bytes(*row.id.as_bytes()),
        user: UserId::from_bytes(*row.user.as_bytes()),
        time: convert::timestamp(row.time?),
        ip_address: row.ip_address?,
        device: row.device,
        user_agent: row.user_agent,
        outcome: outcome(&row.outcome?)?,
    })
}

/// The stored word of each outcome: the same as in its JSON form.
const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Success, "success"),
    (Outcome::BadPassword, "bad_password"),
    (Outcome::Disabled, "disabled"),
    (Outcome::NoPassword, "no_password"),
    (Outcome::RefreshReuse, "refresh_reuse"),
];

fn outcome(text: &str) -> Option<Outcome> {
    OUTCOMES.iter().find(|(_, word)| *word == text).map(|(outcome, _)| *outcome)
}

const fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => OUTCOMES[0].1,
        Outcome::BadPassword => OUTCOMES[1].1,
        Outcome::Disabled => OUTCOMES[2].1,
        Outcome::NoPassword => OUTCOMES[3].1,
        Outcome::RefreshReuse => OUTCOMES[4].1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_words_of_outcomes_are_fixed() {
        for (is, word) in OUTCOMES {
            assert_eq!((outcome_text(is), outcome(word)), (word, Some(is)));
            assert_eq!(serde_json::to_string(&is).unwrap(), format!("\"{word}\""));
        }
        assert_eq!(outcome("other"), None);
    }
}
