//! Behaviours of roles.

use std::{collections::BTreeSet, slice::from_ref};

use futures_util::future::join_all;
use schema::{
    name::Name,
    permission::{Grant, MAX_GRANTS, MAX_ROLES, Permission, Role},
};

use super::{
    Harness,
    sample::{Samples, name},
};
use crate::Added;

pub async fn roles_are_found_and_listed_by_name(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    assert_eq!(stores.roles.list().await.unwrap(), []);
    let mut all = Vec::new();
    for text in ["editor", "Admin", "admin", "a.b", "1"] {
        all.push(make.stored_role(&stores, text).await);
    }
    let read = make.stored_permission(&stores, "read").await;
    let full = Role { description: Some("All".into()), permissions: [read.id].into(), ..make.role("full") };
    assert_eq!(stores.roles.create(&full).await.unwrap(), Added::Done);
    assert_eq!(stores.roles.get(&full.name).await.unwrap().as_ref(), Some(&full));
    all.push(full);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(stores.roles.list().await.unwrap(), all);
    assert_eq!(stores.roles.get(&name("EDITOR")).await.unwrap(), None, "case matters");
}

pub async fn taken_role_name_is_rejected(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let stored = make.stored_role(&stores, "editor").await;
    make.stored_permission(&stores, "editor").await;
    assert_eq!(stores.roles.create(&make.role("editor")).await.unwrap(), Added::Exists);
    assert_eq!(stores.roles.list().await.unwrap(), [stored]);
}

pub async fn one_of_many_roles_with_one_name_is_created(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let wanted: Vec<_> = (0..30).map(|_| make.role("editor")).collect();
    let added = join_all(wanted.iter().map(|role| stores.roles.create(role))).await;
    let added: Vec<_> = added.into_iter().map(|added| added.unwrap()).collect();
    assert_eq!(added.iter().filter(|added| **added == Added::Done).count(), 1);
    assert_eq!(added.iter().filter(|added| **added == Added::Exists).count(), 29);
    let winner = &wanted[added.iter().position(|added| *added == Added::Done).unwrap()];
    assert_eq!(stores.roles.list().await.unwrap(), from_ref(winner));
}

pub async fn described_role_keeps_its_permissions(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let read = make.stored_permission(&stores, "read").await;
    let stored = make.stored_role(&stores, "editor").await;
    stores.roles.add(&stored.name, &read).await.unwrap();
    for description in [Some("Edits"), None] {
        let next = Role {
            description: description.map(str::to_owned),
            permissions: [read.id].into(),
            ..stored.clone()
        };
        let said = stores.roles.describe(&stored.name, description).await.unwrap();
        assert_eq!(said.as_ref(), Some(&next));
        assert_eq!(stores.roles.get(&stored.name).await.unwrap(), Some(next));
    }
    assert_eq!(stores.roles.describe(&name("nobody"), Some("x")).await.unwrap(), None);
}

pub async fn repeated_add_or_remove_of_a_permission_changes_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (read, write) =
        (make.stored_permission(&stores, "read").await, make.stored_permission(&stores, "write").await);
    let role = make.stored_role(&stores, "editor").await;
    let with = |ids: &[_]| Some(Role { permissions: ids.iter().copied().collect(), ..role.clone() });
    for _ in 0..2 {
        assert_eq!(stores.roles.add(&role.name, &read).await.unwrap(), with(&[read.id]));
    }
    assert_eq!(stores.roles.add(&role.name, &write).await.unwrap(), with(&[read.id, write.id]));
    for _ in 0..2 {
        assert_eq!(stores.roles.remove(&role.name, &read).await.unwrap(), with(&[write.id]));
        assert_eq!(stores.roles.get(&role.name).await.unwrap(), with(&[write.id]));
    }
    assert_eq!(stores.roles.add(&name("nobody"), &read).await.unwrap(), None);
    assert_eq!(stores.roles.remove(&name("nobody"), &read).await.unwrap(), None);
}

pub async fn deleted_permission_is_not_added_to_a_role(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let old = make.stored_permission(&stores, "read").await;
    let role = make.stored_role(&stores, "editor").await;
    let ann = make.stored_user(&stores).await.id;
    stores.grants.give(ann, schema::permission::Grant::Role(role.id)).await.unwrap();
    stores.permissions.delete(&old.name).await.unwrap();
    stores.roles.add(&role.name, &old).await.unwrap();
    make.stored_permission(&stores, "read").await;
    let effective = stores.grants.effective(ann).await.unwrap();
    assert_eq!(effective.combined, [], "the new one of that name is another");
}

