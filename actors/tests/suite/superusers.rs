//! The last superuser stays.

use actors::{ActorError, CatalogueError, user::GrantChange, user::UserError};
use schema::{
    UserId,
    permission::{ALL_ALL, Permission, Role},
    power::LEAVE,
};

use crate::world::{Node, World, within};

/// How a superuser loses power.
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

/// Somebody with power, by a role of their own or directly, as the removal needs it.
pub struct Super {
    pub user: UserId,
    pub role: Role,
    pub all_all: Permission,
    pub removal: Removal,
}

pub async fn all_all(world: &World) -> Permission {
    world.samples.stored_permission(&world.stores, ALL_ALL).await
}

impl Removal {
    /// What it does to the store.
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

impl Super {
    pub async fn made(world: &World, all_all: &Permission, removal: Removal) -> Self {
        let user = world.user().await.id;
        let role = world.samples.stored_role(&world.stores, &format!("super-{}", user.uuid().simple())).await;
        let (role, _) = world.actors.catalogue.add(&role, all_all).await.unwrap();
        let this = Self { user, role, all_all: all_all.clone(), removal };
        this.is_given(world).await;
        this
    }

    pub fn grant(&self) -> GrantChange {
        match self.removal {
            Removal::Direct => GrantChange::Permission(self.all_all.clone()),
            _ => GrantChange::Role(self.role.clone()),
        }
    }

    pub async fn is_given(&self, node: &Node) {
        node.actors.users.give(self.user, self.grant()).await.unwrap();
    }

