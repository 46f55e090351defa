//! Copies of a whole store.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use schema::{
    Clock, Timestamp,
    key::KeySet,
    ledger::Head,
    login::MAX_LOGINS,
    permission::{Grant, Role},
    session::MAX_SESSIONS,
    superusers::SuperuserSet,
};
use store::{
    Stores,
    conformance::sample::Samples,
    copy::{CopyError, Rows, compare, copy},
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        NOW
    }
}

async fn empty(directory: &TempDir, name: &str) -> Stores {
    store_redb::open(&directory.path().join(name)).await.unwrap().stores
}

/// Users with sessions, grants and histories, and everything that belongs to no user.
async fn filled(directory: &TempDir, name: &str, make: &Samples) -> Stores {
    let stores = empty(directory, name).await;
    let permission = make.permission("films.read");
    stores.permissions.create(&permission).await.unwrap();
    let role = Role { permissions: [permission.id].into(), ..make.role("reader") };
    stores.roles.create(&role).await.unwrap();
    let mut counted = SuperuserSet::default();
    for _ in 0..30 {
        let user = make.user();
        stores.users.create(&user).await.unwrap();
        for _ in 0..3 {
            let session = make.session(user.id);
            stores.sessions.open(&session, MAX_SESSIONS).await.unwrap();
            stores.sessions.rotate(&session, &make.rotated(&session)).await.unwrap();
            stores.logins.record(&make.login(user.id), MAX_LOGINS).await.unwrap();
        }
        stores.grants.give(user.id, Grant::Role(role.id)).await.unwrap();
        stores.grants.give(user.id, Grant::Permission(permission.id)).await.unwrap();
        counted.counted.insert(user.id);
    }
    stores.superusers.swap(0, &counted).await.unwrap();
    let origin = make.origin();
    let entries: Vec<_> = (1..=1_200).map(|seq| make.entry(origin, seq)).collect();
    stores.ledger.append(&entries, &[Head { origin, seq: 1_200 }]).await.unwrap();
    for revision in 1..4 {
        stores.keys.swap(&KeySet { revision, ..KeySet::default() }).await.unwrap();
    }
    stores
}

#[tokio::test]
async fn copy_carries_everything_and_may_be_repeated() {
    let directory = TempDir::new().unwrap();
    let make = Samples::at(NOW);
    let from = filled(&directory, "from", &make).await;
    let to = empty(&directory, "to").await;
    assert!(matches!(compare(&from, &to, &FixedClock).await, Err(CopyError::Conflict(_))));
    let rows =
        Rows { users: 30, sessions: 90, grants: 60, logins: 90, permissions: 1, roles: 1, facts: 1_200 };
    for _ in 0..2 {
        assert_eq!(copy(&from, &to, &FixedClock).await.unwrap(), rows);
        assert_eq!(compare(&from, &to, &FixedClock).await.unwrap(), Rows::default());
    }
    assert_eq!(to.superusers.load().await.unwrap().value, from.superusers.load().await.unwrap().value);
    assert_eq!(to.ledger.heads().await.unwrap(), from.ledger.heads().await.unwrap());
    assert_eq!(to.keys.load().await.unwrap().revision, 1);
}

#[tokio::test]
async fn dangling_grants_are_left_and_extra_rows_found() {
    let directory = TempDir::new().unwrap();
    let make = Samples::at(NOW);
    let from = filled(&directory, "from", &make).await;
    let to = empty(&directory, "to").await;
    // Holders and roles name it until a sweep.
    from.permissions.delete(&"films.read".parse().unwrap()).await.unwrap().unwrap();
    let rows = copy(&from, &to, &FixedClock).await.unwrap();
    assert_eq!((rows.permissions, rows.grants), (0, 30));
    assert_eq!(compare(&from, &to, &FixedClock).await.unwrap(), Rows::default());

    // A session that has ended in the source since.
    let user = from.users.list(schema::page::PageOf { after: None, limit: 1 }).await.unwrap().items[0].id;
    let session = from.sessions.ids(user).await.unwrap()[0];
    from.sessions.end(user, session).await.unwrap();
    let found = compare(&from, &to, &FixedClock).await.unwrap();
    assert_eq!(found, Rows { sessions: 1, ..Rows::default() });
}

#[tokio::test]
async fn target_that_holds_something_else_is_refused() {
    let directory = TempDir::new().unwrap();
    let make = Samples::at(NOW);
    let from = filled(&directory, "from", &make).await;
    let conflict = async |to: &Stores, what: &str| {
        let error = copy(&from, to, &FixedClock).await.unwrap_err();
        assert!(matches!(&error, CopyError::Conflict(why) if why.contains(what)), "{error}");
    };

    let to = empty(&directory, "email").await;
    let first = &from.users.list(schema::page::PageOf { after: None, limit: 1 }).await.unwrap().items[0];
    to.users.create(&make.user_with(first.email.as_str())).await.unwrap();
    conflict(&to, "another user with an email").await;

    let to = empty(&directory, "role").await;
    to.roles.create(&make.role("reader")).await.unwrap();
    conflict(&to, "another role").await;

    let to = empty(&directory, "keys").await;
    let own = KeySet { revision: 1, keys: vec![key()], ..KeySet::default() };
    to.keys.swap(&own).await.unwrap();
    conflict(&to, "signing keys").await;
}

fn key() -> schema::key::StoredKey {
    schema::key::StoredKey {
        id: schema::KeyId::from_bytes([1; 16]),
        algorithm: schema::token::Algorithm::EdDSA,
        state: schema::key::KeyState::Active,
        created_at: NOW,
        sealed: "c2VhbGVk".into(),
    }
}
