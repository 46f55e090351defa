//! The last superuser stays in random changes on two nodes, with random faults of the store.
//!
//! The environment variable `SEED` runs one seed only.

use std::time::Duration;

use actors::{user::GrantChange, user::UserError};
use schema::{
    UserId,
    permission::{ALL_ALL, Permission, Role},
    superusers::RESERVATION_TTL,
};

use crate::{
    superusers::{Removal, Superuser, all_all},
    world::{Node, World, within},
};

const TICK: Duration = Duration::from_millis(1);

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % n
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A change on one of the nodes.
#[derive(Debug, Clone)]
enum Change {
    Give(UserId, GrantChange),
    Take(UserId, GrantChange),
    SetActive(UserId, bool),
    Delete(UserId),
    DeleteRole(Role),
    Empty(Role),
    Fill(Role),
    TakePrivileges(UserId),
}

impl Change {
    fn any(random: &mut Random, users: &[UserId], roles: &[Role], all_all: &Permission) -> Self {
        let user = *random.one_of(users);
        let role = random.one_of(roles).clone();
        let grant = |random: &mut Random| match random.below(2) {
            0 => GrantChange::Role(role.clone()),
            _ => GrantChange::Permission(all_all.clone()),
        };
        match random.below(12) {
            0 | 1 => Self::Give(user, grant(random)),
            2 | 3 => Self::Take(user, GrantChange::Role(role)),
            4 | 5 => Self::Take(user, GrantChange::Permission(all_all.clone())),
            6 => Self::SetActive(user, true),
            7 => Self::SetActive(user, false),
            8 => Self::Delete(user),
            9 => Self::DeleteRole(role),
            10 => Self::Empty(role),
            _ if random.below(2) == 0 => Self::TakePrivileges(user),
            _ => Self::Fill(role),
        }
    }

    /// Makes the change, whatever its outcome.
    async fn run(&self, node: &Node, all_all: &Permission) {
        let users = &node.actors.users;
        let catalogue = &node.actors.catalogue;
        match self {
            Self::Give(user, change) => drop(users.give(*user, change.clone()).await),
            Self::Take(user, change) => drop(users.take(*user, change.clone()).await),
            Self::SetActive(user, active) => drop(users.set_active(*user, *active).await),
            Self::Delete(user) => drop(users.delete(*user).await),
            Self::DeleteRole(role) => drop(catalogue.delete_role(role).await),
            Self::Empty(role) => drop(catalogue.remove(role, all_all).await),
            Self::Fill(role) => drop(catalogue.add(role, all_all).await),
            Self::TakePrivileges(user) => drop(users.take_privileges(*user, false).await),
        }
    }
}

const FAULTY: [&str; 12] = [
    "grants.take",
    "grants.give",
    "grants.effective",
    "users.get",
    "users.replace",
    "users.delete",
    "roles.add",
    "roles.delete",
    "roles.remove",
    "superusers.load",
    "superusers.swap",
    "sink.publish",
];

async fn has_superuser(world: &World, users: &[UserId]) -> bool {
    for user in users {
        let active = world.stores.users.get(*user).await.unwrap().is_some_and(|user| user.active);
        let effective = world.stores.grants.effective(*user).await.unwrap();
        if active && effective.combined.iter().any(|permission| permission.name.as_str() == ALL_ALL) {
            return true;
        }
    }
    false
}

/// Two nodes give and take `all_all` at random, the store fails at random, and time advances.
async fn two_nodes_at_random(seed: u64, rounds: usize) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let world = World::start().await;
    let elsewhere = world.another_node().await;
    let all_all = all_all(&world).await;
    let first = Superuser::create(&world, &all_all, Removal::Role).await;
    let mut users = vec![first.user];
    let mut roles = vec![first.role];
    for round in 0..rounds {
        while users.len() < 4 {
            users.push(world.user().await.id);
        }
        while roles.len() < 2 {
            let name = format!("role-{round}-{}", roles.len());
            roles.push(world.samples.stored_role(&world.stores, &name).await);
        }
        for _ in 0..random.below(3) {
            let method = *random.one_of(&FAULTY);
            match random.below(2) {
                0 => world.faults.fail(method, 1),
                _ => world.faults.lose(method, 1),
            }
        }
        let changes: Vec<_> = (0..4).map(|_| Change::any(&mut random, &users, &roles, &all_all)).collect();
        let done = async {
            tokio::join!(
                changes[0].run(&world, &all_all),
                changes[1].run(&elsewhere, &all_all),
                changes[2].run(&world, &all_all),
                changes[3].run(&elsewhere, &all_all),
            )
        };
        within(&format!("seed {seed}, round {round}"), done).await;
        world.faults.clear();
        let case = || format!("seed {seed}, round {round}: {changes:#?}");
        assert!(has_superuser(&world, &users).await, "{}", case());
        // Deleted users and roles are replaced in the next round.
        let mut remaining_users = Vec::new();
        let mut remaining_roles = Vec::new();
        for user in users {
            if world.stores.users.get(user).await.unwrap().is_some() {
                remaining_users.push(user);
            }
        }
        for role in roles {
            if let Some(role) = world.stores.roles.get(&role.name).await.unwrap() {
                remaining_roles.push(role);
            }
        }
        users = remaining_users;
        roles = remaining_roles;
        world.clock.advance(*random.one_of(&[
            Duration::ZERO,
            TICK,
            RESERVATION_TTL / 4,
            RESERVATION_TTL / 2,
            RESERVATION_TTL,
        ]));
    }
    // When the faults are over, a new superuser lets the others be removed.
    world.clock.advance(RESERVATION_TTL);
    let last = world.user().await.id;
    world.actors.users.give(last, GrantChange::Permission(all_all.clone())).await.unwrap();
    for user in users {
        elsewhere.actors.users.take_privileges(user, false).await.unwrap();
    }
    let refused = elsewhere.actors.users.take_privileges(last, false).await;
    assert_eq!(refused, Err(UserError::LastSuperuser), "seed {seed}");
    assert!(has_superuser(&world, &[last]).await, "seed {seed}");
}

#[tokio::test]
async fn random_changes_on_two_nodes_keep_a_superuser() {
    let only = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in only.map_or(1..13, |seed: u64| seed..seed + 1) {
        two_nodes_at_random(seed, 40).await;
    }
}
