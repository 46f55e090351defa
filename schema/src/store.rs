//! The store: what must last. This comment is how to add one.
//!
//! There is one narrow trait a noun: [`Users`], [`Sessions`], [`Roles`], [`Permissions`],
//! [`GrantsStore`], [`Superusers`], [`Logins`], [`Keys`], [`LedgerStore`], and [`Upkeep`] for the
//! store itself. A store implements all of them and hands them out as [`Stores`]; nobody above
//! knows which store it is.
//!
//! # What every store promises
//! - **Durable means durable.** A method that changes something returns when the change survives
//!   `kill -9` and the loss of power of what the store is made to lose.
//! - **Absence is `None`** (or an outcome such as [`Replaced::Gone`]), never an error.
//! - **There are two errors**, by what the caller can do. [`StoreError::Unavailable`]: it is not
//!   known whether it happened; asking again does no harm, but may answer as to somebody who comes
//!   second (`Exists`, `Changed`, `false`). A store that can find out what became of a
//!   compare-and-set does so before it says `Unavailable`. [`StoreError::Inconsistent`]: what is
//!   stored contradicts itself; an alarm.
//! - **Callers may go away.** Who must know that a change was made awaits it on a task of its own.
//! - **Compare-and-set is the only condition.** `replace`, `rotate` and `swap` change a record only
//!   when it is as the caller saw it, and say what is there otherwise; `create` adds only what is not
//!   there; `end`, `give`, `take` and `delete` of two callers happen once and say so to one of them.
//!   Two callers never both win.
//! - **A change of several rows that stops half-way** (the store fails, the process dies) looks, to
//!   everybody, as if it had not happened or as if it were done, and whoever meets what is left of it
//!   completes or removes it. Nobody is locked out by it: the same call again succeeds.
//! - **Nothing is promised between two calls**, and nothing above relies on it.
//! - **Rows are not input.** A row is read as it is: no rule of input (what is an email, how long a name
//!   may be) is applied to it, since an older version may have written it under other rules. A row that
//!   cannot be read at all is an error for who asks for it by its key; lists leave it out and log it,
//!   and it is ended and deleted like any other.
//! - **Expiry**: what has ended (`expires_at`, `until`, [`LOGIN_RETENTION`]) may vanish at any time
//!   after; who reads checks the time itself. It vanishes by a [`Horizon`](crate::Horizon) or a time to live counted
//!   from [`Clocks::settled`](crate::Clocks::settled), never by the wall clock, which can jump.
//!
//! # Adding a store, step by step
//! 1. A crate `schema/store-<name>` that depends on `schema` and the driver, nothing else of ours.
//! 2. `pub async fn open(…) -> Result<Stores, …>`: a torn or foreign file, a newer format, a wrong
//!    password are clear errors here, not later.
//! 3. The traits, noun by noun. For example, the whole of [`Superusers`] over a map in memory:
//!
//! ```
//! # use std::sync::Mutex;
//! # use async_trait::async_trait;
//! # use schema::{power::Power, store::{StoreError, Superusers, Versioned}};
//! #[derive(Default)]
//! struct InMemory(Mutex<Versioned<Power>>);
//!
//! #[async_trait]
//! impl Superusers for InMemory {
//!     async fn load(&self) -> Result<Versioned<Power>, StoreError> {
//!         Ok(self.0.lock().map_err(StoreError::unavailable_because)?.clone())
//!     }
//!     async fn swap(&self, expected: u64, next: &Power) -> Result<bool, StoreError> {
//!         let mut stored = self.0.lock().map_err(StoreError::unavailable_because)?;
//!         if stored.revision != expected {
//!             return Ok(false);
//!         }
//!         *stored = Versioned { revision: expected + 1, value: next.clone() };
//!         Ok(true)
//!     }
//! }
//! ```
//! 4. The conformance suite (`schema::conformance`, feature `conformance`) as that crate's test.
//!    The store is done when it passes.
//! 5. A word for it in `node`'s setting `STORE`.

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;

#[cfg(doc)]
use crate::login::{LOGIN_RETENTION, MAX_PLACES};
use crate::{
    check::{Examined, Finding, Reclaimed},
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
    power::Power,
    session::Session,
    time::Timestamp,
    user::User,
};

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not now; it is not known whether a change happened. Try again.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// What is stored contradicts itself. Somebody must look.
    #[error("the store is inconsistent: {0}")]
    Inconsistent(String),
}

impl StoreError {
    /// `Unavailable`, with its cause.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// `Unavailable`, with a cause that cannot be kept.
    pub fn unavailable_because(cause: impl fmt::Display) -> Self {
        Self::Unavailable(cause.to_string().into())
    }
}

/// What a store answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// All stores of a node.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the trait of its name")]
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

/// What came of [`Users::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    Done,
    /// Somebody has this email.
    EmailTaken,
}

