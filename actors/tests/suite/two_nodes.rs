//! The last superuser stays when two nodes remove superusers at the same time, wherever they stop.

use std::time::Duration;

use actors::{ActorError, user::GrantChange};
use schema::{
    Clock as _, RoleId,
    superusers::{PENDING_REMOVALS_MAX, PendingRemoval, RESERVATION_TTL, Removal as StoredRemoval},
};

use crate::{
    superusers::{ALL, Removal, Superuser, all_all},
    world::{World, within},
};

const TICK: Duration = Duration::from_millis(1);

/// The stored pending removals.
async fn pending(world: &World) -> Vec<StoredRemoval> {
    let set = world.stores.superusers.load().await.unwrap().value;
    set.pending.iter().map(|pending| pending.removal).collect()
}

/// Stores the reservation of a node that crashed before its removal.
async fn reserve_and_crash(world: &World, removal: StoredRemoval) {
    let mut stored = world.stores.superusers.load().await.unwrap();
    stored.value.pending.push(PendingRemoval { removal, until: world.clock.now().plus(RESERVATION_TTL) });
    assert!(world.stores.superusers.swap(stored.revision, &stored.value).await.unwrap());
}

/// The removal as it is stored while it is pending.
fn stored(of: &Superuser) -> StoredRemoval {
    match of.removal {
        Removal::Role => StoredRemoval::Role(of.user, of.role.id),
        Removal::Direct => StoredRemoval::Permission(of.user, of.all_all.id),
        Removal::Disable | Removal::Delete => StoredRemoval::User(of.user),
        Removal::DeleteRole | Removal::EmptyRole => StoredRemoval::OfRole(of.role.id),
    }
}

/// The same user with another removal.
fn by(of: &Superuser, removal: Removal) -> Superuser {
    Superuser { user: of.user, role: of.role.clone(), all_all: of.all_all.clone(), removal }
}

#[tokio::test]
async fn parallel_removals_of_both_grants_keep_one() {
    for by_role in [Removal::Role, Removal::DeleteRole, Removal::EmptyRole] {
        let world = World::start().await;
        let elsewhere = world.another_node().await;
        let last = Superuser::create(&world, &all_all(&world).await, by_role).await;
        let direct = by(&last, Removal::Direct);
        direct.give(&world).await;
        // Both nodes read the set before either removal is reserved.
        let asked = world.faults.hold_answers("superusers.load", 2);
        let made = world.faults.hold_calls(by_role.store_call(), 1);
        let also = (by_role != Removal::Role).then(|| world.faults.hold_calls("grants.take", 1));
        let (one, two, ()) = tokio::join!(last.remove(&world), direct.remove(&elsewhere), async {
            within("both nodes have read the set", asked.reached(2)).await;
            asked.release();
            let one_is_about_to = async {
                match &also {
                    None => made.reached(1).await,
                    Some(also) => tokio::select! { () = made.reached(1) => {}, () = also.reached(1) => {} },
                }
            };
            within("one removal reaches the store", one_is_about_to).await;
            assert_eq!(pending(&world).await.len(), 1, "{by_role:?}");
            made.release();
            also.iter().for_each(crate::faults::Hold::release);
        });
        assert_ne!(one.unwrap(), two.unwrap(), "{by_role:?}");
        assert!(last.is_superuser(&world).await && last.is_counted(&world).await, "{by_role:?}");
        assert_eq!(pending(&world).await, [], "{by_role:?}");
    }
}

#[tokio::test]
async fn grant_stays_while_another_node_takes_the_other_one() {
    for first in [Removal::Role, Removal::DeleteRole, Removal::EmptyRole] {
        let world = World::start().await;
        let elsewhere = world.another_node().await;
        let last = Superuser::create(&world, &all_all(&world).await, first).await;
        let direct = by(&last, Removal::Direct);
        direct.give(&world).await;
        let hold = world.faults.hold_calls(first.store_call(), 1);
        let (gone, ()) = tokio::join!(last.remove(&world), async {
            within("the removal reaches the store", hold.reached(1)).await;
            for other in [Removal::Direct, Removal::Disable, Removal::Delete] {
                let other = by(&last, other);
                assert_eq!(other.remove(&elsewhere).await, Ok(false), "{first:?} {:?}", other.removal);
            }
            hold.release();
        });
        assert_eq!(gone, Ok(true), "{first:?}");
        assert!(last.is_superuser(&world).await, "{first:?}");
        assert_eq!(direct.remove(&elsewhere).await, Ok(false), "{first:?}: the last grant");
    }
}

