//! A store that fails, waits or is behind when a test says so, and counts what it is asked.
//!
//! Methods are named `noun.verb`, as in `sessions.rotate`; where facts go is `sink.publish`. What a
//! test says of a method holds for its next calls, one after another; then it works again.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use schema::{
    LoginId, SessionId, StoreError, Stores, Timestamp, UserId,
    email::FoldedEmail,
    login::Login,
    name::Name,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, Permission, Role},
    place::{AccountKey, Place},
    power::Power,
    session::Session,
    store::{
        Added, Created, GrantsStore, Logins, Permissions, Replaced, Result, Roles, Rotated, Sessions,
        Superusers, Users, Versioned,
    },
    user::User,
};
use tokio::sync::watch;

/// What becomes of the next calls.
#[derive(Default)]
pub struct Faults {
    turns: Mutex<HashMap<&'static str, VecDeque<Turn>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
}

enum Turn {
    /// Nothing happens, and nobody knows.
    Fail,
    /// It happens, and nobody knows.
    Lose,
    /// It happens when it is released.
    HoldCall(Hold),
    /// It happens, and the answer comes when it is released.
    HoldAnswer(Hold),
    /// Nothing happens, and this is the answer.
    Instead(Box<dyn Any + Send>),
}

/// Calls that wait until they are released.
#[derive(Clone)]
pub struct Hold(Arc<(watch::Sender<usize>, watch::Sender<bool>)>);

impl Hold {
    /// Returns when so many calls wait, or have waited.
    pub async fn reached(&self, calls: usize) {
        self.0.0.subscribe().wait_for(|reached| *reached >= calls).await.unwrap();
    }

    /// Lets go who waits and who comes.
    pub fn release(&self) {
        self.0.1.send_replace(true);
    }

    async fn pass(&self) {
        self.0.0.send_modify(|reached| *reached += 1);
        self.0.1.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

impl Faults {
    /// The next `n` calls are not done and `Unavailable`.
    pub fn fail(&self, method: &'static str, n: usize) {
        (0..n).for_each(|_| self.then(method, Turn::Fail));
    }

    /// The next `n` calls are done and `Unavailable`.
    pub fn lose(&self, method: &'static str, n: usize) {
        (0..n).for_each(|_| self.then(method, Turn::Lose));
    }

    /// The next `n` calls are done when they are released.
    pub fn hold_calls(&self, method: &'static str, n: usize) -> Hold {
        let hold = Hold(Arc::default());
        (0..n).for_each(|_| self.then(method, Turn::HoldCall(hold.clone())));
        hold
    }

    /// The next `n` calls are done, and answered when they are released.
    pub fn hold_answers(&self, method: &'static str, n: usize) -> Hold {
        let hold = Hold(Arc::default());
        (0..n).for_each(|_| self.then(method, Turn::HoldAnswer(hold.clone())));
        hold
    }

    /// The next call is answered with this, whatever is stored.
    pub fn answer<T: Send + 'static>(&self, method: &'static str, answer: T) {
        self.then(method, Turn::Instead(Box::new(answer)));
    }

    /// How often the method was called.
    pub fn calls(&self, method: &'static str) -> usize {
        lock(&self.calls).get(method).copied().unwrap_or(0)
    }

    /// How often the store was called, whatever for.
    pub fn store_calls(&self) -> usize {
        let calls = lock(&self.calls);
        calls.iter().filter(|(method, _)| !method.starts_with("sink.")).map(|(_, calls)| calls).sum()
    }

    /// All works again. Who is held stays held.
    pub fn clear(&self) {
        lock(&self.turns).clear();
    }

    pub async fn around<T: Send + 'static>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        *lock(&self.calls).entry(method).or_default() += 1;
        let turn = lock(&self.turns).get_mut(method).and_then(VecDeque::pop_front);
        let lost = || StoreError::unavailable_because("as the test asked");
        match turn {
            None => call.await,
            Some(Turn::Fail) => Err(lost()),
            Some(Turn::Lose) => {
                call.await?;
                Err(lost())
            }
            Some(Turn::HoldCall(hold)) => {
                hold.pass().await;
                call.await
            }
            Some(Turn::HoldAnswer(hold)) => {
                let answer = call.await;
                hold.pass().await;
                answer
            }
            Some(Turn::Instead(answer)) => Ok(*answer.downcast().expect("an answer of this method")),
        }
    }

