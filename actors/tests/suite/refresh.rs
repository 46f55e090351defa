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

use crate::world::{ACCESS_TTL, Node, REFRESH, START, World, within};

/// The token of the `n`th generation; the session's first is of generation 0.
pub fn token(session: &Session, n: u8) -> SecretHash {
    if n == 0 { session.live } else { SecretHash::new([n; 32]) }
}

pub fn shows(session: &Session, n: u8) -> RefreshRequest {
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

pub async fn refreshes(node: &Node, session: &Session, n: u8) -> Result<Refreshed, RefreshRefusal> {
    within("a refresh", node.actors.sessions.refresh(shows(session, n))).await.unwrap()
}

pub async fn begun() -> (World, Session) {
    let world = World::start().await;
    let user = world.user().await;
    let session = world.samples.stored_session(&world.stores, user.id).await;
    (world, session)
}

/// The session goes on, and nobody was warned.
pub async fn is_no_alarm(world: &World, session: &Session) {
    assert!(world.has_row(session.user, session.id).await);
    assert!(!world.facts.denials().refuses_session(session.id));
    assert_eq!(world.sink.published(), []);
    assert!(world.stores.logins.list(session.user, first()).await.unwrap().items.is_empty());
}

pub async fn is_alarm(world: &World, session: &Session) {
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
        // Both take it for the live one before one of them rotates.
        let hold = world.faults.hold_calls("sessions.rotate", 2);
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

/// How often the user was read, the session was read, and a rotation was tried.
fn calls(world: &World) -> [usize; 3] {
    ["users.get", "sessions.get", "sessions.rotate"].map(|method| world.faults.calls(method))
}

/// A session that this node has rotated once, so that it knows it: its live token is of generation 1.
async fn known() -> (World, Session) {
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    (world, session)
}

#[tokio::test]
async fn a_session_that_this_node_rotated_last_is_refreshed_with_one_call() {
    let (world, session) = begun().await;
    refreshes(&world, &session, 0).await.unwrap();
    assert_eq!(calls(&world), [1, 1, 1]);
    for n in 1..=5 {
        let before = world.faults.store_calls();
        world.clock.advance(REFRESH.grace);
        let refreshed = refreshes(&world, &session, n).await.unwrap();
        assert_eq!(refreshed.expires_at, schema::Clock::now(&*world.clock).plus(REFRESH.ttl));
        assert_eq!(world.faults.store_calls() - before, 1, "generation {n}");
    }
    assert_eq!(calls(&world), [1, 1, 6]);
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn what_is_known_of_a_user_is_read_again_when_access_tokens_of_then_have_ended() {
    let (world, session) = known().await;
    // Raised, and neither is a fact heard nor is the row gone.
    let mut user = world.stored(session.user).await;
    (user.version, user.revision) = (1, user.revision + 1);
    world.stores.users.replace(&user).await.unwrap();
    world.clock.advance(ACCESS_TTL - std::time::Duration::from_millis(1));
    assert!(refreshes(&world, &session, 1).await.is_ok());
    assert_eq!(calls(&world), [1, 1, 2]);
    // The rotation did not make it younger.
    world.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(refreshes(&world, &session, 2).await, Err(RefreshRefusal::Revoked));
    assert_eq!(calls(&world), [2, 2, 2]);
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn what_was_read_again_is_known_again() {
    let (world, session) = known().await;
    world.clock.advance(ACCESS_TTL);
    for n in 1..=3 {
        assert!(refreshes(&world, &session, n).await.is_ok());
    }
    assert_eq!(calls(&world), [2, 2, 4]);
}

#[tokio::test]
async fn what_is_known_gets_old_sooner_when_access_tokens_live_shorter() {
    let (world, session) = known().await;
    let minute = std::time::Duration::from_secs(60);
    let lifetimes = actors::Lifetimes { access_ttl: minute, access_horizon: START.plus(ACCESS_TTL) };
    world.facts.set_lifetimes(lifetimes);
    world.clock.advance(minute);
    assert!(refreshes(&world, &session, 1).await.is_ok());
    assert_eq!(calls(&world), [2, 2, 2]);
}

/// How another node ends what is known here.
#[derive(Debug, Clone, Copy)]
enum Elsewhere {
    End,
    EndAll,
    Password,
    Disable,
    Delete,
    Reuse,
}

#[tokio::test]
async fn what_another_node_ended_is_refused_though_it_is_known_here() {
    use Elsewhere::{Delete, Disable, End, EndAll, Password, Reuse};
    for how in [End, EndAll, Password, Disable, Delete, Reuse] {
        let (world, session) = known().await;
        let other = world.another_node().await;
        let users = &other.actors.users;
        match how {
            End => drop(other.actors.sessions.end(session.user, session.id).await.unwrap()),
            EndAll => drop(users.end_all_sessions(session.user, 1).await.unwrap()),
            Password => {
                let hash = schema::user::PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$bmV3".into());
                let password = actors::user::NewPassword { hash, own: None };
                users.change_password(session.user, password).await.unwrap();
            }
            Disable => drop(users.set_active(session.user, false).await.unwrap()),
            Delete => drop(users.delete(session.user).await.unwrap()),
            Reuse => {
                world.clock.advance(REFRESH.grace);
                assert_eq!(refreshes(&other, &session, 0).await, Err(RefreshRefusal::Revoked));
            }
        }
        let published = world.sink.published();
        assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked), "{how:?}");
        assert!(!world.facts.denials().refuses_session(session.id), "{how:?}: no fact was heard");
        assert_eq!(world.sink.published(), published, "{how:?}: and that is no alarm");
    }
}

#[tokio::test]
async fn a_session_that_went_on_with_a_new_password_elsewhere_is_refused_here_and_no_alarm() {
    let (world, session) = known().await;
    let other = world.another_node().await;
    let live = world.samples.hash();
    let confirmed = world.stored(session.user).await.password.unwrap();
    let own = actors::user::OwnChange { confirmed, token_version: 0, session: session.id, live };
    let hash = schema::user::PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$bmV3".into());
    let password = actors::user::NewPassword { hash, own: Some(own) };
    let (version, ..) = other.actors.users.change_password(session.user, password).await.unwrap();
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert!(world.has_row(session.user, session.id).await);
    // Its new token is good at both.
    let request = RefreshRequest { version, presented: live, ..shows(&session, 7) };
    let refreshed = within("a refresh", world.actors.sessions.refresh(request)).await.unwrap();
    assert_eq!(refreshed.unwrap().version, version);
}

#[tokio::test]
async fn what_was_heard_refuses_though_the_session_is_known_and_its_row_is_there() {
    let revocations: [fn(&Session) -> FactKind; 2] = [
        |session| FactKind::UserVersion { user: session.user, at_least: 1 },
        |session| FactKind::SessionRevoked { user: session.user, session: session.id },
    ];
    for kind in revocations {
        let (world, session) = known().await;
        let (kind, before) = (kind(&session), world.faults.store_calls());
        world.facts.hear(&schema::Fact { kind, until: START.plus(ACCESS_TTL) });
        assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked), "{kind:?}");
        assert_eq!(world.faults.store_calls(), before, "{kind:?}: nobody needs to be asked");
        assert!(world.has_row(session.user, session.id).await, "{kind:?}");
    }
}

