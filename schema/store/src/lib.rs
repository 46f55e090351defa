//! The store traits: everything that must outlive a process. This comment explains how to add a store.
//!
//! There is one narrow trait per noun:
//!
//! | trait | holds | the condition of its changes |
//! |---|---|---|
//! | [`Users`] | users and the claim of each email by one user | `revision` |
//! | [`Sessions`] | sessions and their refresh tokens | the live token |
//! | [`Roles`], [`Permissions`] | the catalogue, unique by name | the name is free |
//! | [`GrantsStore`] | the roles and permissions of each user | the user has it, or does not |
//! | [`Superusers`], [`Keys`] | one small document each | `revision` |
//! | [`Logins`] | login histories, known places | none: entries are only added |
//! | [`LedgerStore`] | the logs of facts of all nodes, and their heads | none: entries are only added |
//! | [`Upkeep`] | ping, examination, repair, sweep | none |
//!
//! A store implements all of them and hands them out as [`Stores`]. Nothing above this module knows which
//! store it is.
//!
//! # What every store promises
//! - **Durability.** A method that changes something returns only when the change survives `kill -9` and
//!   the loss of power of as many machines as the store is built to lose.
//! - **Absence is `None`**, or an outcome such as [`Replaced::Gone`], never an error.
//! - **Conditions are compare-and-set.** `replace`, `rotate` and `swap` change a record only if it is as
//!   the caller saw it, and return the current record, or `false`, otherwise. `create` adds only what does
//!   not exist. Of two concurrent `end`, `give`, `take` or `delete` calls, one makes the change and only
//!   that one reports it. Two callers never both win.
//! - **Changes of several rows are atomic to readers.** If such a change stops half-way (the store fails, the
//!   process dies), every caller sees it as not made or as made. A later call that meets the remains
//!   completes or removes them. They lock no user out: the same call, repeated, succeeds.
//! - **No order between calls.** The traits promise nothing across two calls, and callers rely on nothing.
//! - **Rows are not input.** A row is returned as it is stored. Rules of input (the form of an email, the
//!   length of a name) do not apply to it, because an older version may have written it under other rules.
//!   A row that does not parse is an error for a caller that reads it by key. Lists leave it out and log
//!   it. It can be ended and deleted like any other.
//! - **Expiry.** An expired row (`expires_at`, `until`, [`LOGIN_RETENTION`]) may disappear at any later
//!   time, so callers check the time themselves. A store removes it by a [`Horizon`](schema::Horizon), or by
//!   a TTL that counts from [`Clocks::settled`](schema::Clocks::settled), never by the wall clock, which can
//!   jump.
//!
//! # Errors
//! There are two, by what the caller can do:
//! - [`StoreError::Unavailable`]: the store did not answer, and a change may or may not have been made. **A
//!   retry is safe, but may observe the first attempt** and return `Exists`, `Changed` or `false` as to a
//!   second caller. A store that can find out the outcome of a compare-and-set does so before it returns
//!   this error.
//! - [`StoreError::Inconsistent`]: the stored data contradicts itself. A retry does not help; an operator
//!   must act.
//!
//! # Cancellation
//! Futures may be dropped at any await, for example when a client disconnects. A change under way is then
//! made or not made, but never half-made. A caller that needs the outcome runs the call on its own task.
//!
//! # Adding a store, step by step
//! 1. Create a crate `schema/store-<name>` that depends on `schema`, `store` and the driver, and on no other
//!    crate of this workspace.
//! 2. Write `pub async fn open(…) -> Result<Stores, …>`. A torn or foreign file, a newer format or a wrong
//!    password are errors here, each with a sentence for an operator, not later.
//! 3. Implement the traits, noun by noun. For example, this is all of [`Superusers`], over a value in
//!    memory:
//!
//! ```
//! use std::sync::Mutex;
//!
//! use async_trait::async_trait;
//! use schema::superusers::SuperuserSet;
//! use store::{Result, StoreError, Superusers, Versioned};
//!
//! #[derive(Default)]
//! struct InMemory(Mutex<Versioned<SuperuserSet>>);
//!
//! #[async_trait]
//! impl Superusers for InMemory {
//!     async fn load(&self) -> Result<Versioned<SuperuserSet>> {
//!         Ok(self.0.lock().map_err(StoreError::unavailable_because)?.clone())
//!     }
//!
//!     async fn swap(&self, expected: u64, next: &SuperuserSet) -> Result<bool> {
//!         // No await between comparison and write: a dropped future leaves nothing half-made.
//!         let mut stored = self.0.lock().map_err(StoreError::unavailable_because)?;
//!         if stored.revision != expected {
//!             return Ok(false);
//!         }
//!         *stored = Versioned { revision: expected + 1, value: next.clone() };
//!         Ok(true)
//!     }
//! }
//!
//! # fn ready<T>(call: impl Future<Output = T>) -> T {
//! #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
//! #     match std::pin::pin!(call).poll(&mut context) {
//! #         std::task::Poll::Ready(answer) => answer,
//! #         std::task::Poll::Pending => unreachable!("nothing here waits"),
//! #     }
//! # }
//! # ready(async {
//! let store = InMemory::default();
//! let next = SuperuserSet::default();
//! assert!(store.swap(0, &next).await?);
//! // The caller lost that answer and retries: it observes its own first attempt.
//! assert!(!store.swap(0, &next).await?);
//! assert_eq!(store.load().await?, Versioned { revision: 1, value: next });
//! # Ok::<(), StoreError>(())
//! # })
//! # .unwrap();
//! ```
//!
//! 4. Run the conformance suite (`store::conformance`, feature `conformance`) as a test of that crate. The
//!    store is complete when it passes.
//! 5. Add the store to the setting `STORE` of `node`.

