//! Users and their email claims, changed in one transaction.

use async_trait::async_trait;
use schema::{
    UserId,
    email::{Email, FoldedEmail},
    page::{Page, PageOf},
    user::User,
};
use store::{
    Created, Replaced, Result, StoreError, Users,
    check::{Claim, Examined, Finding, Reclaimed},
};

use crate::{
    cascade, logins,
    rows::{Change, Row, Rows, Span},
    sessions,
    store::{REMOVALS_PER_CHANGE_MAX, Store},
    table::{EMAILS, GRANTS, LOGINS, PERMISSIONS, ROLES, SESSIONS, USERS},
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
        self.read(move |rows| find(rows, &email)).await
    }

    async fn replace(&self, next: &User) -> Result<Replaced> {
        let next = next.clone();
        self.change(move |change| replace(change, &next)).await
    }

    async fn delete(&self, id: UserId) -> Result<()> {
        while self.change(move |change| delete(change, id)).await? {}
        Ok(())
    }

    async fn list(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>> {
        self.read(move |rows| {
            let found =
                rows.list(&USERS, &Span::all().after(page.after.as_ref()), page.limit.saturating_add(1))?;
            let users = found.into_iter().map(|(_, user)| user).collect();
            Ok(Page::cut(users, page.limit, |user: &User| user.id))
        })
        .await
    }
}

/// The user with this email.
fn find(rows: &impl Rows, email: &FoldedEmail) -> Result<Option<User>> {
    for key in email.keys() {
        let Some(id) = rows.get(&EMAILS, &key.to_owned())? else { continue };
        match rows.get(&USERS, &id)? {
            Some(user) if email.finds(key, &user.email) => return Ok(Some(user)),
            Some(_) => {}
            None => tracing::error!(user = %id, "an email is claimed by a user that does not exist"),
        }
    }
    Ok(None)
}

