//! Passwords, disabling, deleting.

use actors::{
    ActorError,
    session::{RefreshRefusal, RefreshRequest},
    user::{NewPassword, OwnChange, UserError},
};
use schema::{
    FactKind, UserId,
    conformance::sample::Samples,
    session::Session,
    text::PersonName,
    user::{PasswordHash, User},
};

use crate::world::{Node, World, abandoned, eventually, within};

/// What kills every earlier token of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    Password,
    Disable,
    Delete,
}

const ALL: [Kill; 3] = [Kill::Password, Kill::Disable, Kill::Delete];

fn new_hash() -> PasswordHash {
    PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$bmV3".into())
}

impl Kill {
    async fn done(self, node: &Node, user: UserId) -> Result<(), UserError> {
        let users = &node.actors.users;
        let call = async {
            match self {
                Self::Password => {
                    users.change_password(user, NewPassword { hash: new_hash(), own: None }).await.map(drop)
                }
                Self::Disable => users.set_active(user, false).await.map(drop),
                Self::Delete => users.delete(user).await.map(drop),
            }
        };
        within("the change", call).await
    }

    /// What it does to the store.
    const fn store_call(self) -> &'static str {
        match self {
            Self::Password | Self::Disable => "users.replace",
            Self::Delete => "users.delete",
        }
    }

    async fn is_stored(self, world: &World, user: UserId) -> bool {
        let stored = world.stores.users.get(user).await.unwrap();
        match self {
            Self::Password => stored.is_some_and(|user| user.password == Some(new_hash())),
            Self::Disable => stored.is_some_and(|user| !user.active),
            Self::Delete => stored.is_none(),
        }
    }
}

async fn begun() -> (World, UserId, Session) {
    let world = World::start().await;
    let user = world.user().await.id;
    let session = world.samples.stored_session(&world.stores, user).await;
    (world, user, session)
}

fn of_version(samples: &Samples, user: &User) -> Session {
    Session { user_version: user.version, ..samples.session(user.id) }
}

/// No token of the session gets anything any more.
async fn is_dead(world: &World, session: &Session) {
    assert!(world.refuses(session.user, session.id, session.user_version), "the access token");
    let request = RefreshRequest {
        user: session.user,
        session: session.id,
        version: session.user_version,
        presented: session.live,
        successor: world.samples.hash(),
        ip_address: session.ip_address,
        user_agent: None,
    };
    let refreshed = world.actors.sessions.refresh(request).await.unwrap();
    assert_eq!(refreshed, Err(RefreshRefusal::Revoked), "the refresh token");
}

#[tokio::test]
async fn every_earlier_token_is_dead_after_a_change_that_kills() {
    for kill in ALL {
        let (world, user, session) = begun().await;
        kill.done(&world, user).await.unwrap();
        assert!(kill.is_stored(&world, user).await, "{kill:?}");
        is_dead(&world, &session).await;
        assert!(!world.has_row(user, session.id).await, "{kill:?}");
        assert!(world.sink.has(FactKind::UserVersion { user, at_least: 1 }), "{kill:?}");
    }
}

#[tokio::test]
async fn who_logged_in_between_the_fact_and_the_change_is_denied_as_well() {
    for kill in ALL {
        let (world, user, session) = begun().await;
        let elsewhere = world.another_node().await;
        let hold = world.faults.hold_calls(kill.store_call(), 1);
        let log_in = async {
            within("the change is about to be made", hold.reached(1)).await;
            elsewhere.hear_all(&world.sink.published());
            let caught_up = elsewhere.actors.users.catch_up(user).await.unwrap();
            assert_eq!(caught_up.version, 1);
            let session = of_version(&world.samples, &caught_up);
            elsewhere.actors.sessions.open(session.clone()).await.unwrap();
            assert!(!elsewhere.refuses(user, session.id, session.user_version));
            hold.release();
            session
        };
        let (done, meanwhile) = tokio::join!(kill.done(&world, user), log_in);
        done.unwrap();
        assert!(kill.is_stored(&world, user).await, "{kill:?}");
        for session in [&session, &meanwhile] {
            is_dead(&world, session).await;
            assert!(!world.has_row(user, session.id).await, "{kill:?}");
        }
        // The other nodes hear of it too.
        elsewhere.hear_all(&world.sink.published());
        assert!(elsewhere.refuses(user, meanwhile.id, meanwhile.user_version), "{kill:?}");
    }
}

#[tokio::test]
async fn a_change_that_the_store_did_not_answer_is_done_by_asking_again() {
    for kill in [Kill::Password, Kill::Disable] {
        for happened in [false, true] {
            let (world, user, session) = begun().await;
            if happened {
                world.faults.lose("users.replace", 1);
            } else {
                world.faults.fail("users.replace", 1);
            }
            assert_eq!(kill.done(&world, user).await, Err(ActorError::Unavailable.into()));
            assert!(world.refuses(user, session.id, 0), "{kill:?}");
            kill.done(&world, user).await.unwrap();
            let case = format!("{kill:?}, happened: {happened}");
            assert!(kill.is_stored(&world, user).await, "{case}");
            is_dead(&world, &session).await;
            // What is denied is at least what is stored, and a log-in catches up with it.
            let stored = world.stored(user).await;
            assert!(world.facts.denials().user_version(user) >= stored.version, "{case}");
            let caught_up = world.actors.users.catch_up(user).await.unwrap();
            assert_eq!(world.facts.denials().user_version(user), caught_up.version, "{case}");
            assert!(world.sink.has(FactKind::UserVersion { user, at_least: stored.version }), "{case}");
        }
    }
}

