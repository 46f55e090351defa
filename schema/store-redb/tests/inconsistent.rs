//! Rows that contradict each other are an alarm for who meets them, and for nobody else.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use redb::{Database, TableDefinition};
use schema::{
    StoreError, Timestamp,
    conformance::sample::{Samples, first},
    store::Replaced,
    user::User,
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

/// Writes a row behind the store's back; `None` removes it.
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

fn is_alarm<T: std::fmt::Debug>(answer: &schema::store::Result<T>) -> bool {
    matches!(answer, Err(StoreError::Inconsistent(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_parse_is_an_alarm_and_others_go_on() {
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
    assert!(is_alarm(&stores.users.list(first()).await));
    let next = |user: &User| User { revision: 1, ..user.clone() };
    let (anns, bobs) = (next(&ann), next(&bob));
    let together = tokio::join!(stores.users.replace(&anns), stores.users.replace(&bobs));
    assert!(is_alarm(&together.0), "{:?}", together.0);
    assert_eq!(together.1.unwrap(), Replaced::Done);
    assert_eq!(stores.users.get(bob.id).await.unwrap(), Some(bobs));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_user_who_is_not_there_is_an_alarm() {
    let (_directory, path) = place();
    let ann = samples().user_with("ann@example.org");
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    drop(stores);
    meddle(&path, "users", ann.id.as_bytes(), None);
    let stores = open(&path).await.unwrap().stores;
    assert!(is_alarm(&stores.users.by_email(&ann.email.folded()).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_claim_is_gone_is_an_alarm_when_it_changes() {
    let (_directory, path) = place();
    let ann = samples().user_with("ann@example.org");
    let stores = open(&path).await.unwrap().stores;
    stores.users.create(&ann).await.unwrap();
    drop(stores);
    meddle(&path, "emails", b"ann@example.org", None);
    let stores = open(&path).await.unwrap().stores;
    let moved = User { revision: 1, email: "anna@example.org".parse().unwrap(), ..ann.clone() };
    assert!(is_alarm(&stores.users.replace(&moved).await));
    assert_eq!(stores.users.get(ann.id).await.unwrap(), Some(ann), "nothing changed");
}
