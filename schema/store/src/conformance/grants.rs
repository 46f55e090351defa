//! Behaviours of grants.

use futures_util::future::join_all;
use schema::{
    name::Name,
    permission::{Effective, Grant, Grants, MAX_GRANTS, Permission, Role},
};

use super::{
    Harness,
    sample::{Samples, first, pages},
};
use crate::Added;

fn names(permissions: &[Permission]) -> Vec<&str> {
    permissions.iter().map(|permission| permission.name.as_str()).collect()
}

fn role_names(roles: &[Role]) -> Vec<&str> {
    roles.iter().map(|role| Name::as_str(&role.name)).collect()
}

pub async fn effective_resolves_roles_and_direct_permissions(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await.id;
    assert_eq!(stores.grants.effective(ann).await.unwrap(), Effective::default());
    let mut permissions = Vec::new();
    for text in ["write", "read", "delete", "admin"] {
        permissions.push(make.stored_permission(&stores, text).await);
    }
    let (editor, author) =
        (make.stored_role(&stores, "editor").await, make.stored_role(&stores, "author").await);
    stores.roles.add(&editor.name, &permissions[0]).await.unwrap();
    stores.roles.add(&author.name, &permissions[1]).await.unwrap();
    for grant in [
        Grant::Role(editor.id),
        Grant::Role(author.id),
        Grant::Permission(permissions[2].id),
        Grant::Permission(permissions[1].id),
    ] {
        assert_eq!(stores.grants.give(ann, grant).await.unwrap(), Added::Done);
    }
    let effective = stores.grants.effective(ann).await.unwrap();
    assert_eq!(role_names(&effective.roles), ["author", "editor"]);
    assert_eq!(names(&effective.direct), ["delete", "read"]);
    assert_eq!(names(&effective.combined), ["delete", "read", "write"]);
    assert_eq!(effective.roles[1].permissions, [permissions[0].id].into(), "roles come whole");
    stores.roles.add(&editor.name, &permissions[3]).await.unwrap();
    let effective = stores.grants.effective(ann).await.unwrap();
    assert_eq!(names(&effective.combined), ["admin", "delete", "read", "write"], "a role that grew");
    let raw = Grants {
        roles: [editor.id, author.id].into(),
        permissions: [permissions[1].id, permissions[2].id].into(),
    };
    assert_eq!(stores.grants.raw(ann).await.unwrap(), raw);
}

pub async fn permission_by_two_roles_and_directly_is_listed_once(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await.id;
    let read = make.stored_permission(&stores, "read").await;
    stores.grants.give(ann, Grant::Permission(read.id)).await.unwrap();
    for text in ["one", "two"] {
        let role = make.stored_role(&stores, text).await;
        stores.roles.add(&role.name, &read).await.unwrap();
        stores.grants.give(ann, Grant::Role(role.id)).await.unwrap();
    }
    let effective = stores.grants.effective(ann).await.unwrap();
    assert_eq!((names(&effective.combined), names(&effective.direct)), (vec!["read"], vec!["read"]));
}

pub async fn repeated_give_or_take_changes_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await.id, make.stored_user(&stores).await.id);
    let role = Grant::Role(make.stored_role(&stores, "x").await.id);
    let permission = Grant::Permission(make.stored_permission(&stores, "x").await.id);
    for grant in [role, permission] {
        assert!(!stores.grants.take(ann, grant).await.unwrap());
        assert_eq!(stores.grants.give(ann, grant).await.unwrap(), Added::Done);
        assert_eq!(stores.grants.give(ann, grant).await.unwrap(), Added::Exists);
        assert_eq!(stores.grants.give(bob, grant).await.unwrap(), Added::Done);
        assert!(stores.grants.take(ann, grant).await.unwrap());
        assert!(!stores.grants.take(ann, grant).await.unwrap());
        assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, [bob]);
    }
    assert_eq!(stores.grants.raw(ann).await.unwrap(), Grants::default());
    let bobs = stores.grants.effective(bob).await.unwrap();
    assert_eq!((role_names(&bobs.roles), names(&bobs.combined)), (vec!["x"], vec!["x"]));
}

