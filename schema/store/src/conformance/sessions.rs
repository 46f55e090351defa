//! Behaviours of sessions.

use futures_util::future::join_all;
use schema::{
    page::PageOf,
    session::{MAX_SESSIONS, Session, Spent},
    time::Timestamp,
};

use super::{
    Harness,
    sample::{Samples, first, pages},
};
use crate::Rotated;

pub async fn session_is_returned_as_opened(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let spent = (0..16).map(|n| Spent {
        hash: make.hash(),
        at: harness.now(),
        successor_expires_at: Timestamp::from_millis(n),
    });
    let session = Session {
        device: Some("Ann's phone".into()),
        user_agent: Some("curl/8".into()),
        ip_address: "2001:db8::7".parse().unwrap(),
        user_version: 3,
        spent: spent.collect(),
        ..make.session(user)
    };
    assert_eq!(stores.sessions.open(&session, 10).await.unwrap(), []);
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap().as_ref(), Some(&session));
    let other = make.stored_user(&stores).await.id;
    assert_eq!(stores.sessions.get(other, session.id).await.unwrap(), None, "by another user");
}

pub async fn session_opened_twice_is_stored_once(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let (one, two) = (make.session(user), make.session(user));
    for session in [&one, &two, &two, &one] {
        assert_eq!(stores.sessions.open(session, 2).await.unwrap(), [], "two are not too many");
    }
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, [two, one]);
}

pub async fn rotation_requires_the_live_token(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let session = make.stored_session(&stores, user).await;
    let second = make.rotated(&session);
    assert_eq!(stores.sessions.rotate(&session, &second).await.unwrap(), Rotated::Done);
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap().as_ref(), Some(&second));
    for stale in [session.clone(), Session { live: make.hash(), ..second.clone() }] {
        let rotated = stores.sessions.rotate(&stale, &make.rotated(&stale)).await.unwrap();
        assert_eq!(rotated, Rotated::Lost(Box::new(second.clone())));
    }
    let third = make.rotated(&second);
    assert_eq!(stores.sessions.rotate(&second, &third).await.unwrap(), Rotated::Done);
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap(), Some(third));
    let never = make.session(user);
    assert_eq!(stores.sessions.rotate(&never, &make.rotated(&never)).await.unwrap(), Rotated::Gone);
    assert_eq!(stores.sessions.get(user, never.id).await.unwrap(), None, "nothing began");
}

pub async fn rotation_may_keep_the_live_token(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let session = make.stored_session(&stores, user).await;
    let renewed = Session { user_version: 7, device: Some("Ann's phone".into()), ..session.clone() };
    assert_eq!(stores.sessions.rotate(&session, &renewed).await.unwrap(), Rotated::Done);
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap().as_ref(), Some(&renewed));
    assert_eq!(stores.sessions.rotate(&renewed, &renewed).await.unwrap(), Rotated::Done, "no change at all");
    let next = make.rotated(&renewed);
    assert_eq!(stores.sessions.rotate(&renewed, &next).await.unwrap(), Rotated::Done);
    let late = stores.sessions.rotate(&session, &renewed).await.unwrap();
    assert_eq!(late, Rotated::Lost(Box::new(next.clone())), "its live token was spent meanwhile");
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap(), Some(next));
}

pub async fn latest_session_includes_the_last_rotation(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let mut session = make.session(user);
    assert_eq!(stores.sessions.latest(user, session.id).await.unwrap(), None);
    stores.sessions.open(&session, 10).await.unwrap();
    assert_eq!(stores.sessions.latest(user, session.id).await.unwrap().as_ref(), Some(&session));
    for _ in 0..3 {
        let wanted: Vec<_> = (0..5).map(|_| make.rotated(&session)).collect();
        let rotated = join_all(wanted.iter().map(|next| stores.sessions.rotate(&session, next))).await;
        let winner = rotated.iter().position(|rotated| matches!(rotated, Ok(Rotated::Done))).unwrap();
        session = wanted[winner].clone();
        assert_eq!(stores.sessions.latest(user, session.id).await.unwrap().as_ref(), Some(&session));
    }
    let other = make.stored_user(&stores).await.id;
    assert_eq!(stores.sessions.latest(other, session.id).await.unwrap(), None, "by another user");
    stores.sessions.end(user, session.id).await.unwrap();
    assert_eq!(stores.sessions.latest(user, session.id).await.unwrap(), None);
}

