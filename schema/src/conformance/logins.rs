//! Login histories.

use futures_util::future::join_all;

use super::{
    Harness,
    sample::{Samples, first, pages},
};
use crate::login::{Login, MAX_LOGINS, Outcome};

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

pub async fn a_login_recorded_twice_is_there_once(harness: &impl Harness) {
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

pub async fn only_so_many_logins_are_kept(harness: &impl Harness) {
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
