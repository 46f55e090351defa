//! Behaviours of permissions.

use std::slice::from_ref;

use futures_util::future::join_all;
use schema::permission::{MAX_PERMISSIONS, Permission};

use super::{
    Harness,
    sample::{Samples, name},
};
use crate::Added;

pub async fn permissions_are_found_and_listed_by_name(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    assert_eq!(stores.permissions.list().await.unwrap(), []);
    let mut all = Vec::new();
    for text in ["b:read", "a", "Z", "a.b", "9", "a-b", "aa"] {
        all.push(make.stored_permission(&stores, text).await);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(stores.permissions.list().await.unwrap(), all);
    assert_eq!(stores.permissions.get(&all[2].name).await.unwrap().as_ref(), Some(&all[2]));
    assert_eq!(stores.permissions.get(&name("A")).await.unwrap(), None, "case matters");
}

pub async fn taken_permission_name_is_rejected(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let stored = make.stored_permission(&stores, "read").await;
    let other = Permission { description: Some("another".into()), ..make.permission("read") };
    assert_eq!(stores.permissions.create(&other).await.unwrap(), Added::Exists);
    assert_eq!(stores.permissions.list().await.unwrap(), [stored]);
}

pub async fn one_of_many_permissions_with_one_name_is_created(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let wanted: Vec<_> = (0..30).map(|_| make.permission("read")).collect();
    let added = join_all(wanted.iter().map(|permission| stores.permissions.create(permission))).await;
    let added: Vec<_> = added.into_iter().map(|added| added.unwrap()).collect();
    assert_eq!(added.iter().filter(|added| **added == Added::Done).count(), 1);
    assert_eq!(added.iter().filter(|added| **added == Added::Exists).count(), 29);
    let winner = &wanted[added.iter().position(|added| *added == Added::Done).unwrap()];
    assert_eq!(stores.permissions.list().await.unwrap(), from_ref(winner));
}

pub async fn permission_description_is_changed_and_removed(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let stored = make.stored_permission(&stores, "read").await;
    for description in [Some("Read films"), Some("Read films"), Some(""), None] {
        let next = Permission { description: description.map(str::to_owned), ..stored.clone() };
        let said = stores.permissions.describe(&stored.name, description).await.unwrap();
        assert_eq!(said.as_ref(), Some(&next));
        assert_eq!(stores.permissions.get(&stored.name).await.unwrap(), Some(next));
    }
    assert_eq!(stores.permissions.describe(&name("write"), Some("Write")).await.unwrap(), None);
    assert_eq!(stores.permissions.list().await.unwrap().len(), 1);
}

pub async fn deleted_permission_is_absent(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let stored = make.stored_permission(&stores, "read").await;
    assert_eq!(stores.permissions.delete(&stored.name).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(stores.permissions.delete(&stored.name).await.unwrap(), None);
    assert_eq!(stores.permissions.get(&stored.name).await.unwrap(), None);
    assert_eq!(stores.permissions.list().await.unwrap(), []);
    let again = make.stored_permission(&stores, "read").await;
    assert_eq!(stores.permissions.get(&stored.name).await.unwrap(), Some(again));
}

pub async fn permissions_are_limited(harness: &impl Harness) {
    if harness.rows() < MAX_PERMISSIONS {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let all: Vec<_> = (0..MAX_PERMISSIONS).map(|n| make.permission(&format!("p{n}"))).collect();
    for some in all.chunks(500) {
        for added in join_all(some.iter().map(|permission| stores.permissions.create(permission))).await {
            assert_eq!(added.unwrap(), Added::Done);
        }
    }
    assert_eq!(stores.permissions.create(&make.permission("more")).await.unwrap(), Added::Full);
    assert_eq!(stores.permissions.create(&make.permission("p7")).await.unwrap(), Added::Exists);
    assert_eq!(stores.permissions.list().await.unwrap().len(), MAX_PERMISSIONS);
    stores.permissions.delete(&all[0].name).await.unwrap();
    assert_eq!(stores.permissions.create(&make.permission("more")).await.unwrap(), Added::Done);
}
