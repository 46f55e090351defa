//! Files that are not opened, and the errors for them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use redb::{Database, TableDefinition};
use schema::{Timestamp, horizon::manual::horizon_at};
use store::{Created, conformance::sample::Samples};
use store_redb::{OpenError, open};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    (directory, path)
}

async fn refused(path: &Path) -> OpenError {
    open(path).await.expect_err("it should be refused")
}

/// A store with some hundred users, closed.
async fn store_with_users(path: &Path, users: usize) {
    let stores = open(path).await.unwrap().stores;
    let make = Samples::at(Timestamp::from_secs(2_000_000_000));
    for _ in 0..users {
        assert_eq!(stores.users.create(&make.user()).await.unwrap(), Created::Done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_store_is_not_opened_twice() {
    let (_directory, path) = place();
    let opened = open(&path).await.unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("stop the other node"), "{error}");
    let one_handle = opened.stores.users.clone();
    drop(opened);
    assert!(matches!(refused(&path).await, OpenError::InUse { .. }), "a handle is left");
    drop(one_handle);
    open(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_concurrent_creations_succeeds() {
    for _ in 0..20 {
        let (_directory, path) = place();
        let (one, two) = tokio::join!(open(&path), open(&path));
        assert!(one.is_ok() != two.is_ok(), "one of them");
        let refused = one.err().or(two.err()).unwrap();
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_file_is_rejected_and_unchanged() {
    for size in [1, 8, 9, 100, 511, 4_096, 100_000] {
        let (_directory, path) = place();
        let text = "Dear diary, ".repeat(size / 12 + 1).into_bytes()[..size].to_vec();
        fs::write(&path, &text).unwrap();
        let error = refused(&path).await;
        assert!(matches!(error, OpenError::Foreign { .. }), "{size}: {error:?}");
        assert!(error.to_string().contains("not a Palisade store"), "{error}");
        assert!(fs::read(&path).unwrap() == text, "it was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_redb_file_is_rejected() {
    let (_directory, path) = place();
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("films")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn store_of_a_newer_palisade_is_rejected() {
    let (_directory, path) = place();
    store_with_users(&path, 1).await;
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("newer Palisade"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_file_is_not_taken_for_a_store_without_users() {
    let (_directory, path) = place();
    fs::write(&path, "").unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

/// A file that is cut at any point is rejected with an error, or (if only unused pages are lost) opens
/// with all its rows.
#[tokio::test(flavor = "multi_thread")]
async fn truncated_file_never_panics() {
    let (_directory, whole) = place();
    store_with_users(&whole, 300).await;
    let bytes = fs::read(&whole).unwrap();
    let mut refusals = 0;
    for sixteenth in 1..16 {
        let (_directory, path) = place();
        fs::write(&path, &bytes[..bytes.len() * sixteenth / 16]).unwrap();
        match open(&path).await {
            Ok(opened) => drop(opened.stores.users.list(store::conformance::sample::first()).await),
            Err(error) => {
                let is_clear = matches!(error, OpenError::Damaged { .. } | OpenError::Foreign { .. });
                assert!(is_clear, "{sixteenth}/16: {error:?}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 10, "{refusals}");
}

/// A file that is overwritten in part with zeros or noise is rejected, or yields an error where that part is
/// read. No panic reaches the caller.
#[tokio::test(flavor = "multi_thread")]
async fn partly_overwritten_file_never_panics() {
    let (_directory, whole) = place();
    store_with_users(&whole, 300).await;
    let bytes = fs::read(&whole).unwrap();
    let ends = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for part in 0..24 {
        for filling in [0x00, 0x5a, 0xff] {
            let (_directory, path) = place();
            let mut damaged = bytes.clone();
            let from = ends * part / 24;
            damaged[from..from + 2_000.min(bytes.len() - from)].fill(filling);
            fs::write(&path, &damaged).unwrap();
            if let Ok(opened) = open(&path).await {
                let _ = opened.stores.users.list(store::conformance::sample::first()).await;
                let make = Samples::at(Timestamp::from_secs(2_100_000_000));
                let _ = opened.stores.users.create(&make.user_with("new@example.org")).await;
                let _ = opened
                    .stores
                    .upkeep
                    .sweep(horizon_at(Timestamp::from_secs(2_200_000_000)).into(), 10)
                    .await;
                let _ = opened.stores.upkeep.ping().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_names_a_directory_that_is_not_writable() {
    let (directory, _) = place();
    let missing = directory.path().join("no/such/directory/store.redb");
    let error = refused(&missing).await;
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("no/such/directory"), "{error}");
    let error = refused(directory.path()).await;
    assert!(matches!(error, OpenError::Io { .. } | OpenError::Foreign { .. }), "a directory: {error:?}");

    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let may_write_everywhere = fs::write(directory.path().join("probe"), "").is_ok();
    if !may_write_everywhere {
        let error = refused(&directory.path().join("store.redb")).await;
        assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    }
    // Not even root can create files there.
    let error = refused(Path::new("/proc/store.redb")).await;
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_is_readable_only_by_its_user() {
    let (directory, path) = place();
    store_with_users(&path, 1).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    open(&path).await.unwrap();
    assert_eq!(mode(&path), 0o600, "a copy that was made carelessly");
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"], "nothing else is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_creation_is_repeated() {
    let (_directory, path) = place();
    fs::write(path.with_extension("redb.new"), [0; 10_000]).unwrap();
    store_with_users(&path, 1).await;
    assert!(!path.with_extension("redb.new").exists());
}
