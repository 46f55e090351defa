//! Which rows today's rules would not accept, for operators: `palisade store check`.
//!
//! Such rows are served all the same. They come from older versions, from imports, or from somebody
//! who wrote into the store. [`step`] names them, some users at a time, and mends what can be mended
//! without a loss: the claim of an email that an earlier version made under another key.

use serde::{Deserialize, Serialize};

use crate::{
    email::Email,
    id::UserId,
    name::Name,
    page::{MAX_LIMIT, PageOf},
    store::{Result, Stores},
    text::{Description, Device, PersonName, UserAgent},
    user::User,
};

/// A user as a check sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Whose row it is.
    pub id: UserId,
    /// `None` when the row cannot be read.
    pub user: Option<User>,
    /// Of the email.
    pub claim: Claim,
    /// The user's other rows that cannot be read: table and key.
    pub unreadable: Vec<(String, String)>,
}

/// Under which key a user's email is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Today's.
    Today,
    /// That of an earlier version; today's is free or another's.
    Earlier(Option<UserId>),
    /// None; today's is free or another's.
    Missing(Option<UserId>),
}

/// What came of [`Upkeep::reclaim`](crate::store::Upkeep::reclaim).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// It is claimed under today's key.
    Done,
    /// Another user has that key.
    Held(UserId),
    /// There is no such user, or its row cannot be read.
    Gone,
}

/// A row that today's rules would not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// In which table.
    pub table: String,
    /// Its key. No text of a person.
    pub id: String,
    /// Which field.
    pub field: String,
    /// Why, without what is there.
    pub why: String,
    /// Whether it is mended.
    pub state: State,
}

/// Whether a row is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can be, without a loss.
    Mendable,
    /// It was.
    Mended,
    /// It stays as it is until somebody changes or deletes it.
    Stays,
}

impl Finding {
    /// One that stays.
    #[allow(clippy::needless_pass_by_value, reason = "ids are small and copied")]
    pub fn stays(table: &str, id: impl ToString, field: &str, why: impl Into<String>) -> Self {
        let id = id.to_string().chars().take(MAX_ID_CHARS).collect();
        Self { table: table.into(), id, field: field.into(), why: why.into(), state: State::Stays }
    }
}

/// A part of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was found.
    pub findings: Vec<Finding>,
    /// How many users were looked at.
    pub users: usize,
    /// To go on after; `None` at the end.
    pub next: Option<UserId>,
}

/// How many rows of sessions, and of log-ins, of one user are named; the others are counted.
const NAMED: usize = 3;
/// How many users a step looks at.
const USERS: usize = 50;
/// A step ends after so many findings, so that its answer has a bound.
const ENOUGH: usize = 50;
/// How many roles, permissions and claims are named; the others are counted.
const OTHERS: usize = 100;
/// Longest key in a finding, in characters.
const MAX_ID_CHARS: usize = 80;

/// Looks at some users and what they have, and first of all at the roles and permissions; mends too
/// when `repair` says so. What was mended before is not found again.
///
/// # Errors
/// The store's.
pub async fn step(stores: &Stores, after: Option<UserId>, repair: bool) -> Result<Step> {
    let mut findings = Vec::new();
    if after.is_none() {
        findings.extend(stores.upkeep.examine_others().await?);
        for permission in stores.permissions.list().await? {
            named("permissions", &permission.name, permission.description.as_deref(), &mut findings);
        }
        for role in stores.roles.list().await? {
            named("roles", &role.name, role.description.as_deref(), &mut findings);
        }
        if findings.len() > OTHERS {
            let why = format!("{} more of such rows", findings.len() - OTHERS);
            findings.truncate(OTHERS);
            findings.push(Finding::stays("roles, permissions, emails", "", "row", why));
        }
    }
    let examined = stores.upkeep.examine(PageOf { after, limit: USERS }).await?;
    let (mut users, before) = (0, findings.len());
    for one in examined.items {
        let id = one.id;
        users += 1;
        user(stores, one, repair, &mut findings).await?;
        if findings.len() - before >= ENOUGH {
            return Ok(Step { findings, users, next: Some(id) });
        }
    }
    Ok(Step { findings, users, next: examined.next })
}

fn named(table: &str, name: &Name, description: Option<&str>, findings: &mut Vec<Finding>) {
    if let Err(why) = name.as_str().parse::<Name>() {
        findings.push(Finding::stays(table, format!("{:?}", name.as_str()), "name", why.to_string()));
    }
    if let Some(Err(why)) = description.map(Description::parse) {
        findings.push(Finding::stays(table, format!("{:?}", name.as_str()), "description", why.to_string()));
    }
}