pub async fn concurrent_gives_lose_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await.id;
    let mut grants = Vec::new();
    for n in 0..15 {
        grants.push(Grant::Role(make.stored_role(&stores, &format!("r{n}")).await.id));
        grants.push(Grant::Permission(make.stored_permission(&stores, &format!("p{n}")).await.id));
    }
    let twice = grants.iter().chain(&grants);
    let added = join_all(twice.map(|grant| stores.grants.give(ann, *grant))).await;
    let done = added.into_iter().filter(|added| *added.as_ref().unwrap() == Added::Done).count();
    assert_eq!(done, 30, "each is given once");
    let raw = stores.grants.raw(ann).await.unwrap();
    assert_eq!((raw.roles.len(), raw.permissions.len()), (15, 15));
}

pub async fn holders_are_listed_page_by_page(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let role = make.stored_role(&stores, "reader").await;
    let grant = Grant::Role(role.id);
    assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, []);
    let mut users = Vec::new();
    for n in 0..7 {
        let user = make.stored_user(&stores).await.id;
        if n % 3 != 0 {
            stores.grants.give(user, grant).await.unwrap();
            users.push(user);
        }
    }
    for limit in [1, 3, 4, 5, 200] {
        let listed = pages(limit, |page| stores.grants.holders(grant, page)).await;
        assert_eq!(listed, users, "in pages of {limit}");
    }
}

pub async fn deleted_role_is_removed_from_all_holders(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await.id, make.stored_user(&stores).await.id);
    let read = make.stored_permission(&stores, "read").await;
    let (one, two) = (make.stored_role(&stores, "one").await, make.stored_role(&stores, "two").await);
    for role in [&one, &two] {
        stores.roles.add(&role.name, &read).await.unwrap();
        for user in [ann, bob] {
            stores.grants.give(user, Grant::Role(role.id)).await.unwrap();
        }
    }
    stores.roles.delete(&one.name).await.unwrap();
    for user in [ann, bob] {
        let effective = stores.grants.effective(user).await.unwrap();
        assert_eq!(role_names(&effective.roles), ["two"]);
        assert_eq!(names(&effective.combined), ["read"], "by the other role");
    }
    stores.roles.delete(&two.name).await.unwrap();
    assert_eq!(stores.grants.effective(ann).await.unwrap(), Effective::default());
    assert_eq!(stores.grants.holders(Grant::Role(one.id), first()).await.unwrap().items, []);
    assert_eq!(stores.permissions.get(&read.name).await.unwrap(), Some(read), "it stays");
}

pub async fn deleted_permission_is_removed_from_holders_and_roles(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await.id, make.stored_user(&stores).await.id);
    let read = make.stored_permission(&stores, "read").await;
    let role = make.stored_role(&stores, "reader").await;
    stores.roles.add(&role.name, &read).await.unwrap();
    stores.grants.give(ann, Grant::Role(role.id)).await.unwrap();
    stores.grants.give(bob, Grant::Permission(read.id)).await.unwrap();
    stores.permissions.delete(&read.name).await.unwrap();
    let anns = stores.grants.effective(ann).await.unwrap();
    assert_eq!((role_names(&anns.roles), names(&anns.combined)), (vec!["reader"], vec![]));
    assert_eq!(stores.grants.effective(bob).await.unwrap(), Effective::default());
    assert_eq!(stores.grants.holders(Grant::Permission(read.id), first()).await.unwrap().items, []);
}

