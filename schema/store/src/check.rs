//! Finds the rows that today's rules would not accept, for operators: `palisade store check`.
//!
//! Such rows are served nevertheless. They come from older versions, from imports, or from a program that
//! wrote into the store. [`step`] reports them, some users at a time, and repairs what can be repaired
//! without loss: the claim of an email that an earlier version made under another key.

use schema::{
    email::Email,
    id::UserId,
    name::Name,
    page::{MAX_LIMIT, PageOf},
    text::{Description, Device, PersonName, UserAgent},
    user::User,
};
use serde::{Deserialize, Serialize};

use crate::{Result, Stores};

/// A user and its rows, as a check finds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The user's id.
    pub id: UserId,
    /// The user; `None` if the row does not parse.
    pub user: Option<User>,
    /// The state of the claim on the user's email.
    pub claim: Claim,
    /// The user's other rows that do not parse: table and key of each.
    pub unreadable: Vec<(String, String)>,
}

/// The key under which a user's email is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The key by today's folding.
    Today,
    /// The key of an earlier version. Holds the other user that has today's key, if there is one.
    Earlier(Option<UserId>),
    /// No key. Holds the other user that has today's key, if there is one.
    Missing(Option<UserId>),
}

/// The outcome of [`Upkeep::reclaim`](crate::Upkeep::reclaim).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// The email is claimed under today's key.
    Done,
    /// This other user has that key.
    Held(UserId),
    /// The user does not exist, or its row does not parse.
    Gone,
}

/// A row that today's rules would not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The table of the row.
    pub table: String,
    /// The key of the row. It holds no personal text.
    pub id: String,
    /// The field at fault.
    pub field: String,
    /// Why it is at fault, without its content.
    pub why: String,
    /// Whether the row is repaired.
    pub state: State,
}

/// Whether a row is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can be repaired without loss.
    Mendable,
    /// It was repaired.
    Mended,
    /// It stays as it is until a user or an operator changes or deletes it.
    Stays,
}

impl Finding {
    /// A finding that stays until the row is changed or deleted.
    #[allow(clippy::needless_pass_by_value, reason = "ids are small and copied")]
    pub fn stays(table: &str, id: impl ToString, field: &str, why: impl Into<String>) -> Self {
        let id = id.to_string().chars().take(FINDING_ID_CHARS_MAX).collect();
        Self { table: table.into(), id, field: field.into(), why: why.into(), state: State::Stays }
    }
}

/// The result of one step of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The findings of this step.
    pub findings: Vec<Finding>,
    /// The number of examined users.
    pub users: usize,
    /// The user after which the next step continues; `None` at the end.
    pub next: Option<UserId>,
}

/// Limit of reported sessions, and of reported log-ins, of one user; the others are counted.
const FINDINGS_PER_USER_MAX: usize = 3;
/// Limit of users that a step examines.
const USERS_PER_STEP_MAX: usize = 50;
/// Number of findings after which a step ends, so that its answer is bounded.
const FINDINGS_PER_STEP_MAX: usize = 50;
/// Limit of reported roles, permissions and claims; the others are counted.
const OTHER_FINDINGS_MAX: usize = 100;
/// Limit of the length of a key in a finding, in characters; a longer one is cut.
const FINDING_ID_CHARS_MAX: usize = 80;

/// Examines some users and their rows after `after`; the first step also examines roles, permissions and claims.
/// With `repair`, it also repairs what it can; a repaired row is not found again.
///
/// # Errors
/// Those of the store.
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
        if findings.len() > OTHER_FINDINGS_MAX {
            let why = format!("{} more of such rows", findings.len() - OTHER_FINDINGS_MAX);
            findings.truncate(OTHER_FINDINGS_MAX);
            findings.push(Finding::stays("roles, permissions, emails", "", "row", why));
        }
    }
    let examined = stores.upkeep.examine(PageOf { after, limit: USERS_PER_STEP_MAX }).await?;
    let before = findings.len();
    let mut users = 0;
    for one in examined.items {
        let id = one.id;
        users += 1;
        user(stores, one, repair, &mut findings).await?;
        if findings.len() - before >= FINDINGS_PER_STEP_MAX {
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
    for (table, key) in one.unreadable.iter().take(FINDINGS_PER_USER_MAX) {
        findings.push(Finding::stays(table, key, "row", "cannot be read"));
    }
    if one.unreadable.len() > FINDINGS_PER_USER_MAX {
        let why =
            format!("{} more rows of this user cannot be read", one.unreadable.len() - FINDINGS_PER_USER_MAX);
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

/// Reports, and may repair, the claim on an email that today's rules accept.
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
        Claim::Missing(held) => ("not claimed: no log-in with it is possible", held),
    };
    let mut held = held;
    let mut state = if held.is_some() { State::Stays } else { State::Mendable };
    if repair && held.is_none() {
        match stores.upkeep.reclaim(id).await? {
            Reclaimed::Done => state = State::Mended,
            Reclaimed::Held(other) => {
                held = Some(other);
                state = State::Stays;
            }
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

/// What is wrong with the name and `User-Agent` of a client: field and reason.
fn client(device: Option<&str>, user_agent: Option<&str>) -> Option<(&'static str, String)> {
    if let Some(Err(why)) = device.map(Device::parse) {
        return Some(("device", why.to_string()));
    }
    let unclean = user_agent.is_some_and(|text| UserAgent::clean(text).as_str() != text);
    unclean.then(|| ("user_agent", "is longer than it may be or has characters that are not shown".into()))
}

async fn sessions(stores: &Stores, user: UserId, findings: &mut Vec<Finding>) -> Result<()> {
    let mut after = None;
    let mut found = 0;
    loop {
        let page = stores.sessions.list(user, PageOf { after, limit: MAX_LIMIT }).await?;
        for session in page.items {
            if let Some((field, why)) = client(session.device.as_deref(), session.user_agent.as_deref()) {
                found += 1;
                if found <= FINDINGS_PER_USER_MAX {
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
    let mut after = None;
    let mut found = 0;
    loop {
        let page = stores.logins.list(user, PageOf { after, limit: MAX_LIMIT }).await?;
        for login in page.items {
            if let Some((field, why)) = client(login.device.as_deref(), login.user_agent.as_deref()) {
                found += 1;
                if found <= FINDINGS_PER_USER_MAX {
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
    if found > FINDINGS_PER_USER_MAX {
        let why = format!("{} more of this user", found - FINDINGS_PER_USER_MAX);
        findings.push(Finding::stays(table, user, "device, user_agent", why));
    }
}