#[tokio::test]
async fn superuser_under_removal_elsewhere_does_not_count() {
    for first in ALL {
        for second in ALL {
            let world = World::start().await;
            let elsewhere = world.another_node().await;
            let all_all = all_all(&world).await;
            let one = Superuser::create(&world, &all_all, first).await;
            let two = Superuser::create(&world, &all_all, second).await;
            let hold = world.faults.hold_calls(first.store_call(), 1);
            let (gone, ()) = tokio::join!(one.remove(&world), async {
                within("the removal reaches the store", hold.reached(1)).await;
                assert_eq!(pending(&world).await, [stored(&one)], "{first:?}");
                assert_eq!(two.remove(&elsewhere).await, Ok(false), "{first:?} {second:?}");
                hold.release();
            });
            assert_eq!(gone, Ok(true), "{first:?} {second:?}");
            assert!(
                !one.is_superuser(&world).await && two.is_superuser(&world).await,
                "{first:?} {second:?}"
            );
            assert_eq!(pending(&world).await, [], "{first:?} {second:?}: the removal was made");
        }
    }
}

#[tokio::test]
async fn superuser_given_during_its_removal_counts_only_afterwards() {
    for removal in [Removal::Role, Removal::Direct] {
        let world = World::start().await;
        let elsewhere = world.another_node().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let two = Superuser::create(&world, &all_all, Removal::Role).await;
        let hold = world.faults.hold_calls("grants.take", 1);
        let (gone, ()) = tokio::join!(one.remove(&world), async {
            within("the removal reaches the store", hold.reached(1)).await;
            // The user still has the grant, so this changes nothing, and the removal comes afterwards.
            one.give(&elsewhere).await;
            assert_eq!(two.remove(&elsewhere).await, Ok(false), "{removal:?}");
            hold.release();
        });
        assert_eq!(gone, Ok(true), "{removal:?}");
        assert!(!one.is_superuser(&world).await && two.is_superuser(&world).await, "{removal:?}");
        assert_eq!(
            two.remove(&elsewhere).await,
            Ok(false),
            "{removal:?}: the other is in the set without `all_all`"
        );
        // A user that gets the grant after the removal counts.
        one.give(&elsewhere).await;
        assert_eq!(two.remove(&world).await, Ok(true), "{removal:?}");
        assert!(one.is_superuser(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn superuser_given_another_grant_during_its_removal_counts() {
    let world = World::start().await;
    let elsewhere = world.another_node().await;
    let all_all = all_all(&world).await;
    let one = Superuser::create(&world, &all_all, Removal::Role).await;
    let two = Superuser::create(&world, &all_all, Removal::Role).await;
    let hold = world.faults.hold_calls("grants.take", 1);
    let (gone, ()) = tokio::join!(one.remove(&world), async {
        within("the removal reaches the store", hold.reached(1)).await;
        by(&one, Removal::Direct).give(&elsewhere).await;
        assert_eq!(two.remove(&elsewhere).await, Ok(true));
        hold.release();
    });
    assert_eq!(gone, Ok(true));
    assert!(one.is_superuser(&world).await && !two.is_superuser(&world).await);
}

#[tokio::test]
async fn removal_without_an_answer_is_pending_for_a_minute() {
    for removal in ALL {
        for happened in [false, true] {
            let world = World::start().await;
            let elsewhere = world.another_node().await;
            let all_all = all_all(&world).await;
            let one = Superuser::create(&world, &all_all, removal).await;
            let two = Superuser::create(&world, &all_all, Removal::Role).await;
            let three = Superuser::create(&world, &all_all, Removal::Direct).await;
            if happened {
                world.faults.lose(removal.store_call(), 1);
            } else {
                world.faults.fail(removal.store_call(), 1);
            }
            let case = format!("{removal:?}, happened: {happened}");
            assert_eq!(one.remove(&world).await, Err(ActorError::Unavailable), "{case}");
            assert_eq!(pending(&world).await, [stored(&one)], "{case}");
            assert_eq!(three.remove(&elsewhere).await, Ok(true), "{case}: there are two");
            assert_eq!(two.remove(&elsewhere).await, Ok(false), "{case}: at once");
            world.clock.advance(RESERVATION_TTL - TICK);
            if !happened && matches!(removal, Removal::Role | Removal::Direct) {
                one.give(&elsewhere).await;
                assert!(one.is_counted(&world).await, "{case}");
            }
            assert_eq!(two.remove(&elsewhere).await, Ok(false), "{case}: nearly a minute later");
            world.clock.advance(TICK);
            let counts = one.is_counted(&world).await;
            assert_eq!(two.remove(&elsewhere).await, Ok(counts), "{case}: a minute later");
            assert!(one.is_superuser(&world).await || two.is_superuser(&world).await, "{case}");
        }
    }
}

#[tokio::test]
async fn unreleased_reservation_expires() {
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let one = Superuser::create(&world, &all_all, Removal::Role).await;
    let two = Superuser::create(&world, &all_all, Removal::Role).await;
    let three = Superuser::create(&world, &all_all, Removal::Direct).await;
    // The set is read once before the removal and once after it.
    let hold = world.faults.hold_calls("grants.take", 1);
    let (gone, ()) = tokio::join!(one.remove(&world), async {
        within("the removal reaches the store", hold.reached(1)).await;
        world.faults.fail("superusers.load", 1);
        hold.release();
    });
    assert_eq!(gone, Ok(true), "the removal was made");
    assert_eq!(pending(&world).await, [stored(&one)]);
    // The user gets the grant again, but does not count at first.
    one.give(&world).await;
    assert_eq!(three.remove(&world).await, Ok(true));
    assert_eq!(two.remove(&world).await, Ok(false));
    world.clock.advance(RESERVATION_TTL);
    assert_eq!(two.remove(&world).await, Ok(true));
    assert!(one.is_superuser(&world).await);
    assert_eq!(pending(&world).await, [], "expired reservations are removed");
}

#[tokio::test]
async fn reservation_of_a_crashed_node_holds_for_a_minute() {
    for removal in ALL {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let two = Superuser::create(&world, &all_all, Removal::Role).await;
        reserve_and_crash(&world, stored(&one)).await;
        assert!(one.is_counted(&world).await && one.is_superuser(&world).await, "{removal:?}");
        assert_eq!(two.remove(&world).await, Ok(false), "{removal:?}: at once");
        world.clock.advance(RESERVATION_TTL - TICK);
        assert_eq!(two.remove(&world).await, Ok(false), "{removal:?}: nearly a minute later");
        world.clock.advance(TICK);
        assert_eq!(two.remove(&world).await, Ok(true), "{removal:?}: a minute later");
        assert!(one.is_superuser(&world).await && one.is_counted(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn reserved_removal_of_a_crashed_node_can_be_repeated() {
    for removal in ALL {
        let world = World::start().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, removal).await;
        let two = Superuser::create(&world, &all_all, Removal::Role).await;
        reserve_and_crash(&world, stored(&one)).await;
        assert_eq!(one.remove(&world).await, Ok(true), "{removal:?}");
        assert!(!one.is_superuser(&world).await && two.is_superuser(&world).await, "{removal:?}");
    }
}

#[tokio::test]
async fn removal_beyond_the_pending_limit_is_busy_for_a_minute() {
    let world = World::start().await;
    let all_all = all_all(&world).await;
    let one = Superuser::create(&world, &all_all, Removal::Role).await;
    let two = Superuser::create(&world, &all_all, Removal::Role).await;
    for n in 0..PENDING_REMOVALS_MAX {
        reserve_and_crash(&world, StoredRemoval::OfRole(RoleId::from_bytes([u8::try_from(n).unwrap(); 16])))
            .await;
    }
    assert_eq!(one.remove(&world).await, Err(ActorError::Busy));
    assert!(one.is_superuser(&world).await && one.is_counted(&world).await);
    world.clock.advance(RESERVATION_TTL);
    assert_eq!(one.remove(&world).await, Ok(true));
    assert!(two.is_superuser(&world).await);
}

#[tokio::test]
async fn parallel_deletion_and_emptied_role_keep_a_superuser() {
    for emptied in [Removal::EmptyRole, Removal::DeleteRole] {
        // Another user is a superuser by another grant too: both removals happen.
        let world = World::start().await;
        let elsewhere = world.another_node().await;
        let all_all = all_all(&world).await;
        let one = Superuser::create(&world, &all_all, Removal::Delete).await;
        let two = Superuser::create(&world, &all_all, Removal::Direct).await;
        world.actors.users.give(two.user, GrantChange::Role(one.role.clone())).await.unwrap();
        let role = by(&one, emptied);
        let hold = world.faults.hold_calls("users.delete", 1);
        let (gone, ()) = tokio::join!(one.remove(&world), async {
            within("the deletion reaches the store", hold.reached(1)).await;
            assert_eq!(role.remove(&elsewhere).await, Ok(true), "{emptied:?}");
            hold.release();
        });
        assert_eq!(gone, Ok(true), "{emptied:?}");
        assert!(!one.is_superuser(&world).await && two.is_superuser(&world).await, "{emptied:?}");
        assert_eq!(two.remove(&elsewhere).await, Ok(false), "{emptied:?}");
        // The other user is a superuser only by this role: the role keeps `all_all`.
        let world = World::start().await;
        let elsewhere = world.another_node().await;
        let all_all = self::all_all(&world).await;
        let one = Superuser::create(&world, &all_all, Removal::Delete).await;
        let second = world.user().await.id;
        world.actors.users.give(second, GrantChange::Role(one.role.clone())).await.unwrap();
        let role = by(&one, emptied);
        let hold = world.faults.hold_calls("users.delete", 1);
        let (gone, ()) = tokio::join!(one.remove(&world), async {
            within("the deletion reaches the store", hold.reached(1)).await;
            assert_eq!(role.remove(&elsewhere).await, Ok(false), "{emptied:?}");
            hold.release();
        });
        assert_eq!(gone, Ok(true), "{emptied:?}");
        let second = Superuser { user: second, ..by(&one, Removal::Role) };
        assert!(second.is_superuser(&world).await, "{emptied:?}");
        // The other way round: the role is emptied first, and the direct superuser stays.
        let world = World::start().await;
        let elsewhere = world.another_node().await;
        let all_all = self::all_all(&world).await;
        let role = Superuser::create(&world, &all_all, emptied).await;
        let two = Superuser::create(&world, &all_all, Removal::Direct).await;
        let hold = world.faults.hold_calls(emptied.store_call(), 1);
        let (gone, ()) = tokio::join!(role.remove(&world), async {
            within("the removal reaches the store", hold.reached(1)).await;
            let deleted = by(&two, Removal::Delete).remove(&elsewhere).await;
            assert_eq!(deleted, Ok(false), "{emptied:?}");
            // The user that has only the role can be deleted, because it is no superuser any more.
            let deleted = by(&role, Removal::Delete).remove(&elsewhere).await;
            assert_eq!(deleted, Ok(true), "{emptied:?}");
            hold.release();
        });
        assert_eq!(gone, Ok(true), "{emptied:?}");
        assert!(two.is_superuser(&world).await, "{emptied:?}");
    }
}

#[tokio::test]
async fn role_gaining_all_all_skips_a_user_that_is_losing_it() {
    let world = World::start().await;
    let elsewhere = world.another_node().await;
    let all_all = all_all(&world).await;
    let root = Superuser::create(&world, &all_all, Removal::Direct).await;
    let role = world.samples.stored_role(&world.stores, "admins").await;
    let user = world.user().await.id;
    world.actors.users.give(user, GrantChange::Role(role.clone())).await.unwrap();
    let hold = world.faults.hold_calls("grants.take", 1);
    let (taken, ()) = tokio::join!(world.actors.users.take(user, GrantChange::Role(role.clone())), async {
        within("the removal reaches the store", hold.reached(1)).await;
        elsewhere.actors.catalogue.add(&role, &all_all).await.unwrap();
        assert_eq!(root.remove(&elsewhere).await, Ok(false), "the user is losing the role");
        hold.release();
    });
    taken.unwrap();
    assert_eq!(root.remove(&elsewhere).await, Ok(false));
    assert!(root.is_superuser(&world).await);
}
