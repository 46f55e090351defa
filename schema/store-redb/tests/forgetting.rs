//! The sweep of deleted roles, which only this store needs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use futures_util::future::join_all;
use schema::{
    Timestamp,
    horizon::manual::horizon_at,
    permission::{Grant, Grants},
};
use store::{
    Added,
    conformance::sample::{Samples, first},
};
use store_redb::open;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn sweep_removes_a_deleted_role_from_its_holders_in_steps() {
    let directory = TempDir::new().unwrap();
    let stores = open(&directory.path().join("store.redb")).await.unwrap().stores;
    let make = Samples::at(NOW);
    let (deleted, stays) =
        (make.stored_role(&stores, "deleted").await, make.stored_role(&stores, "stays").await);
    let users: Vec<_> = (0..25).map(|_| make.user()).collect();
    join_all(users.iter().map(async |user| {
        stores.users.create(user).await.unwrap();
        for role in [&deleted, &stays] {
            assert_eq!(stores.grants.give(user.id, Grant::Role(role.id)).await.unwrap(), Added::Done);
        }
    }))
    .await;
    stores.roles.delete(&deleted.name).await.unwrap();
    stores.users.delete(users[0].id).await.unwrap();
    for swept in [10, 10, 4, 0] {
        assert_eq!(stores.upkeep.sweep(horizon_at(NOW).into(), 10).await.unwrap(), swept);
    }
    for user in &users[1..] {
        let raw = Grants { roles: [stays.id].into(), permissions: [].into() };
        assert_eq!(stores.grants.raw(user.id).await.unwrap(), raw);
    }
    assert_eq!(stores.grants.holders(Grant::Role(stays.id), first()).await.unwrap().items.len(), 24);
}
