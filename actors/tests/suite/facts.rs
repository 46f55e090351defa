//! How long facts live, and how a node recovers from facts that it missed.

use std::time::Duration;

use actors::{Lifetimes, user::GrantChange};
use schema::{Fact, FactKind, Timestamp, horizon::manual::horizon_at, permission::Grant, time::CLOCK_SKEW};

use crate::world::{ACCESS_TTL, START, World, within};

#[tokio::test]
async fn fact_lives_until_the_last_earlier_access_token_expires() {
    let world = World::start().await;
    let user = world.user().await.id;
    let until = async |at_least| {
        world.facts.apply_and_publish(&[FactKind::UserVersion { user, at_least }]).await.unwrap();
        world.sink.published().last().unwrap().until
    };
    assert_eq!(until(1).await, START.plus(ACCESS_TTL));
    // Access tokens live longer from now on.
    let hour = Lifetimes { access_ttl: Duration::from_secs(3600), access_horizon: Timestamp::EPOCH };
    world.facts.set_lifetimes(hour);
    assert_eq!(world.facts.lifetimes(), hour);
    assert_eq!(until(2).await, START.plus(Duration::from_secs(3600)));
    // They live shorter again, but tokens of an hour are still valid.
    let horizon = START.plus(Duration::from_secs(3600));
    world.facts.set_lifetimes(Lifetimes { access_ttl: Duration::from_secs(60), access_horizon: horizon });
    assert_eq!(until(3).await, horizon);
    world.clock.advance(Duration::from_secs(3599));
    assert_eq!(until(4).await, START.plus(Duration::from_secs(3599 + 60)));
}

#[tokio::test]
async fn fact_lives_longer_by_the_lead_of_the_fastest_clock() {
    let world = World::start().await;
    let user = world.user().await.id;
    let until = async |ahead| {
        world.facts.set_clock_ahead(ahead);
        world.facts.apply_and_publish(&[FactKind::UserVersion { user, at_least: 1 }]).await.unwrap();
        world.sink.published().last().unwrap().until
    };
    // The last value counts, even if it is lower: the other clock may have been corrected.
    let seconds = [0, 3, 90, 10, 0].map(Duration::from_secs);
    for ahead in seconds {
        assert_eq!(until(ahead).await, START.plus(ACCESS_TTL + ahead), "{ahead:?}");
    }
    let published: Vec<_> = world.sink.published().iter().map(|fact| fact.until).collect();
    assert_eq!(
        published,
        seconds.map(|ahead| START.plus(ACCESS_TTL + ahead)),
        "earlier facts stay as they are"
    );
    // The lead also extends the horizon of tokens that were issued when they lived longer.
    let ahead = Duration::from_secs(90);
    let horizon = START.plus(ACCESS_TTL * 4);
    world.facts.set_lifetimes(Lifetimes { access_ttl: ACCESS_TTL, access_horizon: horizon });
    assert_eq!(until(ahead).await, horizon.plus(ahead));
    world.clock.advance(ACCESS_TTL * 4);
    assert_eq!(until(ahead).await, START.plus(ACCESS_TTL * 5 + ahead));
    assert_eq!(until(Duration::MAX).await, Timestamp::from_millis(u64::MAX));
}

#[tokio::test]
async fn denial_is_kept_longer_by_the_lead_of_the_fastest_clock() {
    let [none, some, more] = [0, 90, 3_600].map(Duration::from_secs);
    // Revoked twice, with these leads of another clock: the larger one counts, in either order.
    for (first, second, furthest) in
        [(none, none, none), (some, some, some), (none, some, some), (more, some, more), (more, none, more)]
    {
        let world = World::start().await;
        let user = world.user().await.id;
        let session = world.samples.session(user).id;
        for ahead in [first, second] {
            world.facts.set_clock_ahead(ahead);
            world.facts.apply_and_publish(&[FactKind::SessionRevoked { user, session }]).await.unwrap();
        }
        // A later lead does not change earlier denials.
        world.facts.set_clock_ahead(none);
        let end = START.plus(ACCESS_TTL + furthest);
        world.facts.denials().forget(horizon_at(end), Duration::ZERO);
        assert!(world.refuses(user, session, 0), "{first:?}, then {second:?}");
        world.facts.denials().forget(horizon_at(end.plus(CLOCK_SKEW)), CLOCK_SKEW);
        assert!(world.refuses(user, session, 0), "{first:?}, then {second:?}");
        world.facts.denials().forget(horizon_at(end.plus(Duration::from_millis(1))), Duration::ZERO);
        assert!(!world.refuses(user, session, 0), "{first:?}, then {second:?}");
    }
}

