//! The last superuser stays.

use actors::{ActorError, CatalogueError, user::GrantChange, user::UserError};
use schema::{
    UserId,
    permission::{ALL_ALL, Permission, Role},
    superusers::RESERVATION_TTL,
};

use crate::world::{Node, World, within};

/// A way to remove a superuser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Role,
    Direct,
    Disable,
    Delete,
    DeleteRole,
    EmptyRole,
}

pub const ALL: [Removal; 6] = [
    Removal::Role,
    Removal::Direct,
    Removal::Disable,
    Removal::Delete,
    Removal::DeleteRole,
    Removal::EmptyRole,
];

/// A superuser by a role of its own or directly, as the removal needs it.
pub struct Superuser {
    pub user: UserId,
    pub role: Role,
    pub all_all: Permission,
    pub removal: Removal,
}

pub async fn all_all(world: &World) -> Permission {
    world.samples.stored_permission(&world.stores, ALL_ALL).await
}

impl Removal {
    /// The store call that makes the removal.
    pub const fn store_call(self) -> &'static str {
        match self {
            Self::Role | Self::Direct => "grants.take",
            Self::Disable => "users.replace",
            Self::Delete => "users.delete",
            Self::DeleteRole => "roles.delete",
            Self::EmptyRole => "roles.remove",
        }
    }
}

impl Superuser {
    pub async fn create(world: &World, all_all: &Permission, removal: Removal) -> Self {
        let user = world.user().await.id;
        let role = world.samples.stored_role(&world.stores, &format!("super-{}", user.uuid().simple())).await;
        let (role, _) = world.actors.catalogue.add(&role, all_all).await.unwrap();
        let this = Self { user, role, all_all: all_all.clone(), removal };
        this.give(world).await;
        this
    }

    pub fn grant(&self) -> GrantChange {
        match self.removal {
            Removal::Direct => GrantChange::Permission(self.all_all.clone()),
            _ => GrantChange::Role(self.role.clone()),
        }
    }

    pub async fn give(&self, node: &Node) {
        node.actors.users.give(self.user, self.grant()).await.unwrap();
    }

    /// Requests the removal; returns whether it happened, or `false` if the user is the last superuser.
    pub async fn remove(&self, node: &Node) -> Result<bool, ActorError> {
        let Node { actors, .. } = node;
        let of_user = |error| match error {
            UserError::LastSuperuser => Ok(false),
            UserError::Actor(error) => Err(error),
            other => panic!("{other}"),
        };
        let of_catalogue = |error| match error {
            CatalogueError::LastSuperuser => Ok(false),
            CatalogueError::Actor(error) => Err(error),
            other => panic!("{other}"),
        };
        let call = async {
            match self.removal {
                Removal::Role | Removal::Direct => {
                    actors.users.take(self.user, self.grant()).await.map(|_| true).or_else(of_user)
                }
                Removal::Disable => {
                    actors.users.set_active(self.user, false).await.map(|_| true).or_else(of_user)
                }
                Removal::Delete => actors.users.delete(self.user).await.map(|_| true).or_else(of_user),
                Removal::DeleteRole => {
                    actors.catalogue.delete_role(&self.role).await.map(|_| true).or_else(of_catalogue)
                }
                Removal::EmptyRole => {
                    let removed = actors.catalogue.remove(&self.role, &self.all_all).await;
                    removed.map(|_| true).or_else(of_catalogue)
                }
            }
        };
        within("the removal", call).await
    }

    pub async fn is_superuser(&self, world: &World) -> bool {
        let active = world.stores.users.get(self.user).await.unwrap().is_some_and(|user| user.active);
        let effective = world.stores.grants.effective(self.user).await.unwrap();
        active && effective.combined.iter().any(|permission| permission.name.as_str() == ALL_ALL)
    }

    pub async fn is_counted(&self, world: &World) -> bool {
        world.stores.superusers.load().await.unwrap().value.counted.contains(&self.user)
    }
}

