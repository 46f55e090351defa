//! The login history of a user.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{LoginId, UserId},
    time::Timestamp,
};

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