#[tokio::test]
async fn a_spent_token_that_is_known_as_live_gets_its_successor_within_the_grace() {
    let (world, session) = known().await;
    let other = world.another_node().await;
    let answer = refreshes(&other, &session, 1).await;
    world.clock.advance(REFRESH.grace - std::time::Duration::from_millis(1));
    assert!(answer.is_ok());
    assert_eq!(refreshes(&world, &session, 1).await, answer);
    // Also when the other node went on.
    let next = refreshes(&other, &session, 2).await;
    assert_eq!(refreshes(&world, &session, 1).await, answer);
    assert_eq!(refreshes(&world, &session, 2).await, next);
    assert!(refreshes(&world, &session, 3).await.is_ok());
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_live_token_that_is_not_the_known_one_is_spent() {
    let (world, session) = known().await;
    let other = world.another_node().await;
    refreshes(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert!(refreshes(&world, &session, 2).await.is_ok());
    // Now it is the other node that knows what is old.
    world.clock.advance(REFRESH.grace);
    assert!(refreshes(&other, &session, 3).await.is_ok());
    is_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn a_spent_token_that_is_known_as_live_is_an_alarm_after_the_grace() {
    let (world, session) = known().await;
    let other = world.another_node().await;
    refreshes(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    is_alarm(&world, &session).await;
    assert_eq!(refreshes(&other, &session, 2).await, Err(RefreshRefusal::Revoked), "the thief is out too");
}

#[tokio::test]
async fn a_lost_rotation_of_a_live_token_is_tried_again_with_what_is_stored() {
    let (world, session) = known().await;
    let row = world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap();
    world.faults.answer("sessions.rotate", schema::store::Rotated::Lost(Box::new(row)));
    assert!(refreshes(&world, &session, 1).await.is_ok());
    is_no_alarm(&world, &session).await;
    // The user was read on the way: disabled meanwhile, and the row is there still.
    let mut user = world.stored(session.user).await;
    (user.active, user.revision) = (false, user.revision + 1);
    world.stores.users.replace(&user).await.unwrap();
    let row = world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap();
    world.faults.answer("sessions.rotate", schema::store::Rotated::Lost(Box::new(row)));
    assert_eq!(refreshes(&world, &session, 2).await, Err(RefreshRefusal::Revoked));
}

#[tokio::test]
async fn a_known_token_at_its_end_is_expired_and_no_alarm() {
    let (world, session) = known().await;
    let lifetimes = actors::Lifetimes { access_ttl: REFRESH.ttl * 2, access_horizon: Timestamp::EPOCH };
    world.facts.set_lifetimes(lifetimes);
    world.clock.advance(REFRESH.ttl);
    assert_eq!(refreshes(&world, &session, 1).await, Err(RefreshRefusal::Expired));
    assert_eq!(calls(&world), [1, 1, 1], "it is known");
    is_no_alarm(&world, &session).await;
}