#[tokio::test]
async fn last_superuser_stays_in_every_removal() {
    for removal in ALL {
        let world = World::start().await;
        let last = Superuser::create(&world, &all_all(&world).await, removal).await;
        assert_eq!(last.remove(&world).await, Ok(false), "{removal:?}");
        assert!(last.is_superuser(&world).await && last.is_counted(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn last_but_one_superuser_can_be_removed() {
    for removal in ALL {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let other = Superuser::create(&world, &all_all, Removal::Role).await;
        assert_eq!(one.remove(&world).await, Ok(true), "{removal:?}");
        assert!(!one.is_superuser(&world).await && !one.is_counted(&world).await, "{removal:?}");
        assert_eq!(other.remove(&world).await, Ok(false), "{removal:?}");
    }
}

#[tokio::test]
async fn parallel_removals_on_two_nodes_leave_one_superuser() {
    for (i, first) in ALL.into_iter().enumerate() {
        for second in ALL.into_iter().skip(i) {
            let world = World::start().await;
            let elsewhere = world.another_node().await;
            let all_all = all_all(&world).await;
            let one = Superuser::create(&world, &all_all, first).await;
            let two = Superuser::create(&world, &all_all, second).await;
            // Both nodes read two superusers before either removal is made.
            let hold = world.faults.hold_answers("superusers.load", 2);
            let (gone_one, gone_two, ()) = tokio::join!(one.remove(&world), two.remove(&elsewhere), async {
                within("both nodes have read the set", hold.reached(2)).await;
                hold.release();
            });
            let gone = [gone_one.unwrap(), gone_two.unwrap()];
            let left = [one.is_superuser(&world).await, two.is_superuser(&world).await];
            assert_eq!(gone.iter().filter(|gone| **gone).count(), 1, "{first:?} {second:?}: {gone:?}");
            assert_eq!(left.iter().filter(|left| **left).count(), 1, "{first:?} {second:?}: {left:?}");
        }
    }
}

#[tokio::test]
async fn role_of_all_superusers_keeps_all_all() {
    for removal in [Removal::DeleteRole, Removal::EmptyRole] {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let second = world.user().await.id;
        world.actors.users.give(second, one.grant()).await.unwrap();
        assert_eq!(one.remove(&world).await, Ok(false), "{removal:?}");
        assert!(one.is_superuser(&world).await, "{removal:?}");
        // With a superuser by another grant, the removal is possible.
        let other = Superuser::create(&world, &all_all, Removal::Direct).await;
        assert_eq!(one.remove(&world).await, Ok(true), "{removal:?}");
        assert!(!one.is_counted(&world).await && other.is_counted(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn role_that_gains_all_all_makes_its_holders_superusers() {
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let root = Superuser::create(&world, &all_all, Removal::Direct).await;
    let role = world.samples.stored_role(&world.stores, "admins").await;
    let user = world.user().await.id;
    world.actors.users.give(user, GrantChange::Role(role.clone())).await.unwrap();
    assert_eq!(root.remove(&world).await, Ok(false));
    world.actors.catalogue.add(&role, &all_all).await.unwrap();
    assert_eq!(root.remove(&world).await, Ok(true));
}

#[tokio::test]
async fn removal_interrupted_after_its_reservation_is_safe() {
    for removal in ALL {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let other = Superuser::create(&world, &all_all, Removal::Role).await;
        world.faults.fail(removal.store_call(), 1);
        assert_eq!(one.remove(&world).await, Err(ActorError::Unavailable), "{removal:?}");
        assert!(one.is_superuser(&world).await && !one.is_counted(&world).await, "{removal:?}");
        // A user with `all_all` that is missing from the set does not count as the remaining one.
        assert_eq!(other.remove(&world).await, Ok(false), "{removal:?}");
        // A repeated request completes the removal.
        assert_eq!(one.remove(&world).await, Ok(true), "{removal:?}");
        assert!(!one.is_superuser(&world).await && other.is_superuser(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn user_given_all_all_again_is_a_superuser_again() {
    for removal in [Removal::Role, Removal::Direct] {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let other = Superuser::create(&world, &all_all, Removal::Role).await;
        world.faults.fail("grants.take", 1);
        assert_eq!(one.remove(&world).await, Err(ActorError::Unavailable), "{removal:?}");
        one.give(&world).await;
        assert!(one.is_counted(&world).await, "{removal:?}");
        // The first removal may still happen, so for a while the user does not count as the remaining one.
        assert_eq!(other.remove(&world).await, Ok(false), "{removal:?}");
        world.clock.advance(RESERVATION_TTL);
        assert_eq!(other.remove(&world).await, Ok(true), "{removal:?}");
        assert!(one.is_superuser(&world).await, "{removal:?}");
    }
    // A user that is enabled again is a superuser again, too.
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let one = Superuser::create(&world, &all_all, Removal::Disable).await;
    let other = Superuser::create(&world, &all_all, Removal::Role).await;
    assert_eq!(one.remove(&world).await, Ok(true));
    world.actors.users.set_active(one.user, true).await.unwrap();
    assert_eq!(other.remove(&world).await, Ok(true));
}

#[tokio::test]
async fn operator_can_remove_the_last_superuser() {
    let world = World::start().await;
    let last = Superuser::create(&world, &all_all(&world).await, Removal::Role).await;
    let refused = world.actors.users.take_privileges(last.user, false).await;
    assert_eq!(refused, Err(UserError::LastSuperuser));
    assert!(last.is_superuser(&world).await && last.is_counted(&world).await);
    assert_eq!(world.actors.users.take_privileges(last.user, true).await, Ok(true));
    assert!(!last.is_superuser(&world).await && !last.is_counted(&world).await);
}

#[tokio::test]
async fn disabled_user_is_no_superuser() {
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let last = Superuser::create(&world, &all_all, Removal::Role).await;
    let disabled = world.user().await.id;
    world.actors.users.set_active(disabled, false).await.unwrap();
    world.actors.users.give(disabled, last.grant()).await.unwrap();
    assert_eq!(last.remove(&world).await, Ok(false));
    world.actors.users.set_active(disabled, true).await.unwrap();
    assert_eq!(last.remove(&world).await, Ok(true));
}
