//! Changes of users: passwords, disabling, deleting.

use actors::{
    ActorError,
    session::{RefreshRefusal, RefreshRequest},
    user::{NewPassword, OwnChange, UserError},
};
use schema::{
    FactKind, UserId,
    session::Session,
    text::PersonName,
    user::{PasswordHash, User},
};
use store::conformance::sample::Samples;

use crate::world::{Node, World, abandoned, eventually, within};

/// A change that revokes every earlier token of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revocation {
    Password,
    Disable,
    Delete,
}

const ALL: [Revocation; 3] = [Revocation::Password, Revocation::Disable, Revocation::Delete];

fn new_hash() -> PasswordHash {
    PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$bmV3".into())
}

impl Revocation {
    async fn run(self, node: &Node, user: UserId) -> Result<(), UserError> {
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

    /// The store call that makes the change.
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

async fn setup() -> (World, UserId, Session) {
    let world = World::start().await;
    let user = world.user().await.id;
    let session = world.samples.stored_session(&world.stores, user).await;
    (world, user, session)
}

fn of_version(samples: &Samples, user: &User) -> Session {
    Session { user_version: user.version, ..samples.session(user.id) }
}

/// Asserts that the node refuses both tokens of the session.
async fn assert_revoked(world: &World, session: &Session) {
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
async fn revoking_change_refuses_every_earlier_token() {
    for revocation in ALL {
        let (world, user, session) = setup().await;
        revocation.run(&world, user).await.unwrap();
        assert!(revocation.is_stored(&world, user).await, "{revocation:?}");
        assert_revoked(&world, &session).await;
        assert!(!world.has_row(user, session.id).await, "{revocation:?}");
        assert!(world.sink.has(FactKind::UserVersion { user, at_least: 1 }), "{revocation:?}");
    }
}

#[tokio::test]
async fn log_in_between_fact_and_change_is_denied_too() {
    for revocation in ALL {
        let (world, user, session) = setup().await;
        let elsewhere = world.another_node().await;
        let hold = world.faults.hold_calls(revocation.store_call(), 1);
        let log_in = async {
            within("the change is about to be made", hold.reached(1)).await;
            elsewhere.apply_all(&world.sink.published());
            let caught_up = elsewhere.actors.users.catch_up(user).await.unwrap();
            assert_eq!(caught_up.version, 1);
            let session = of_version(&world.samples, &caught_up);
            elsewhere.actors.sessions.open(session.clone()).await.unwrap();
            assert!(!elsewhere.refuses(user, session.id, session.user_version));
            hold.release();
            session
        };
        let (done, logged_in) = tokio::join!(revocation.run(&world, user), log_in);
        done.unwrap();
        assert!(revocation.is_stored(&world, user).await, "{revocation:?}");
        for session in [&session, &logged_in] {
            assert_revoked(&world, session).await;
            assert!(!world.has_row(user, session.id).await, "{revocation:?}");
        }
        // Other nodes refuse it too, by the published facts.
        elsewhere.apply_all(&world.sink.published());
        assert!(elsewhere.refuses(user, logged_in.id, logged_in.user_version), "{revocation:?}");
    }
}

#[tokio::test]
async fn change_without_an_answer_completes_when_repeated() {
    for revocation in [Revocation::Password, Revocation::Disable] {
        for happened in [false, true] {
            let (world, user, session) = setup().await;
            if happened {
                world.faults.lose("users.replace", 1);
            } else {
                world.faults.fail("users.replace", 1);
            }
            assert_eq!(revocation.run(&world, user).await, Err(ActorError::Unavailable.into()));
            assert!(world.refuses(user, session.id, 0), "{revocation:?}");
            revocation.run(&world, user).await.unwrap();
            let case = format!("{revocation:?}, happened: {happened}");
            assert!(revocation.is_stored(&world, user).await, "{case}");
            assert_revoked(&world, &session).await;
            // The denied version is at least the stored one, and a log-in raises the stored one to it.
            let stored = world.stored(user).await;
            assert!(world.facts.denials().user_version(user) >= stored.version, "{case}");
            let caught_up = world.actors.users.catch_up(user).await.unwrap();
            assert_eq!(world.facts.denials().user_version(user), caught_up.version, "{case}");
            assert!(world.sink.has(FactKind::UserVersion { user, at_least: stored.version }), "{case}");
        }
    }
}

#[tokio::test]
async fn deletion_without_an_answer_completes_when_repeated() {
    let (world, user, session) = setup().await;
    world.faults.fail("users.delete", 1);
    assert_eq!(Revocation::Delete.run(&world, user).await, Err(ActorError::Unavailable.into()));
    assert_revoked(&world, &session).await;
    Revocation::Delete.run(&world, user).await.unwrap();
    assert!(Revocation::Delete.is_stored(&world, user).await);
    assert_revoked(&world, &session).await;
    assert_eq!(Revocation::Delete.run(&world, user).await, Err(UserError::NotFound));
    // The deletion happened, and only the answer was lost.
    let (world, user, session) = setup().await;
    world.faults.lose("users.delete", 1);
    assert_eq!(Revocation::Delete.run(&world, user).await, Err(ActorError::Unavailable.into()));
    assert_revoked(&world, &session).await;
    assert_eq!(Revocation::Delete.run(&world, user).await, Err(UserError::NotFound));
}

#[tokio::test]
async fn change_is_not_made_unless_its_fact_is_durable() {
    for revocation in ALL {
        let (world, user, session) = setup().await;
        world.faults.fail("sink.publish", 1);
        assert_eq!(revocation.run(&world, user).await, Err(ActorError::Unavailable.into()), "{revocation:?}");
        assert!(!revocation.is_stored(&world, user).await, "{revocation:?}");
        assert!(world.refuses(user, session.id, 0), "{revocation:?}: the denial stays");
        revocation.run(&world, user).await.unwrap();
        assert!(revocation.is_stored(&world, user).await, "{revocation:?}");
    }
}

#[tokio::test]
async fn revoking_change_continues_when_its_caller_goes_away() {
    for revocation in ALL {
        let (world, user, session) = setup().await;
        let hold = world.faults.hold_calls("sink.publish", 1);
        abandoned(revocation.run(&world, user), &hold).await;
        assert!(world.refuses(user, session.id, 0), "{revocation:?}");
        hold.release();
        eventually("the change", async || revocation.is_stored(&world, user).await).await;
        eventually("the row is deleted", async || !world.has_row(user, session.id).await).await;
    }
}

#[tokio::test]
async fn password_change_keeps_only_its_own_session() {
    let (world, user, session) = setup().await;
    let other = world.samples.stored_session(&world.stores, user).await;
    let live = world.samples.hash();
    let confirmed = world.stored(user).await.password.unwrap();
    let own = OwnChange { confirmed, token_version: 0, session: session.id, live };
    let password = NewPassword { hash: new_hash(), own: Some(own) };
    let (version, expires_at, _) = world.actors.users.change_password(user, password).await.unwrap();
    assert_revoked(&world, &other).await;
    assert!(!world.has_row(user, other.id).await);
    assert!(world.refuses(user, session.id, 0));
    assert!(!world.refuses(user, session.id, version));
    let kept = world.stores.sessions.get(user, session.id).await.unwrap().unwrap();
    assert_eq!((kept.live, kept.user_version, kept.expires_at), (live, version, expires_at));
    // The earlier token is revoked, and is no sign of theft.
    assert_revoked(&world, &session).await;
    assert!(world.has_row(user, session.id).await);
}

#[tokio::test]
async fn disabling_twice_publishes_again() {
    let (world, user, session) = setup().await;
    Revocation::Disable.run(&world, user).await.unwrap();
    let version = world.stored(user).await.version;
    let kind = FactKind::UserVersion { user, at_least: version };
    assert_eq!(world.sink.times(kind), 1);
    // On a node that missed the first fact.
    let elsewhere = world.another_node().await;
    Revocation::Disable.run(&elsewhere, user).await.unwrap();
    assert_eq!(world.sink.times(kind), 2);
    assert!(elsewhere.refuses(user, session.id, 0));
    assert_eq!(world.stored(user).await.version, version, "there are no more tokens to revoke");
}

#[tokio::test]
async fn enabled_user_logs_in_and_its_old_tokens_stay_revoked() {
    let (world, user, session) = setup().await;
    Revocation::Disable.run(&world, user).await.unwrap();
    let (enabled, _) = world.actors.users.set_active(user, true).await.unwrap();
    assert!(enabled.active);
    let again = of_version(&world.samples, &enabled);
    world.actors.sessions.open(again.clone()).await.unwrap();
    assert!(!world.refuses(user, again.id, again.user_version));
    assert_revoked(&world, &session).await;
}

#[tokio::test]
async fn changes_of_one_user_on_two_nodes_are_all_made() {
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
