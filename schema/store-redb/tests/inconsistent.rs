//! Rows that do not parse, contradict each other or come from an earlier version: they affect no other
//! rows, and their users and sessions can still be found, ended and deleted.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use redb::{Database, TableDefinition};
use schema::{
    Timestamp,
    email::{Email, FoldedEmail},
    permission::{Effective, Grant},
    user::User,
};
use store::{
    Created, Replaced, StoreError,
    check::{Claim, Reclaimed},
    conformance::sample::{Samples, first},
};
use store_redb::open;
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    (directory, path)
}

fn samples() -> Samples {
    Samples::at(Timestamp::from_secs(2_000_000_000))
}

/// Writes a row without the store; `None` removes it.
fn meddle(path: &Path, table: &str, key: &[u8], row: Option<&[u8]>) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let definition = TableDefinition::<&[u8], &[u8]>::new(table);
        let mut rows = transaction.open_table(definition).unwrap();
        match row {
            Some(row) => drop(rows.insert(key, row).unwrap()),
            None => drop(rows.remove(key).unwrap()),
        }
    }
    transaction.commit().unwrap();
}

fn is_alarm<T: std::fmt::Debug>(answer: &store::Result<T>) -> bool {
    matches!(answer, Err(StoreError::Inconsistent(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_row_is_an_error_and_others_are_served() {
    let (_directory, path) = place();
    let (ann, bob) = (samples().user_with("ann@example.org"), {
        let make = samples();
        let _ = make.user();
        make.user_with("bob@example.org")
    });
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    stores.users.create(&bob).await.unwrap();
    drop(stores);
    meddle(&path, "users", ann.id.as_bytes(), Some(br#"{"id":"x","password":"$argon2id$secret"}"#));

    let stores = open(&path).await.unwrap().stores;
    let got = stores.users.get(ann.id).await;
    assert!(is_alarm(&got), "{got:?}");
    assert!(!format!("{got:?}").contains("secret"), "what is in the row is not said");
    assert!(is_alarm(&stores.users.by_email(&ann.email.folded()).await));
    assert_eq!(
        stores.users.list(first()).await.unwrap().items,
        std::slice::from_ref(&bob),
        "a list leaves it out"
    );
    let next = |user: &User| User { revision: 1, ..user.clone() };
    let (anns, bobs) = (next(&ann), next(&bob));
    let together = tokio::join!(stores.users.replace(&anns), stores.users.replace(&bobs));
    assert!(is_alarm(&together.0), "{:?}", together.0);
    assert_eq!(together.1.unwrap(), Replaced::Done);
    assert_eq!(stores.users.get(bob.id).await.unwrap(), Some(bobs));
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_without_a_user_gives_way() {
    let (_directory, path) = place();
    let make = samples();
    let ann = make.user_with("ann@example.org");
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    drop(stores);
    meddle(&path, "users", ann.id.as_bytes(), None);
    let stores = open(&path).await.unwrap().stores;
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), None);
    assert_eq!(stores.upkeep.examine_others().await.unwrap().len(), 1);
    let heir = make.user_with("ann@example.org");
    assert_eq!(stores.users.create(&heir).await.unwrap(), Created::Done);
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), Some(heir));
    assert_eq!(stores.upkeep.examine_others().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_a_claim_is_reported_and_can_be_deleted() {
    let (_directory, path) = place();
    let make = samples();
    let ann = make.user_with("ann@example.org");
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    drop(stores);
    meddle(&path, "emails", b"ann@example.org", None);
    let stores = open(&path).await.unwrap().stores;
    let claim = || async { stores.upkeep.examine(first()).await.unwrap().items[0].claim };
    assert_eq!(claim().await, Claim::Missing(None));
    assert_eq!(stores.upkeep.reclaim(ann.id).await.unwrap(), Reclaimed::Done);
    assert_eq!(claim().await, Claim::Today);
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), Some(ann.clone()));
    drop(stores);
    meddle(&path, "emails", b"ann@example.org", None);
    let stores = open(&path).await.unwrap().stores;
    let moved = User { revision: 1, email: "anna@example.org".parse().unwrap(), ..ann.clone() };
    assert_eq!(stores.users.replace(&moved).await.unwrap(), Replaced::Done);
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.users.get(ann.id).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_rows_of_a_user_can_be_ended_and_deleted() {
    let (_directory, path) = place();
    let make = samples();
    let ann = make.user_with("ann@example.org");
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    let role = make.stored_role(&stores, "reader").await;
    stores.grants.give(ann.id, Grant::Role(role.id)).await.unwrap();
    let (good, bad) =
        (make.stored_session(&stores, ann.id).await, make.stored_session(&stores, ann.id).await);
    let login = make.login(ann.id);
    stores.logins.record(&login, 100).await.unwrap();
    drop(stores);
    let of_ann = |id: &[u8]| [ann.id.as_bytes(), id].concat();
    let garbage = Some(&b"not json"[..]);
    meddle(&path, "sessions", &of_ann(bad.id.as_bytes()), garbage);
    meddle(&path, "logins", &of_ann(login.id.as_bytes()), garbage);
    meddle(&path, "grants", ann.id.as_bytes(), garbage);

    let stores = open(&path).await.unwrap().stores;
    assert_eq!(stores.sessions.list(ann.id, first()).await.unwrap().items, std::slice::from_ref(&good));
    assert_eq!(stores.logins.list(ann.id, first()).await.unwrap().items, []);
    assert_eq!(stores.grants.effective(ann.id).await.unwrap(), Effective::default());
    let examined = stores.upkeep.examine(first()).await.unwrap();
    let tables: Vec<_> = examined.items[0].unreadable.iter().map(|(table, _)| table.as_str()).collect();
    assert_eq!(tables, ["sessions", "logins", "grants"]);
    // A session that does not parse is below every version.
    stores.sessions.end_older(ann.id, 0).await.unwrap();
    assert!(!stores.sessions.end(ann.id, bad.id).await.unwrap());
    assert!(stores.sessions.end(ann.id, good.id).await.unwrap());
    drop(stores);
    meddle(&path, "users", ann.id.as_bytes(), garbage);

    let stores = open(&path).await.unwrap().stores;
    assert!(is_alarm(&stores.users.get(ann.id).await));
    assert_eq!(stores.upkeep.examine(first()).await.unwrap().items[0].user, None);
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.users.get(ann.id).await.unwrap(), None);
    assert_eq!(stores.grants.holders(Grant::Role(role.id), first()).await.unwrap().items, []);
    assert_eq!(stores.users.create(&make.user_with("ann@example.org")).await.unwrap(), Created::Done);
}

/// Stores a user as version 0.1 did: claimed under a key of that version.
fn plant(path: &Path, user: &User, key: &str) {
    meddle(path, "users", user.id.as_bytes(), Some(&serde_json::to_vec(user).unwrap()));
    meddle(path, "emails", key.as_bytes(), Some(&serde_json::to_vec(&user.id).unwrap()));
}

fn stored(user: User, email: &str) -> User {
    User { email: Email::from_stored(email.to_owned()), ..user }
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_of_an_earlier_version_is_found_and_moved() {
    let (_directory, path) = place();
    let make = samples();
    let zed = stored(make.user(), "Zed@xn--bcher-kva.example");
    drop(open(&path).await.unwrap().stores);
    plant(&path, &zed, "zed@xn--bcher-kva.example");
    let stores = open(&path).await.unwrap().stores;
    let spellings = ["zed@xn--bcher-kva.example", "zed@bücher.example", "ZED@BÜCHER.example"];
    for repaired in [false, true] {
        for email in spellings {
            let found = stores.users.by_email(&FoldedEmail::of(email)).await.unwrap();
            assert_eq!(found.as_ref(), Some(&zed), "{email}");
            let other = make.user_with(email);
            assert_eq!(stores.users.create(&other).await.unwrap(), Created::EmailTaken, "{email}");
        }
        let claim = stores.upkeep.examine(first()).await.unwrap().items[0].claim;
        assert_eq!(claim, if repaired { Claim::Today } else { Claim::Earlier(None) });
        assert_eq!(stores.upkeep.reclaim(zed.id).await.unwrap(), Reclaimed::Done);
    }
    // A change that keeps the email keeps the claim; a change of the email moves it.
    drop(stores);
    let path = path.with_file_name("another.redb");
    drop(open(&path).await.unwrap().stores);
    plant(&path, &zed, "zed@xn--bcher-kva.example");
    let stores = open(&path).await.unwrap().stores;
    let disabled = User { revision: 1, active: false, ..zed.clone() };
    assert_eq!(stores.users.replace(&disabled).await.unwrap(), Replaced::Done);
    let moved = User { revision: 2, email: "zed@bücher.example".parse().unwrap(), ..disabled };
    assert_eq!(stores.users.replace(&moved).await.unwrap(), Replaced::Done);
    assert_eq!(stores.users.by_email(&FoldedEmail::of(spellings[0])).await.unwrap(), Some(moved));
    stores.users.delete(zed.id).await.unwrap();
    for email in spellings {
        assert_eq!(stores.users.by_email(&FoldedEmail::of(email)).await.unwrap(), None);
    }
    assert_eq!(stores.upkeep.examine_others().await.unwrap(), [], "no claim is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_of_one_address_log_in_and_are_reported() {
    let (_directory, path) = place();
    let make = samples();
    let (ann, wide) = (make.user_with("ann@example.org"), stored(make.user(), "Ａｎｎ@example.org"));
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    drop(stores);
    plant(&path, &wide, "ａｎｎ@example.org");
    let stores = open(&path).await.unwrap().stores;
    for user in [&ann, &wide] {
        assert_eq!(stores.users.by_email(&user.email.folded()).await.unwrap().as_ref(), Some(user));
    }
    let claims: Vec<_> =
        stores.upkeep.examine(first()).await.unwrap().items.iter().map(|one| one.claim).collect();
    assert_eq!(claims, [Claim::Today, Claim::Earlier(Some(ann.id))]);
    assert_eq!(stores.upkeep.reclaim(wide.id).await.unwrap(), Reclaimed::Held(ann.id));
    let disabled = User { revision: 1, active: false, ..wide.clone() };
    assert_eq!(stores.users.replace(&disabled).await.unwrap(), Replaced::Done);
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.upkeep.reclaim(wide.id).await.unwrap(), Reclaimed::Done);
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), Some(disabled));
}
