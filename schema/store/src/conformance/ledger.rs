//! Behaviours of the ledger: entries are added once and in any order, and heads never go back.

use futures_util::future::join_all;
use schema::{
    fact::{Fact, FactKind, Subject},
    id::{KeyId, PermissionId, RoleId, SessionId, TokenId, UserId},
    ledger::{Entry, Origin},
};

use super::{
    Harness,
    sample::{Samples, head},
};

pub async fn repeated_entries_are_stored_once(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let entries: Vec<_> = (1..=5).map(|seq| make.entry(origin, seq)).collect();
    for _ in 0..2 {
        stores.ledger.append(&entries, &[head(origin, 5)]).await.unwrap();
    }
    stores.ledger.append(&entries[2..4], &[]).await.unwrap();
    assert_eq!(stores.ledger.entries(origin, 0, 100).await.unwrap(), entries);
    assert_eq!(stores.ledger.heads().await.unwrap(), [head(origin, 5)]);
    stores.ledger.append(&[], &[]).await.unwrap();
}

pub async fn entries_may_arrive_out_of_order(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let entries: Vec<_> = (1..=6).map(|seq| make.entry(origin, seq)).collect();
    for n in [4, 0, 5, 2, 1, 3] {
        stores.ledger.append(&entries[n..=n], &[]).await.unwrap();
    }
    assert_eq!(stores.ledger.entries(origin, 0, 100).await.unwrap(), entries);
}

pub async fn entries_beyond_the_head_are_readable(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let entries: Vec<_> = [1, 2, 3, 7, 9].map(|seq| make.entry(origin, seq)).into();
    stores.ledger.append(&entries, &[head(origin, 2)]).await.unwrap();
    assert_eq!(stores.ledger.entries(origin, 2, 100).await.unwrap(), entries[2..], "over gaps too");
    assert_eq!(stores.ledger.entries(origin, 7, 100).await.unwrap(), entries[4..]);
    assert_eq!(stores.ledger.entries(origin, 9, 100).await.unwrap(), []);
    assert_eq!(stores.ledger.heads().await.unwrap(), [head(origin, 2)]);
}

pub async fn late_entry_of_an_ended_fact_is_readable(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let late = make.entry(origin, 1);
    let long_ago = harness.now().minus(std::time::Duration::from_secs(3_600));
    let subject = Subject::User(UserId::from_bytes([1; 16]));
    let fact = Fact { kind: FactKind::PermissionsChanged { subject }, until: long_ago };
    let entries = [Entry { fact, ..late }, make.entry(origin, 2)];
    stores.ledger.append(&entries, &[head(origin, 2)]).await.unwrap();
    assert_eq!(stores.ledger.entries(origin, 0, 10).await.unwrap(), entries);
}

pub async fn heads_never_go_back(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let entries: Vec<_> = (1..=20).map(|seq| make.entry(origin, seq)).collect();
    stores.ledger.append(&entries, &[head(origin, 5)]).await.unwrap();
    for (asked, is) in [(3, 5), (8, 8), (8, 8), (1, 8), (0, 8)] {
        stores.ledger.append(&[], &[head(origin, asked)]).await.unwrap();
        assert_eq!(stores.ledger.heads().await.unwrap(), [head(origin, is)]);
    }
    let heads: Vec<_> = (9..=20).map(|seq| [head(origin, seq)]).collect();
    for appended in join_all(heads.iter().rev().map(|heads| stores.ledger.append(&[], heads))).await {
        appended.unwrap();
    }
    assert_eq!(stores.ledger.heads().await.unwrap(), [head(origin, 20)], "moved by many at once");
}

