//! What happens to accounts, without HTTP: registering, logging in, limits for guessing, permission queries.
//!
//! | to find | look in |
//! |---|---|
//! | how a password is checked, and what comes of a log-in | [`login`] |
//! | how a session begins, whatever way the user proved who it is | [`begin_session`] |
//! | a user who shows the password once more | [`confirm`] |
//! | registering, refreshing, changing a password | [`register`], [`refresh`], [`change_password`] |
//! | locks and rates | [`limits`] |
//! | whether a permission query holds for a user | [`permission_queries`] |

pub mod begin_session;
pub mod change_password;
pub mod confirm;
pub mod limits;
pub mod login;
pub mod permission_queries;
pub mod refresh;
pub mod register;

use std::{net::IpAddr, time::Duration};

use actors::{ActorError, Actors, Facts, user::UserError};
use schema::{Clock, Entropy};
use store::{StoreError, Stores};

use crate::{
    credentials::{
        passwords::{PasswordPool, PoolBusy},
        tokens::{SignError, Tokens},
    },
    metrics::Metrics,
    scheduling::source::Source,
};
use limits::Limits;

/// What the use cases of this floor work with.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Accounts<'a> {
    pub stores: &'a Stores,
    pub actors: &'a Actors,
    pub facts: &'a Facts,
    pub passwords: &'a PasswordPool,
    pub tokens: &'a Tokens,
    pub limits: &'a Limits,
    pub metrics: &'a Metrics,
    pub clock: &'a dyn Clock,
    pub entropy: &'a dyn Entropy,
    /// How long a session lasts after its last refresh.
    pub refresh_ttl: Duration,
}

/// The client that a request comes from.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address, as far as proxies are trusted.
    pub ip_address: IpAddr,
    /// `User-Agent`, cleaned and cut to a bound.
    pub user_agent: Option<String>,
    /// Whose share of scarce resources its requests take.
    pub source: Source,
}

/// Why a use case has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Too many passwords wait to be hashed. Try again.
    #[error(transparent)]
    Busy(#[from] PoolBusy),
    /// The store or an actor cannot answer now.
    #[error(transparent)]
    Actor(#[from] ActorError),
    /// A change of the user was refused.
    #[error(transparent)]
    User(#[from] UserError),
    /// No access token could be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        ActorError::from(error).into()
    }
}