/// What came of [`Users::replace`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// It is as asked now.
    Done,
    /// It was changed meanwhile; this is how it is.
    Changed(Box<User>),
    /// There is no such user.
    Gone,
    /// Somebody else has the new email.
    EmailTaken,
}

/// Users, and the claim of an email by one user.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Adds a user and claims its email, both or neither. Created again with the same id: `Done`.
    async fn create(&self, user: &User) -> Result<Created>;
    /// By id.
    async fn get(&self, id: UserId) -> Result<Option<User>>;
    /// By email: the first user that one of [`FoldedEmail::keys`] finds ([`FoldedEmail::finds`]).
    async fn by_email(&self, email: &FoldedEmail) -> Result<Option<User>>;
    /// Changes a user whose revision is `next.revision - 1`. With an email of another text the claim
    /// moves to today's key of it.
    async fn replace(&self, next: &User) -> Result<Replaced>;
    /// Removes a user with its email claim, sessions, grants and history. Gone already: no error.
    async fn delete(&self, id: UserId) -> Result<()>;
    /// All users by id, which is by registration.
    async fn list(&self, page: PageOf<UserId>) -> Result<Page<User, UserId>>;
}

/// What came of [`Sessions::rotate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// The session is as asked now.
    Done,
    /// Its live token was another; this is how it is.
    Lost(Box<Session>),
    /// There is no such session.
    Gone,
}

/// Sessions. An ended session is an absent one.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Adds a session. When the user has more than `max` then, the oldest end; gives their ids.
    async fn open(&self, session: &Session, max: usize) -> Result<Vec<SessionId>>;
    /// By user and id.
    async fn get(&self, user: UserId, id: SessionId) -> Result<Option<Session>>;
    /// By user and id, as it is for certain: after every rotation that was answered, and after every
    /// one that was not is settled.
    async fn latest(&self, user: UserId, id: SessionId) -> Result<Option<Session>>;
    /// Replaces a session whose live token is still that of `previous`. `next` may keep that live
    /// token and change only the rest; two such changes do not notice each other, the later one
    /// stays whole. A change that is made with a new live token is refused to all others.
    async fn rotate(&self, previous: &Session, next: &Session) -> Result<Rotated>;
    /// Ends a session; says whether it was there.
    async fn end(&self, user: UserId, id: SessionId) -> Result<bool>;
    /// Ends the sessions of a user whose `user_version` is below `version`.
    async fn end_older(&self, user: UserId, version: u64) -> Result<()>;
    /// The sessions of a user, newest first.
    async fn list(&self, user: UserId, page: PageOf<SessionId>) -> Result<Page<Session, SessionId>>;
    /// The ids of all sessions of a user, including those whose rows cannot be read.
    async fn ids(&self, user: UserId) -> Result<Vec<SessionId>>;
}

/// What came of adding a role or permission, or of giving one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is there now.
    Done,
    /// One of this name was there before.
    Exists,
    /// There are as many as there may be.
    Full,
}

/// Roles.
#[async_trait]
pub trait Roles: Send + Sync + 'static {
    /// Adds a role unless its name is taken or there are [`MAX_ROLES`](crate::permission::MAX_ROLES).
    async fn create(&self, role: &Role) -> Result<Added>;
    /// By name.
    async fn get(&self, name: &Name) -> Result<Option<Role>>;
    /// All, by name.
    async fn list(&self) -> Result<Vec<Role>>;
    /// Changes the description; `None` when there is no such role.
    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Role>>;
    /// Puts a permission in; `None` when there is no such role. One that is there: no change. Not
    /// beyond [`MAX_GRANTS`](crate::permission::MAX_GRANTS): the answer lacks it then.
    async fn add(&self, name: &Name, permission: &Permission) -> Result<Option<Role>>;
    /// Takes a permission out; `None` when there is no such role.
    async fn remove(&self, name: &Name, permission: &Permission) -> Result<Option<Role>>;
    /// Removes a role, from all who have it too; gives what was there.
    async fn delete(&self, name: &Name) -> Result<Option<Role>>;
}

/// Permissions.
#[async_trait]
pub trait Permissions: Send + Sync + 'static {
    /// Adds a permission unless its name is taken or there are
    /// [`MAX_PERMISSIONS`](crate::permission::MAX_PERMISSIONS).
    async fn create(&self, permission: &Permission) -> Result<Added>;
    /// By name.
    async fn get(&self, name: &Name) -> Result<Option<Permission>>;
    /// All, by name.
    async fn list(&self) -> Result<Vec<Permission>>;
    /// Changes the description; `None` when there is no such permission.
    async fn describe(&self, name: &Name, description: Option<&str>) -> Result<Option<Permission>>;
    /// Removes a permission, from all who have it too; gives what was there.
    async fn delete(&self, name: &Name) -> Result<Option<Permission>>;
}

