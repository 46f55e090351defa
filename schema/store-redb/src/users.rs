//! Users and their email claims, changed together or not at all.

use async_trait::async_trait;
use schema::{
    StoreError, UserId,
    email::FoldedEmail,
    page::{Page, PageOf},
    store::{Created, Replaced, Result, Users},
    user::User,
};

use crate::{
    grants, logins,
    rows::{Change, Rows, Span},
    sessions,
    store::Store,
    table::{EMAILS, USERS},
};

#[async_trait]
impl Users for Store {
    async fn create(&self, user: &User) -> Result<Created> {
        let user = user.clone();
        self.change(move |change| create(change, &user)).await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.read(move |rows| rows.get(&USERS, &id)).await
    }

    async fn by_email(&self, email: &FoldedEmail) -> Result<Option<User>> {
        let email = email.clone();
        self.read(move |rows| {
            let Some(id) = rows.get(&EMAILS, &email)? else { return Ok(None) };
            let user = rows.get(&USERS, &id)?;
            user.map(Some)
                .ok_or_else(|| StoreError::Inconsistent(format!("an email of user {id}, who is not there")))
        })
        .await
    }

    async fn replace(&self, next: &User) -> Result<Replaced> {
        let next = next.clone();
        self.change(move |change| replace(change, &next)).await
    }

    async fn delete(&self, id: UserId) -> Result<()> {
        self.change(move |change| delete(change, id)).await
    }

    async fn list(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>> {
        self.read(move |rows| {
            let found =
                rows.scan(&USERS, &Span::all().after(page.after.as_ref()), page.limit.saturating_add(1))?;
            let users = found.into_iter().map(|(_, user)| user).collect();
            Ok(Page::cut(users, page.limit, |user: &User| user.id))
        })
        .await
    }
}

fn create(change: &Change<'_>, user: &User) -> Result<Created> {
    if change.has(&USERS, &user.id)? {
        return Ok(Created::Done);
    }
    let email = user.email.folded();
    if change.has(&EMAILS, &email)? {
        return Ok(Created::EmailTaken);
    }
    change.put(&EMAILS, &email, &user.id)?;
    change.put(&USERS, &user.id, user)?;
    Ok(Created::Done)
}

fn replace(change: &Change<'_>, next: &User) -> Result<Replaced> {
    let Some(stored) = change.get(&USERS, &next.id)? else { return Ok(Replaced::Gone) };
    if stored.revision.checked_add(1) != Some(next.revision) {
        return Ok(Replaced::Changed(Box::new(stored)));
    }
    let (old, new) = (stored.email.folded(), next.email.folded());
    if old != new {
        if change.has(&EMAILS, &new)? {
            return Ok(Replaced::EmailTaken);
        }
        release(change, &old, next.id)?;
        change.put(&EMAILS, &new, &next.id)?;
    }
    change.put(&USERS, &next.id, next)?;
    Ok(Replaced::Done)
}

fn delete(change: &Change<'_>, id: UserId) -> Result<()> {
    let Some(user) = change.get(&USERS, &id)? else { return Ok(()) };
    release(change, &user.email.folded(), id)?;
    sessions::end_older(change, id, u64::MAX)?;
    grants::forget(change, id)?;
    logins::forget(change, id)?;
    change.remove(&USERS, &id)?;
    Ok(())
}

/// Gives up a claim, which must be this user's.
fn release(change: &Change<'_>, email: &FoldedEmail, id: UserId) -> Result<()> {
    if change.get(&EMAILS, email)? != Some(id) {
        return Err(StoreError::Inconsistent(format!("the email of user {id} is not claimed by it")));
    }
    change.remove(&EMAILS, email)?;
    Ok(())
}
