//! Behaviours that concern all nouns together.

use std::slice::from_ref;

use futures_util::future::join_all;
use schema::{
    email::FoldedEmail,
    key::KeySet,
    ledger::{Entry, Head},
    login::{Login, MAX_LOGINS},
    permission::{Effective, Grant, Grants, Permission, Role},
    session::Session,
    superusers::SuperuserSet,
    user::User,
};

use super::{
    Harness,
    sample::{Samples, first, head, name},
};
use crate::{Added, Created, Replaced, Rotated, Stores, Versioned};

pub async fn records_never_stored_are_absent(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.user();
    let session = make.session(user.id);
    let (role, permission) = (make.role("x"), make.permission("x"));
    assert_eq!(stores.users.get(user.id).await.unwrap(), None);
    assert_eq!(stores.users.by_email(&FoldedEmail::of("")).await.unwrap(), None, "of any text");
    assert_eq!(stores.users.by_email(&user.email.folded()).await.unwrap(), None);
    assert_eq!(stores.users.replace(&User { revision: 1, ..user.clone() }).await.unwrap(), Replaced::Gone);
    stores.users.delete(user.id).await.unwrap();
    assert_eq!(stores.sessions.get(user.id, session.id).await.unwrap(), None);
    assert_eq!(stores.sessions.rotate(&session, &session).await.unwrap(), Rotated::Gone);
    assert!(!stores.sessions.end(user.id, session.id).await.unwrap());
    stores.sessions.end_older(user.id, session.user_version).await.unwrap();
    assert_eq!(stores.sessions.list(user.id, first()).await.unwrap().items, []);
    assert_eq!(stores.roles.get(&role.name).await.unwrap(), None);
    assert_eq!(stores.roles.add(&role.name, &permission).await.unwrap(), None);
    assert_eq!(stores.roles.delete(&role.name).await.unwrap(), None);
    assert_eq!(stores.permissions.get(&permission.name).await.unwrap(), None);
    assert_eq!(stores.permissions.delete(&permission.name).await.unwrap(), None);
    for grant in [Grant::Role(role.id), Grant::Permission(permission.id)] {
        assert!(!stores.grants.take(user.id, grant).await.unwrap());
        assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, []);
    }
    assert_eq!(stores.grants.effective(user.id).await.unwrap(), Effective::default());
    assert_eq!(stores.grants.raw(user.id).await.unwrap(), Grants::default());
    assert_eq!(stores.superusers.load().await.unwrap(), Versioned::default());
    assert_eq!(stores.logins.list(user.id, first()).await.unwrap().items, []);
    assert_eq!(stores.keys.load().await.unwrap(), KeySet::default());
    assert_eq!(stores.ledger.heads().await.unwrap(), []);
    assert_eq!(stores.ledger.entries(make.origin(), 0, 10).await.unwrap(), []);
}

const TEXTS: [&str; 8] = [
    "",
    " leading and trailing ",
    "\"double\" 'single' `back` \\slash\\ {\"json\": [null]}",
    "'; DROP TABLE users; --",
    "a NUL \0 in the middle\0",
    "line\nbreak\r\n\ttab \u{1b}[31m",
    "e\u{301} \u{202e}right to left\u{feff}",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧 \u{10ffff}",
];