/// Who was given what.
#[async_trait]
pub trait GrantsStore: Send + Sync + 'static {
    /// What the user may do, resolved. A user that does not exist may do nothing.
    async fn effective(&self, user: UserId) -> Result<Effective>;
    /// Gives. Had already: `Exists`; [`MAX_GRANTS`](crate::permission::MAX_GRANTS) of that kind
    /// had: `Full`. Giving what does not exist, or to nobody, is `Done` and gives nothing.
    async fn give(&self, user: UserId, grant: Grant) -> Result<Added>;
    /// Takes back; says whether it was there.
    async fn take(&self, user: UserId, grant: Grant) -> Result<bool>;
    /// What is on record for a user, resolved or not.
    async fn raw(&self, user: UserId) -> Result<Grants>;
    /// Who was given it, by id.
    async fn holders(&self, grant: Grant, page: PageOf<UserId>) -> Result<Page<UserId, UserId>>;
}

/// A value with the number of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versioned<T> {
    /// 0 when it was never set.
    pub revision: u64,
    /// The value.
    pub value: T,
}

/// The users who count as superusers: one small document that every change of power goes through,
/// so that two parallel removals cannot both be the last but one.
#[async_trait]
pub trait Superusers: Send + Sync + 'static {
    /// The document; empty at revision 0 when there was none.
    async fn load(&self) -> Result<Versioned<Power>>;
    /// Replaces the document of this revision, whose number rises by one; says whether it did.
    async fn swap(&self, expected: u64, next: &Power) -> Result<bool>;
}

/// Login histories, and the places that log-ins came from.
#[async_trait]
pub trait Logins: Send + Sync + 'static {
    /// Adds an entry. Added again with the same id: no change. When the user has more than `max`, the
    /// oldest go, at the latest when [`is_trimming`](crate::login::is_trimming) says so.
    async fn record(&self, login: &Login, max: usize) -> Result<()>;
    /// The entries of a user, newest first.
    async fn list(&self, user: UserId, page: PageOf<LoginId>) -> Result<Page<Login, LoginId>>;
    /// Notes that the owner of an account logged in from a place at this time. One row for each
    /// account and place, which ends [`LOGIN_RETENTION`] after the last note. An account that has
    /// [`MAX_PLACES`] loses the one that was noted longest ago.
    async fn note_place(&self, account: AccountKey, place: Place, time: Timestamp) -> Result<()>;
    /// When the owner of an account last logged in from a place. One look, whatever the length of
    /// the history.
    async fn last_from(&self, account: AccountKey, place: Place) -> Result<Option<Timestamp>>;
    /// Forgets the places of an account.
    async fn forget_places(&self, account: AccountKey) -> Result<()>;
}

/// The signing keys.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// The keys; empty at revision 0 when there are none yet.
    async fn load(&self) -> Result<KeySet>;
    /// Replaces the keys whose revision is `next.revision - 1`; says whether it did.
    async fn swap(&self, next: &KeySet) -> Result<bool>;
}

/// The ledger of facts.
#[async_trait]
pub trait LedgerStore: Send + Sync + 'static {
    /// Writes entries, which may be there already, then moves each of `heads` forward, never back. One
    /// whose fact has ended is written too, and is there for a while: others have not heard it.
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()>;
    /// The heads of all origins that have entries, by origin.
    async fn heads(&self) -> Result<Vec<Head>>;
    /// The entries of an origin after `after`, by number, at most `limit`, beyond its head too. Fewer
    /// only when there are no more; a store that several versions write may skip those that it cannot
    /// read.
    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>>;
    /// Notes that a node has started, by its own word; a later life that was noted stays. Nobody notes it
    /// for another node, so it proves what [`heads`](Self::heads) does not: any node may write the log of
    /// another. A store that only one process can open has nothing to note.
    async fn begin_life(&self, _: Origin) -> Result<()> {
        Ok(())
    }
    /// The latest incarnation of a node that was noted, if one was.
    async fn latest_life(&self, _: NodeId) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// The store itself.
#[async_trait]
pub trait Upkeep: Send + Sync + 'static {
    /// The next users as they are stored, readable or not, for [`check`](crate::check).
    async fn examine(&self, page: PageOf<UserId>) -> Result<Page<Examined, UserId>>;
    /// Rows of no user that cannot be read or mean nothing, as far as the store can find them.
    async fn examine_others(&self) -> Result<Vec<Finding>>;
    /// Moves the claim of a user's email to today's key, or makes it, unless another user has that key.
    async fn reclaim(&self, user: UserId) -> Result<Reclaimed>;
    /// Whether it answers.
    async fn ping(&self) -> Result<()>;
    /// Removes some of what ended before the horizons, at most `limit` rows; says how many. A store that
    /// forgets by itself has nothing to do.
    async fn sweep(&self, horizons: Horizons, limit: usize) -> Result<usize>;
}
