//! The handle of the user actor.

use std::sync::Arc;

use ractor::SpawnErr;
use schema::{Timestamp, UserId, fact::FactKind, user::User};
use store::Created;
use tracing::Instrument as _;

use super::{
    UserError,
    actor::{UserActor, UserMessage},
    change::{self, NewPassword, ProfileChange},
    grants::{self, GrantChange},
    revoke,
};
use crate::{
    ActorError, Context, Receipt,
    facts::StoredSessions,
    shard::{self, Shards},
};

/// Registers and changes users. Each change is durable when its call returns.
#[derive(Clone)]
pub struct UserHandle {
    context: Arc<Context>,
    shards: Shards<UserMessage>,
}

impl UserHandle {
    pub(crate) async fn start(context: Context) -> Result<Self, SpawnErr> {
        Ok(Self { context: Arc::new(context), shards: Shards::start("user", UserActor).await? })
    }

    /// Adds a user.
    ///
    /// # Errors
    /// `EmailTaken`, or `Actor`.
    pub async fn register(&self, user: User) -> Result<(), UserError> {
        self.serially(user.id, async move |context| match context.stores.users.create(&user).await? {
            Created::Done => Ok(()),
            Created::EmailTaken => Err(UserError::EmailTaken),
        })
        .await
    }

    /// Changes the profile and returns the changed user.
    ///
    /// # Errors
    /// `NotFound`, `EmailTaken`, or `Actor`.
    pub async fn change_profile(&self, user: UserId, change: ProfileChange) -> Result<User, UserError> {
        self.serially(user, async move |context| change::profile(&context, user, change).await).await
    }

    /// Replaces the password hash `old` by a stronger hash of the same password; does nothing if the user
    /// has another hash by now.
    ///
    /// # Errors
    /// `NotFound`, or `Actor`.
    pub async fn rehash_password(
        &self,
        user: UserId,
        old: schema::user::PasswordHash,
        new: schema::user::PasswordHash,
    ) -> Result<(), UserError> {
        self.serially(user, async move |context| {
            let rehash = |user: &mut User| {
                if user.password.as_ref() == Some(&old) {
                    user.password = Some(new.clone());
                }
                Ok(())
            };
            change::update(&context, user, rehash).await.map(drop)
        })
        .await
    }

    /// Sets the password and revokes all earlier tokens. Returns the user version for new tokens, the
    /// expiry of the kept session's refresh token, and the receipt.
    ///
    /// # Errors
    /// `NotFound`, `Revoked`, or `Actor`.
    pub async fn change_password(
        &self,
        user: UserId,
        password: NewPassword,
    ) -> Result<(u64, Timestamp, Receipt), UserError> {
        self.serially(user, async move |context| change::password(&context, user, password).await).await
    }

    /// Returns the user with a version that no fact refuses. If the store lags behind a revocation, the
    /// stored version is raised first.
    ///
    /// # Errors
    /// `NotFound`, or `Actor`.
    pub async fn catch_up(&self, user: UserId) -> Result<User, UserError> {
        self.serially(user, async move |context| change::catch_up(&context, user).await).await
    }

    /// Ends all sessions of a user whose tokens carry versions below `at_least`. This node refuses them
    /// before the call waits for anything.
    ///
    /// # Errors
    /// When the fact could not be made durable.
    pub async fn end_all_sessions(&self, user: UserId, at_least: u64) -> Result<Receipt, ActorError> {
        self.end_all_beyond(Timestamp::EPOCH, user, at_least).await
    }

    /// As [`Self::end_all_sessions`], for a caller with a token of the user that expires at `expiry`: the
    /// node refuses the token at least until then, however far ahead the clock of its issuer was.
    ///
    /// # Errors
    /// When the fact could not be made durable.
    pub async fn end_all_beyond(
        &self,
        expiry: Timestamp,
        user: UserId,
        at_least: u64,
    ) -> Result<Receipt, ActorError> {
        let facts = self.context.facts.clone();
        let denied =
            facts.deny_beyond(expiry, &[FactKind::UserVersion { user, at_least }], StoredSessions::Delete);
        shard::isolated(async move { facts.publish(denied).await }).await
    }

    /// Enables or disables a user and returns the changed user.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or `Actor`.
    pub async fn set_active(&self, user: UserId, active: bool) -> Result<(User, Receipt), UserError> {
        self.serially(user, async move |context| revoke::set_active(&context, user, active).await).await
    }

    /// Ends every session of a user, even if the user's row is unreadable.
    ///
    /// # Errors
    /// `NotFound`, or `Actor`.
    pub async fn end_sessions(&self, user: UserId) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| revoke::end_sessions(&context, user).await).await
    }

    /// Deletes a user with its sessions and grants.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or `Actor`.
    pub async fn delete(&self, user: UserId) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| revoke::delete(&context, user).await).await
    }

    /// Gives a role or permission to a user. A grant that the user already has is no error.
    ///
    /// # Errors
    /// `NotFound`, `Full`, or `Actor`.
    pub async fn give(&self, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| grants::give(&context, user, change).await).await
    }

    /// Takes a role or permission from a user. A grant that the user does not have is no error.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or `Actor`.
    pub async fn take(&self, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| grants::take(&context, user, change).await).await
    }

    /// Takes every grant that gives `all_all` from a user, roles and the direct permission, and returns
    /// whether there was any. With `even_last`, which is for operators, the last superuser loses them too.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or `Actor`.
    pub async fn take_privileges(&self, user: UserId, even_last: bool) -> Result<bool, UserError> {
        self.serially(user, async move |context| grants::take_privileges(&context, user, even_last).await)
            .await
    }

    /// Runs the work after the user's earlier changes. It continues when the caller goes away, so a closed
    /// connection never leaves a change half done.
    async fn serially<T, W, F>(&self, user: UserId, work: W) -> Result<T, UserError>
    where
        T: Send + 'static,
        W: FnOnce(Arc<Context>) -> F + Send + 'static,
        F: Future<Output = Result<T, UserError>> + Send,
    {
        let context = self.context.clone();
        let done = self.shards.ask(user.as_bytes(), |reply| {
            let work = async move { reply.send(Ok(work(context).await)) };
            // The work may wait behind a change of another request.
            UserMessage::Do(user, Box::pin(work.in_current_span()))
        });
        done.await.map_err(|error: ActorError| UserError::from(error))?
    }
}