pub mod cas;
pub mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod copy;

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;
#[cfg(doc)]
use schema::login::{LOGIN_RETENTION, MAX_PLACES};
use schema::{
    email::FoldedEmail,
    horizon::Horizons,
    id::{LoginId, NodeId, SessionId, UserId},
    key::KeySet,
    ledger::{Entry, Head, Origin},
    login::Login,
    name::Name,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, Permission, Role},
    place::{AccountKey, Place},
    session::Session,
    superusers::SuperuserSet,
    time::Timestamp,
    user::User,
};

use crate::check::{Examined, Finding, Reclaimed};

/// Why a call to a store failed, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer; a change may or may not have been made. A retry is safe, but may observe
    /// the first attempt.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The stored data contradicts itself. A retry does not help; an operator must act.
    #[error("the store is inconsistent: {0}")]
    Inconsistent(String),
}

impl StoreError {
    /// `Unavailable`, with its cause.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// `Unavailable`, with the text of a cause that is no error or cannot be kept.
    pub fn unavailable_because(cause: impl fmt::Display) -> Self {
        Self::Unavailable(cause.to_string().into())
    }
}

/// The result of a call to a store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// All stores of a node.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field holds the trait of its name")]
pub struct Stores {
    pub users: Arc<dyn Users>,
    pub sessions: Arc<dyn Sessions>,
    pub roles: Arc<dyn Roles>,
    pub permissions: Arc<dyn Permissions>,
    pub grants: Arc<dyn GrantsStore>,
    pub superusers: Arc<dyn Superusers>,
    pub logins: Arc<dyn Logins>,
    pub keys: Arc<dyn Keys>,
    pub ledger: Arc<dyn LedgerStore>,
    pub upkeep: Arc<dyn Upkeep>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// The outcome of [`Users::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The user exists now.
    Done,
    /// Another user has this email.
    EmailTaken,
}

/// The outcome of [`Users::replace`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// The user is stored as given.
    Done,
    /// The stored revision is another one. Holds the current user.
    Changed(Box<User>),
    /// The user does not exist.
    Gone,
    /// Another user has the new email.
    EmailTaken,
}

/// Users, and the claim of an email by one user.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Adds a user and claims its email, both or neither. A repeated call with the same id returns `Done`.
    async fn create(&self, user: &User) -> Result<Created>;
    /// The user with this id.
    async fn get(&self, id: UserId) -> Result<Option<User>>;
    /// The user with this email: the first that one of [`FoldedEmail::keys`] finds
    /// ([`FoldedEmail::finds`]).
    async fn by_email(&self, email: &FoldedEmail) -> Result<Option<User>>;
    /// Replaces a user whose stored revision is `next.revision - 1`. If the text of the email changes, the
    /// claim moves to the key of the new email under today's folding.
    async fn replace(&self, next: &User) -> Result<Replaced>;
    /// Deletes a user with its email claim, sessions, grants and history. A user that does not exist is no
    /// error.
    async fn delete(&self, id: UserId) -> Result<()>;
    /// A page of all users by id, that is, by time of registration.
    async fn list(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>>;
}