    fn then(&self, method: &'static str, turn: Turn) {
        lock(&self.turns).entry(method).or_default().push_back(turn);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// These stores behind these faults.
pub fn faulty(inner: &Stores, faults: &Arc<Faults>) -> Stores {
    let faulty = Arc::new(Faulty { inner: inner.clone(), faults: faults.clone() });
    Stores {
        users: faulty.clone(),
        sessions: faulty.clone(),
        roles: faulty.clone(),
        permissions: faulty.clone(),
        grants: faulty.clone(),
        superusers: faulty.clone(),
        logins: faulty,
        ..inner.clone()
    }
}

struct Faulty {
    inner: Stores,
    faults: Arc<Faults>,
}

macro_rules! behind_faults {
    ($noun:ident: $store:ident { $($verb:ident($($name:ident: $kind:ty),*) -> $answer:ty;)* }) => {
        #[async_trait]
        impl $store for Faulty {
            $(async fn $verb(&self, $($name: $kind),*) -> Result<$answer> {
                let method = concat!(stringify!($noun), ".", stringify!($verb));
                self.faults.around(method, self.inner.$noun.$verb($($name),*)).await
            })*
        }
    };
}

behind_faults!(users: Users {
    create(user: &User) -> Created;
    get(id: UserId) -> Option<User>;
    by_email(email: &FoldedEmail) -> Option<User>;
    replace(next: &User) -> Replaced;
    delete(id: UserId) -> ();
    list(page: PageOf<UserId>) -> Page<User, UserId>;
});

behind_faults!(sessions: Sessions {
    open(session: &Session, max: usize) -> Vec<SessionId>;
    get(user: UserId, id: SessionId) -> Option<Session>;
    latest(user: UserId, id: SessionId) -> Option<Session>;
    rotate(previous: &Session, next: &Session) -> Rotated;
    end(user: UserId, id: SessionId) -> bool;
    end_older(user: UserId, version: u64) -> ();
    list(user: UserId, page: PageOf<SessionId>) -> Page<Session, SessionId>;
    ids(user: UserId) -> Vec<SessionId>;
});

behind_faults!(roles: Roles {
    create(role: &Role) -> Added;
    get(name: &Name) -> Option<Role>;
    list() -> Vec<Role>;
    describe(name: &Name, description: Option<&str>) -> Option<Role>;
    add(name: &Name, permission: &Permission) -> Option<Role>;
    remove(name: &Name, permission: &Permission) -> Option<Role>;
    delete(name: &Name) -> Option<Role>;
});

behind_faults!(permissions: Permissions {
    create(permission: &Permission) -> Added;
    get(name: &Name) -> Option<Permission>;
    list() -> Vec<Permission>;
    describe(name: &Name, description: Option<&str>) -> Option<Permission>;
    delete(name: &Name) -> Option<Permission>;
});

behind_faults!(grants: GrantsStore {
    effective(user: UserId) -> Effective;
    give(user: UserId, grant: Grant) -> Added;
    take(user: UserId, grant: Grant) -> bool;
    raw(user: UserId) -> Grants;
    holders(grant: Grant, page: PageOf<UserId>) -> Page<UserId, UserId>;
});

behind_faults!(superusers: Superusers {
    load() -> Versioned<Power>;
    swap(expected: u64, next: &Power) -> bool;
});

behind_faults!(logins: Logins {
    record(login: &Login, max: usize) -> ();
    list(user: UserId, page: PageOf<LoginId>) -> Page<Login, LoginId>;
    note_place(account: AccountKey, place: Place, time: Timestamp) -> ();
    last_from(account: AccountKey, place: Place) -> Option<Timestamp>;
    forget_places(account: AccountKey) -> ();
});