    /// Whether it was let happen.
    pub async fn is_removed(&self, node: &Node) -> Result<bool, ActorError> {
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

    pub async fn has_power(&self, world: &World) -> bool {
        let active = world.stores.users.get(self.user).await.unwrap().is_some_and(|user| user.active);
        let effective = world.stores.grants.effective(self.user).await.unwrap();
        active && effective.combined.iter().any(|permission| permission.name.as_str() == ALL_ALL)
    }

    pub async fn counts(&self, world: &World) -> bool {
        world.stores.superusers.load().await.unwrap().value.counted.contains(&self.user)
    }
}

#[tokio::test]
async fn the_last_superuser_stays_however_asked() {
    for removal in ALL {
        let world = World::start().await;
        let last = Super::made(&world, &all_all(&world).await, removal).await;
        assert_eq!(last.is_removed(&world).await, Ok(false), "{removal:?}");
        assert!(last.has_power(&world).await && last.counts(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn the_last_but_one_goes_however_asked() {
    for removal in ALL {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Super::made(&world, &all_all, removal).await;
        let other = Super::made(&world, &all_all, Removal::Role).await;
        assert_eq!(one.is_removed(&world).await, Ok(true), "{removal:?}");
        assert!(!one.has_power(&world).await && !one.counts(&world).await, "{removal:?}");
        assert_eq!(other.is_removed(&world).await, Ok(false), "{removal:?}");
    }
}

#[tokio::test]
async fn of_two_parallel_removals_at_two_nodes_one_leaves_a_superuser() {
    for (i, first) in ALL.into_iter().enumerate() {
        for second in ALL.into_iter().skip(i) {
            let world = World::start().await;
            let elsewhere = world.another_node().await;
            let all_all = all_all(&world).await;
            let one = Super::made(&world, &all_all, first).await;
            let two = Super::made(&world, &all_all, second).await;
            // Both have seen two superusers before one of them goes.
            let hold = world.faults.hold_answers("superusers.load", 2);
            let (gone_one, gone_two, ()) =
                tokio::join!(one.is_removed(&world), two.is_removed(&elsewhere), async {
                    within("both have counted", hold.reached(2)).await;
                    hold.release();
                });
            let gone = [gone_one.unwrap(), gone_two.unwrap()];
            let left = [one.has_power(&world).await, two.has_power(&world).await];
            assert_eq!(gone.iter().filter(|gone| **gone).count(), 1, "{first:?} {second:?}: {gone:?}");
            assert_eq!(left.iter().filter(|left| **left).count(), 1, "{first:?} {second:?}: {left:?}");
        }
    }
}

#[tokio::test]
async fn a_role_of_all_superusers_keeps_its_power() {
    for removal in [Removal::DeleteRole, Removal::EmptyRole] {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Super::made(&world, &all_all, removal).await;
        let second = world.user().await.id;
        world.actors.users.give(second, one.grant()).await.unwrap();
        assert_eq!(one.is_removed(&world).await, Ok(false), "{removal:?}");
        assert!(one.has_power(&world).await, "{removal:?}");
        // Somebody who has power otherwise makes it possible.
        let other = Super::made(&world, &all_all, Removal::Direct).await;
        assert_eq!(one.is_removed(&world).await, Ok(true), "{removal:?}");
        assert!(!one.counts(&world).await && other.counts(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn a_role_that_gains_all_all_makes_its_holders_count() {
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let root = Super::made(&world, &all_all, Removal::Direct).await;
    let role = world.samples.stored_role(&world.stores, "admins").await;
    let user = world.user().await.id;
    world.actors.users.give(user, GrantChange::Role(role.clone())).await.unwrap();
    assert_eq!(root.is_removed(&world).await, Ok(false));
    world.actors.catalogue.add(&role, &all_all).await.unwrap();
    assert_eq!(root.is_removed(&world).await, Ok(true));
}

#[tokio::test]
async fn a_removal_interrupted_between_count_and_take_is_safe() {
    for removal in ALL {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Super::made(&world, &all_all, removal).await;
        let other = Super::made(&world, &all_all, Removal::Role).await;
        world.faults.fail(removal.store_call(), 1);
        assert_eq!(one.is_removed(&world).await, Err(ActorError::Unavailable), "{removal:?}");
        assert!(one.has_power(&world).await && !one.counts(&world).await, "{removal:?}");
        // Who has power and does not count is nobody to rely on.
        assert_eq!(other.is_removed(&world).await, Ok(false), "{removal:?}");
        // Asked again, the removal is done.
        assert_eq!(one.is_removed(&world).await, Ok(true), "{removal:?}");
        assert!(!one.has_power(&world).await && other.has_power(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn giving_again_counts_again() {
    for removal in [Removal::Role, Removal::Direct] {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Super::made(&world, &all_all, removal).await;
        let other = Super::made(&world, &all_all, Removal::Role).await;
        world.faults.fail("grants.take", 1);
        assert_eq!(one.is_removed(&world).await, Err(ActorError::Unavailable), "{removal:?}");
        one.is_given(&world).await;
        assert!(one.counts(&world).await, "{removal:?}");
        // The first taking may come yet, so for a while nobody relies on it.
        assert_eq!(other.is_removed(&world).await, Ok(false), "{removal:?}");
        world.clock.advance(LEAVE);
        assert_eq!(other.is_removed(&world).await, Ok(true), "{removal:?}");
        assert!(one.has_power(&world).await, "{removal:?}");
    }
    // Enabling again, too.
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let one = Super::made(&world, &all_all, Removal::Disable).await;
    let other = Super::made(&world, &all_all, Removal::Role).await;
    assert_eq!(one.is_removed(&world).await, Ok(true));
    world.actors.users.set_active(one.user, true).await.unwrap();
    assert_eq!(other.is_removed(&world).await, Ok(true));
}

#[tokio::test]
async fn an_operator_takes_even_the_last_and_it_counts_no_more() {
    let world = World::start().await;
    let last = Super::made(&world, &all_all(&world).await, Removal::Role).await;
    let refused = world.actors.users.take_power(last.user, false).await;
    assert_eq!(refused, Err(UserError::LastSuperuser));
    assert!(last.has_power(&world).await && last.counts(&world).await);
    assert_eq!(world.actors.users.take_power(last.user, true).await, Ok(true));
    assert!(!last.has_power(&world).await && !last.counts(&world).await);
}

#[tokio::test]
async fn who_is_disabled_is_no_superuser_to_rely_on() {
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let last = Super::made(&world, &all_all, Removal::Role).await;
    let disabled = world.user().await.id;
    world.actors.users.set_active(disabled, false).await.unwrap();
    world.actors.users.give(disabled, last.grant()).await.unwrap();
    assert_eq!(last.is_removed(&world).await, Ok(false));
    world.actors.users.set_active(disabled, true).await.unwrap();
    assert_eq!(last.is_removed(&world).await, Ok(true));
}
