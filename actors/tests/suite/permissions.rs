//! The permission cache.

use actors::{ActorError, user::GrantChange};
use futures_util::{FutureExt as _, future::join_all};
use schema::{FactKind, Subject, UserId, permission::Permission};

use crate::world::{World, within};

/// A user with a direct permission.
async fn begun() -> (World, UserId, Permission) {
    let world = World::start().await;
    let user = world.user().await.id;
    let permission = world.samples.stored_permission(&world.stores, "read_books").await;
    world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    (world, user, permission)
}

async fn taken(world: &World, user: UserId, permission: &Permission) {
    let change = GrantChange::Permission(permission.clone());
    within("the taking", world.actors.users.take(user, change)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_askers_cost_one_load() {
    let (world, user, _) = begun().await;
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
async fn a_load_that_is_held_while_something_is_taken_never_serves_the_old() {
    let (world, user, permission) = begun().await;
    for held in ["grants.effective", "users.get"] {
        // What was read is on its way.
        let hold = world.faults.hold_answers(held, 1);
        let mut early = Box::pin(world.may(user, "read_books"));
        within("the load", async {
            tokio::select! { _ = &mut early => panic!("held"), () = hold.reached(1) => {} }
        })
        .await;
        taken(&world, user, &permission).await;
        let mut late = Box::pin(world.may(user, "read_books"));
        assert!((&mut late).now_or_never().is_none(), "there is nothing to answer from");
        hold.release();
        assert!(!within("who asks after", late).await, "{held}");
        within("who asked before", early).await;
        assert!(!world.may(user, "read_books").await, "{held}");
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn a_load_that_became_old_is_never_shown_while_it_is_repeated() {
    let (world, user, permission) = begun().await;
    let first = world.faults.hold_answers("grants.effective", 1);
    let second = world.faults.hold_calls("grants.effective", 1);
    let (may, ()) = tokio::join!(world.may(user, "read_books"), async {
        within("the load", first.reached(1)).await;
        taken(&world, user, &permission).await;
        first.release();
        within("the load again", second.reached(1)).await;
        assert_eq!(world.facts.snapshots().with(user, |snapshot| snapshot.has("read_books")), None);
        second.release();
    });
    assert!(!may);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_after_an_invalidation_never_gets_what_was_just_published() {
    let (world, user, permission) = begun().await;
    let old = world.stores.grants.effective(user).await.unwrap();
    taken(&world, user, &permission).await;
    let snapshots = world.facts.snapshots();
    for round in 0..300 {
        snapshots.invalidate(Subject::User(user));
        world.faults.answer("grants.effective", old.clone());
        let permissions = world.actors.permissions.clone();
        let early = tokio::spawn(async move { permissions.with(user, |snapshot| snapshot.exists).await });
        while snapshots.with(user, |_| ()).is_none() {
            std::hint::spin_loop();
        }
        // Published, and perhaps not answered yet.
        snapshots.invalidate(Subject::User(user));
        assert!(!world.may(user, "read_books").await, "round {round}");
        early.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_load_that_is_held_over_what_others_changed_never_serves_the_old() {
    let (world, user, permission) = begun().await;
    let grant = schema::permission::Grant::Permission(permission.id);
    for subject in [Subject::User(user), Subject::Permission(permission.id)] {
        let hold = world.faults.hold_answers("grants.effective", 1);
        let asking = world.may(user, "read_books");
        let (may, ()) = tokio::join!(asking, async {
            within("the load", hold.reached(1)).await;
            world.stores.grants.take(user, grant).await.unwrap();
            let until = schema::Timestamp::MAX;
            world.facts.hear(&schema::Fact { kind: FactKind::PermissionsChanged { subject }, until });
            hold.release();
        });
        assert!(!may, "{subject:?}");
        assert!(!world.may(user, "read_books").await, "{subject:?}");
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn askers_who_go_away_leave_nothing_wrong_behind() {
    let (world, user, permission) = begun().await;
    let hold = world.faults.hold_answers("grants.effective", 1);
    for _ in 0..10 {
        assert!(world.may(user, "read_books").now_or_never().is_none());
    }
    within("the load", hold.reached(1)).await;
    taken(&world, user, &permission).await;
    hold.release();
    assert!(!within("the next asker", world.may(user, "read_books")).await);
    // And who goes away does not take the load along.
    world.facts.snapshots().invalidate(Subject::User(user));
    let before = world.faults.calls("grants.effective");
    assert!(world.may(user, "read_books").now_or_never().is_none());
    assert!(!within("the next asker", world.may(user, "read_books")).await);
    assert_eq!(world.faults.calls("grants.effective") - before, 1);
}

#[tokio::test]
async fn a_load_that_failed_is_not_kept() {
    let (world, user, _) = begun().await;
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
async fn what_is_given_and_taken_is_seen_by_the_next_question() {
    let (world, user, permission) = begun().await;
    for _ in 0..5 {
        assert!(world.may(user, "read_books").await);
        taken(&world, user, &permission).await;
        assert!(!world.may(user, "read_books").await);
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn a_take_whose_answer_was_lost_is_seen_by_the_next_question() {
    let (world, user, permission) = begun().await;
    assert!(world.may(user, "read_books").await);
    world.faults.lose("grants.take", 1);
    let take = world.actors.users.take(user, GrantChange::Permission(permission)).await;
    assert_eq!(take.unwrap_err(), ActorError::Unavailable.into());
    assert!(!world.may(user, "read_books").await);
    assert!(world.sink.has(FactKind::PermissionsChanged { subject: Subject::User(user) }));
}

#[tokio::test]
async fn nobody_may_do_anything_and_does_not_exist() {
    let world = World::start().await;
    let nobody = world.samples.user().id;
    let (exists, names) =
        world.actors.permissions.with(nobody, |s| (s.exists, s.names().len())).await.unwrap();
    assert!(!exists);
    assert_eq!(names, 0);
}