/// The outcome of [`Sessions::rotate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// The session is stored as given.
    Done,
    /// The stored live token is another one. Holds the current session.
    Lost(Box<Session>),
    /// The session does not exist, or has ended.
    Gone,
}

/// Sessions. An ended session is absent.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Adds a session. If the user then has more than `max`, ends the oldest and returns their ids.
    async fn open(&self, session: &Session, max: usize) -> Result<Vec<SessionId>>;
    /// The session with this user and id.
    async fn get(&self, user: UserId, id: SessionId) -> Result<Option<Session>>;
    /// The session with this user and id in its final state: it includes every rotation that returned, and
    /// every unanswered one is settled before the read.
    async fn latest(&self, user: UserId, id: SessionId) -> Result<Option<Session>>;
    /// Replaces a session whose live token is still that of `previous`. `next` may keep that live token and
    /// change only the rest: two such changes do not conflict, and the later one wins as a whole. Once a
    /// change sets a new live token, all others made on the previous one are rejected.
    async fn rotate(&self, previous: &Session, next: &Session) -> Result<Rotated>;
    /// Ends a session. Returns whether it existed.
    async fn end(&self, user: UserId, id: SessionId) -> Result<bool>;
    /// Ends the sessions of a user whose `user_version` is below `version`.
    async fn end_older(&self, user: UserId, version: u64) -> Result<()>;
    /// A page of the sessions of a user, newest first.
    async fn list(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>>;
    /// The ids of all sessions of a user, including those whose rows do not parse.
    async fn ids(&self, user: UserId) -> Result<Vec<SessionId>>;
}

/// The outcome of adding a role or permission, or of giving one to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is stored now.
    Done,
    /// One of this name exists already, or the user has it already.
    Exists,
    /// The maximum number is reached.
    Full,
}

/// Roles, unique by name.
#[async_trait]
pub trait Roles: Send + Sync + 'static {
    /// Adds a role unless its name is taken or there are [`MAX_ROLES`](schema::permission::MAX_ROLES).
    async fn create(&self, role: &Role) -> Result<Added>;
    /// The role with this name.
    async fn get(&self, name: &Name) -> Result<Option<Role>>;
    /// All roles, by name.
    async fn list(&self) -> Result<Vec<Role>>;
    /// Changes the description. Returns the role, or `None` if it does not exist.
    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Role>>;
    /// Adds a permission to a role. Returns the role, or `None` if it does not exist. A permission that the
    /// role has already changes nothing. A role with [`MAX_GRANTS`](schema::permission::MAX_GRANTS) permissions
    /// stays as it is: the returned role then lacks the permission.
    async fn add(&self, name: &Name, permission: &Permission) -> Result<Option<Role>>;
    /// Removes a permission from a role. Returns the role, or `None` if it does not exist.
    async fn remove(&self, name: &Name, permission: &Permission) -> Result<Option<Role>>;
    /// Deletes a role, also from all its holders. Returns the deleted role.
    async fn delete(&self, name: &Name) -> Result<Option<Role>>;
}

/// Permissions, unique by name.
#[async_trait]
pub trait Permissions: Send + Sync + 'static {
    /// Adds a permission unless its name is taken or there are
    /// [`MAX_PERMISSIONS`](schema::permission::MAX_PERMISSIONS).
    async fn create(&self, permission: &Permission) -> Result<Added>;
    /// The permission with this name.
    async fn get(&self, name: &Name) -> Result<Option<Permission>>;
    /// All permissions, by name.
    async fn list(&self) -> Result<Vec<Permission>>;
    /// Changes the description. Returns the permission, or `None` if it does not exist.
    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Permission>>;
    /// Deletes a permission, also from all its holders and roles. Returns the deleted permission.
    async fn delete(&self, name: &Name) -> Result<Option<Permission>>;
}

/// Grants: the roles and permissions of each user.
#[async_trait]
pub trait GrantsStore: Send + Sync + 'static {
    /// The roles and permissions of a user, resolved. A user that does not exist has none.
    async fn effective(&self, user: UserId) -> Result<Effective>;
    /// Gives a role or permission to a user. `Exists` if the user has it already; `Full` if the user has
    /// [`MAX_GRANTS`](schema::permission::MAX_GRANTS) of that kind; `Done`, without a change, if the user, role
    /// or permission does not exist.
    async fn give(&self, user: UserId, grant: Grant) -> Result<Added>;
    /// Takes a role or permission from a user. Returns whether the user had it.
    async fn take(&self, user: UserId, grant: Grant) -> Result<bool>;
    /// The stored grants of a user, unresolved: they may name what no longer exists.
    async fn raw(&self, user: UserId) -> Result<Grants>;
    /// A page of the users that were given this role or permission directly, by id.
    async fn holders(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>>;
}

