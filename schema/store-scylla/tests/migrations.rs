//! Nodes that start together on a new keyspace, and schemas that a node must not use.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::time::{Duration, Instant};

use common::{Real, begin, clocks, column, config, cql, fresh, now, opened, refused, session};
use store::{Created, StoreError};
use store_scylla::{State, migration};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_ten_nodes_that_start_together_migrates() {
    let keyspace = fresh("together");
    let mut all = Vec::new();
    for _ in 0..10 {
        all.push(begin(&keyspace, true).await);
    }
    for opened in &all {
        let up = tokio::time::timeout(common::DATABASE_TIMEOUT, opened.status.up()).await;
        assert!(up.is_ok(), "{}", opened.status.state());
    }
    let session = session().await;
    let numbers =
        column::<i32>(&session, &format!("SELECT number FROM {keyspace}.schema_migrations WHERE part = 0"))
            .await;
    assert_eq!(numbers, [1, 2]);
    let locks = column::<i32>(&session, &format!("SELECT id FROM {keyspace}.schema_lock")).await;
    assert!(locks.is_empty(), "the lock was released");
    let report = migration::status(&config(&keyspace).await).await.unwrap();
    assert_eq!((report.applied.len(), report.pending), (2, vec![]));
    let make = store::conformance::sample::Samples::at(now());
    for opened in all {
        let user = make.user();
        assert_eq!(opened.stores.users.create(&user).await.unwrap(), Created::Done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_may_not_migrate_waits_for_the_migration() {
    let keyspace = fresh("waiting");
    let waits = begin(&keyspace, false).await;
    let why = refused(&waits).await;
    assert!(why.contains("palisade schema migrate") && why.contains(&keyspace), "{why}");
    let unavailable = waits.stores.upkeep.ping().await;
    assert!(matches!(unavailable, Err(StoreError::Unavailable(_))), "{unavailable:?}");
    let before = migration::status(&config(&keyspace).await).await.unwrap();
    assert_eq!((before.applied.len(), before.pending.len()), (0, 2));
    let after = migration::migrate(&config(&keyspace).await, &Real, &Real).await.unwrap();
    assert_eq!((after.applied.len(), after.pending.len()), (2, 0));
    assert_eq!(migration::migrate(&config(&keyspace).await, &Real, &Real).await.unwrap(), after, "again");
    tokio::time::timeout(common::DATABASE_TIMEOUT, waits.status.up()).await.unwrap();
    waits.stores.upkeep.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_schema_is_refused() {
    let keyspace = fresh("other");
    drop(opened(&keyspace).await);
    let session = session().await;
    let newer = format!(
        "INSERT INTO {keyspace}.schema_migrations (part, number, name, checksum, applied_at) \
         VALUES (0, 99, 'more', 'x', 0)"
    );
    cql(&session, &newer).await;
    for migrate in [true, false] {
        let why = refused(&begin(&keyspace, migrate).await).await;
        assert!(why.contains("migration 99 (more)") && why.contains("newer"), "{why}");
    }
    cql(&session, &format!("DELETE FROM {keyspace}.schema_migrations WHERE part = 0 AND number = 99")).await;
    let changed =
        format!("UPDATE {keyspace}.schema_migrations SET checksum = 'x' WHERE part = 0 AND number = 1");
    cql(&session, &changed).await;
    let opened = begin(&keyspace, true).await;
    let why = refused(&opened).await;
    assert!(why.contains("checksum") && why.contains("migration 1"), "{why}");
    let error = migration::status(&config(&keyspace).await).await.unwrap_err();
    assert_eq!(error, migration::MigrateError::Refused(why));
}

#[tokio::test(flavor = "multi_thread")]
async fn keyspace_with_foreign_tables_is_refused() {
    let keyspace = fresh("foreign");
    let session = session().await;
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";
    cql(&session, &format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}")).await;
    cql(&session, &format!("CREATE TABLE {keyspace}.users (name text PRIMARY KEY)")).await;
    let why = refused(&begin(&keyspace, true).await).await;
    assert!(why.contains("not Palisade's"), "{why}");
    let tables = column::<String>(
        &session,
        &format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'"),
    )
    .await;
    assert_eq!(tables, ["users"], "left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_of_a_dead_node_only_delays_the_others() {
    let keyspace = fresh("lock");
    drop(opened(&keyspace).await);
    let session = session().await;
    cql(&session, &format!("DELETE FROM {keyspace}.schema_migrations WHERE part = 0 AND number = 1")).await;
    let lock = format!(
        "INSERT INTO {keyspace}.schema_lock (id, owner) VALUES (0, 00000000-0000-0000-0000-000000000001) \
         IF NOT EXISTS USING TTL 4"
    );
    cql(&session, &lock).await;
    let began = Instant::now();
    opened(&keyspace).await;
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "the lock holds while its owner may be alive: {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn call_without_a_connection_fails_at_once() {
    let config = "cql://ann:S3CRET@127.0.0.1:1/p".parse().unwrap();
    let opened = store_scylla::open(config, true, clocks(), std::sync::Arc::new(Real));
    let began = Instant::now();
    let answer = opened.stores.users.get(schema::UserId::from_bytes([1; 16])).await;
    assert!(matches!(&answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(1));
    let tried = async {
        while matches!(opened.status.state(), State::Connecting(why) if why.contains("not tried")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(common::DATABASE_TIMEOUT, tried).await.unwrap();
    let State::Connecting(why) = opened.status.state() else { panic!("{}", opened.status.state()) };
    assert!(!why.contains("S3CRET") && why.contains("127.0.0.1:1"), "{why}");
}
