//! Behaviours of login histories and known places.

use std::time::Duration;

use futures_util::future::join_all;
use schema::{
    horizon::manual::horizon_at,
    login::{Login, MAX_LOGINS, MAX_PLACES, Outcome},
    place::{AccountKey, Place},
};

use super::{
    Harness,
    sample::{Samples, first, pages},
};

pub async fn logins_are_listed_newest_first_page_by_page(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let empty = stores.logins.list(user, first()).await.unwrap();
    assert_eq!((empty.items, empty.next), (vec![], None));
    let outcomes = [
        Outcome::Success,
        Outcome::BadPassword,
        Outcome::Disabled,
        Outcome::NoPassword,
        Outcome::RefreshReuse,
    ];
    let mut logins: Vec<_> = outcomes.map(|outcome| Login { outcome, ..make.login(user) }).into();
    logins.extend([make.login(user), make.login(user)]);
    for recorded in join_all(logins.iter().map(|login| stores.logins.record(login, MAX_LOGINS))).await {
        recorded.unwrap();
    }
    logins.reverse();
    for limit in [1, 3, 6, 7, 8, 200] {
        let listed = pages(limit, |page| stores.logins.list(user, page)).await;
        assert_eq!(listed, logins, "in pages of {limit}");
    }
}

pub async fn login_recorded_twice_is_stored_once(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let login = make.login(user);
    for _ in 0..3 {
        stores.logins.record(&login, MAX_LOGINS).await.unwrap();
    }
    assert_eq!(stores.logins.list(user, first()).await.unwrap().items, [login]);
}

pub async fn histories_do_not_mix(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await.id, make.stored_user(&stores).await.id);
    let (anns, bobs) = (make.login(ann), make.login(bob));
    stores.logins.record(&anns, MAX_LOGINS).await.unwrap();
    stores.logins.record(&bobs, MAX_LOGINS).await.unwrap();
    assert_eq!(stores.logins.list(ann, first()).await.unwrap().items, [anns]);
    assert_eq!(stores.logins.list(bob, first()).await.unwrap().items, [bobs]);
}

pub async fn logins_of_a_user_are_limited(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await.id, make.stored_user(&stores).await.id);
    let kept = make.login(bob);
    stores.logins.record(&kept, MAX_LOGINS).await.unwrap();
    let mut logins: Vec<_> = (0..12).map(|_| make.login(ann)).collect();
    for login in &logins {
        stores.logins.record(login, 5).await.unwrap();
    }
    logins.reverse();
    assert_eq!(stores.logins.list(ann, first()).await.unwrap().items, logins[..5]);
    assert_eq!(stores.logins.list(bob, first()).await.unwrap().items, [kept]);
}

pub async fn place_is_known_for_its_account_since_its_last_note(harness: &impl Harness) {
    let stores = harness.open().await;
    let (ann, bob) = (AccountKey::from_bytes([1; 32]), AccountKey::from_bytes([0xff; 32]));
    let place = |text: &str| Place::of(text.parse().unwrap());
    let (home, work, far) = (place("192.0.2.1"), place("2001:db8:1:2::1"), place("198.51.100.1"));
    let logins = &stores.logins;
    assert_eq!(logins.last_from(ann, home).await.unwrap(), None);
    let (first, second) = (harness.now(), harness.now().plus(Duration::from_secs(60)));
    logins.note_place(ann, home, first).await.unwrap();
    logins.note_place(ann, work, first).await.unwrap();
    logins.note_place(bob, far, first).await.unwrap();
    logins.note_place(ann, home, second).await.unwrap();
    assert_eq!(logins.last_from(ann, home).await.unwrap(), Some(second));
    assert_eq!(logins.last_from(ann, work).await.unwrap(), Some(first));
    assert_eq!(logins.last_from(ann, far).await.unwrap(), None);
    assert_eq!(logins.last_from(bob, home).await.unwrap(), None);
    let stores = harness.restart(stores).await;
    let logins = &stores.logins;
    assert_eq!(logins.last_from(ann, home).await.unwrap(), Some(second), "after a restart");
    for _ in 0..2 {
        logins.forget_places(ann).await.unwrap();
        assert_eq!(logins.last_from(ann, home).await.unwrap(), None);
        assert_eq!(logins.last_from(ann, work).await.unwrap(), None);
    }
    assert_eq!(logins.last_from(bob, far).await.unwrap(), Some(first), "another account");
}

pub async fn places_of_an_account_are_limited(harness: &impl Harness) {
    let stores = harness.open().await;
    let (ann, bob) = (AccountKey::from_bytes([1; 32]), AccountKey::from_bytes([2; 32]));
    let at = |n: usize| harness.now().plus(Duration::from_secs(n as u64));
    let place = |n: usize| Place::of(format!("2001:db8:0:{n:x}::1").parse().unwrap());
    stores.logins.note_place(bob, place(0), at(0)).await.unwrap();
    for n in 0..MAX_PLACES {
        stores.logins.note_place(ann, place(n), at(n)).await.unwrap();
    }
    // The first place is noted again, so the second has the oldest note.
    stores.logins.note_place(ann, place(0), at(MAX_PLACES)).await.unwrap();
    assert_eq!(stores.logins.last_from(ann, place(1)).await.unwrap(), Some(at(1)));
    stores.logins.note_place(ann, place(MAX_PLACES), at(MAX_PLACES)).await.unwrap();
    assert_eq!(stores.logins.last_from(ann, place(1)).await.unwrap(), None);
    for n in [0, 2, MAX_PLACES] {
        assert!(stores.logins.last_from(ann, place(n)).await.unwrap().is_some(), "{n}");
    }
    assert_eq!(stores.logins.last_from(bob, place(0)).await.unwrap(), Some(at(0)), "another account");
}

/// Each account and place has one row, which expires after the retention time without a log-in from there.
pub async fn place_is_swept_after_its_retention(harness: &impl Harness) {
    if !harness.sweeps() {
        return;
    }
    let stores = harness.open().await;
    let ann = AccountKey::from_bytes([1; 32]);
    let (home, work) = (Place::of([192, 0, 2, 1].into()), Place::of([198, 51, 100, 1].into()));
    let (first, later) = (harness.now(), harness.now().plus(super::LONG));
    for time in [first, first.plus(Duration::from_secs(1)), later] {
        stores.logins.note_place(ann, home, time).await.unwrap();
    }
    stores.logins.note_place(ann, work, first).await.unwrap();
    assert_eq!(stores.upkeep.sweep(horizon_at(first).into(), 100).await.unwrap(), 0);
    assert_eq!(stores.upkeep.sweep(horizon_at(later).into(), 100).await.unwrap(), 1);
    assert_eq!(stores.logins.last_from(ann, work).await.unwrap(), None);
    assert_eq!(stores.logins.last_from(ann, home).await.unwrap(), Some(later));
}
