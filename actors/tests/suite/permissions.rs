//! The permission cache.

use actors::{ActorError, user::GrantChange};
use futures_util::{FutureExt as _, future::join_all};
use schema::{FactKind, Subject, UserId, permission::Permission};

use crate::world::{World, within};

/// A user with a direct permission.
async fn setup() -> (World, UserId, Permission) {
    let world = World::start().await;
    let user = world.user().await.id;
    let permission = world.samples.stored_permission(&world.stores, "read_books").await;
    world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    (world, user, permission)
}

async fn take(world: &World, user: UserId, permission: &Permission) {
    let change = GrantChange::Permission(permission.clone());
    within("the removal", world.actors.users.take(user, change)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_callers_share_one_load() {
    let (world, user, _) = setup().await;
    let before = world.faults.calls("grants.effective");
    let hold = world.faults.hold_answers("grants.effective", 1);
    let (answers, ()) = tokio::join!(join_all((0..100).map(|_| world.may(user, "read_books"))), async {
        within("the load", hold.reached(1)).await;
        hold.release();
    });
    assert!(answers.iter().all(|may| *may));
    assert!(world.may(user, "read_books").await);
    assert_eq!(world.faults.calls("grants.effective") - before, 1);
}

#[tokio::test]
async fn load_held_over_a_removal_never_serves_stale_permissions() {
    let (world, user, permission) = setup().await;
    for held in ["grants.effective", "users.get"] {
        // The store has answered, and the answer is on its way.
        let hold = world.faults.hold_answers(held, 1);
        let mut early = Box::pin(world.may(user, "read_books"));
        within("the load", async {
            tokio::select! { _ = &mut early => panic!("held"), () = hold.reached(1) => {} }
        })
        .await;
        take(&world, user, &permission).await;
        let mut late = Box::pin(world.may(user, "read_books"));
        assert!((&mut late).now_or_never().is_none(), "nothing is cached");
        hold.release();
        assert!(!within("the later caller", late).await, "{held}");
        within("the earlier caller", early).await;
        assert!(!world.may(user, "read_books").await, "{held}");
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn stale_load_is_not_published_while_it_is_repeated() {
    let (world, user, permission) = setup().await;
    let first = world.faults.hold_answers("grants.effective", 1);
    let second = world.faults.hold_calls("grants.effective", 1);
    let (may, ()) = tokio::join!(world.may(user, "read_books"), async {
        within("the load", first.reached(1)).await;
        take(&world, user, &permission).await;
        first.release();
        within("the load again", second.reached(1)).await;
        assert_eq!(world.facts.snapshots().with(user, |snapshot| snapshot.has("read_books")), None);
        second.release();
    });
    assert!(!may);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_after_an_invalidation_gets_no_stale_snapshot() {
    let (world, user, permission) = setup().await;
    let old = world.stores.grants.effective(user).await.unwrap();
    take(&world, user, &permission).await;
    let snapshots = world.facts.snapshots();
    for round in 0..300 {
        snapshots.invalidate(Subject::User(user));
        world.faults.answer("grants.effective", old.clone());
        let permissions = world.actors.permissions.clone();
        let early = tokio::spawn(async move { permissions.with(user, |snapshot| snapshot.exists).await });
        while snapshots.with(user, |_| ()).is_none() {
            std::hint::spin_loop();
        }
        // The snapshot is published, and the caller may not have its answer yet.
        snapshots.invalidate(Subject::User(user));
        assert!(!world.may(user, "read_books").await, "round {round}");
        early.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn load_held_over_a_received_fact_serves_nothing_stale() {
    let (world, user, permission) = setup().await;
    let grant = schema::permission::Grant::Permission(permission.id);
    for subject in [Subject::User(user), Subject::Permission(permission.id)] {
        let hold = world.faults.hold_answers("grants.effective", 1);
        let asking = world.may(user, "read_books");
        let (may, ()) = tokio::join!(asking, async {
            within("the load", hold.reached(1)).await;
            world.stores.grants.take(user, grant).await.unwrap();
            let until = schema::Timestamp::MAX;
            world.facts.apply(&schema::Fact { kind: FactKind::PermissionsChanged { subject }, until });
            hold.release();
        });
        assert!(!may, "{subject:?}");
        assert!(!world.may(user, "read_books").await, "{subject:?}");
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn callers_that_go_away_leave_no_stale_snapshot() {
    let (world, user, permission) = setup().await;
    let hold = world.faults.hold_answers("grants.effective", 1);
    for _ in 0..10 {
        assert!(world.may(user, "read_books").now_or_never().is_none());
    }
    within("the load", hold.reached(1)).await;
    take(&world, user, &permission).await;
    hold.release();
    assert!(!within("the next caller", world.may(user, "read_books")).await);
    // A caller that goes away does not cancel the load.
    world.facts.snapshots().invalidate(Subject::User(user));
    let before = world.faults.calls("grants.effective");
    assert!(world.may(user, "read_books").now_or_never().is_none());
    assert!(!within("the next caller", world.may(user, "read_books")).await);
    assert_eq!(world.faults.calls("grants.effective") - before, 1);
}

#[tokio::test]
async fn failed_load_is_not_cached() {
    let (world, user, _) = setup().await;
    for held in ["grants.effective", "users.get"] {
        world.facts.snapshots().invalidate(Subject::User(user));
        world.faults.fail(held, 1);
        let asked = world.actors.permissions.with(user, |snapshot| snapshot.has("read_books")).await;
        assert_eq!(asked, Err(ActorError::Unavailable), "{held}");
        assert!(world.facts.snapshots().with(user, |_| ()).is_none(), "{held}");
        assert!(world.may(user, "read_books").await, "{held}");
    }
}

#[tokio::test]
async fn next_query_sees_given_and_taken_permissions() {
    let (world, user, permission) = setup().await;
    for _ in 0..5 {
        assert!(world.may(user, "read_books").await);
        take(&world, user, &permission).await;
        assert!(!world.may(user, "read_books").await);
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn next_query_sees_a_removal_without_an_answer() {
    let (world, user, permission) = setup().await;
    assert!(world.may(user, "read_books").await);
    world.faults.lose("grants.take", 1);
    let take = world.actors.users.take(user, GrantChange::Permission(permission)).await;
    assert_eq!(take.unwrap_err(), ActorError::Unavailable.into());
    assert!(!world.may(user, "read_books").await);
    assert!(world.sink.has(FactKind::PermissionsChanged { subject: Subject::User(user) }));
}

#[tokio::test]
async fn unknown_user_does_not_exist_and_has_no_permissions() {
    let world = World::start().await;
    let unknown = world.samples.user().id;
    let (exists, names) =
        world.actors.permissions.with(unknown, |s| (s.exists, s.names().len())).await.unwrap();
    assert!(!exists);
    assert_eq!(names, 0);
}
