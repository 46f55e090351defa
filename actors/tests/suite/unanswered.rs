//! Rotations that the store did not answer.
//!
//! A test of the node's memory keeps the background task away from the store by a hold; a test of
//! that task awaits its write.

use actors::{
    ActorError,
    session::{GRACE_EXTENSION, RefreshRefusal},
};
use schema::{
    Clock as _, Timestamp,
    session::{Session, Spent},
};

use crate::{
    faults::Hold,
    refresh::{assert_alarm, assert_no_alarm, refresh, request, setup, token},
    world::{ACCESS_TTL, Node, REFRESH, World, eventually, within},
};

async fn assert_unavailable(node: &Node, session: &Session, n: u8) {
    let refresh = within("a refresh", node.actors.sessions.refresh(request(session, n))).await;
    assert_eq!(refresh, Err(ActorError::Unavailable));
}

/// Presents a token; the rotation happens, and its answer is lost. The background task waits at the hold.
async fn lose_rotation_answer(world: &World, session: &Session, n: u8) -> Hold {
    world.faults.lose("sessions.rotate", 1);
    let hold = world.faults.hold_calls("sessions.latest", 1);
    assert_unavailable(world, session, n).await;
    within("the task reads the store", hold.reached(1)).await;
    hold
}

/// Presents a token; the rotation does not happen. The background task waits at the hold.
async fn fail_rotation(node: &Node, world: &World, session: &Session, n: u8) -> Hold {
    world.faults.fail("sessions.rotate", 1);
    let hold = world.faults.hold_calls("sessions.latest", 1);
    assert_unavailable(node, session, n).await;
    within("the task reads the store", hold.reached(1)).await;
    hold
}

async fn row(world: &World, session: &Session) -> Session {
    world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap()
}

/// The time in the row at which the token was spent.
async fn spent_at(world: &World, session: &Session, n: u8) -> Option<Timestamp> {
    let is_it = |spent: &&Spent| spent.hash == token(session, n);
    row(world, session).await.spent.iter().find(is_it).map(|spent| spent.at)
}

