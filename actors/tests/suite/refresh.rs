//! Spending refresh tokens.

use actors::{
    ActorError,
    session::{RefreshRefusal, RefreshRequest, Refreshed},
};
use futures_util::future::join_all;
use schema::{
    FactKind, Timestamp,
    conformance::sample::first,
    login::Outcome,
    session::{SecretHash, Session},
};

use crate::world::{Node, REFRESH, START, World, within};

/// The token of the `n`th generation; the session's first is of generation 0.
fn token(session: &Session, n: u8) -> SecretHash {
    if n == 0 { session.live } else { SecretHash::new([n; 32]) }
}

fn shows(session: &Session, n: u8) -> RefreshRequest {
    RefreshRequest {
        user: session.user,
        session: session.id,
        version: session.user_version,
        presented: token(session, n),
        successor: token(session, n + 1),
        ip_address: [192, 0, 2, 7].into(),
        user_agent: Some("suite".into()),
    }
}

async fn refreshes(node: &Node, session: &Session, n: u8) -> Result<Refreshed, RefreshRefusal> {
    within("a refresh", node.actors.sessions.refresh(shows(session, n))).await.unwrap()
}

async fn begun() -> (World, Session) {
    let world = World::start().await;
    let user = world.user().await;
    let session = world.samples.stored_session(&world.stores, user.id).await;
    (world, session)
}

/// The session goes on, and nobody was warned.
async fn is_no_alarm(world: &World, session: &Session) {
    assert!(world.has_row(session.user, session.id).await);
    assert!(!world.facts.denials().refuses_session(session.id));
    assert_eq!(world.sink.published(), []);
    assert!(world.stores.logins.list(session.user, first()).await.unwrap().items.is_empty());
}

async fn is_alarm(world: &World, session: &Session) {
    assert!(!world.has_row(session.user, session.id).await);
    assert!(world.facts.denials().refuses_session(session.id));
    assert!(world.sink.has(FactKind::SessionRevoked { user: session.user, session: session.id }));
    let history = world.stores.logins.list(session.user, first()).await.unwrap().items;
    assert_eq!(history.iter().map(|login| login.outcome).collect::<Vec<_>>(), [Outcome::RefreshReuse]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_refreshes_of_one_token_cost_one_rotation_and_get_one_answer() {
    let (world, session) = begun().await;
    let hold = world.faults.hold_calls("sessions.rotate", 1);
    let together = join_all((0..100).map(|_| refreshes(&world, &session, 0)));
    let (answers, ()) = tokio::join!(together, async {
        hold.reached(1).await;
        hold.release();
    });
    let expires_at = START.plus(REFRESH.ttl);
    for answer in answers {
        assert_eq!(answer, Ok(Refreshed { version: 0, expires_at }));
    }
    assert_eq!(world.faults.calls("sessions.rotate"), 1);
    is_no_alarm(&world, &session).await;
    let stored = world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap();
    assert_eq!(stored.live, token(&session, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refreshes_of_one_token_at_two_nodes_get_one_answer() {
    let (world, session) = begun().await;
    let other = world.another_node().await;
    for n in 0..20 {
        // Both have read the row before one of them rotates.
        let hold = world.faults.hold_answers("sessions.get", 2);
        let (one, two, ()) =
            tokio::join!(refreshes(&world, &session, n), refreshes(&other, &session, n), async {
                hold.reached(2).await;
                hold.release();
            });
        assert_eq!(one, two, "generation {n}");
        assert!(one.is_ok(), "{one:?}");
    }
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn within_the_grace_a_spent_token_gets_the_same_end_again() {
    let (world, session) = begun().await;
    let other = world.another_node().await;
    let answer = refreshes(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace - std::time::Duration::from_millis(1));
    assert_eq!(refreshes(&world, &session, 0).await, answer);
    assert_eq!(refreshes(&other, &session, 0).await, answer);
    // Also when the successor has been spent meanwhile.
    let next = refreshes(&world, &session, 1).await;
    assert_ne!(next, answer);
    assert_eq!(refreshes(&world, &session, 0).await, answer);
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn after_the_grace_a_spent_token_revokes_its_session_and_the_history_says_so() {
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked), "the thief is out too");
    is_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_plain_read_that_is_behind_is_no_alarm() {
    let (world, session) = begun().await;
    let rows = async |session: &Session| world.stores.sessions.get(session.user, session.id).await.unwrap();
    let old = rows(&session).await;
    let answer = refreshes(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace / 2);
    // The spent token: the row says that it is the live one.
    world.faults.answer("sessions.get", old.clone());
    assert_eq!(refreshes(&world, &session, 0).await, answer);
    // The live token: the row has not heard of it.
    world.clock.advance(REFRESH.grace);
    world.faults.answer("sessions.get", old.clone());
    assert!(refreshes(&world, &session, 1).await.is_ok());
    is_no_alarm(&world, &session).await;
    // But a token that was spent long ago is one, whatever the row said.
    world.clock.advance(REFRESH.grace);
    world.faults.answer("sessions.get", old);
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_refresh_whose_rotation_is_unavailable_leaves_the_token_showable() {
    let (world, session) = begun().await;
    let refresh = async |n| world.actors.sessions.refresh(shows(&session, n)).await;
    world.faults.fail("sessions.rotate", 1);
    assert_eq!(refresh(0).await, Err(ActorError::Unavailable));
    assert!(refresh(0).await.unwrap().is_ok());
    // It had happened, and only the answer was lost.
    world.faults.lose("sessions.rotate", 1);
    assert_eq!(refresh(1).await, Err(ActorError::Unavailable));
    assert!(refresh(1).await.unwrap().is_ok());
    assert!(refresh(2).await.unwrap().is_ok());
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn an_unspent_token_is_expired_at_its_end_and_no_alarm() {
    let (world, session) = begun().await;
    world.clock.advance(session.expires_at.since(Timestamp::EPOCH) - START.since(Timestamp::EPOCH));
    assert_eq!(refreshes(&world, &session, 0).await, Err(RefreshRefusal::Expired));
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn an_alarm_is_raised_when_its_asker_is_gone() {
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    let hold = world.faults.hold_calls("sink.publish", 1);
    crate::world::abandoned(world.actors.sessions.refresh(shows(&session, 0)), &hold).await;
    assert!(world.facts.denials().refuses_session(session.id));
    hold.release();
    crate::world::eventually("the alarm", async || {
        let history = world.stores.logins.list(session.user, first()).await.unwrap().items;
        !world.has_row(session.user, session.id).await && !history.is_empty()
    })
    .await;
    is_alarm(&world, &session).await;
}
