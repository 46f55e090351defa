//! The login history of a user.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{LoginId, UserId},
    time::Timestamp,
};

/// How many entries of a user are kept; the oldest go when there are more.
pub const MAX_LOGINS: usize = 10_000;
/// A history is counted once in so many entries, on average: there may be about so many too many.
const TRIMMED_EVERY: usize = 32;

/// Whether a store counts the history that this entry is added to. That costs a look at all of it, so
/// it is not done for each entry; with few entries it is.
#[must_use]
pub fn is_trimming(id: LoginId, max: usize) -> bool {
    let [.., random] = *id.as_bytes();
    usize::from(random).is_multiple_of((max / 8).clamp(1, TRIMMED_EVERY))
}

/// The maximum number of known places of an account.
pub const MAX_PLACES: usize = 100;
/// How long entries are kept.
pub const LOGIN_RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// One attempt to log in, or the misuse of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Its id; sorts by time.
    pub id: LoginId,
    /// Whose.
    pub user: UserId,
    /// When.
    pub time: Timestamp,
    /// Where it came from.
    pub ip_address: IpAddr,
    /// What the client calls itself.
    pub device: Option<String>,
    /// Of the request.
    pub user_agent: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A session began.
    Success,
    /// The password was wrong.
    BadPassword,
    /// The user is disabled.
    Disabled,
    /// The user has no password.
    NoPassword,
    /// A spent refresh token was shown after its grace; the session was revoked.
    RefreshReuse,
}

impl Outcome {
    /// Why it failed, for the history; `None` for success.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Success => None,
            Self::BadPassword => Some("bad_password"),
            Self::Disabled => Some("disabled"),
            Self::NoPassword => Some("no_password"),
            Self::RefreshReuse => Some("refresh_reuse"),
        }
    }
}