pub async fn one_of_a_hundred_concurrent_rotations_wins(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let session = make.stored_session(&stores, user).await;
    let wanted: Vec<_> = (0..100).map(|_| make.rotated(&session)).collect();
    let rotated = join_all(wanted.iter().map(|next| stores.sessions.rotate(&session, next))).await;
    let rotated: Vec<_> = rotated.into_iter().map(|rotated| rotated.unwrap()).collect();
    assert_eq!(rotated.iter().filter(|rotated| **rotated == Rotated::Done).count(), 1);
    let winner = &wanted[rotated.iter().position(|rotated| *rotated == Rotated::Done).unwrap()];
    let lost = Rotated::Lost(Box::new(winner.clone()));
    assert_eq!(rotated.iter().filter(|rotated| **rotated == lost).count(), 99, "losers see the winner");
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap().as_ref(), Some(winner));
}

pub async fn rotations_of_different_sessions_do_not_conflict(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(make.stored_session(&stores, user).await);
    }
    let wrong: Vec<_> = sessions.iter().map(|session| make.rotated(session)).collect();
    let wanted: Vec<_> = sessions.iter().map(|session| make.rotated(session)).collect();
    let rotations = sessions.iter().zip(&wanted).enumerate().map(|(n, (session, next))| {
        let previous = if n % 3 == 0 { &wrong[n] } else { session };
        stores.sessions.rotate(previous, next)
    });
    for (n, rotated) in join_all(rotations).await.into_iter().enumerate() {
        let (expected, is) = match n % 3 {
            0 => (Rotated::Lost(Box::new(sessions[n].clone())), &sessions[n]),
            _ => (Rotated::Done, &wanted[n]),
        };
        assert_eq!(rotated.unwrap(), expected, "{n}");
        assert_eq!(stores.sessions.get(user, is.id).await.unwrap().as_ref(), Some(is), "{n}");
    }
}

pub async fn session_beyond_the_cap_ends_the_oldest(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let sessions: Vec<_> = (0..6).map(|_| make.session(user)).collect();
    for session in &sessions[..3] {
        assert_eq!(stores.sessions.open(session, 3).await.unwrap(), []);
    }
    assert_eq!(stores.sessions.open(&sessions[3], 3).await.unwrap(), [sessions[0].id]);
    assert_eq!(stores.sessions.get(user, sessions[0].id).await.unwrap(), None);
    let mut ended = stores.sessions.open(&sessions[4], 1).await.unwrap();
    ended.sort_unstable();
    assert_eq!(ended, [sessions[1].id, sessions[2].id, sessions[3].id], "the cap was lowered");
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, sessions[4..5]);
    assert_eq!(stores.sessions.open(&sessions[5], 2).await.unwrap(), []);
}

pub async fn sessions_opened_concurrently_stay_below_the_cap(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let sessions: Vec<_> = (0..40).map(|_| make.session(user)).collect();
    let ended = join_all(sessions.iter().map(|session| stores.sessions.open(session, 8))).await;
    let mut ended: Vec<_> = ended.into_iter().flat_map(|ended| ended.unwrap()).collect();
    let left = stores.sessions.list(user, first()).await.unwrap().items;
    assert_eq!(left.len(), 8);
    ended.extend(left.iter().map(|session| session.id));
    ended.sort_unstable();
    let all: Vec<_> = sessions.iter().map(|session| session.id).collect();
    assert_eq!(ended, all, "each is there or was said to have ended, once");
}