pub async fn recreated_role_or_permission_has_no_holders(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await.id;
    let (role, read) =
        (make.stored_role(&stores, "reader").await, make.stored_permission(&stores, "read").await);
    stores.roles.add(&role.name, &read).await.unwrap();
    stores.grants.give(ann, Grant::Role(role.id)).await.unwrap();
    stores.grants.give(ann, Grant::Permission(read.id)).await.unwrap();
    stores.permissions.delete(&read.name).await.unwrap();
    let new_read = make.stored_permission(&stores, "read").await;
    let effective = stores.grants.effective(ann).await.unwrap();
    assert_eq!((names(&effective.combined), role_names(&effective.roles)), (vec![], vec!["reader"]));
    stores.roles.delete(&role.name).await.unwrap();
    let new_role = make.stored_role(&stores, "reader").await;
    assert_eq!(stores.grants.effective(ann).await.unwrap(), Effective::default());
    for grant in [Grant::Role(new_role.id), Grant::Permission(new_read.id)] {
        assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, []);
        assert_eq!(stores.grants.give(ann, grant).await.unwrap(), Added::Done);
        assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, [ann]);
    }
    let effective = stores.grants.effective(ann).await.unwrap();
    assert_eq!((effective.roles, effective.combined), (vec![new_role], vec![new_read]));
}

pub async fn nonexistent_user_has_no_permissions(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let read = make.stored_permission(&stores, "read").await;
    let stranger = make.user().id;
    stores.grants.give(stranger, Grant::Permission(read.id)).await.unwrap();
    assert_eq!(stores.grants.effective(stranger).await.unwrap(), Effective::default());
    let ann = make.stored_user(&stores).await.id;
    let never = make.permission("never");
    stores.grants.give(ann, Grant::Permission(never.id)).await.unwrap();
    assert_eq!(stores.grants.effective(ann).await.unwrap(), Effective::default());
}

pub async fn grants_of_a_user_are_limited(harness: &impl Harness) {
    if harness.rows() < 2 * MAX_GRANTS {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await.id;
    let permissions: Vec<_> = (0..=MAX_GRANTS).map(|n| make.permission(&format!("p{n}"))).collect();
    for some in permissions.chunks(500) {
        join_all(some.iter().map(|permission| stores.permissions.create(permission))).await;
    }
    for some in permissions[..MAX_GRANTS].chunks(500) {
        let giving = some.iter().map(|permission| stores.grants.give(ann, Grant::Permission(permission.id)));
        for given in join_all(giving).await {
            assert_eq!(given.unwrap(), Added::Done);
        }
    }
    let more = Grant::Permission(permissions[MAX_GRANTS].id);
    assert_eq!(stores.grants.give(ann, more).await.unwrap(), Added::Full);
    let had = Grant::Permission(permissions[7].id);
    assert_eq!(stores.grants.give(ann, had).await.unwrap(), Added::Exists);
    assert_eq!(stores.grants.effective(ann).await.unwrap().combined.len(), MAX_GRANTS);
    let role = Grant::Role(make.stored_role(&stores, "reader").await.id);
    assert_eq!(stores.grants.give(ann, role).await.unwrap(), Added::Done, "roles are counted apart");
    stores.grants.take(ann, had).await.unwrap();
    assert_eq!(stores.grants.give(ann, more).await.unwrap(), Added::Done);
}

pub async fn deleted_roles_leave_room_for_more_grants(harness: &impl Harness) {
    if harness.rows() < 2 * MAX_GRANTS {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await.id;
    let roles: Vec<_> = (0..=MAX_GRANTS).map(|n| make.role(&format!("r{n}"))).collect();
    for some in roles.chunks(500) {
        join_all(some.iter().map(|role| stores.roles.create(role))).await;
    }
    for some in roles[..MAX_GRANTS].chunks(500) {
        join_all(some.iter().map(|role| stores.grants.give(ann, Grant::Role(role.id)))).await;
    }
    let more = Grant::Role(roles[MAX_GRANTS].id);
    assert_eq!(stores.grants.give(ann, more).await.unwrap(), Added::Full);
    stores.roles.delete(&roles[3].name).await.unwrap();
    assert_eq!(stores.grants.give(ann, more).await.unwrap(), Added::Done);
    assert_eq!(stores.grants.effective(ann).await.unwrap().roles.len(), MAX_GRANTS);
}
