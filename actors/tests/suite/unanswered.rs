//! Rotations that the store did not answer.
//!
//! A test that says what a node's memory does keeps the background task away from the store by a
//! hold; a test of that task awaits what it writes.

use actors::{
    ActorError,
    session::{OWED, RefreshRefusal},
};
use schema::{
    Clock as _, Timestamp,
    session::{Session, Spent},
};

use crate::{
    faults::Hold,
    refresh::{begun, is_alarm, is_no_alarm, refreshes, shows, token},
    world::{ACCESS_TTL, Node, REFRESH, World, eventually, within},
};

async fn is_unavailable(node: &Node, session: &Session, n: u8) {
    let refresh = within("a refresh", node.actors.sessions.refresh(shows(session, n))).await;
    assert_eq!(refresh, Err(ActorError::Unavailable));
}

/// Shows a token; the rotation is made, and its answer is lost. The background task waits at the hold.
async fn lost(world: &World, session: &Session, n: u8) -> Hold {
    world.faults.lose("sessions.rotate", 1);
    let hold = world.faults.hold_calls("sessions.latest", 1);
    is_unavailable(world, session, n).await;
    within("the task looks at the store", hold.reached(1)).await;
    hold
}

/// Shows a token; nothing happens. The background task waits at the hold.
async fn failed(node: &Node, world: &World, session: &Session, n: u8) -> Hold {
    world.faults.fail("sessions.rotate", 1);
    let hold = world.faults.hold_calls("sessions.latest", 1);
    is_unavailable(node, session, n).await;
    within("the task looks at the store", hold.reached(1)).await;
    hold
}

async fn row(world: &World, session: &Session) -> Session {
    world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap()
}

/// When the token was spent, as the row says.
async fn spent_at(world: &World, session: &Session, n: u8) -> Option<Timestamp> {
    let is_it = |spent: &&Spent| spent.hash == token(session, n);
    row(world, session).await.spent.iter().find(is_it).map(|spent| spent.at)
}

