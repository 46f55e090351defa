//! Spending refresh tokens.

use actors::{
    ActorError,
    session::{RefreshRefusal, RefreshRequest, Refreshed},
};
use futures_util::future::join_all;
use schema::{
    FactKind, Timestamp,
    login::Outcome,
    session::{SecretHash, Session},
};
use store::conformance::sample::first;

use crate::world::{ACCESS_TTL, Node, REFRESH, START, World, within};

/// The token of the `n`th generation. The session's first token is of generation 0.
pub fn token(session: &Session, n: u8) -> SecretHash {
    if n == 0 { session.live } else { SecretHash::new([n; 32]) }
}

pub fn request(session: &Session, n: u8) -> RefreshRequest {
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

pub async fn refresh(node: &Node, session: &Session, n: u8) -> Result<Refreshed, RefreshRefusal> {
    within("a refresh", node.actors.sessions.refresh(request(session, n))).await.unwrap()
}

pub async fn setup() -> (World, Session) {
    let world = World::start().await;
    let user = world.user().await;
    let session = world.samples.stored_session(&world.stores, user.id).await;
    (world, session)
}

/// Asserts that the session lives and that no alarm was raised.
pub async fn assert_no_alarm(world: &World, session: &Session) {
    assert!(world.has_row(session.user, session.id).await);
    assert!(!world.facts.denials().refuses_session(session.id));
    assert_eq!(world.sink.published(), []);
    assert!(world.stores.logins.list(session.user, first()).await.unwrap().items.is_empty());
}

/// Asserts that the session was revoked for the reuse of a token.
pub async fn assert_alarm(world: &World, session: &Session) {
    assert!(!world.has_row(session.user, session.id).await);
    assert!(world.facts.denials().refuses_session(session.id));
    assert!(world.sink.has(FactKind::SessionRevoked { user: session.user, session: session.id }));
    let history = world.stores.logins.list(session.user, first()).await.unwrap().items;
    assert_eq!(history.iter().map(|login| login.outcome).collect::<Vec<_>>(), [Outcome::RefreshReuse]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_refreshes_of_one_token_share_one_rotation() {
    let (world, session) = setup().await;
    let hold = world.faults.hold_calls("sessions.rotate", 1);
    let together = join_all((0..100).map(|_| refresh(&world, &session, 0)));
    let (answers, ()) = tokio::join!(together, async {
        hold.reached(1).await;
        hold.release();
    });
    let expires_at = START.plus(REFRESH.ttl);
    for answer in answers {
        assert_eq!(answer, Ok(Refreshed { version: 0, expires_at }));
    }
    assert_eq!(world.faults.calls("sessions.rotate"), 1);
    assert_no_alarm(&world, &session).await;
    let stored = world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap();
    assert_eq!(stored.live, token(&session, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refreshes_of_one_token_on_two_nodes_get_one_answer() {
    let (world, session) = setup().await;
    let other = world.another_node().await;
    for n in 0..20 {
        // Both nodes read the token as live before one of them rotates.
        let hold = world.faults.hold_calls("sessions.rotate", 2);
        let (one, two, ()) =
            tokio::join!(refresh(&world, &session, n), refresh(&other, &session, n), async {
                hold.reached(2).await;
                hold.release();
            });
        assert_eq!(one, two, "generation {n}");
        assert!(one.is_ok(), "{one:?}");
    }
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn spent_token_gets_the_same_expiry_within_the_grace() {
    let (world, session) = setup().await;
    let other = world.another_node().await;
    let answer = refresh(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace - std::time::Duration::from_millis(1));
    assert_eq!(refresh(&world, &session, 0).await, answer);
    assert_eq!(refresh(&other, &session, 0).await, answer);
    // Also after the successor was spent.
    let next = refresh(&world, &session, 1).await;
    assert_ne!(next, answer);
    assert_eq!(refresh(&world, &session, 0).await, answer);
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn spent_token_revokes_its_session_after_the_grace() {
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
    assert_eq!(
        refresh(&world, &session, 1).await,
        Err(RefreshRefusal::Revoked),
        "the session ends for the thief too"
    );
    assert_alarm(&world, &session).await;
}

#[tokio::test]
async fn stale_read_raises_no_alarm() {
    let (world, session) = setup().await;
    let rows = async |session: &Session| world.stores.sessions.get(session.user, session.id).await.unwrap();
    let old = rows(&session).await;
    let answer = refresh(&world, &session, 0).await;
    world.clock.advance(REFRESH.grace / 2);
    // The spent token: in the stale row it is live.
    world.faults.answer("sessions.get", old.clone());
    assert_eq!(refresh(&world, &session, 0).await, answer);
    // The live token: the stale row does not have it.
    world.clock.advance(REFRESH.grace);
    world.faults.answer("sessions.get", old.clone());
    assert!(refresh(&world, &session, 1).await.is_ok());
    assert_no_alarm(&world, &session).await;
    // But a token beyond its grace raises an alarm whatever the stale row contains.
    world.clock.advance(REFRESH.grace);
    world.faults.answer("sessions.get", old);
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
}

#[tokio::test]
async fn token_can_be_repeated_after_an_unavailable_rotation() {
    let (world, session) = setup().await;
    let refresh = async |n| world.actors.sessions.refresh(request(&session, n)).await;
    world.faults.fail("sessions.rotate", 1);
    assert_eq!(refresh(0).await, Err(ActorError::Unavailable));
    assert!(refresh(0).await.unwrap().is_ok());
    // The rotation happened, and only the answer was lost.
    world.faults.lose("sessions.rotate", 1);
    assert_eq!(refresh(1).await, Err(ActorError::Unavailable));
    assert!(refresh(1).await.unwrap().is_ok());
    assert!(refresh(2).await.unwrap().is_ok());
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn unspent_token_expires_without_an_alarm() {
    let (world, session) = setup().await;
    world.clock.advance(session.expires_at.since(Timestamp::EPOCH) - START.since(Timestamp::EPOCH));
    assert_eq!(refresh(&world, &session, 0).await, Err(RefreshRefusal::Expired));
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn alarm_is_raised_when_the_caller_goes_away() {
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    world.clock.advance(REFRESH.grace);
    let hold = world.faults.hold_calls("sink.publish", 1);
    crate::world::abandoned(world.actors.sessions.refresh(request(&session, 0)), &hold).await;
    assert!(world.facts.denials().refuses_session(session.id));
    hold.release();
    crate::world::eventually("the alarm", async || {
        let history = world.stores.logins.list(session.user, first()).await.unwrap().items;
        !world.has_row(session.user, session.id).await && !history.is_empty()
    })
    .await;
    assert_alarm(&world, &session).await;
}

/// The number of reads of users, reads of sessions, and rotations.
fn calls(world: &World) -> [usize; 3] {
    ["users.get", "sessions.get", "sessions.rotate"].map(|method| world.faults.calls(method))
}

/// A session that this node remembers because it has rotated it once. Its live token is of generation 1.
async fn setup_known() -> (World, Session) {
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    (world, session)
}

#[tokio::test]
async fn known_session_is_refreshed_with_one_store_call() {
    let (world, session) = setup().await;
    refresh(&world, &session, 0).await.unwrap();
    assert_eq!(calls(&world), [1, 1, 1]);
    for n in 1..=5 {
        let before = world.faults.store_calls();
        world.clock.advance(REFRESH.grace);
        let refreshed = refresh(&world, &session, n).await.unwrap();
        assert_eq!(refreshed.expires_at, schema::Clock::now(&*world.clock).plus(REFRESH.ttl));
        assert_eq!(world.faults.store_calls() - before, 1, "generation {n}");
    }
    assert_eq!(calls(&world), [1, 1, 6]);
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn known_user_is_read_again_after_the_access_token_lifetime() {
    let (world, session) = setup_known().await;
    // The user's version rises, but the node misses the fact and the row stays.
    let mut user = world.stored(session.user).await;
    (user.version, user.revision) = (1, user.revision + 1);
    world.stores.users.replace(&user).await.unwrap();
    world.clock.advance(ACCESS_TTL - std::time::Duration::from_millis(1));
    assert!(refresh(&world, &session, 1).await.is_ok());
    assert_eq!(calls(&world), [1, 1, 2]);
    // The rotation did not renew the remembered version.
    world.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(refresh(&world, &session, 2).await, Err(RefreshRefusal::Revoked));
    assert_eq!(calls(&world), [2, 2, 2]);
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn session_read_again_is_known_again() {
    let (world, session) = setup_known().await;
    world.clock.advance(ACCESS_TTL);
    for n in 1..=3 {
        assert!(refresh(&world, &session, n).await.is_ok());
    }
    assert_eq!(calls(&world), [2, 2, 4]);
}

#[tokio::test]
async fn known_session_ages_sooner_with_shorter_access_tokens() {
    let (world, session) = setup_known().await;
    let minute = std::time::Duration::from_secs(60);
    let lifetimes = actors::Lifetimes { access_ttl: minute, access_horizon: START.plus(ACCESS_TTL) };
    world.facts.set_lifetimes(lifetimes);
    world.clock.advance(minute);
    assert!(refresh(&world, &session, 1).await.is_ok());
    assert_eq!(calls(&world), [2, 2, 2]);
}

/// How another node ends a session that this node remembers.
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
async fn known_session_ended_on_another_node_is_refused() {
    use Elsewhere::{Delete, Disable, End, EndAll, Password, Reuse};
    for how in [End, EndAll, Password, Disable, Delete, Reuse] {
        let (world, session) = setup_known().await;
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
                assert_eq!(refresh(&other, &session, 0).await, Err(RefreshRefusal::Revoked));
            }
        }
        let published = world.sink.published();
        assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Revoked), "{how:?}");
        assert!(!world.facts.denials().refuses_session(session.id), "{how:?}: no fact arrived");
        assert_eq!(world.sink.published(), published, "{how:?}: no alarm was raised");
    }
}

#[tokio::test]
async fn password_change_elsewhere_refuses_old_token_without_alarm() {
    let (world, session) = setup_known().await;
    let other = world.another_node().await;
    let live = world.samples.hash();
    let confirmed = world.stored(session.user).await.password.unwrap();
    let own = actors::user::OwnChange { confirmed, token_version: 0, session: session.id, live };
    let hash = schema::user::PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$bmV3".into());
    let password = actors::user::NewPassword { hash, own: Some(own) };
    let (version, ..) = other.actors.users.change_password(session.user, password).await.unwrap();
    assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert!(world.has_row(session.user, session.id).await);
    // Both nodes accept its new token.
    let request = RefreshRequest { version, presented: live, ..request(&session, 7) };
    let refreshed = within("a refresh", world.actors.sessions.refresh(request)).await.unwrap();
    assert_eq!(refreshed.unwrap().version, version);
}

#[tokio::test]
async fn received_fact_refuses_a_known_session_with_a_row() {
    let revocations: [fn(&Session) -> FactKind; 2] = [
        |session| FactKind::UserVersion { user: session.user, at_least: 1 },
        |session| FactKind::SessionRevoked { user: session.user, session: session.id },
    ];
    for kind in revocations {
        let (world, session) = setup_known().await;
        let kind = kind(&session);
        let before = world.faults.store_calls();
        world.facts.apply(&schema::Fact { kind, until: START.plus(ACCESS_TTL) });
        assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Revoked), "{kind:?}");
        assert_eq!(world.faults.store_calls(), before, "{kind:?}: no store call is needed");
        assert!(world.has_row(session.user, session.id).await, "{kind:?}");
    }
}

#[tokio::test]
async fn spent_token_known_as_live_gets_its_successor_in_grace() {
    let (world, session) = setup_known().await;
    let other = world.another_node().await;
    let answer = refresh(&other, &session, 1).await;
    world.clock.advance(REFRESH.grace - std::time::Duration::from_millis(1));
    assert!(answer.is_ok());
    assert_eq!(refresh(&world, &session, 1).await, answer);
    // Also after the other node has spent the successor.
    let next = refresh(&other, &session, 2).await;
    assert_eq!(refresh(&world, &session, 1).await, answer);
    assert_eq!(refresh(&world, &session, 2).await, next);
    assert!(refresh(&world, &session, 3).await.is_ok());
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn live_token_unknown_to_the_node_is_spent() {
    let (world, session) = setup_known().await;
    let other = world.another_node().await;
    refresh(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert!(refresh(&world, &session, 2).await.is_ok());
    // Now the other node remembers an old session.
    world.clock.advance(REFRESH.grace);
    assert!(refresh(&other, &session, 3).await.is_ok());
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn spent_token_known_as_live_is_an_alarm_after_the_grace() {
    let (world, session) = setup_known().await;
    let other = world.another_node().await;
    refresh(&other, &session, 1).await.unwrap();
    world.clock.advance(REFRESH.grace);
    assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Revoked));
    assert_alarm(&world, &session).await;
    assert_eq!(
        refresh(&other, &session, 2).await,
        Err(RefreshRefusal::Revoked),
        "the session ends for the thief too"
    );
}

#[tokio::test]
async fn lost_rotation_is_retried_with_the_stored_session() {
    let (world, session) = setup_known().await;
    let row = world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap();
    world.faults.answer("sessions.rotate", store::Rotated::Lost(Box::new(row)));
    assert!(refresh(&world, &session, 1).await.is_ok());
    assert_no_alarm(&world, &session).await;
    // The retry reads the user: it is disabled now, and the session's row is still stored.
    let mut user = world.stored(session.user).await;
    (user.active, user.revision) = (false, user.revision + 1);
    world.stores.users.replace(&user).await.unwrap();
    let row = world.stores.sessions.get(session.user, session.id).await.unwrap().unwrap();
    world.faults.answer("sessions.rotate", store::Rotated::Lost(Box::new(row)));
    assert_eq!(refresh(&world, &session, 2).await, Err(RefreshRefusal::Revoked));
}

#[tokio::test]
async fn known_token_expires_without_an_alarm() {
    let (world, session) = setup_known().await;
    let lifetimes = actors::Lifetimes { access_ttl: REFRESH.ttl * 2, access_horizon: Timestamp::EPOCH };
    world.facts.set_lifetimes(lifetimes);
    world.clock.advance(REFRESH.ttl);
    assert_eq!(refresh(&world, &session, 1).await, Err(RefreshRefusal::Expired));
    assert_eq!(calls(&world), [1, 1, 1], "the session is remembered");
    assert_no_alarm(&world, &session).await;
}