pub async fn concurrent_changes_of_one_role_lose_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let role = make.stored_role(&stores, "editor").await;
    let mut permissions = Vec::new();
    for n in 0..20 {
        permissions.push(make.stored_permission(&stores, &format!("p{n}")).await);
    }
    let adding = permissions.iter().map(|permission| stores.roles.add(&role.name, permission));
    for added in join_all(adding).await {
        assert!(added.unwrap().is_some());
    }
    let removing = permissions[..10].iter().map(|permission| stores.roles.remove(&role.name, permission));
    for removed in join_all(removing).await {
        assert!(removed.unwrap().is_some());
    }
    let left: BTreeSet<_> = permissions[10..].iter().map(|permission| permission.id).collect();
    assert_eq!(stores.roles.get(&role.name).await.unwrap().unwrap().permissions, left);
}

pub async fn deleted_role_is_absent(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let stored = make.stored_role(&stores, "editor").await;
    assert_eq!(stores.roles.delete(&stored.name).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(stores.roles.delete(&stored.name).await.unwrap(), None);
    assert_eq!(stores.roles.get(&stored.name).await.unwrap(), None);
    assert_eq!(stores.roles.list().await.unwrap(), []);
}

pub async fn permissions_of_a_role_are_limited(harness: &impl Harness) {
    if harness.rows() < MAX_GRANTS + 2 {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let permissions: Vec<_> = (0..MAX_GRANTS + 2).map(|n| make.permission(&format!("p{n}"))).collect();
    for some in permissions.chunks(500) {
        for added in join_all(some.iter().map(|permission| stores.permissions.create(permission))).await {
            assert_eq!(added.unwrap(), Added::Done);
        }
    }
    let ids = permissions[..MAX_GRANTS].iter().map(|permission| permission.id).collect();
    let full = Role { permissions: ids, ..make.role("editor") };
    assert_eq!(stores.roles.create(&full).await.unwrap(), Added::Done);
    let said = stores.roles.add(&full.name, &permissions[MAX_GRANTS]).await.unwrap();
    assert_eq!(said.as_ref(), Some(&full), "the answer lacks it");
    assert_eq!(stores.roles.get(&full.name).await.unwrap().as_ref(), Some(&full));
    stores.roles.remove(&full.name, &permissions[0]).await.unwrap();
    let said = stores.roles.add(&full.name, &permissions[MAX_GRANTS]).await.unwrap().unwrap();
    assert!(said.permissions.contains(&permissions[MAX_GRANTS].id));
    stores.permissions.delete(&permissions[1].name).await.unwrap();
    let said = stores.roles.add(&full.name, &permissions[MAX_GRANTS + 1]).await.unwrap().unwrap();
    assert!(said.permissions.contains(&permissions[MAX_GRANTS + 1].id), "a deleted one leaves room");
}

pub async fn roles_are_limited(harness: &impl Harness) {
    if harness.rows() < MAX_ROLES {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let all: Vec<_> = (0..MAX_ROLES).map(|n| make.role(&format!("r{n}"))).collect();
    for some in all.chunks(500) {
        for added in join_all(some.iter().map(|role| stores.roles.create(role))).await {
            assert_eq!(added.unwrap(), Added::Done);
        }
    }
    assert_eq!(stores.roles.create(&make.role("more")).await.unwrap(), Added::Full);
    assert_eq!(stores.roles.list().await.unwrap().len(), MAX_ROLES);
    stores.roles.delete(&all[0].name).await.unwrap();
    assert_eq!(stores.roles.create(&make.role("more")).await.unwrap(), Added::Done);
}

pub async fn name_against_the_rules_is_served_like_any_other(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    for (n, text) in ["no name", "\u{200b}", "x\ny", "Ärger", &"n".repeat(900)].into_iter().enumerate() {
        let name = Name::from_stored(text);
        let permission = Permission { name: name.clone(), ..make.permission("p") };
        let role = Role { name: name.clone(), ..make.role("r") };
        assert_eq!(stores.permissions.create(&permission).await.unwrap(), Added::Done, "{text:?}");
        assert_eq!(stores.roles.create(&role).await.unwrap(), Added::Done, "{text:?}");
        let role = stores.roles.add(&name, &permission).await.unwrap().unwrap();
        stores.grants.give(user, Grant::Role(role.id)).await.unwrap();
        let effective = stores.grants.effective(user).await.unwrap();
        assert_eq!(effective.combined, from_ref(&permission), "{text:?}");
        assert_eq!(stores.permissions.list().await.unwrap(), from_ref(&permission));
        assert_eq!(stores.roles.list().await.unwrap(), from_ref(&role));
        stores.permissions.describe(&name, Some("described")).await.unwrap().unwrap();
        assert!(stores.grants.take(user, Grant::Role(role.id)).await.unwrap(), "{n}");
        assert_eq!(stores.roles.delete(&name).await.unwrap(), Some(role));
        stores.permissions.delete(&name).await.unwrap().unwrap();
        assert_eq!(stores.permissions.get(&name).await.unwrap(), None);
    }
}
