//! A store that fails, waits or lags when a test says so, and counts its calls.
//!
//! Methods are named `noun.verb`, as in `sessions.rotate`; the sink of facts is `sink.publish`. Each fault
//! that a test sets for a method holds for one of its next calls, in order; then the method works again.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use schema::{
    LoginId, SessionId, Timestamp, UserId,
    email::FoldedEmail,
    login::Login,
    name::Name,
    page::{Page, PageOf},
    permission::{Effective, Grant, Grants, Permission, Role},
    place::{AccountKey, Place},
    session::Session,
    superusers::SuperuserSet,
    user::User,
};
use store::{
    Added, Created, GrantsStore, Logins, Permissions, Replaced, Result, Roles, Rotated, Sessions, StoreError,
    Stores, Superusers, Users, Versioned,
};
use tokio::sync::watch;

/// The faults of the next calls, by method.
#[derive(Default)]
pub struct Faults {
    queued: Mutex<HashMap<&'static str, VecDeque<Fault>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
}

enum Fault {
    /// The call does not happen, and the answer is an error.
    Fail,
    /// The call happens, and the answer is an error.
    Lose,
    /// The call happens when the hold is released.
    HoldCall(Hold),
    /// The call happens, and the answer comes when the hold is released.
    HoldAnswer(Hold),
    /// The call does not happen, and this is the answer.
    Instead(Box<dyn Any + Send>),
}

/// Holds calls until it is released.
#[derive(Clone)]
pub struct Hold(Arc<(watch::Sender<usize>, watch::Sender<bool>)>);

impl Hold {
    /// Returns when this number of calls wait or have waited.
    pub async fn reached(&self, calls: usize) {
        self.0.0.subscribe().wait_for(|reached| *reached >= calls).await.unwrap();
    }

    /// Releases the waiting calls and lets later ones pass.
    pub fn release(&self) {
        self.0.1.send_replace(true);
    }

    async fn pass(&self) {
        self.0.0.send_modify(|reached| *reached += 1);
        self.0.1.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

impl Faults {
    /// The next `n` calls do not happen and return `Unavailable`.
    pub fn fail(&self, method: &'static str, n: usize) {
        (0..n).for_each(|_| self.then(method, Fault::Fail));
    }

    /// The next `n` calls happen and return `Unavailable`.
    pub fn lose(&self, method: &'static str, n: usize) {
        (0..n).for_each(|_| self.then(method, Fault::Lose));
    }

    /// The next `n` calls happen when the hold is released.
    pub fn hold_calls(&self, method: &'static str, n: usize) -> Hold {
        let hold = Hold(Arc::default());
        (0..n).for_each(|_| self.then(method, Fault::HoldCall(hold.clone())));
        hold
    }

    /// The next `n` calls happen, and return when the hold is released.
    pub fn hold_answers(&self, method: &'static str, n: usize) -> Hold {
        let hold = Hold(Arc::default());
        (0..n).for_each(|_| self.then(method, Fault::HoldAnswer(hold.clone())));
        hold
    }

    /// The next call does not reach the store and returns this answer.
    pub fn answer<T: Send + 'static>(&self, method: &'static str, answer: T) {
        self.then(method, Fault::Instead(Box::new(answer)));
    }

    /// The number of calls of the method.
    pub fn calls(&self, method: &'static str) -> usize {
        lock(&self.calls).get(method).copied().unwrap_or(0)
    }

    /// The number of calls of the store.
    pub fn store_calls(&self) -> usize {
        let calls = lock(&self.calls);
        calls.iter().filter(|(method, _)| !method.starts_with("sink.")).map(|(_, calls)| calls).sum()
    }

    /// Drops all faults that are still to come. Calls at a hold keep waiting.
    pub fn clear(&self) {
        lock(&self.queued).clear();
    }

    pub async fn around<T: Send + 'static>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        *lock(&self.calls).entry(method).or_default() += 1;
        let fault = lock(&self.queued).get_mut(method).and_then(VecDeque::pop_front);
        let lost = || StoreError::unavailable_because("as the test asked");
        match fault {
            None => call.await,
            Some(Fault::Fail) => Err(lost()),
            Some(Fault::Lose) => {
                call.await?;
                Err(lost())
            }
            Some(Fault::HoldCall(hold)) => {
                hold.pass().await;
                call.await
            }
            Some(Fault::HoldAnswer(hold)) => {
                let answer = call.await;
                hold.pass().await;
                answer
            }
            Some(Fault::Instead(answer)) => Ok(*answer.downcast().expect("an answer of this method")),
        }
    }

    fn then(&self, method: &'static str, fault: Fault) {
        lock(&self.queued).entry(method).or_default().push_back(fault);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the stores behind the faults.
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
    load() -> Versioned<SuperuserSet>;
    swap(expected: u64, next: &SuperuserSet) -> bool;
});

behind_faults!(logins: Logins {
    record(login: &Login, max: usize) -> ();
    list(user: UserId, page: PageOf<LoginId>) -> Page<Login, LoginId>;
    note_place(account: AccountKey, place: Place, time: Timestamp) -> ();
    last_from(account: AccountKey, place: Place) -> Option<Timestamp>;
    forget_places(account: AccountKey) -> ();
});