pub async fn ended_session_is_absent(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let (one, two) = (make.stored_session(&stores, user).await, make.stored_session(&stores, user).await);
    assert!(stores.sessions.end(user, one.id).await.unwrap());
    assert!(!stores.sessions.end(user, one.id).await.unwrap(), "it was not there any more");
    assert_eq!(stores.sessions.get(user, one.id).await.unwrap(), None);
    let late = stores.sessions.rotate(&one, &make.rotated(&one)).await.unwrap();
    assert_eq!(late, Rotated::Gone, "an ended session does not come back");
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, [two]);
}

pub async fn ended_session_leaves_room(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let sessions: Vec<_> = (0..6).map(|_| make.session(user)).collect();
    for session in &sessions[..2] {
        stores.sessions.open(session, 2).await.unwrap();
    }
    stores.sessions.end(user, sessions[1].id).await.unwrap();
    assert_eq!(stores.sessions.open(&sessions[2], 2).await.unwrap(), []);
    stores.sessions.end_older(user, u64::MAX).await.unwrap();
    for session in &sessions[3..5] {
        assert_eq!(stores.sessions.open(session, 2).await.unwrap(), []);
    }
    assert_eq!(stores.sessions.open(&sessions[5], 2).await.unwrap(), [sessions[3].id]);
}

pub async fn end_older_keeps_sessions_of_the_version_and_above(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let mut sessions = Vec::new();
    for version in [0, 1, 2, 1, 3] {
        let session = Session { user_version: version, ..make.session(user) };
        stores.sessions.open(&session, MAX_SESSIONS).await.unwrap();
        sessions.push(session);
    }
    stores.sessions.end_older(user, 2).await.unwrap();
    stores.sessions.end_older(user, 2).await.unwrap();
    let kept = [sessions[4].clone(), sessions[2].clone()];
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, kept);
    stores.sessions.end_older(user, 0).await.unwrap();
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, kept);
    stores.sessions.end_older(user, u64::MAX).await.unwrap();
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, []);
}

pub async fn sessions_are_listed_newest_first_page_by_page(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let empty = stores.sessions.list(user, first()).await.unwrap();
    assert_eq!((empty.items, empty.next), (vec![], None));
    let mut sessions = Vec::new();
    for _ in 0..7 {
        sessions.push(make.stored_session(&stores, user).await);
    }
    sessions.reverse();
    for limit in [1, 3, 6, 7, 8, 200] {
        let listed = pages(limit, |page| stores.sessions.list(user, page)).await;
        assert_eq!(listed, sessions, "in pages of {limit}");
    }
}

pub async fn session_pages_are_stable_while_another_begins(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(make.stored_session(&stores, user).await);
    }
    sessions.reverse();
    let page = stores.sessions.list(user, PageOf { after: None, limit: 2 }).await.unwrap();
    make.stored_session(&stores, user).await;
    let rest = stores.sessions.list(user, PageOf { after: page.next, limit: 200 }).await.unwrap();
    assert_eq!((page.items, rest.items), (sessions[..2].to_vec(), sessions[2..].to_vec()));
}

pub async fn sessions_of_different_users_do_not_mix(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await.id, make.stored_user(&stores).await.id);
    let (anns, bobs) = (make.stored_session(&stores, ann).await, make.stored_session(&stores, bob).await);
    assert_eq!(stores.sessions.open(&make.session(ann), 1).await.unwrap(), [anns.id]);
    assert!(!stores.sessions.end(ann, bobs.id).await.unwrap());
    stores.sessions.end_older(ann, u64::MAX).await.unwrap();
    assert_eq!(stores.sessions.list(ann, first()).await.unwrap().items, []);
    assert_eq!(stores.sessions.list(bob, first()).await.unwrap().items, [bobs]);
}
