//! Registering a user.

use std::time::Duration;

use actors::user::UserError;
use schema::{
    Clock, Entropy, UserId,
    email::{Email, FoldedEmail},
    text::PersonName,
    user::{PasswordHash, User},
};

use super::{AccountError, Accounts, Client};
use crate::credentials::passwords::Normalized;

/// What a user enters to register.
pub struct Registration {
    /// The email.
    pub email: Email,
    /// The email as the user typed it: an earlier version may have stored it so.
    pub typed_email: FoldedEmail,
    /// The password.
    pub password: Normalized,
    /// The given name.
    pub first_name: Option<PersonName>,
    /// The family name.
    pub last_name: Option<PersonName>,
}

/// What comes of a registration.
#[derive(Debug)]
pub enum RegisterOutcome {
    /// The user exists now.
    Registered(User),
    /// The client's address has registered too many users; it may try again after this time.
    Limited(Duration),
}

impl Accounts<'_> {
    /// Registers a user.
    ///
    /// # Errors
    /// `EmailTaken`; or when too many passwords wait, or the store does not answer.
    pub async fn register(
        self,
        given: Registration,
        client: &Client,
    ) -> Result<RegisterOutcome, AccountError> {
        if let Err(wait) = self.limits.may_register(client.ip_address).await {
            return Ok(RegisterOutcome::Limited(wait));
        }
        // Detects a taken email before the costly hash; the store still decides.
        if self.stores.users.by_email(&given.typed_email).await?.is_some() {
            return Err(UserError::EmailTaken.into());
        }
        let password = Some(self.passwords.hash(given.password, client.source).await?);
        let Registration { email, first_name, last_name, .. } = given;
        let user = NewUser { email, password, first_name, last_name }.registered(self.clock, self.entropy);
        self.actors.users.register(user.clone()).await?;
        tracing::info!(user = %user.id, "registered");
        Ok(RegisterOutcome::Registered(user))
    }
}

/// What is known of a user before it is registered.
pub struct NewUser {
    /// Not yet known to be free.
    pub email: Email,
    /// `None` for a user who cannot log in with a password.
    pub password: Option<PasswordHash>,
    /// The given name.
    pub first_name: Option<PersonName>,
    /// The family name.
    pub last_name: Option<PersonName>,
}

impl NewUser {
    /// The user, active, with an id of its own, registered now.
    #[must_use]
    pub fn registered(self, clock: &dyn Clock, entropy: &dyn Entropy) -> User {
        let now = clock.now();
        User {
            id: UserId::new(now, entropy.id()),
            email: self.email,
            email_confirmed: false,
            password: self.password,
            first_name: self.first_name.map(PersonName::into_string),
            last_name: self.last_name.map(PersonName::into_string),
            active: true,
            version: 0,
            revision: 1,
            created_at: now,
        }
    }
}