pub async fn text_is_returned_unchanged(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    for (n, text) in TEXTS.into_iter().enumerate() {
        let some = || Some(text.to_owned());
        let user = User { first_name: some(), last_name: some(), ..make.user() };
        stores.users.create(&user).await.unwrap();
        assert_eq!(stores.users.get(user.id).await.unwrap().as_ref(), Some(&user), "{text:?}");
        let session = Session { device: some(), user_agent: some(), ..make.session(user.id) };
        stores.sessions.open(&session, 10).await.unwrap();
        assert_eq!(stores.sessions.get(user.id, session.id).await.unwrap(), Some(session), "{text:?}");
        let login = Login { device: some(), user_agent: some(), ..make.login(user.id) };
        stores.logins.record(&login, MAX_LOGINS).await.unwrap();
        assert_eq!(stores.logins.list(user.id, first()).await.unwrap().items, [login], "{text:?}");
        let role = Role { description: some(), ..make.role(&format!("r{n}")) };
        stores.roles.create(&role).await.unwrap();
        assert_eq!(stores.roles.get(&role.name).await.unwrap(), Some(role), "{text:?}");
        let permission = make.stored_permission(&stores, &format!("p{n}")).await;
        let described = Permission { description: some(), ..permission };
        stores.permissions.describe(&described.name, Some(text)).await.unwrap();
        assert_eq!(stores.permissions.get(&described.name).await.unwrap(), Some(described), "{text:?}");
    }
    for email in ["o'neill+a--@example.org", "пётр@пример.рф", "𝔞@example.org", "%_*?{}|@example.org"]
    {
        let user = make.user_with(email);
        assert_eq!(stores.users.create(&user).await.unwrap(), Created::Done, "{email}");
        assert_eq!(stores.users.by_email(&user.email.folded()).await.unwrap(), Some(user), "{email}");
    }
    for malformed in TEXTS {
        assert_eq!(stores.users.by_email(&FoldedEmail::of(malformed)).await.unwrap(), None, "{malformed:?}");
    }
}

/// Everything that a store returns about one user.
#[derive(Debug, PartialEq)]
struct OfUser {
    by_email: Option<User>,
    sessions: Vec<Session>,
    grants: Grants,
    logins: Vec<Login>,
}

/// Everything that a store returns.
#[derive(Debug, PartialEq)]
struct All {
    users: Vec<User>,
    of_users: Vec<OfUser>,
    roles: Vec<Role>,
    permissions: Vec<Permission>,
    superusers: Versioned<SuperuserSet>,
    keys: KeySet,
    heads: Vec<Head>,
    entries: Vec<Entry>,
}

impl All {
    async fn of(stores: &Stores, users: &[User]) -> Self {
        let mut all = Self {
            users: stores.users.list(first()).await.unwrap().items,
            of_users: Vec::new(),
            roles: stores.roles.list().await.unwrap(),
            permissions: stores.permissions.list().await.unwrap(),
            superusers: stores.superusers.load().await.unwrap(),
            keys: stores.keys.load().await.unwrap(),
            heads: stores.ledger.heads().await.unwrap(),
            entries: Vec::new(),
        };
        for user in users {
            all.of_users.push(OfUser {
                by_email: stores.users.by_email(&user.email.folded()).await.unwrap(),
                sessions: stores.sessions.list(user.id, first()).await.unwrap().items,
                grants: stores.grants.raw(user.id).await.unwrap(),
                logins: stores.logins.list(user.id, first()).await.unwrap().items,
            });
        }
        for head in &all.heads {
            all.entries.extend(stores.ledger.entries(head.origin, 0, 100).await.unwrap());
        }
        all
    }
}

