//! Ending sessions.

use actors::{ActorError, Durability, delete_revoked_rows};
use futures_util::FutureExt as _;
use schema::{
    FactKind, UserId,
    horizon::manual::horizon_at,
    session::Session,
    version::{MAX_VERSION, next_version},
};
use store::{Replaced, conformance::sample::first};

use crate::world::{ACCESS_TTL, START, World, abandoned, eventually, within};

async fn setup(sessions: usize) -> (World, UserId, Vec<Session>) {
    let world = World::start().await;
    let user = world.user().await.id;
    let mut begun = Vec::new();
    for _ in 0..sessions {
        begun.push(world.samples.stored_session(&world.stores, user).await);
    }
    (world, user, begun)
}

fn revoked(session: &Session) -> FactKind {
    FactKind::SessionRevoked { user: session.user, session: session.id }
}

/// Whether each of these sessions has a row.
async fn rows(world: &World, sessions: &[Session]) -> Vec<bool> {
    let stored = world.stores.sessions.list(sessions[0].user, first()).await.unwrap().items;
    sessions.iter().map(|session| stored.iter().any(|stored| stored.id == session.id)).collect()
}

#[tokio::test]
async fn ended_session_is_refused_before_the_call_waits() {
    let (world, user, sessions) = setup(1).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    let mut ending = Box::pin(world.actors.sessions.end(user, sessions[0].id));
    assert!((&mut ending).now_or_never().is_none());
    assert!(world.refuses(user, sessions[0].id, 0), "after one poll of the call");
    within("the sink gets the facts", async {
        tokio::select! {
            _ = &mut ending => panic!("answered before the fact was durable"),
            () = hold.reached(1) => {}
        }
    })
    .await;
    hold.release();
    within("the end", ending).await.unwrap();
    assert!(!world.has_row(user, sessions[0].id).await);
    assert!(world.sink.has(revoked(&sessions[0])));
}

#[tokio::test]
async fn session_end_continues_when_its_caller_goes_away() {
    for held in ["sink.publish", "sessions.end"] {
        let (world, user, sessions) = setup(1).await;
        let hold = world.faults.hold_calls(held, 1);
        abandoned(world.actors.sessions.end(user, sessions[0].id), &hold).await;
        assert!(world.refuses(user, sessions[0].id, 0));
        hold.release();
        eventually("the row is deleted", async || !world.has_row(user, sessions[0].id).await).await;
        eventually("the fact", async || world.sink.has(revoked(&sessions[0]))).await;
    }
}

#[tokio::test]
async fn session_end_continues_when_dropped_after_one_poll() {
    let (world, user, sessions) = setup(1).await;
    assert!(world.actors.sessions.end(user, sessions[0].id).now_or_never().is_none());
    assert!(world.refuses(user, sessions[0].id, 0));
    eventually("the row is deleted", async || !world.has_row(user, sessions[0].id).await).await;
    assert!(world.sink.has(revoked(&sessions[0])));
}

