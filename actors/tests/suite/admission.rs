//! The bounded admission of requests.

use actors::{
    ActorError,
    session::RefreshRequest,
    shard::{SHARD_COUNT, SHARD_REQUESTS_MAX},
    user::{ProfileChange, UserError},
};
use futures_util::{FutureExt as _, future::join_all};
use schema::{UserId, user::User};

use crate::world::{World, within};

/// Starts as many of these calls as a shard admits.
fn filled<T, F: Future<Output = T>>(call: impl Fn() -> F) -> Vec<std::pin::Pin<Box<F>>> {
    let begin = |_| {
        let mut call = Box::pin(call());
        assert!((&mut call).now_or_never().is_none(), "the call waits");
        call
    };
    (0..SHARD_REQUESTS_MAX).map(begin).collect()
}

/// Two users of different shards.
async fn ann_and_bob(world: &World) -> (User, UserId) {
    let ann = world.user().await;
    let bob = world.user().await;
    let shard = |id: UserId| usize::from(id.as_bytes()[15]) % SHARD_COUNT;
    assert_ne!(shard(ann.id), shard(bob.id));
    (ann, bob.id)
}

#[tokio::test]
async fn refresh_beyond_admission_is_busy_at_once() {
    let world = World::start().await;
    let (ann, _) = ann_and_bob(&world).await;
    let session = world.samples.stored_session(&world.stores, ann.id).await;
    let successor = world.samples.hash();
    let refresh = || {
        world.actors.sessions.refresh(RefreshRequest {
            user: ann.id,
            session: session.id,
            version: 0,
            presented: session.live,
            successor,
            ip_address: session.ip_address,
            user_agent: None,
        })
    };
    let hold = world.faults.hold_calls("sessions.rotate", 1);
    let waiting = filled(refresh);
    assert_eq!(refresh().now_or_never(), Some(Err(ActorError::Busy)));
    hold.release();
    let answers = within("all admitted requests", join_all(waiting)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(_)))));
    assert!(within("a request after the others", refresh()).await.unwrap().is_ok());
}

#[tokio::test]
async fn user_change_beyond_admission_is_busy_at_once() {
    let world = World::start().await;
    let (ann, bob) = ann_and_bob(&world).await;
    let change = |user| world.actors.users.change_profile(user, ProfileChange::default());
    let hold = world.faults.hold_calls("users.get", 1);
    let waiting = filled(|| change(ann.id));
    assert_eq!(change(ann.id).now_or_never(), Some(Err(UserError::Actor(ActorError::Busy))));
    within("the first request runs", hold.reached(1)).await;
    assert!(within("another shard", change(bob)).await.is_ok());
    hold.release();
    let answers = within("all admitted requests", join_all(waiting)).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(within("a request after the others", change(ann.id)).await.is_ok());
}

#[tokio::test]
async fn only_uncached_queries_beyond_admission_are_busy() {
    let world = World::start().await;
    let (ann, bob) = ann_and_bob(&world).await;
    let ask = |user| world.actors.permissions.with(user, |snapshot| snapshot.exists);
    let hold = world.faults.hold_calls("grants.effective", 1);
    let waiting = filled(|| ask(ann.id));
    assert_eq!(ask(ann.id).now_or_never(), Some(Err(ActorError::Busy)));
    within("the load", hold.reached(1)).await;
    assert_eq!(within("another shard", ask(bob)).await, Ok(true));
    hold.release();
    let answers = within("all admitted requests", join_all(waiting)).await;
    assert!(answers.iter().all(|answer| *answer == Ok(true)));
}

#[tokio::test]
async fn denial_is_accepted_when_the_shard_is_full() {
    let world = World::start().await;
    let (ann, _) = ann_and_bob(&world).await;
    let session = world.samples.stored_session(&world.stores, ann.id).await;
    let hold = world.faults.hold_calls("users.get", 1);
    let change = || world.actors.users.change_profile(ann.id, ProfileChange::default());
    let waiting = filled(change);
    within("the first request runs", hold.reached(1)).await;
    assert_eq!(change().now_or_never(), Some(Err(UserError::Actor(ActorError::Busy))));
    within("the end", world.actors.sessions.end(ann.id, session.id)).await.unwrap();
    assert!(!world.has_row(ann.id, session.id).await);
    let other = world.samples.stored_session(&world.stores, ann.id).await;
    within("the end of all", world.actors.users.end_all_sessions(ann.id, 1)).await.unwrap();
    assert!(world.refuses(ann.id, other.id, 0));
    assert!(!world.has_row(ann.id, other.id).await);
    hold.release();
    within("all admitted requests", join_all(waiting)).await;
}