#[tokio::test]
async fn a_deletion_that_the_store_did_not_answer_is_done_by_asking_again() {
    let (world, user, session) = begun().await;
    world.faults.fail("users.delete", 1);
    assert_eq!(Kill::Delete.done(&world, user).await, Err(ActorError::Unavailable.into()));
    is_dead(&world, &session).await;
    Kill::Delete.done(&world, user).await.unwrap();
    assert!(Kill::Delete.is_stored(&world, user).await);
    is_dead(&world, &session).await;
    assert_eq!(Kill::Delete.done(&world, user).await, Err(UserError::NotFound));
    // It had happened, and only the answer was lost: nobody knows the user any more.
    let (world, user, session) = begun().await;
    world.faults.lose("users.delete", 1);
    assert_eq!(Kill::Delete.done(&world, user).await, Err(ActorError::Unavailable.into()));
    is_dead(&world, &session).await;
    assert_eq!(Kill::Delete.done(&world, user).await, Err(UserError::NotFound));
}

#[tokio::test]
async fn a_change_whose_fact_is_not_durable_is_not_made() {
    for kill in ALL {
        let (world, user, session) = begun().await;
        world.faults.fail("sink.publish", 1);
        assert_eq!(kill.done(&world, user).await, Err(ActorError::Unavailable.into()), "{kill:?}");
        assert!(!kill.is_stored(&world, user).await, "{kill:?}");
        assert!(world.refuses(user, session.id, 0), "{kill:?}: denied is denied");
        kill.done(&world, user).await.unwrap();
        assert!(kill.is_stored(&world, user).await, "{kill:?}");
    }
}

#[tokio::test]
async fn a_change_that_kills_goes_on_when_its_asker_is_gone() {
    for kill in ALL {
        let (world, user, session) = begun().await;
        let hold = world.faults.hold_calls("sink.publish", 1);
        abandoned(kill.done(&world, user), &hold).await;
        assert!(world.refuses(user, session.id, 0), "{kill:?}");
        hold.release();
        eventually("the change", async || kill.is_stored(&world, user).await).await;
        eventually("the row goes", async || !world.has_row(user, session.id).await).await;
    }
}

#[tokio::test]
async fn the_session_that_changes_the_password_goes_on_and_no_other() {
    let (world, user, session) = begun().await;
    let other = world.samples.stored_session(&world.stores, user).await;
    let live = world.samples.hash();
    let confirmed = world.stored(user).await.password.unwrap();
    let own = OwnChange { confirmed, token_version: 0, session: session.id, live };
    let password = NewPassword { hash: new_hash(), own: Some(own) };
    let (version, expires_at, _) = world.actors.users.change_password(user, password).await.unwrap();
    is_dead(&world, &other).await;
    assert!(!world.has_row(user, other.id).await);
    assert!(world.refuses(user, session.id, 0));
    assert!(!world.refuses(user, session.id, version));
    let kept = world.stores.sessions.get(user, session.id).await.unwrap().unwrap();
    assert_eq!((kept.live, kept.user_version, kept.expires_at), (live, version, expires_at));
    // The token of before is dead, not a sign of theft.
    is_dead(&world, &session).await;
    assert!(world.has_row(user, session.id).await);
}

#[tokio::test]
async fn disabling_twice_publishes_again() {
    let (world, user, session) = begun().await;
    Kill::Disable.done(&world, user).await.unwrap();
    let version = world.stored(user).await.version;
    let kind = FactKind::UserVersion { user, at_least: version };
    assert_eq!(world.sink.times(kind), 1);
    // A node that has not heard of the first time.
    let elsewhere = world.another_node().await;
    Kill::Disable.done(&elsewhere, user).await.unwrap();
    assert_eq!(world.sink.times(kind), 2);
    assert!(elsewhere.refuses(user, session.id, 0));
    assert_eq!(world.stored(user).await.version, version, "nothing is left to kill");
}

#[tokio::test]
async fn who_is_enabled_again_logs_in_with_good_tokens_and_the_old_ones_stay_dead() {
    let (world, user, session) = begun().await;
    Kill::Disable.done(&world, user).await.unwrap();
    let (enabled, _) = world.actors.users.set_active(user, true).await.unwrap();
    assert!(enabled.active);
    let again = of_version(&world.samples, &enabled);
    world.actors.sessions.open(again.clone()).await.unwrap();
    assert!(!world.refuses(user, again.id, again.user_version));
    is_dead(&world, &session).await;
}

#[tokio::test]
async fn changes_of_one_user_at_two_nodes_are_all_made() {
    let world = World::start().await;
    let user = world.user().await.id;
    let other = world.another_node().await;
    let first = actors::user::ProfileChange {
        first_name: Some(PersonName::parse("Ann").unwrap()),
        ..Default::default()
    };
    let last = actors::user::ProfileChange {
        last_name: Some(PersonName::parse("Lee").unwrap()),
        ..Default::default()
    };
    let hold = world.faults.hold_answers("users.get", 2);
    let (one, two, ()) = tokio::join!(
        world.actors.users.change_profile(user, first),
        other.actors.users.change_profile(user, last),
        async {
            within("both have read", hold.reached(2)).await;
            hold.release();
        }
    );
    one.unwrap();
    two.unwrap();
    let stored = world.stored(user).await;
    assert_eq!((stored.first_name.as_deref(), stored.last_name.as_deref()), (Some("Ann"), Some("Lee")));
}
