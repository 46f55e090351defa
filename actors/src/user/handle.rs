//! What others see of the user actor.

use std::sync::Arc;

use ractor::SpawnErr;
use schema::{Timestamp, UserId, fact::FactKind, store::Created, user::User};

use super::{
    UserError,
    actor::{UserActor, UserMessage},
    change::{self, NewPassword, ProfileChange},
    grants::{self, GrantChange},
    revoke,
};
use crate::{
    ActorError, Context, Receipt,
    facts::Rows,
    shard::{self, Shards},
};

/// Registers and changes users. Everything is durable when it returns.
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
    /// `EmailTaken`, or it was not done.
    pub async fn register(&self, user: User) -> Result<(), UserError> {
        self.serially(user.id, async move |context| match context.stores.users.create(&user).await? {
            Created::Done => Ok(()),
            Created::EmailTaken => Err(UserError::EmailTaken),
        })
        .await
    }

    /// Changes the profile; gives the user as it is now.
    ///
    /// # Errors
    /// `NotFound`, `EmailTaken`, or it was not done.
    pub async fn change_profile(&self, user: UserId, change: ProfileChange) -> Result<User, UserError> {
        self.serially(user, async move |context| change::profile(&context, user, change).await).await
    }

    /// Replaces the password hash by a stronger one of the same password, unless it has changed.
    ///
    /// # Errors
    /// `NotFound`, or it was not done.
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

    /// Sets the password and kills every earlier token; gives the version that new tokens are to
    /// carry and the end of the kept session's refresh token.
    ///
    /// # Errors
    /// `NotFound`, or it was not done.
    pub async fn change_password(
        &self,
        user: UserId,
        password: NewPassword,
    ) -> Result<(u64, Timestamp, Receipt), UserError> {
        self.serially(user, async move |context| change::password(&context, user, password).await).await
    }

    /// The user with a version that no fact refuses: a store that heard of a revocation late is
    /// told of it first.
    ///
    /// # Errors
    /// `NotFound`, or it was not done.
    pub async fn catch_up(&self, user: UserId) -> Result<User, UserError> {
        self.serially(user, async move |context| change::catch_up(&context, user).await).await
    }

    /// Ends all sessions of a user whose tokens carry versions below `at_least`. They are refused
    /// here before anything is waited for.
    ///
    /// # Errors
    /// When it was not made durable.
    pub async fn end_all_sessions(&self, user: UserId, at_least: u64) -> Result<Receipt, ActorError> {
        self.end_all_beyond(Timestamp::EPOCH, user, at_least).await
    }

    /// The same, for a caller that shows a token of the user which ends at `expiry`: it is refused at least
    /// until then, however far ahead the clock of the issuer was.
    ///
    /// # Errors
    /// When it was not made durable.
    pub async fn end_all_beyond(
        &self,
        expiry: Timestamp,
        user: UserId,
        at_least: u64,
    ) -> Result<Receipt, ActorError> {
        let facts = self.context.facts.clone();
        let denied = facts.deny_beyond(expiry, &[FactKind::UserVersion { user, at_least }], Rows::End);
        shard::isolated(async move { facts.publish(denied).await }).await
    }

    /// Enables or disables; gives the user as it is now.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn set_active(&self, user: UserId, active: bool) -> Result<(User, Receipt), UserError> {
        self.serially(user, async move |context| revoke::set_active(&context, user, active).await).await
    }

    /// Ends every session of a user, even if the user's row cannot be read.
    ///
    /// # Errors
    /// `NotFound`, or it was not done.
    pub async fn end_sessions(&self, user: UserId) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| revoke::end_sessions(&context, user).await).await
    }

    /// Removes the user and all it has.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn delete(&self, user: UserId) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| revoke::delete(&context, user).await).await
    }

    /// Gives a role or permission. Had already is no error.
    ///
    /// # Errors
    /// `NotFound`, `Full`, or it was not done.
    pub async fn give(&self, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| grants::give(&context, user, change).await).await
    }

    /// Takes a role or permission back. Not had is no error.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn take(&self, user: UserId, change: GrantChange) -> Result<Receipt, UserError> {
        self.serially(user, async move |context| grants::take(&context, user, change).await).await
    }

    /// Takes everything that gives `all_all`: roles and the direct permission; says whether there
    /// was any. `even_last`: also from the last superuser, for operators who say so.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperuser`, or it was not done.
    pub async fn take_power(&self, user: UserId, even_last: bool) -> Result<bool, UserError> {
        self.serially(user, async move |context| grants::take_power(&context, user, even_last).await).await
    }

    /// Runs work when the user's earlier changes are done. It goes on when the asker is gone: a
    /// change is never left half-way because a client closed its connection.
    async fn serially<T, W, F>(&self, user: UserId, work: W) -> Result<T, UserError>
    where
        T: Send + 'static,
        W: FnOnce(Arc<Context>) -> F + Send + 'static,
        F: Future<Output = Result<T, UserError>> + Send,
    {
        let context = self.context.clone();
        let done = self.shards.ask(user.as_bytes(), |reply| {
            UserMessage::Do(user, Box::pin(async move { reply.send(Ok(work(context).await)) }))
        });
        done.await.map_err(|error: ActorError| UserError::from(error))?
    }
}