/// A value with its revision, for compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versioned<T> {
    /// Rises by one with every change; 0 if the value was never set.
    pub revision: u64,
    /// The value.
    pub value: T,
}

/// The users that count as superusers: one small document that every removal of `all_all` goes through, so
/// that two concurrent removals cannot both assume that the other superuser stays.
#[async_trait]
pub trait Superusers: Send + Sync + 'static {
    /// The document; empty at revision 0 if it was never set.
    async fn load(&self) -> Result<Versioned<SuperuserSet>>;
    /// Replaces the document at revision `expected`; the revision rises by one. Returns whether it did.
    async fn swap(&self, expected: u64, next: &SuperuserSet) -> Result<bool>;
}

/// Login histories, and the known places of accounts.
#[async_trait]
pub trait Logins: Send + Sync + 'static {
    /// Adds an entry. A repeated call with the same id changes nothing. If the user has more than `max`
    /// entries, the oldest are removed, at the latest when
    /// [`is_trimming`](schema::login::is_trimming) returns `true`.
    async fn record(&self, login: &Login, max: usize) -> Result<()>;
    /// A page of the entries of a user, newest first.
    async fn list(&self, user: UserId, page: PageOf<LoginId>) -> Result<Page<Login, LoginId>>;
    /// Notes that the owner of an account logged in from a place at this time. Each account and place has
    /// one row, which expires [`LOGIN_RETENTION`] after the last note. An account with [`MAX_PLACES`] loses
    /// the place whose last note is the oldest.
    async fn note_place(&self, account: AccountKey, place: Place, time: Timestamp) -> Result<()>;
    /// When the owner of an account last logged in from a place. One read, whatever the length of the
    /// history.
    async fn last_from(&self, account: AccountKey, place: Place) -> Result<Option<Timestamp>>;
    /// Deletes the known places of an account.
    async fn forget_places(&self, account: AccountKey) -> Result<()>;
}

/// The signing keys: one small document.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// The keys; empty at revision 0 if they were never set.
    async fn load(&self) -> Result<KeySet>;
    /// Replaces the keys whose stored revision is `next.revision - 1`. Returns whether it did.
    async fn swap(&self, next: &KeySet) -> Result<bool>;
}

/// The ledger: the logs of facts of all nodes.
#[async_trait]
pub trait LedgerStore: Send + Sync + 'static {
    /// Writes entries, which may exist already, then moves each of `heads` forward, never back. An entry
    /// whose fact has ended is written and kept for a while too: other nodes have not applied it yet.
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()>;
    /// The heads of all logs that have entries, by origin.
    async fn heads(&self) -> Result<Vec<Head>>;
    /// The entries of a log after number `after`, by number, at most `limit`, also those beyond the head.
    /// Returns fewer only if there are no more. A store that several versions write may skip entries that do
    /// not parse.
    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>>;
    /// Records that a node has started, with its incarnation; a later recorded incarnation stays. Only the
    /// node itself calls this, so the record proves what [`heads`](Self::heads) does not: any node may write
    /// the log of another. A store that only one process can open records nothing.
    async fn begin_life(&self, _: Origin) -> Result<()> {
        Ok(())
    }
    /// The latest recorded incarnation of a node.
    async fn latest_life(&self, _: NodeId) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Upkeep of the store: ping, examination, repair, sweep.
#[async_trait]
pub trait Upkeep: Send + Sync + 'static {
    /// A page of users as they are stored, including those that do not parse, for [`check`].
    async fn examine(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>>;
    /// Findings about rows that belong to no user: rows that do not parse or mean nothing, as far as the store
    /// can find them.
    async fn examine_others(&self) -> Result<Vec<Finding>>;
    /// Moves the claim of a user's email to its key under today's folding, or creates it, unless another
    /// user holds that key.
    async fn reclaim(&self, user: UserId) -> Result<Reclaimed>;
    /// Succeeds if the store answers.
    async fn ping(&self) -> Result<()>;
    /// Removes at most `limit` rows that expired before the horizons. Returns their number. A store whose
    /// rows expire by a TTL does nothing.
    async fn sweep(&self, horizons: Horizons, limit: usize) -> Result<usize>;
}
