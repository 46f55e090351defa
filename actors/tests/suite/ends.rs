//! Ending sessions.

use actors::{ActorError, Durability, end_rows};
use futures_util::FutureExt as _;
use schema::{
    FactKind, UserId,
    conformance::sample::first,
    horizon::manual::horizon_at,
    session::Session,
    store::Replaced,
    user::{MAX_VERSION, next_version},
};

use crate::world::{ACCESS_TTL, START, World, abandoned, eventually, within};

async fn begun(sessions: usize) -> (World, UserId, Vec<Session>) {
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

/// Which of these have a row.
async fn rows(world: &World, sessions: &[Session]) -> Vec<bool> {
    let left = world.stores.sessions.list(sessions[0].user, first()).await.unwrap().items;
    sessions.iter().map(|session| left.iter().any(|left| left.id == session.id)).collect()
}

#[tokio::test]
async fn an_ended_session_is_refused_before_anything_is_waited_for() {
    let (world, user, sessions) = begun(1).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    let mut ending = Box::pin(world.actors.sessions.end(user, sessions[0].id));
    assert!((&mut ending).now_or_never().is_none());
    assert!(world.refuses(user, sessions[0].id, 0), "after the first look at the call");
    within("the sink is asked", async {
        tokio::select! { _ = &mut ending => panic!("answered before it was durable"), () = hold.reached(1) => {} }
    })
    .await;
    hold.release();
    within("the end", ending).await.unwrap();
    assert!(!world.has_row(user, sessions[0].id).await);
    assert!(world.sink.has(revoked(&sessions[0])));
}

#[tokio::test]
async fn an_end_goes_on_when_its_asker_is_gone() {
    for held in ["sink.publish", "sessions.end"] {
        let (world, user, sessions) = begun(1).await;
        let hold = world.faults.hold_calls(held, 1);
        abandoned(world.actors.sessions.end(user, sessions[0].id), &hold).await;
        assert!(world.refuses(user, sessions[0].id, 0));
        hold.release();
        eventually("the row goes", async || !world.has_row(user, sessions[0].id).await).await;
        eventually("the fact", async || world.sink.has(revoked(&sessions[0]))).await;
    }
}

#[tokio::test]
async fn an_end_that_is_asked_for_once_and_dropped_at_once_goes_on() {
    let (world, user, sessions) = begun(1).await;
    assert!(world.actors.sessions.end(user, sessions[0].id).now_or_never().is_none());
    assert!(world.refuses(user, sessions[0].id, 0));
    eventually("the row goes", async || !world.has_row(user, sessions[0].id).await).await;
    assert!(world.sink.has(revoked(&sessions[0])));
}

#[tokio::test]
async fn an_end_that_cannot_be_published_refuses_here_is_an_error_and_can_be_asked_for_again() {
    let (world, user, sessions) = begun(1).await;
    let end = async || within("the end", world.actors.sessions.end(user, sessions[0].id)).await;
    world.faults.fail("sink.publish", 1);
    assert_eq!(end().await, Err(ActorError::Unavailable));
    assert!(world.refuses(user, sessions[0].id, 0));
    assert_eq!(end().await.unwrap().durability, Durability::Store);
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn the_fact_of_an_end_lives_as_long_as_access_tokens() {
    let (world, user, sessions) = begun(1).await;
    world.actors.sessions.end(user, sessions[0].id).await.unwrap();
    let published = world.sink.published();
    assert_eq!(published.iter().map(|fact| fact.until).collect::<Vec<_>>(), [START.plus(ACCESS_TTL)]);
    // Then the row is gone, so nothing is left to refuse.
    world.facts.denials().forget(horizon_at(START.plus(ACCESS_TTL * 2)), std::time::Duration::ZERO);
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn a_row_that_does_not_go_is_said_and_goes_later() {
    let (world, user, sessions) = begun(1).await;
    world.faults.fail("sessions.end", 2);
    let receipt = within("the end", world.actors.sessions.end(user, sessions[0].id)).await.unwrap();
    assert_eq!(receipt.durability, Durability::Journal);
    assert!(world.refuses(user, sessions[0].id, 0));
    assert!(world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.catch_up().await, 1, "not yet");
    assert!(world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.catch_up().await, 0);
    assert!(!world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.times(revoked(&sessions[0])), 1);
}

#[tokio::test]
async fn the_others_end_also_when_their_asker_is_gone() {
    let (world, user, sessions) = begun(5).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    abandoned(world.actors.sessions.end_others(user, sessions[2].id), &hold).await;
    let refused = |session: &Session| world.refuses(user, session.id, 0);
    assert_eq!(sessions.iter().map(refused).collect::<Vec<_>>(), [true, true, false, true, true]);
    hold.release();
    let kept = [false, false, true, false, false];
    eventually("the rows go", async || rows(&world, &sessions).await == kept).await;
    let published = sessions.iter().map(|session| world.sink.has(revoked(session)));
    assert_eq!(published.collect::<Vec<_>>(), [true, true, false, true, true]);
}

#[tokio::test]
async fn of_the_others_those_whose_row_stays_go_later() {
    let (world, user, sessions) = begun(4).await;
    world.faults.fail("sessions.end", 2);
    let ended = within("the end", world.actors.sessions.end_others(user, sessions[0].id)).await;
    assert_eq!(ended.unwrap().durability, Durability::Journal);
    assert_eq!(rows(&world, &sessions).await.iter().filter(|row| **row).count(), 3);
    assert!(sessions[1..].iter().all(|session| world.refuses(user, session.id, 0)));
    assert_eq!(world.sink.catch_up().await, 0);
    assert_eq!(rows(&world, &sessions).await, [true, false, false, false]);
}

#[tokio::test]
async fn others_who_cannot_be_read_are_an_error_and_nobody_is_refused() {
    let (world, user, sessions) = begun(2).await;
    world.faults.fail("sessions.ids", 1);
    let ended = world.actors.sessions.end_others(user, sessions[0].id).await;
    assert_eq!(ended, Err(ActorError::Unavailable));
    assert!(!world.refuses(user, sessions[1].id, 0));
    assert_eq!(world.sink.published(), []);
}

#[tokio::test]
async fn all_sessions_end_also_when_their_asker_is_gone() {
    let (world, user, sessions) = begun(2).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    assert!(world.actors.users.end_all_sessions(user, 1).now_or_never().is_none());
    assert!(world.refuses(user, sessions[0].id, 0), "after the first look at the call");
    within("the sink is asked", hold.reached(1)).await;
    hold.release();
    eventually("the stored version rises", async || world.stored(user).await.version == 1).await;
    eventually("the rows go", async || rows(&world, &sessions).await == [false, false]).await;
    assert!(world.sink.has(FactKind::UserVersion { user, at_least: 1 }));
    assert!(!world.refuses(user, sessions[0].id, 1));
}

#[tokio::test]
async fn an_end_of_all_that_cannot_be_published_refuses_here_and_is_an_error() {
    let (world, user, sessions) = begun(1).await;
    let end = async || within("the end", world.actors.users.end_all_sessions(user, 1)).await;
    world.faults.fail("sink.publish", 1);
    assert_eq!(end().await, Err(ActorError::Unavailable));
    assert!(world.refuses(user, sessions[0].id, 0));
    end().await.unwrap();
    assert_eq!(world.stored(user).await.version, 1);
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn an_end_of_all_that_the_store_is_not_told_is_done_later_at_every_step() {
    for step in ["users.get", "users.replace", "sessions.end_older"] {
        let (world, user, sessions) = begun(2).await;
        world.faults.fail(step, 1);
        let ended = within("the end", world.actors.users.end_all_sessions(user, 1)).await.unwrap();
        assert_eq!(ended.durability, Durability::Journal, "{step}");
        assert!(world.refuses(user, sessions[0].id, 0), "{step}");
        assert_eq!(rows(&world, &sessions).await, [true, true], "{step}");
        assert_eq!(world.sink.catch_up().await, 0, "{step}");
        assert_eq!(rows(&world, &sessions).await, [false, false], "{step}");
        assert_eq!(world.stored(user).await.version, 1, "{step}");
    }
}

#[tokio::test]
async fn rows_that_ended_end_again_without_harm_and_later_sessions_stay() {
    let (world, user, sessions) = begun(1).await;
    let all = FactKind::UserVersion { user, at_least: 1 };
    end_rows(&world.stores, &all).await.unwrap();
    let later = Session { user_version: 1, ..world.samples.session(user) };
    world.actors.sessions.open(later.clone()).await.unwrap();
    for kind in [all, revoked(&sessions[0]), all] {
        end_rows(&world.stores, &kind).await.unwrap();
        assert!(world.has_row(user, later.id).await, "{kind:?}");
    }
    // A version that was passed long ago is not brought back.
    end_rows(&world.stores, &FactKind::UserVersion { user, at_least: 3 }).await.unwrap();
    end_rows(&world.stores, &FactKind::UserVersion { user, at_least: 2 }).await.unwrap();
    assert_eq!(world.stored(user).await.version, 3);
    assert!(!world.has_row(user, later.id).await);
}

#[tokio::test]
async fn highest_version_ends_every_session_and_a_higher_one_none() {
    let (world, user, sessions) = begun(1).await;
    for absurd in [MAX_VERSION + 1, u64::MAX] {
        end_rows(&world.stores, &FactKind::UserVersion { user, at_least: absurd }).await.unwrap();
        assert_eq!(world.stored(user).await.version, 0, "{absurd}");
        assert!(world.has_row(user, sessions[0].id).await);
    }
    let highest = Session { user_version: MAX_VERSION, ..world.samples.session(user) };
    world.actors.sessions.open(highest.clone()).await.unwrap();
    end_rows(&world.stores, &FactKind::UserVersion { user, at_least: MAX_VERSION }).await.unwrap();
    assert_eq!(world.stored(user).await.version, MAX_VERSION);
    for id in [sessions[0].id, highest.id] {
        assert!(!world.has_row(user, id).await);
    }
}

#[tokio::test]
async fn user_of_the_highest_version_loses_every_session_at_once() {
    let (world, user, _) = begun(0).await;
    let mut stored = world.stored(user).await;
    (stored.version, stored.revision) = (MAX_VERSION, stored.revision + 1);
    world.stores.users.replace(&stored).await.unwrap();
    let session = Session { user_version: MAX_VERSION, ..world.samples.session(user) };
    world.actors.sessions.open(session.clone()).await.unwrap();
    assert!(!world.refuses(user, session.id, MAX_VERSION));
    world.actors.users.end_all_sessions(user, next_version(MAX_VERSION)).await.unwrap();
    assert!(world.refuses(user, session.id, MAX_VERSION));
    assert!(!world.has_row(user, session.id).await);
    // And with each other way that takes everything.
    world.actors.users.set_active(user, false).await.unwrap();
    assert_eq!(world.stored(user).await.version, MAX_VERSION);
}

#[tokio::test]
async fn rows_of_nobody_need_nothing() {
    let (world, user, sessions) = begun(1).await;
    world.stores.users.delete(user).await.unwrap();
    for kind in [revoked(&sessions[0]), FactKind::UserVersion { user, at_least: 1 }] {
        end_rows(&world.stores, &kind).await.unwrap();
    }
    assert!(world.stores.users.get(user).await.unwrap().is_none());
}

#[tokio::test]
async fn a_version_is_raised_over_what_somebody_else_changes_meanwhile() {
    let (world, user, sessions) = begun(1).await;
    let mut changed = world.stored(user).await;
    let hold = world.faults.hold_calls("users.replace", 1);
    let end = world.actors.users.end_all_sessions(user, 1);
    let (ended, ()) = tokio::join!(within("the end", end), async {
        within("it is about to write", hold.reached(1)).await;
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