#[tokio::test]
async fn a_token_that_was_spent_without_an_answer_gets_its_successor_long_after_the_grace() {
    // Known before, and not.
    for first in [0, 1] {
        let (world, session) = begun().await;
        for n in 0..first {
            refreshes(&world, &session, n).await.unwrap();
        }
        let _task = lost(&world, &session, first).await;
        let expires_at = row(&world, &session).await.expires_at;
        world.clock.advance(REFRESH.grace * 30);
        let answer = refreshes(&world, &session, first).await.unwrap();
        assert_eq!(answer.expires_at, expires_at, "of the successor that there is");
        assert_eq!(row(&world, &session).await.live, token(&session, first + 1));
        // Once more within the grace of that.
        world.clock.advance(REFRESH.grace - std::time::Duration::from_millis(1));
        assert_eq!(refreshes(&world, &session, first).await, Ok(answer));
        is_no_alarm(&world, &session).await;
        // And later it is a copy.
        world.clock.advance(std::time::Duration::from_millis(1));
        assert_eq!(refreshes(&world, &session, first).await, Err(RefreshRefusal::Revoked));
        is_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn the_successor_of_a_token_that_was_spent_without_an_answer_is_good() {
    let (world, session) = begun().await;
    let _task = lost(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace * 30);
    refreshes(&world, &session, 0).await.unwrap();
    for n in 1..=3 {
        assert!(refreshes(&world, &session, n).await.is_ok(), "generation {n}");
    }
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn the_grace_begins_anew_in_the_store_when_it_is_back_so_another_node_gives_the_successor() {
    let (world, session) = begun().await;
    let other = world.another_node().await;
    world.faults.lose("sessions.rotate", 1);
    // The outage goes on for the task, too.
    world.faults.fail("sessions.latest", 2);
    let hold = world.faults.hold_calls("sessions.latest", 1);
    is_unavailable(&world, &session, 0).await;
    within("the task looks at the store", hold.reached(1)).await;
    let expires_at = row(&world, &session).await.expires_at;
    world.clock.advance(REFRESH.grace * 30);
    hold.release();
    let back = world.clock.now();
    eventually("the grace anew", async || spent_at(&world, &session, 0).await == Some(back.plus(OWED))).await;
    world.clock.advance(OWED + REFRESH.grace - std::time::Duration::from_millis(1));
    assert_eq!(refreshes(&other, &session, 0).await.unwrap().expires_at, expires_at);
    is_no_alarm(&world, &session).await;
    world.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(refreshes(&other, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert!(!world.has_row(session.user, session.id).await);
}

#[tokio::test]
async fn who_comes_later_than_the_grace_anew_still_gets_the_successor_where_it_is_remembered() {
    let (world, session) = begun().await;
    let hold = lost(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace * 30);
    hold.release();
    let back = world.clock.now();
    eventually("the grace anew", async || spent_at(&world, &session, 0).await == Some(back.plus(OWED))).await;
    world.clock.advance(REFRESH.grace * 30);
    assert!(refreshes(&world, &session, 0).await.is_ok());
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn the_grace_anew_whose_write_was_not_answered_is_written_again_or_was_written() {
    for happened in [false, true] {
        let (world, session) = begun().await;
        let hold = lost(&world, &session, 0).await;
        if happened {
            world.faults.lose("sessions.rotate", 1);
        } else {
            world.faults.fail("sessions.rotate", 1);
        }
        world.clock.advance(REFRESH.grace * 30);
        hold.release();
        let back = world.clock.now();
        eventually("the grace anew", async || spent_at(&world, &session, 0).await == Some(back.plus(OWED)))
            .await;
        let other = world.another_node().await;
        assert!(refreshes(&other, &session, 0).await.is_ok());
        is_no_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn a_rotation_that_did_not_happen_is_made_by_showing_the_token_again() {
    for first in [0, 1] {
        let (world, session) = begun().await;
        for n in 0..first {
            refreshes(&world, &session, n).await.unwrap();
        }
        let _task = failed(&world, &world, &session, first).await;
        assert_eq!(row(&world, &session).await.live, token(&session, first));
        world.clock.advance(REFRESH.grace * 30);
        let now = world.clock.now();
        let answer = refreshes(&world, &session, first).await.unwrap();
        assert_eq!(answer.expires_at, now.plus(REFRESH.ttl));
        assert_eq!(spent_at(&world, &session, first).await, Some(now), "spent now, not then");
        is_no_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn a_rotation_that_did_not_happen_leaves_the_row_alone_when_the_store_is_back() {
    let (world, session) = begun().await;
    let before = row(&world, &session).await;
    let hold = failed(&world, &world, &session, 0).await;
    let rotations = world.faults.calls("sessions.rotate");
    hold.release();
    // It looked once, and has nothing to write.
    assert!(refreshes(&world, &session, 0).await.is_ok());
    assert_eq!(world.faults.calls("sessions.rotate") - rotations, 1);
    assert_eq!(row(&world, &session).await.spent[0].hash, before.live);
}

#[tokio::test]
async fn a_long_outage_with_many_tries_ends_with_the_same_successor() {
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    // The second of five is made.
    for n in 0..5 {
        if n == 1 {
            world.faults.lose("sessions.rotate", 1);
        } else {
            world.faults.fail("sessions.rotate", 1);
        }
        is_unavailable(&world, &session, 1).await;
        world.clock.advance(REFRESH.grace * 2);
    }
    assert_eq!(row(&world, &session).await.live, token(&session, 2));
    let expires_at = row(&world, &session).await.expires_at;
    assert_eq!(refreshes(&world, &session, 1).await.unwrap().expires_at, expires_at);
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_copy_is_an_alarm_while_another_rotation_is_unanswered() {
    // Of another session.
    let (world, session) = begun().await;
    let theirs = world.samples.stored_session(&world.stores, session.user).await;
    refreshes(&world, &session, 0).await.unwrap();
    let task = lost(&world, &theirs, 0).await;
    world.clock.advance(REFRESH.grace);
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
    drop(task);
    // Of the same session: an older token.
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    let _task = lost(&world, &session, 1).await;
    world.clock.advance(REFRESH.grace);
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked), "who is owed is out too");
}

#[tokio::test]
async fn what_is_owed_is_not_given_when_the_successor_was_spent() {
    let (world, session) = begun().await;
    let _task = lost(&world, &session, 0).await;
    // Somebody has the successor: it was given after all.
    refreshes(&world, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
}

#[tokio::test]
async fn what_is_owed_is_not_given_when_the_session_ended() {
    let (world, session) = begun().await;
    let _task = lost(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace);
    let other = world.another_node().await;
    other.actors.sessions.end(session.user, session.id).await.unwrap();
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    // By a fact, though the row is there.
    let (world, session) = begun().await;
    let _task = lost(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace);
    let kind = schema::FactKind::UserVersion { user: session.user, at_least: 1 };
    world.facts.hear(&schema::Fact { kind, until: world.clock.now().plus(ACCESS_TTL) });
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_token_whose_successor_was_given_at_a_second_try_is_a_copy_after_the_grace() {
    let (world, session) = begun().await;
    let _task = failed(&world, &world, &session, 0).await;
    refreshes(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
}

#[tokio::test]
async fn the_grace_is_not_begun_anew_for_what_was_given_at_a_second_try() {
    let (world, session) = begun().await;
    let hold = failed(&world, &world, &session, 0).await;
    refreshes(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    let rotations = world.faults.calls("sessions.rotate");
    hold.release();
    let other = world.another_node().await;
    assert_eq!(refreshes(&other, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_eq!(world.faults.calls("sessions.rotate") - rotations, 0, "nobody");
}

#[tokio::test]
async fn a_copy_that_is_shown_in_an_outage_is_a_copy_afterwards_where_an_older_row_is_known() {
    let (world, session) = begun().await;
    let other = world.another_node().await;
    // This node knows generation 1 as the live one; another node has spent it, and answered.
    refreshes(&world, &session, 0).await.unwrap();
    refreshes(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace * 2);
    let _task = failed(&world, &world, &session, 1).await;
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_copy_that_is_shown_in_a_second_outage_is_a_copy_afterwards() {
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    let _task = lost(&world, &session, 1).await;
    world.clock.advance(REFRESH.grace * 2);
    refreshes(&world, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace * 2);
    // Given. Who shows it now has a copy.
    world.faults.fail("sessions.rotate", 1);
    is_unavailable(&world, &session, 1).await;
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
}

#[tokio::test]
async fn the_grace_is_not_begun_anew_for_a_copy_that_is_shown_in_an_outage() {
    let (world, session) = begun().await;
    let other = world.another_node().await;
    refreshes(&world, &session, 0).await.unwrap();
    refreshes(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace * 2);
    let hold = failed(&world, &world, &session, 1).await;
    let rotations = world.faults.calls("sessions.rotate");
    hold.release();
    assert_eq!(refreshes(&other, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert_eq!(world.faults.calls("sessions.rotate") - rotations, 0, "nobody");
}