#[tokio::test]
async fn unpublished_session_end_refuses_here_and_can_be_repeated() {
    let (world, user, sessions) = setup(1).await;
    let end = async || within("the end", world.actors.sessions.end(user, sessions[0].id)).await;
    world.faults.fail("sink.publish", 1);
    assert_eq!(end().await, Err(ActorError::Unavailable));
    assert!(world.refuses(user, sessions[0].id, 0));
    assert_eq!(end().await.unwrap().durability, Durability::Store);
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn fact_of_a_session_end_lives_as_long_as_access_tokens() {
    let (world, user, sessions) = setup(1).await;
    world.actors.sessions.end(user, sessions[0].id).await.unwrap();
    let published = world.sink.published();
    assert_eq!(published.iter().map(|fact| fact.until).collect::<Vec<_>>(), [START.plus(ACCESS_TTL)]);
    // The row is deleted by then, so the denial is no longer needed.
    world.facts.denials().forget(horizon_at(START.plus(ACCESS_TTL * 2)), std::time::Duration::ZERO);
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn undeleted_row_is_reported_and_deleted_later() {
    let (world, user, sessions) = setup(1).await;
    world.faults.fail("sessions.end", 2);
    let receipt = within("the end", world.actors.sessions.end(user, sessions[0].id)).await.unwrap();
    assert_eq!(receipt.durability, Durability::Journal);
    assert!(world.refuses(user, sessions[0].id, 0));
    assert!(world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.delete_pending().await, 1, "not yet");
    assert!(world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.delete_pending().await, 0);
    assert!(!world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.times(revoked(&sessions[0])), 1);
}

#[tokio::test]
async fn end_of_other_sessions_continues_without_its_caller() {
    let (world, user, sessions) = setup(5).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    abandoned(world.actors.sessions.end_others(user, sessions[2].id), &hold).await;
    let refused = |session: &Session| world.refuses(user, session.id, 0);
    assert_eq!(sessions.iter().map(refused).collect::<Vec<_>>(), [true, true, false, true, true]);
    hold.release();
    let kept = [false, false, true, false, false];
    eventually("the rows are deleted", async || rows(&world, &sessions).await == kept).await;
    let published = sessions.iter().map(|session| world.sink.has(revoked(session)));
    assert_eq!(published.collect::<Vec<_>>(), [true, true, false, true, true]);
}

#[tokio::test]
async fn undeleted_rows_of_other_sessions_are_deleted_later() {
    let (world, user, sessions) = setup(4).await;
    world.faults.fail("sessions.end", 2);
    let ended = within("the end", world.actors.sessions.end_others(user, sessions[0].id)).await;
    assert_eq!(ended.unwrap().durability, Durability::Journal);
    assert_eq!(rows(&world, &sessions).await.iter().filter(|row| **row).count(), 3);
    assert!(sessions[1..].iter().all(|session| world.refuses(user, session.id, 0)));
    assert_eq!(world.sink.delete_pending().await, 0);
    assert_eq!(rows(&world, &sessions).await, [true, false, false, false]);
}

#[tokio::test]
async fn unreadable_other_sessions_are_an_error_and_not_refused() {
    let (world, user, sessions) = setup(2).await;
    world.faults.fail("sessions.ids", 1);
    let ended = world.actors.sessions.end_others(user, sessions[0].id).await;
    assert_eq!(ended, Err(ActorError::Unavailable));
    assert!(!world.refuses(user, sessions[1].id, 0));
    assert_eq!(world.sink.published(), []);
}

#[tokio::test]
async fn end_of_all_sessions_continues_without_its_caller() {
    let (world, user, sessions) = setup(2).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    assert!(world.actors.users.end_all_sessions(user, 1).now_or_never().is_none());
    assert!(world.refuses(user, sessions[0].id, 0), "after one poll of the call");
    within("the sink gets the facts", hold.reached(1)).await;
    hold.release();
    eventually("the stored version rises", async || world.stored(user).await.version == 1).await;
    eventually("the rows are deleted", async || rows(&world, &sessions).await == [false, false]).await;
    assert!(world.sink.has(FactKind::UserVersion { user, at_least: 1 }));
    assert!(!world.refuses(user, sessions[0].id, 1));
}

#[tokio::test]
async fn unpublished_end_of_all_is_an_error_and_refuses_here() {
    let (world, user, sessions) = setup(1).await;
    let end = async || within("the end", world.actors.users.end_all_sessions(user, 1)).await;
    world.faults.fail("sink.publish", 1);
    assert_eq!(end().await, Err(ActorError::Unavailable));
    assert!(world.refuses(user, sessions[0].id, 0));
    end().await.unwrap();
    assert_eq!(world.stored(user).await.version, 1);
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn end_of_all_is_completed_after_a_failure_at_any_step() {
    for step in ["users.get", "users.replace", "sessions.end_older"] {
        let (world, user, sessions) = setup(2).await;
        world.faults.fail(step, 1);
        let ended = within("the end", world.actors.users.end_all_sessions(user, 1)).await.unwrap();
        assert_eq!(ended.durability, Durability::Journal, "{step}");
        assert!(world.refuses(user, sessions[0].id, 0), "{step}");
        assert_eq!(rows(&world, &sessions).await, [true, true], "{step}");
        assert_eq!(world.sink.delete_pending().await, 0, "{step}");
        assert_eq!(rows(&world, &sessions).await, [false, false], "{step}");
        assert_eq!(world.stored(user).await.version, 1, "{step}");
    }
}

#[tokio::test]
async fn repeated_deletion_of_rows_keeps_later_sessions() {
    let (world, user, sessions) = setup(1).await;
    let all = FactKind::UserVersion { user, at_least: 1 };
    delete_revoked_rows(&world.stores, &all).await.unwrap();
    let later = Session { user_version: 1, ..world.samples.session(user) };
    world.actors.sessions.open(later.clone()).await.unwrap();
    for kind in [all, revoked(&sessions[0]), all] {
        delete_revoked_rows(&world.stores, &kind).await.unwrap();
        assert!(world.has_row(user, later.id).await, "{kind:?}");
    }
    // A lower version does not replace a higher one.
    delete_revoked_rows(&world.stores, &FactKind::UserVersion { user, at_least: 3 }).await.unwrap();
    delete_revoked_rows(&world.stores, &FactKind::UserVersion { user, at_least: 2 }).await.unwrap();
    assert_eq!(world.stored(user).await.version, 3);
    assert!(!world.has_row(user, later.id).await);
}

#[tokio::test]
async fn highest_version_ends_every_session_and_a_higher_one_none() {
    let (world, user, sessions) = setup(1).await;
    for absurd in [MAX_VERSION + 1, u64::MAX] {
        delete_revoked_rows(&world.stores, &FactKind::UserVersion { user, at_least: absurd }).await.unwrap();
        assert_eq!(world.stored(user).await.version, 0, "{absurd}");
        assert!(world.has_row(user, sessions[0].id).await);
    }
    let highest = Session { user_version: MAX_VERSION, ..world.samples.session(user) };
    world.actors.sessions.open(highest.clone()).await.unwrap();
    delete_revoked_rows(&world.stores, &FactKind::UserVersion { user, at_least: MAX_VERSION }).await.unwrap();
    assert_eq!(world.stored(user).await.version, MAX_VERSION);
    for id in [sessions[0].id, highest.id] {
        assert!(!world.has_row(user, id).await);
    }
}

#[tokio::test]
async fn user_of_the_highest_version_loses_all_sessions_at_once() {
    let (world, user, _) = setup(0).await;
    let mut stored = world.stored(user).await;
    (stored.version, stored.revision) = (MAX_VERSION, stored.revision + 1);
    world.stores.users.replace(&stored).await.unwrap();
    let session = Session { user_version: MAX_VERSION, ..world.samples.session(user) };
    world.actors.sessions.open(session.clone()).await.unwrap();
    assert!(!world.refuses(user, session.id, MAX_VERSION));
    world.actors.users.end_all_sessions(user, next_version(MAX_VERSION)).await.unwrap();
    assert!(world.refuses(user, session.id, MAX_VERSION));
    assert!(!world.has_row(user, session.id).await);
    // Disabling the user works at the highest version too.
    world.actors.users.set_active(user, false).await.unwrap();
    assert_eq!(world.stored(user).await.version, MAX_VERSION);
}

#[tokio::test]
async fn deletion_of_missing_rows_is_no_error() {
    let (world, user, sessions) = setup(1).await;
    world.stores.users.delete(user).await.unwrap();
    for kind in [revoked(&sessions[0]), FactKind::UserVersion { user, at_least: 1 }] {
        delete_revoked_rows(&world.stores, &kind).await.unwrap();
    }
    assert!(world.stores.users.get(user).await.unwrap().is_none());
}

#[tokio::test]
async fn version_is_raised_over_a_concurrent_change() {
    let (world, user, sessions) = setup(1).await;
    let mut changed = world.stored(user).await;
    let hold = world.faults.hold_calls("users.replace", 1);
    let end = world.actors.users.end_all_sessions(user, 1);
    let (ended, ()) = tokio::join!(within("the end", end), async {
        within("the node is about to write", hold.reached(1)).await;
        changed.first_name = Some("Ann".into());
        changed.revision += 1;
        assert_eq!(world.stores.users.replace(&changed).await.unwrap(), Replaced::Done);
        hold.release();
    });
    assert_eq!(ended.unwrap().durability, Durability::Store);
    let stored = world.stored(user).await;
    assert_eq!((stored.first_name.as_deref(), stored.version), (Some("Ann"), 1));
    assert!(!world.has_row(user, sessions[0].id).await);
}