/// The other user that has this email. A claim counts only if its user exists and has this email.
fn holder(rows: &impl Rows, email: &FoldedEmail, me: UserId) -> Result<Option<UserId>> {
    for key in email.keys() {
        let Some(id) = rows.get(&EMAILS, &key.to_owned())?.filter(|id| *id != me) else { continue };
        let has = match rows.get_row(&USERS, &id)? {
            Some(Row::Parsed(user)) if key == email.as_str() => user.email.claims(key),
            Some(Row::Parsed(user)) => email.finds(key, &user.email),
            Some(Row::Unreadable) => true,
            None => false,
        };
        if has {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn create(change: &Change<'_>, user: &User) -> Result<Created> {
    if change.has(&USERS, &user.id)? {
        return Ok(Created::Done);
    }
    let email = user.email.folded();
    if holder(change, &email, user.id)?.is_some() {
        return Ok(Created::EmailTaken);
    }
    claim(change, &email, user.id)?;
    change.put(&USERS, &user.id, user)?;
    Ok(Created::Done)
}

fn replace(change: &Change<'_>, next: &User) -> Result<Replaced> {
    let Some(stored) = change.get(&USERS, &next.id)? else { return Ok(Replaced::Gone) };
    if stored.revision.checked_add(1) != Some(next.revision) {
        return Ok(Replaced::Changed(Box::new(stored)));
    }
    // An unchanged email keeps its claim, whatever that is: nothing else may depend on it.
    if stored.email != next.email {
        let new = next.email.folded();
        if holder(change, &new, next.id)?.is_some() {
            return Ok(Replaced::EmailTaken);
        }
        release(change, &stored.email, next.id)?;
        claim(change, &new, next.id)?;
    }
    change.put(&USERS, &next.id, next)?;
    Ok(Replaced::Done)
}

/// Removes a user and everything that belongs to it: first the sessions and logins, of which there may be
/// many, a limited number per call. Returns whether there is more to remove. The id is enough, even if the
/// rows do not parse.
fn delete(change: &Change<'_>, id: UserId) -> Result<bool> {
    let Some(row) = change.get_row(&USERS, &id)? else { return Ok(false) };
    let sessions = sessions::remove_some(change, id, REMOVALS_PER_CHANGE_MAX)?;
    let logins = logins::remove_oldest(change, id, REMOVALS_PER_CHANGE_MAX - sessions)?;
    if sessions + logins >= REMOVALS_PER_CHANGE_MAX {
        return Ok(true);
    }
    match row {
        Row::Parsed(user) => release(change, &user.email, id)?,
        Row::Unreadable => {
            for (key, holder) in change.scan_rows(&EMAILS, &Span::all(), usize::MAX)? {
                if holder == Row::Parsed(id) {
                    change.remove(&EMAILS, &key)?;
                }
            }
        }
    }
    cascade::remove_grants(change, id)?;
    change.remove(&USERS, &id)?;
    Ok(false)
}

fn claim(change: &Change<'_>, email: &FoldedEmail, id: UserId) -> Result<()> {
    change.put(&EMAILS, &email.as_str().to_owned(), &id)
}

/// Releases the claims on an email that this user holds.
fn release(change: &Change<'_>, email: &Email, id: UserId) -> Result<()> {
    let mut was_held = false;
    for key in email.folded().keys().map(str::to_owned) {
        if change.get_row(&EMAILS, &key)? == Some(Row::Parsed(id)) {
            change.remove(&EMAILS, &key)?;
            was_held = true;
        }
    }
    if !was_held {
        tracing::error!(user = %id, "a user did not hold the claim on its email");
    }
    Ok(())
}

/// A page of users as they are stored, with what is wrong with each.
pub(crate) fn examine(rows: &impl Rows, page: PageOf<UserId>) -> Result<Page<Examined, UserId>> {
    let span = Span::all().after(page.after.as_ref());
    let mut examined = Vec::new();
    for (id, row) in rows.scan_rows(&USERS, &span, page.limit.saturating_add(1))? {
        let user = row.parsed();
        let claim = match &user {
            Some(user) => claim_of(rows, user)?,
            None => Claim::Missing(None),
        };
        let mut unreadable = Vec::new();
        for ((_, session), row) in rows.scan_rows(&SESSIONS, &Span::of(&id), usize::MAX)? {
            if row.parsed().is_none() {
                unreadable.push(("sessions".to_owned(), session.to_string()));
            }
        }
        for ((_, login), row) in rows.scan_rows(&LOGINS, &Span::of(&id), usize::MAX)? {
            if row.parsed().is_none() {
                unreadable.push(("logins".to_owned(), login.to_string()));
            }
        }
        if rows.get_row(&GRANTS, &id)? == Some(Row::Unreadable) {
            unreadable.push(("grants".to_owned(), id.to_string()));
        }
        examined.push(Examined { id, user, claim, unreadable });
    }
    Ok(Page::cut(examined, page.limit, |examined: &Examined| examined.id))
}

fn claim_of(rows: &impl Rows, user: &User) -> Result<Claim> {
    let email = user.email.folded();
    let mine = |key: &str| {
        Ok::<_, StoreError>(rows.get_row(&EMAILS, &key.to_owned())? == Some(Row::Parsed(user.id)))
    };
    if mine(email.as_str())? {
        return Ok(Claim::Today);
    }
    let held = holder(rows, &email, user.id)?;
    for key in email.keys() {
        if mine(key)? {
            return Ok(Claim::Earlier(held));
        }
    }
    Ok(Claim::Missing(held))
}

/// Moves the claim of a user's email to the key under today's folding.
pub(crate) fn reclaim(change: &Change<'_>, id: UserId) -> Result<Reclaimed> {
    let Some(Row::Parsed(user)) = change.get_row(&USERS, &id)? else { return Ok(Reclaimed::Gone) };
    let email = user.email.folded();
    if let Some(other) = holder(change, &email, id)? {
        return Ok(Reclaimed::Held(other));
    }
    claim(change, &email, id)?;
    for key in email.keys().filter(|key| *key != email.as_str()).map(str::to_owned) {
        if change.get_row(&EMAILS, &key)? == Some(Row::Parsed(id)) {
            change.remove(&EMAILS, &key)?;
        }
    }
    Ok(Reclaimed::Done)
}

/// Findings about claims without user, and about roles and permissions that do not parse.
pub(crate) fn examine_others(rows: &impl Rows) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (_, row) in rows.scan_rows(&EMAILS, &Span::all(), usize::MAX)? {
        let why = match row {
            Row::Parsed(id) if rows.has(&USERS, &id)? => continue,
            Row::Parsed(id) => {
                format!("is of user {id}, which does not exist; the next user that wants the email gets it")
            }
            Row::Unreadable => "cannot be read".into(),
        };
        findings.push(Finding::stays("emails", "a claim", "user", why));
    }
    for (name, row) in rows.scan_rows(&ROLES, &Span::all(), usize::MAX)? {
        if row.parsed().is_none() {
            findings.push(Finding::stays("roles", format!("{:?}", name.as_str()), "row", "cannot be read"));
        }
    }
    for (name, row) in rows.scan_rows(&PERMISSIONS, &Span::all(), usize::MAX)? {
        if row.parsed().is_none() {
            findings.push(Finding::stays(
                "permissions",
                format!("{:?}", name.as_str()),
                "row",
                "cannot be read",
            ));
        }
    }
    Ok(findings)
}