pub async fn returned_changes_survive_a_restart(harness: &impl Harness) {
    let (mut stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob, gone) =
        (make.stored_user(&stores).await, make.stored_user(&stores).await, make.stored_user(&stores).await);
    let renamed = User { revision: 1, email: "moved@example.org".parse().unwrap(), ..ann.clone() };
    assert_eq!(stores.users.replace(&renamed).await.unwrap(), Replaced::Done);
    let (kept, ended) =
        (make.stored_session(&stores, ann.id).await, make.stored_session(&stores, ann.id).await);
    stores.sessions.rotate(&kept, &make.rotated(&kept)).await.unwrap();
    stores.sessions.end(ann.id, ended.id).await.unwrap();
    let (role, read) =
        (make.stored_role(&stores, "reader").await, make.stored_permission(&stores, "read").await);
    stores.roles.add(&role.name, &read).await.unwrap();
    stores.grants.give(bob.id, Grant::Role(role.id)).await.unwrap();
    stores.grants.give(ann.id, Grant::Permission(read.id)).await.unwrap();
    stores.superusers.swap(0, &SuperuserSet { counted: [ann.id].into(), pending: Vec::new() }).await.unwrap();
    stores.keys.swap(&KeySet { revision: 1, ..KeySet::default() }).await.unwrap();
    stores.logins.record(&make.login(bob.id), MAX_LOGINS).await.unwrap();
    let origin = make.origin();
    let entries = [make.entry(origin, 1), make.entry(origin, 2)];
    stores.ledger.append(&entries, &[head(origin, 1)]).await.unwrap();
    stores.users.delete(gone.id).await.unwrap();

    let users = [renamed, bob, gone];
    let before = All::of(&stores, &users).await;
    for _ in 0..2 {
        stores = harness.restart(stores).await;
        assert_eq!(All::of(&stores, &users).await, before);
    }
    assert_eq!(stores.users.create(&make.user_with("MOVED@example.org")).await.unwrap(), Created::EmailTaken);
    assert_eq!(stores.users.create(&make.user_with(ann.email.as_str())).await.unwrap(), Created::Done);
    assert_eq!(stores.sessions.open(&make.session(ann.id), 1).await.unwrap(), [kept.id], "the cap holds");
}

pub async fn concurrent_writers_of_all_kinds_lose_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let read = make.stored_permission(&stores, "read").await;
    let origin = make.origin();
    let users: Vec<_> = (0..40).map(|_| make.user()).collect();
    join_all((1..).zip(&users).map(|(seq, user)| one_writer(&stores, &make, user, &read, head(origin, seq))))
        .await;
    for user in &users {
        let stored = stores.users.get(user.id).await.unwrap().unwrap();
        assert_eq!((stored.revision, stored.version), (1, 5));
        let sessions = stores.sessions.list(user.id, first()).await.unwrap().items;
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions[0].spent.len(), 1);
        assert_eq!(stores.logins.list(user.id, first()).await.unwrap().items.len(), 1);
        assert_eq!(stores.grants.effective(user.id).await.unwrap().combined, from_ref(&read));
    }
    assert_eq!(stores.users.list(first()).await.unwrap().items.len(), 40);
    assert_eq!(stores.grants.holders(Grant::Permission(read.id), first()).await.unwrap().items.len(), 40);
    assert_eq!(stores.ledger.entries(origin, 0, 100).await.unwrap().len(), 40);
    assert_eq!(stores.ledger.heads().await.unwrap(), [head(origin, 40)]);
    assert_eq!(stores.roles.list().await.unwrap().len(), 40);
    assert!(stores.roles.get(&name("role-40")).await.unwrap().is_some());
}

/// Registers a user, changes it, and uses every noun on the way.
async fn one_writer(stores: &Stores, make: &Samples, user: &User, read: &Permission, at: Head) {
    assert_eq!(stores.users.create(user).await.unwrap(), Created::Done);
    let session = make.session(user.id);
    assert_eq!(stores.sessions.open(&session, 10).await.unwrap(), []);
    let grant = Grant::Permission(read.id);
    assert_eq!(stores.grants.give(user.id, grant).await.unwrap(), Added::Done);
    let other = make.session(user.id);
    stores.sessions.open(&other, 10).await.unwrap();
    assert_eq!(stores.sessions.rotate(&session, &make.rotated(&session)).await.unwrap(), Rotated::Done);
    assert!(stores.sessions.end(user.id, other.id).await.unwrap());
    stores.logins.record(&make.login(user.id), MAX_LOGINS).await.unwrap();
    let changed = User { revision: 1, version: 5, ..user.clone() };
    assert_eq!(stores.users.replace(&changed).await.unwrap(), Replaced::Done);
    assert_eq!(stores.roles.create(&make.role(&format!("role-{}", at.seq))).await.unwrap(), Added::Done);
    stores.ledger.append(&[make.entry(at.origin, at.seq)], &[at]).await.unwrap();
}