pub async fn ranges_end_at_their_limit(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let entries: Vec<_> = (1..=300).map(|seq| make.entry(origin, seq)).collect();
    stores.ledger.append(&entries, &[head(origin, 300)]).await.unwrap();
    for limit in [1, 7, 255, 256, 257, 299, 300, 1_000] {
        let (mut read, mut after) = (Vec::new(), 0);
        loop {
            let some = stores.ledger.entries(origin, after, limit).await.unwrap();
            assert!(some.len() <= limit, "{limit}");
            let Some(last) = some.last() else { break };
            after = last.seq;
            read.extend(some);
        }
        assert_eq!(read, entries, "{limit} at a time");
    }
    assert_eq!(stores.ledger.entries(origin, u64::MAX >> 1, 10).await.unwrap(), []);
}

pub async fn origins_do_not_mix(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let one = make.origin();
    let again = Origin { incarnation: 2, ..one };
    let other = make.origin();
    let mut heads = Vec::new();
    for (origin, count) in [(one, 3), (again, 2), (other, 4)] {
        let entries: Vec<_> = (1..=count).map(|seq| make.entry(origin, seq)).collect();
        stores.ledger.append(&entries, &[head(origin, count)]).await.unwrap();
        assert_eq!(stores.ledger.entries(origin, 0, 100).await.unwrap(), entries);
        heads.push(head(origin, count));
    }
    assert_eq!(stores.ledger.entries(one, 0, 100).await.unwrap().len(), 3);
    assert_eq!(stores.ledger.entries(again, 1, 100).await.unwrap().len(), 1);
    heads.sort_by_key(|head| head.origin);
    assert_eq!(stores.ledger.heads().await.unwrap(), heads, "by origin");
    let mixed = [make.entry(other, 5), make.entry(one, 4)];
    stores.ledger.append(&mixed, &[head(other, 5), head(one, 4)]).await.unwrap();
    assert_eq!(stores.ledger.entries(one, 3, 100).await.unwrap(), [mixed[1]]);
    assert_eq!(stores.ledger.entries(other, 4, 100).await.unwrap(), [mixed[0]]);
}

pub async fn every_kind_of_fact_is_returned(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origin = make.origin();
    let user = UserId::from_bytes([1; 16]);
    let kinds = [
        FactKind::SessionRevoked {
            user: UserId::from_bytes([2; 16]),
            session: SessionId::from_bytes([2; 16]),
        },
        FactKind::TokenRevoked { token: TokenId::from_bytes([3; 16]) },
        FactKind::UserVersion { user, at_least: u64::MAX >> 1 },
        FactKind::KeyRetired { key: KeyId::from_bytes([4; 16]) },
        FactKind::PermissionsChanged { subject: Subject::User(user) },
        FactKind::PermissionsChanged { subject: Subject::Role(RoleId::from_bytes([5; 16])) },
        FactKind::PermissionsChanged { subject: Subject::Permission(PermissionId::from_bytes([6; 16])) },
    ];
    let until = make.entry(origin, 1).fact.until;
    let entries: Vec<_> =
        (1..).zip(kinds).map(|(seq, kind)| Entry { origin, seq, fact: Fact { kind, until } }).collect();
    stores.ledger.append(&entries, &[]).await.unwrap();
    assert_eq!(stores.ledger.entries(origin, 0, 100).await.unwrap(), entries);
}

pub async fn concurrent_appends_lose_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let origins: Vec<_> = (0..4).map(|_| make.origin()).collect();
    let entries: Vec<_> = (1..=25).flat_map(|seq| origins.iter().map(move |origin| (*origin, seq))).collect();
    let appends = entries.iter().map(async |(origin, seq)| {
        stores.ledger.append(&[make.entry(*origin, *seq)], &[head(*origin, *seq)]).await
    });
    for appended in join_all(appends).await {
        appended.unwrap();
    }
    for origin in &origins {
        let seqs: Vec<_> =
            stores.ledger.entries(*origin, 0, 100).await.unwrap().iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=25).collect::<Vec<_>>());
    }
    assert!(stores.ledger.heads().await.unwrap().iter().all(|head| head.seq == 25));
}
