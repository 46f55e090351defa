//! Login histories: a partition a user and month, newest first, that go by their time to live.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use schema::{
    LoginId, StoreError, Timestamp, UserId,
    login::{LOGIN_RETENTION, Login, Outcome},
    page::{Page, PageOf},
    place::{AccountKey, Place},
    store::{Logins, Result},
};
use scylla::{DeserializeRow, value::CqlTimestamp};
use uuid::Uuid;

use crate::{
    convert,
    statement::Cql,
    store::{At, Store},
};

/// By how much the clock of who wrote an entry may be ahead of ours.
const AHEAD: Duration = Duration::from_secs(24 * 3600);
/// So many months cover all that is kept.
const MONTHS: i32 = 5;

#[derive(DeserializeRow)]
struct LoginRow {
    user: Uuid,
    id: Uuid,
    time: CqlTimestamp,
    ip_address: IpAddr,
    device: Option<String>,
    user_agent: Option<String>,
    outcome: String,
}

#[derive(DeserializeRow)]
struct PlaceRow {
    time: CqlTimestamp,
}

#[async_trait]
impl Logins for Store {
    async fn record(&self, login: &Login) -> Result<()> {
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
        self.within(self.write(Cql::LoginAdd, values)).await
    }

    async fn list(&self, user: UserId, page: PageOf<LoginId>) -> Result<Page<Login, LoginId>> {
        self.within(async {
            let wanted = page.limit.saturating_add(1);
            let newest = convert::month(self.now().plus(AHEAD));
            let newest = page.after.map_or(newest, |after| newest.min(month(after)));
            let oldest = convert::month(self.now().minus(LOGIN_RETENTION).minus(AHEAD));
            let before = page.after.map_or(Uuid::max(), LoginId::uuid);
            let mut logins = Vec::new();
            for month in (oldest..=newest).rev() {
                let lack = convert::limit(wanted - logins.len());
                let values = (user.uuid(), month, before, lack);
                for row in self.read::<LoginRow>(At::Quorum, Cql::LoginsBefore, values).await? {
                    logins.push(login(row)?);
                }
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
        let values = (&account.as_bytes()[..], &place.as_bytes()[..], convert::time(time), ttl);
        self.within(self.write(Cql::PlaceNote, values)).await
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
    /// Removes the history of a user that is deleted.
    pub(crate) async fn forget_logins(&self, user: UserId) -> Result<()> {
        let newest = convert::month(self.now().plus(AHEAD));
        let months =
            (newest - MONTHS..=newest).map(|month| self.write(Cql::LoginsRemove, (user.uuid(), month)));
        try_join_all(months).await.map(drop)
    }
}

/// The month of an entry, by the time in its id: so the order over months is that of the ids.
fn month(id: LoginId) -> i32 {
    convert::month(convert::made_at(id.as_bytes()))
}

fn login(row: LoginRow) -> Result<Login> {
    let strange = || StoreError::Inconsistent("a login has an outcome of another form".to_owned());
    Ok(Login {
        id: LoginId::from_bytes(*row.id.as_bytes()),
        user: UserId::from_bytes(*row.user.as_bytes()),
        time: convert::timestamp(row.time),
        ip_address: row.ip_address,
        device: row.device,
        user_agent: row.user_agent,
        outcome: outcome(&row.outcome).ok_or_else(strange)?,
    })
}

/// The words are those of its JSON form.
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
    fn the_words_of_outcomes_are_fixed() {
        for (is, word) in OUTCOMES {
            assert_eq!((outcome_text(is), outcome(word)), (word, Some(is)));
            assert_eq!(serde_json::to_string(&is).unwrap(), format!("\"{word}\""));
        }
        assert_eq!(outcome("other"), None);
    }
}