async fn user(stores: &Stores, one: Examined, repair: bool, findings: &mut Vec<Finding>) -> Result<()> {
    let id = one.id;
    for (table, key) in one.unreadable.iter().take(NAMED) {
        findings.push(Finding::stays(table, key, "row", "cannot be read"));
    }
    if one.unreadable.len() > NAMED {
        let why = format!("{} more rows of this user cannot be read", one.unreadable.len() - NAMED);
        findings.push(Finding::stays("sessions, logins", id, "row", why));
    }
    let Some(user) = one.user else {
        findings.push(Finding::stays("users", id, "row", "cannot be read; delete the user"));
        return Ok(());
    };
    match user.email.as_str().parse::<Email>() {
        Err(why) => findings.push(Finding::stays("users", id, "email", why.to_string())),
        Ok(_) => claim(stores, id, one.claim, repair, findings).await?,
    }
    for (field, name) in [("first_name", &user.first_name), ("last_name", &user.last_name)] {
        if let Some(Err(why)) = name.as_deref().map(PersonName::parse) {
            findings.push(Finding::stays("users", id, field, why.to_string()));
        }
    }
    sessions(stores, id, findings).await?;
    logins(stores, id, findings).await
}

/// The claim of an email that is accepted.
async fn claim(
    stores: &Stores,
    id: UserId,
    claim: Claim,
    repair: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let (what, held) = match claim {
        Claim::Today => return Ok(()),
        Claim::Earlier(held) => ("claimed under the key of an earlier version", held),
        Claim::Missing(held) => ("not claimed: nobody logs in with it", held),
    };
    let mut held = held;
    let mut state = if held.is_some() { State::Stays } else { State::Mendable };
    if repair && held.is_none() {
        match stores.upkeep.reclaim(id).await? {
            Reclaimed::Done => state = State::Mended,
            Reclaimed::Held(other) => (held, state) = (Some(other), State::Stays),
            Reclaimed::Gone => return Ok(()),
        }
    }
    let why = match held {
        None => what.to_owned(),
        Some(other) => format!("{what}; today it is the same address as that of user {other}"),
    };
    findings.push(Finding { state, ..Finding::stays("users", id, "email", why) });
    Ok(())
}

/// What is wrong with what a client called itself.
fn client(device: Option<&str>, user_agent: Option<&str>) -> Option<(&'static str, String)> {
    if let Some(Err(why)) = device.map(Device::parse) {
        return Some(("device", why.to_string()));
    }
    let unclean = user_agent.is_some_and(|text| UserAgent::clean(text).as_str() != text);
    unclean.then(|| ("user_agent", "is longer than it may be or has characters that are not shown".into()))
}

async fn sessions(stores: &Stores, user: UserId, findings: &mut Vec<Finding>) -> Result<()> {
    let (mut after, mut found) = (None, 0);
    loop {
        let page = stores.sessions.list(user, PageOf { after, limit: MAX_LIMIT }).await?;
        for session in page.items {
            if let Some((field, why)) = client(session.device.as_deref(), session.user_agent.as_deref()) {
                found += 1;
                if found <= NAMED {
                    findings.push(Finding::stays("sessions", session.id, field, why));
                }
            }
        }
        after = page.next;
        if after.is_none() {
            more("sessions", user, found, findings);
            return Ok(());
        }
    }
}

async fn logins(stores: &Stores, user: UserId, findings: &mut Vec<Finding>) -> Result<()> {
    let (mut after, mut found) = (None, 0);
    loop {
        let page = stores.logins.list(user, PageOf { after, limit: MAX_LIMIT }).await?;
        for login in page.items {
            if let Some((field, why)) = client(login.device.as_deref(), login.user_agent.as_deref()) {
                found += 1;
                if found <= NAMED {
                    findings.push(Finding::stays("logins", login.id, field, why));
                }
            }
        }
        after = page.next;
        if after.is_none() {
            more("logins", user, found, findings);
            return Ok(());
        }
    }
}

fn more(table: &str, user: UserId, found: usize, findings: &mut Vec<Finding>) {
    if found > NAMED {
        let why = format!("{} more of this user", found - NAMED);
        findings.push(Finding::stays(table, user, "device, user_agent", why));
    }
}
