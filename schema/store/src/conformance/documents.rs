//! Behaviours of the two small documents that change by compare-and-set: superusers and keys.

use std::time::Duration;

use futures_util::future::join_all;
use schema::{
    id::{KeyId, UserId},
    key::{KeySet, KeyState, StoredKey},
    superusers::{PENDING_REMOVALS_MAX, PendingRemoval, RESERVATION_TTL, Removal, SuperuserSet},
    token::Algorithm,
};

use super::{Harness, sample::Samples};
use crate::Versioned;

pub async fn superusers_start_empty_at_revision_zero(harness: &impl Harness) {
    let stores = harness.open().await;
    assert_eq!(stores.superusers.load().await.unwrap(), Versioned::default());
}

/// The document in which these users count as superusers.
fn counted<const N: usize>(users: [UserId; N]) -> SuperuserSet {
    SuperuserSet { counted: users.into(), pending: Vec::new() }
}

pub async fn one_of_two_concurrent_superuser_removals_loses(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.user().id, make.user().id);
    assert!(stores.superusers.swap(0, &counted([ann, bob])).await.unwrap());
    let (without_ann, without_bob) = (counted([bob]), counted([ann]));
    let removals = [stores.superusers.swap(1, &without_ann), stores.superusers.swap(1, &without_bob)];
    let swapped: Vec<_> = join_all(removals).await.into_iter().map(|swapped| swapped.unwrap()).collect();
    let left = match swapped[..] {
        [true, false] => without_ann,
        [false, true] => without_bob,
        _ => panic!("{swapped:?}"),
    };
    assert_eq!(stores.superusers.load().await.unwrap(), Versioned { revision: 2, value: left });
}

pub async fn superusers_swap_requires_the_stored_revision(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let superusers = counted([make.user().id]);
    assert!(!stores.superusers.swap(1, &superusers).await.unwrap());
    assert!(stores.superusers.swap(0, &superusers).await.unwrap());
    for wrong in [0, 2, u64::MAX >> 1] {
        assert!(!stores.superusers.swap(wrong, &SuperuserSet::default()).await.unwrap(), "{wrong}");
    }
    let first = Versioned { revision: 1, value: superusers };
    assert_eq!(stores.superusers.load().await.unwrap(), first);
    assert!(stores.superusers.swap(1, &first.value).await.unwrap(), "the same again: its number rises");
    assert_eq!(stores.superusers.load().await.unwrap().revision, 2);
    assert!(stores.superusers.swap(2, &SuperuserSet::default()).await.unwrap());
    assert_eq!(
        stores.superusers.load().await.unwrap(),
        Versioned { revision: 3, value: SuperuserSet::default() }
    );
}

pub async fn removals_under_way_are_returned_as_stored(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.user().id, make.user().id);
    let (role, permission) = (make.role("x").id, make.permission("x").id);
    let of_each_kind = [
        Removal::User(ann),
        Removal::Permission(bob, permission),
        Removal::Role(ann, role),
        Removal::OfRole(role),
    ];
    let pending = (0..PENDING_REMOVALS_MAX).map(|n| PendingRemoval {
        removal: of_each_kind[n % of_each_kind.len()],
        until: harness.now().plus(RESERVATION_TTL),
    });
    let superusers = SuperuserSet { counted: [ann, bob].into(), pending: pending.collect() };
    assert!(stores.superusers.swap(0, &superusers).await.unwrap());
    assert_eq!(stores.superusers.load().await.unwrap(), Versioned { revision: 1, value: superusers });
}

fn keys(revision: u64, n: u8) -> KeySet {
    let state =
        [KeyState::Active, KeyState::Next, KeyState::Retiring { until: schema::Timestamp::from_secs(9) }];
    let algorithm = [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256];
    let key = |k: u8| StoredKey {
        id: KeyId::from_bytes([k; 16]),
        algorithm: algorithm[usize::from(k % 3)],
        state: state[usize::from(k % 3)],
        created_at: schema::Timestamp::from_secs(k.into()),
        sealed: "c2VhbGVk".repeat(usize::from(k)),
    };
    KeySet {
        revision,
        keys: (0..n).map(key).collect(),
        access_ttl: Duration::from_secs(900),
        access_horizon: schema::Timestamp::from_secs(1_000),
        derivation_root: (n > 1).then(|| "c2VhbGVk".to_owned()),
    }
}

pub async fn keys_start_empty_at_revision_zero(harness: &impl Harness) {
    let stores = harness.open().await;
    assert_eq!(stores.keys.load().await.unwrap(), KeySet::default());
    assert!(!stores.keys.swap(&keys(0, 1)).await.unwrap(), "0 is no change of anything");
    assert!(!stores.keys.swap(&keys(2, 1)).await.unwrap());
    assert_eq!(stores.keys.load().await.unwrap(), KeySet::default());
}

pub async fn keys_are_returned_as_stored(harness: &impl Harness) {
    let stores = harness.open().await;
    for (revision, n) in [(1, 1), (2, 16), (3, 2)] {
        let set = keys(revision, n);
        assert!(stores.keys.swap(&set).await.unwrap());
        assert!(!stores.keys.swap(&keys(revision, 5)).await.unwrap(), "it is of this revision already");
        assert_eq!(stores.keys.load().await.unwrap(), set);
    }
}

pub async fn one_of_many_concurrent_first_keys_wins(harness: &impl Harness) {
    let stores = harness.open().await;
    let wanted: Vec<_> = (1..=15).map(|n| keys(1, n)).collect();
    let swapped = join_all(wanted.iter().map(|set| stores.keys.swap(set))).await;
    let swapped: Vec<_> = swapped.into_iter().map(|swapped| swapped.unwrap()).collect();
    assert_eq!(swapped.iter().filter(|swapped| **swapped).count(), 1);
    let winner = &wanted[swapped.iter().position(|swapped| *swapped).unwrap()];
    assert_eq!(stores.keys.load().await.unwrap(), *winner);
}
