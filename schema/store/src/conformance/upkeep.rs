//! Behaviours of upkeep: ping and sweep.

use std::time::Duration;

use schema::{
    fact::Fact,
    horizon::manual::horizon_at,
    ledger::Entry,
    login::{LOGIN_RETENTION, Login, MAX_LOGINS},
    session::Session,
    time::{CLOCK_SKEW, Timestamp},
};

use super::{
    Harness, LONG,
    sample::{Samples, first, head},
};
use crate::{Rotated, Stores};

/// Sweeps until no expired row remains. Returns the number of removed rows.
async fn sweep_all(stores: &Stores, now: Timestamp) -> usize {
    let mut swept = 0;
    loop {
        match stores.upkeep.sweep(horizon_at(now).into(), 100).await.unwrap() {
            0 => return swept,
            some => swept += some,
        }
    }
}

pub async fn open_store_answers_a_ping(harness: &impl Harness) {
    let stores = harness.open().await;
    stores.upkeep.ping().await.unwrap();
    assert_eq!(
        stores.upkeep.sweep(horizon_at(harness.now()).into(), 100).await.unwrap(),
        0,
        "nothing to forget"
    );
}

/// Stores one expiring and one lasting record of each kind, and records that never expire.
pub async fn sweep_removes_only_expired_rows(harness: &impl Harness) {
    if !harness.sweeps() {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let now = harness.now();
    let later = now.plus(LONG);
    let user = make.stored_user(&stores).await;
    let short = Session { expires_at: now.plus(Duration::from_secs(60)), ..make.session(user.id) };
    let long = Session { expires_at: later.plus(Duration::from_millis(1)), ..make.session(user.id) };
    for session in [&short, &long] {
        stores.sessions.open(session, 10).await.unwrap();
    }
    let old = make.login(user.id);
    let kept = later.minus(LOGIN_RETENTION).plus(Duration::from_millis(1));
    let recent = Login { time: kept, ..make.login(user.id) };
    for login in [&old, &recent] {
        stores.logins.record(login, MAX_LOGINS).await.unwrap();
    }
    let origin = make.origin();
    let until = later.minus(CLOCK_SKEW).plus(Duration::from_millis(1));
    let ended = make.entry(origin, 1);
    let matters = Entry { fact: Fact { until, ..ended.fact }, seq: 2, ..ended };
    stores.ledger.append(&[ended, matters], &[head(origin, 2)]).await.unwrap();

    assert_eq!(sweep_all(&stores, now).await, 0, "nothing has ended yet");
    assert_eq!(sweep_all(&stores, later).await, 3, "a session, a login and an entry");
    assert_eq!(sweep_all(&stores, later).await, 0);
    assert_eq!(stores.sessions.get(user.id, short.id).await.unwrap(), None);
    assert_eq!(stores.sessions.list(user.id, first()).await.unwrap().items, [long]);
    assert_eq!(stores.logins.list(user.id, first()).await.unwrap().items, [recent]);
    assert_eq!(stores.ledger.entries(origin, 0, 100).await.unwrap(), [matters]);
    assert_eq!(stores.ledger.heads().await.unwrap(), [head(origin, 2)]);
    assert_eq!(stores.users.get(user.id).await.unwrap(), Some(user));
}

pub async fn sweep_stops_at_its_limit_and_continues_later(harness: &impl Harness) {
    if !harness.sweeps() {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    for _ in 0..10 {
        make.stored_session(&stores, user).await;
        stores.logins.record(&make.login(user), MAX_LOGINS).await.unwrap();
    }
    let later = harness.now().plus(LONG);
    let (mut swept, mut calls) = (0, 0);
    while swept < 20 {
        let some = stores.upkeep.sweep(horizon_at(later).into(), 3).await.unwrap();
        assert!((1..=3).contains(&some), "{some}");
        swept += some;
        calls += 1;
        let left = stores.sessions.list(user, first()).await.unwrap().items.len()
            + stores.logins.list(user, first()).await.unwrap().items.len();
        assert_eq!(left, 20 - swept);
    }
    assert!(calls >= 7);
    assert_eq!(stores.upkeep.sweep(horizon_at(later).into(), 3).await.unwrap(), 0);
}

pub async fn swept_session_leaves_room(harness: &impl Harness) {
    if !harness.sweeps() {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let later = harness.now().plus(LONG);
    stores.sessions.open(&make.session(user), 2).await.unwrap();
    let long = Session { expires_at: later.plus(LONG), ..make.session(user) };
    stores.sessions.open(&long, 2).await.unwrap();
    sweep_all(&stores, later).await;
    let new = Session { expires_at: later.plus(LONG), ..make.session(user) };
    assert_eq!(stores.sessions.open(&new, 2).await.unwrap(), []);
    let newer = Session { expires_at: later.plus(LONG), ..make.session(user) };
    assert_eq!(stores.sessions.open(&newer, 2).await.unwrap(), [long.id]);
}

pub async fn head_lives_as_long_as_its_last_entry(harness: &impl Harness) {
    if !harness.sweeps() {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (gone, stays) = (make.origin(), make.origin());
    let later = harness.now().plus(LONG);
    let old: Vec<_> = (1..=3).map(|seq| make.entry(gone, seq)).collect();
    stores.ledger.append(&old, &[head(gone, 3)]).await.unwrap();
    let entry = make.entry(stays, 1);
    let new = Entry { fact: Fact { until: later, ..entry.fact }, seq: 2, ..entry };
    stores.ledger.append(&[entry, new], &[head(stays, 2)]).await.unwrap();
    sweep_all(&stores, later).await;
    assert_eq!(stores.ledger.heads().await.unwrap(), [head(stays, 2)]);
    assert_eq!(stores.ledger.entries(gone, 0, 100).await.unwrap(), []);
    let next = Entry { fact: Fact { until: later, ..entry.fact }, origin: gone, seq: 4 };
    stores.ledger.append(&[next], &[head(gone, 4)]).await.unwrap();
    assert_eq!(stores.ledger.entries(gone, 3, 100).await.unwrap(), [next], "an origin goes on");
    assert_eq!(stores.ledger.heads().await.unwrap().len(), 2);
}

pub async fn refreshed_session_is_not_swept_at_its_old_expiry(harness: &impl Harness) {
    if !harness.sweeps() {
        return;
    }
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await.id;
    let session = make.stored_session(&stores, user).await;
    let later = harness.now().plus(LONG);
    let refreshed = Session { expires_at: later.plus(LONG), ..make.rotated(&session) };
    assert_eq!(stores.sessions.rotate(&session, &refreshed).await.unwrap(), Rotated::Done);
    assert_eq!(sweep_all(&stores, later).await, 0);
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap(), Some(refreshed));
    assert_eq!(sweep_all(&stores, later.plus(LONG).plus(LONG)).await, 1);
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap(), None);
}