/// The node that made a fact has set its end, with regard to its own measure of the clocks.
#[tokio::test]
async fn received_fact_keeps_its_end_whatever_clock_is_ahead() {
    let world = World::start().await;
    let user = world.user().await.id;
    let until = START.plus(ACCESS_TTL);
    let session = world.samples.session(user).id;
    world.facts.set_clock_ahead(Duration::from_secs(3_600));
    world.facts.apply(&Fact { kind: FactKind::SessionRevoked { user, session }, until });
    world.facts.denials().forget(horizon_at(until), Duration::ZERO);
    assert!(world.refuses(user, session, 0));
    world.facts.denials().forget(horizon_at(until.plus(Duration::from_millis(1))), Duration::ZERO);
    assert!(!world.refuses(user, session, 0));
}

#[tokio::test]
async fn denial_is_kept_until_its_fact_ends() {
    let world = World::start().await;
    let user = world.user().await.id;
    let session = world.samples.session(world.user().await.id).id;
    let lifetimes = Lifetimes { access_ttl: ACCESS_TTL * 2, access_horizon: Timestamp::EPOCH };
    world.facts.set_lifetimes(lifetimes);
    world.facts.apply_and_publish(&[FactKind::SessionRevoked { user, session }]).await.unwrap();
    world.facts.denials().forget(horizon_at(START.plus(ACCESS_TTL * 2)), Duration::ZERO);
    assert!(world.refuses(user, session, 0));
    world
        .facts
        .denials()
        .forget(horizon_at(START.plus(ACCESS_TTL * 2 + Duration::from_millis(1))), Duration::ZERO);
    assert!(!world.refuses(user, session, 0));
}

#[tokio::test]
async fn missed_facts_make_the_node_reload_permissions() {
    let world = World::start().await;
    let permission = world.samples.stored_permission(&world.stores, "read_books").await;
    let mut users = Vec::new();
    for _ in 0..3 {
        let user = world.user().await.id;
        world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
        assert!(world.may(user, "read_books").await);
        // Another node takes the permission, and this node misses the fact.
        world.stores.grants.take(user, Grant::Permission(permission.id)).await.unwrap();
        assert!(world.may(user, "read_books").await, "the cached answer");
        users.push(user);
    }
    assert_eq!(world.facts.snapshots().count(), 3);
    world.facts.invalidate_all_permissions();
    assert_eq!(world.facts.snapshots().count(), 0);
    for user in users {
        assert!(!world.may(user, "read_books").await);
    }
}

#[tokio::test]
async fn missed_facts_repeat_the_loads_under_way() {
    let world = World::start().await;
    let user = world.user().await.id;
    let permission = world.samples.stored_permission(&world.stores, "read_books").await;
    world.actors.users.give(user, GrantChange::Permission(permission.clone())).await.unwrap();
    let hold = world.faults.hold_answers("grants.effective", 1);
    let (may, ()) = tokio::join!(world.may(user, "read_books"), async {
        within("the load", hold.reached(1)).await;
        world.stores.grants.take(user, Grant::Permission(permission.id)).await.unwrap();
        world.facts.invalidate_all_permissions();
        hold.release();
    });
    assert!(!may, "also for a caller that asked before");
    assert!(!world.may(user, "read_books").await);
}

#[tokio::test]
async fn missed_facts_keep_the_denials() {
    let world = World::start().await;
    let user = world.user().await.id;
    let session = world.samples.stored_session(&world.stores, user).await;
    world.actors.sessions.end(user, session.id).await.unwrap();
    world.facts.invalidate_all_permissions();
    assert!(world.refuses(user, session.id, 0));
}
