//! Ending sessions.

use actors::ActorError;
use futures_util::FutureExt as _;
use schema::{Fact, FactKind, UserId, session::Session};

use crate::world::{REFRESH, START, World, abandoned, eventually, within};

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
async fn an_end_that_cannot_be_published_still_ends_the_row_and_is_an_error() {
    let (world, user, sessions) = begun(1).await;
    world.faults.fail("sink.publish", 1);
    let end = within("the end", world.actors.sessions.end(user, sessions[0].id)).await;
    assert_eq!(end, Err(ActorError::Unavailable));
    assert!(world.refuses(user, sessions[0].id, 0));
    assert!(!world.has_row(user, sessions[0].id).await);
}

#[tokio::test]
async fn a_row_that_goes_at_a_later_try_needs_no_longer_fact() {
    let (world, user, sessions) = begun(1).await;
    world.faults.fail("sessions.end", 2);
    within("the end", world.actors.sessions.end(user, sessions[0].id)).await.unwrap();
    assert!(!world.has_row(user, sessions[0].id).await);
    assert_eq!(world.sink.times(revoked(&sessions[0])), 1);
}

#[tokio::test]
async fn a_row_that_does_not_go_is_refused_as_long_as_its_refresh_token_lives() {
    let (world, user, sessions) = begun(1).await;
    world.faults.fail("sessions.end", 100);
    within("the end", world.actors.sessions.end(user, sessions[0].id)).await.unwrap();
    assert!(world.has_row(user, sessions[0].id).await);
    let until = START.plus(REFRESH.ttl);
    assert_eq!(world.sink.published().last(), Some(&Fact { kind: revoked(&sessions[0]), until }));
    assert!(until >= sessions[0].expires_at);
    // Here too it is remembered for so long.
    world.facts.denials().forget(sessions[0].expires_at, std::time::Duration::ZERO);
    assert!(world.refuses(user, sessions[0].id, 0));
}

#[tokio::test]
async fn a_row_that_does_not_go_and_a_fact_that_is_not_published_is_an_error() {
    let (world, user, sessions) = begun(1).await;
    world.faults.fail("sessions.end", 100);
    world.faults.fail("sink.publish", 2);
    let end = within("the end", world.actors.sessions.end(user, sessions[0].id)).await;
    assert_eq!(end, Err(ActorError::Unavailable));
    assert!(world.refuses(user, sessions[0].id, 0));
}

#[tokio::test]
async fn the_others_end_also_when_their_asker_is_gone() {
    let (world, user, sessions) = begun(5).await;
    let hold = world.faults.hold_calls("sink.publish", 1);
    abandoned(world.actors.sessions.end_others(user, sessions[2].id), &hold).await;
    let refused = |session: &Session| world.refuses(user, session.id, 0);
    assert_eq!(sessions.iter().map(refused).collect::<Vec<_>>(), [true, true, false, true, true]);
    hold.release();
    eventually("the rows go", async || {
        let left = world.stores.sessions.list(user, schema::conformance::sample::first()).await.unwrap();
        left.items.len() == 1 && left.items[0].id == sessions[2].id
    })
    .await;
    let published = sessions.iter().map(|session| world.sink.has(revoked(session)));
    assert_eq!(published.collect::<Vec<_>>(), [true, true, false, true, true]);
}

#[tokio::test]
async fn of_the_others_only_those_whose_row_stays_are_refused_for_long() {
    let (world, user, sessions) = begun(3).await;
    world.faults.fail("sessions.end", 3);
    within("the end", world.actors.sessions.end_others(user, sessions[0].id)).await.unwrap();
    let until = START.plus(REFRESH.ttl);
    let long: Vec<_> = world.sink.published().into_iter().filter(|fact| fact.until == until).collect();
    assert_eq!(long.len(), 1, "{long:?}");
    let rows = [world.has_row(user, sessions[1].id).await, world.has_row(user, sessions[2].id).await];
    let of_long = |session: &Session| long[0].kind == revoked(session);
    assert_eq!(rows, [of_long(&sessions[1]), of_long(&sessions[2])]);
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
    for session in &sessions {
        eventually("the row goes", async || !world.has_row(user, session.id).await).await;
    }
    assert!(world.sink.has(FactKind::UserVersion { user, at_least: 1 }));
    assert!(!world.refuses(user, sessions[0].id, 1));
}

#[tokio::test]
async fn all_sessions_end_in_the_store_though_the_fact_is_not_published() {
    let (world, user, sessions) = begun(1).await;
    world.faults.fail("sink.publish", 1);
    let end = within("the end", world.actors.users.end_all_sessions(user, 1)).await;
    assert_eq!(end, Err(ActorError::Unavailable.into()));
    assert_eq!(world.stored(user).await.version, 1);
    assert!(!world.has_row(user, sessions[0].id).await);
}