#[tokio::test]
async fn unanswered_token_gets_its_successor_after_the_grace() {
    // Without and with a remembered session.
    for first in [0, 1] {
        let (world, session) = setup().await;
        for n in 0..first {
            refresh(&world, &session, n).await.unwrap();
        }
        let _task = lose_rotation_answer(&world, &session, first).await;
        let expires_at = row(&world, &session).await.expires_at;
        world.clock.advance(REFRESH.grace * 30);
        let answer = refresh(&world, &session, first).await.unwrap();
        assert_eq!(answer.expires_at, expires_at, "the expiry of the stored successor");
        assert_eq!(row(&world, &session).await.live, token(&session, first + 1));
        // Once more within the grace of the retry.
        world.clock.advance(REFRESH.grace - std::time::Duration::from_millis(1));
        assert_eq!(refresh(&world, &session, first).await, Ok(answer));
        assert_no_alarm(&world, &session).await;
        // Beyond that grace it is a copy.
        world.clock.advance(std::time::Duration::from_millis(1));
        assert_eq!(refresh(&world, &session, first).await, Err(RefreshRefusal::Revoked));
        assert_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn successor_of_an_unanswered_token_is_accepted() {
    let (world, session) = setup().await;
    let _task = lose_rotation_answer(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace * 30);
    refresh(&world, &session, 0).await.unwrap();
    for n in 1..=3 {
        assert!(refresh(&world, &session, n).await.is_ok(), "generation {n}");
    }
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn extended_grace_lets_another_node_return_the_successor() {
    let (world, session) = setup().await;
    let other = world.another_node().await;
    world.faults.lose("sessions.rotate", 1);
    // The outage lasts for the task too.
    world.faults.fail("sessions.latest", 2);
    let hold = world.faults.hold_calls("sessions.latest", 1);
    assert_unavailable(&world, &session, 0).await;
    within("the task reads the store", hold.reached(1)).await;
    let expires_at = row(&world, &session).await.expires_at;
    world.clock.advance(REFRESH.grace * 30);
    hold.release();
    let back = world.clock.now();
    eventually("the extended grace", async || {
        spent_at(&world, &session, 0).await == Some(back.plus(GRACE_EXTENSION))
    })
    .await;
    world.clock.advance(GRACE_EXTENSION + REFRESH.grace - std::time::Duration::from_millis(1));
    assert_eq!(refresh(&other, &session, 0).await.unwrap().expires_at, expires_at);
    assert_no_alarm(&world, &session).await;
    world.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(refresh(&other, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert!(!world.has_row(session.user, session.id).await);
}

#[tokio::test]
async fn late_retry_gets_successor_on_node_that_remembers_it() {
    let (world, session) = setup().await;
    let hold = lose_rotation_answer(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace * 30);
    hold.release();
    let back = world.clock.now();
    eventually("the extended grace", async || {
        spent_at(&world, &session, 0).await == Some(back.plus(GRACE_EXTENSION))
    })
    .await;
    world.clock.advance(REFRESH.grace * 30);
    assert!(refresh(&world, &session, 0).await.is_ok());
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn extension_of_the_grace_is_retried_until_it_is_stored() {
    for happened in [false, true] {
        let (world, session) = setup().await;
        let hold = lose_rotation_answer(&world, &session, 0).await;
        if happened {
            world.faults.lose("sessions.rotate", 1);
        } else {
            world.faults.fail("sessions.rotate", 1);
        }
        world.clock.advance(REFRESH.grace * 30);
        hold.release();
        let back = world.clock.now();
        eventually("the extended grace", async || {
            spent_at(&world, &session, 0).await == Some(back.plus(GRACE_EXTENSION))
        })
        .await;
        let other = world.another_node().await;
        assert!(refresh(&other, &session, 0).await.is_ok());
        assert_no_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn failed_rotation_happens_on_the_next_refresh() {
    for first in [0, 1] {
        let (world, session) = setup().await;
        for n in 0..first {
            refresh(&world, &session, n).await.unwrap();
        }
        let _task = fail_rotation(&world, &world, &session, first).await;
        assert_eq!(row(&world, &session).await.live, token(&session, first));
        world.clock.advance(REFRESH.grace * 30);
        let now = world.clock.now();
        let answer = refresh(&world, &session, first).await.unwrap();
        assert_eq!(answer.expires_at, now.plus(REFRESH.ttl));
        assert_eq!(spent_at(&world, &session, first).await, Some(now), "spent at the second request");
        assert_no_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn failed_rotation_writes_nothing_after_the_outage() {
    let (world, session) = setup().await;
    let before = row(&world, &session).await;
    let hold = fail_rotation(&world, &world, &session, 0).await;
    let rotations = world.faults.calls("sessions.rotate");
    hold.release();
    // The task reads once and has nothing to write.
    assert!(refresh(&world, &session, 0).await.is_ok());
    assert_eq!(world.faults.calls("sessions.rotate") - rotations, 1);
    assert_eq!(row(&world, &session).await.spent[0].hash, before.live);
}

#[tokio::test]
async fn long_outage_with_many_attempts_keeps_the_successor() {
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    // The second of five attempts happens.
    for n in 0..5 {
        if n == 1 {
            world.faults.lose("sessions.rotate", 1);
        } else {
            world.faults.fail("sessions.rotate", 1);
        }
        assert_unavailable(&world, &session, 1).await;
        world.clock.advance(REFRESH.grace * 2);
    }
    assert_eq!(row(&world, &session).await.live, token(&session, 2));
    let expires_at = row(&world, &session).await.expires_at;
    assert_eq!(refresh(&world, &session, 1).await.unwrap().expires_at, expires_at);
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn copy_is_an_alarm_while_another_rotation_is_unanswered() {
    // A rotation of another session.
    let (world, session) = setup().await;
    let theirs = world.samples.stored_session(&world.stores, session.user).await;
    refresh(&world, &session, 0).await.unwrap();
    let task = lose_rotation_answer(&world, &theirs, 0).await;
    world.clock.advance(REFRESH.grace);
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
    drop(task);
    // A rotation of the same session; the copy is of an older token.
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    let _task = lose_rotation_answer(&world, &session, 1).await;
    world.clock.advance(REFRESH.grace);
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
    assert_eq!(
        refresh(&world, &session, 1).await,
        Err(RefreshRefusal::Revoked),
        "the owed successor is refused too"
    );
}

#[tokio::test]
async fn owed_successor_is_refused_after_it_was_spent() {
    let (world, session) = setup().await;
    let _task = lose_rotation_answer(&world, &session, 0).await;
    // A caller presents the successor, so it was returned after all.
    refresh(&world, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
}

#[tokio::test]
async fn owed_successor_is_refused_after_the_session_ended() {
    let (world, session) = setup().await;
    let _task = lose_rotation_answer(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace);
    let other = world.another_node().await;
    other.actors.sessions.end(session.user, session.id).await.unwrap();
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    // Ended by a fact, although the row is stored.
    let (world, session) = setup().await;
    let _task = lose_rotation_answer(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace);
    let kind = schema::FactKind::UserVersion { user: session.user, at_least: 1 };
    world.facts.apply(&schema::Fact { kind, until: world.clock.now().plus(ACCESS_TTL) });
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn token_answered_on_retry_is_a_copy_after_the_grace() {
    let (world, session) = setup().await;
    let _task = fail_rotation(&world, &world, &session, 0).await;
    refresh(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
}

#[tokio::test]
async fn grace_is_not_extended_for_a_token_answered_on_retry() {
    let (world, session) = setup().await;
    let hold = fail_rotation(&world, &world, &session, 0).await;
    refresh(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    let rotations = world.faults.calls("sessions.rotate");
    hold.release();
    let other = world.another_node().await;
    assert_eq!(refresh(&other, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_eq!(world.faults.calls("sessions.rotate") - rotations, 0, "no node extends the grace");
}

#[tokio::test]
async fn copy_in_an_outage_is_an_alarm_where_an_older_row_is_known() {
    let (world, session) = setup().await;
    let other = world.another_node().await;
    // This node remembers generation 1 as live; another node has spent it, and answered.
    refresh(&world, &session, 0).await.unwrap();
    refresh(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace * 2);
    let _task = fail_rotation(&world, &world, &session, 1).await;
    assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
}

#[tokio::test]
async fn copy_in_a_second_outage_is_an_alarm() {
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    let _task = lose_rotation_answer(&world, &session, 1).await;
    world.clock.advance(REFRESH.grace * 2);
    refresh(&world, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace * 2);
    // The successor was returned, so a further request comes from a copy.
    world.faults.fail("sessions.rotate", 1);
    assert_unavailable(&world, &session, 1).await;
    assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
}

#[tokio::test]
async fn grace_is_not_extended_for_a_copy_in_an_outage() {
    let (world, session) = setup().await;
    let other = world.another_node().await;
    refresh(&world, &session, 0).await.unwrap();
    refresh(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace * 2);
    let hold = fail_rotation(&world, &world, &session, 1).await;
    let rotations = world.faults.calls("sessions.rotate");
    hold.release();
    assert_eq!(refresh(&other, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert_eq!(world.faults.calls("sessions.rotate") - rotations, 0, "no node extends the grace");
}
