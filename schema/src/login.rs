//! Login histories.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{LoginId, UserId},
    time::Timestamp,
};

/// Limit of the entries of a user; the oldest are removed beyond it.
pub const MAX_LOGINS: usize = 10_000;
/// Limit of entries, on average, between two counts of a history. A history may exceed its limit by about this
/// number.
const TRIM_INTERVAL_MAX: usize = 32;

/// Whether a store counts the history to which the entry with this id is added. A count reads the whole
/// history, so it is done for every entry only if `max` is small.
#[must_use]
pub fn is_trimming(id: LoginId, max: usize) -> bool {
    let [.., random] = *id.as_bytes();
    usize::from(random).is_multiple_of((max / 8).clamp(1, TRIM_INTERVAL_MAX))
}

/// Limit of the known places of an account.
pub const MAX_PLACES: usize = 100;
/// How long entries and known places are kept.
pub const LOGIN_RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// One attempt to log in, or the misuse of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The id of the entry; sorts by time.
    pub id: LoginId,
    /// The user that the attempt was for.
    pub user: UserId,
    /// When it happened.
    pub time: Timestamp,
    /// The client's address.
    pub ip_address: IpAddr,
    /// The name that the client gave itself.
    pub device: Option<String>,
    /// The `User-Agent` of the request.
    pub user_agent: Option<String>,
    /// The outcome of the attempt.
    pub outcome: Outcome,
}

/// The outcome of an attempt to log in.
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
    /// A spent refresh token was presented after its grace; the session was revoked.
    RefreshReuse,
}

impl Outcome {
    /// Why the attempt failed, as a word for the history; `None` for success.
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
