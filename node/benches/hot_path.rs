//! Benchmarks of a validation and a permission check inside the node, without HTTP.
//!
//! `cargo bench -p node` measures the verdict, the lookup of a verified token (one, and among 100,000), a
//! complete check of such a token, and the evaluation of permission queries.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::time::Duration;

use actors::{Compiled, Names, Snapshot};
use divan::{Bencher, black_box};
use node::credentials::byte_cache::ByteCache;
use schema::{
    Denials, Fact, FactKind, KeyId, PermissionId, Query, SessionId, Timestamp, TokenId, UserId, decide,
    permission::{Effective, Permission},
    token::AccessClaims,
};

fn main() {
    divan::main();
}

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn id(n: u32) -> [u8; 16] {
    let mut id = [7; 16];
    id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    id
}

fn claims(n: u32) -> AccessClaims {
    AccessClaims {
        user: UserId::from_bytes(id(n)),
        session: SessionId::from_bytes(id(n)),
        token: TokenId::from_bytes(id(n)),
        key: KeyId::from_bytes([9; 16]),
        version: 1,
        issued_at: NOW.as_secs(),
        expires_at: NOW.plus(Duration::from_secs(900)).as_secs(),
        is_access: true,
    }
}

fn denials(count: u32) -> Denials {
    let denials = Denials::default();
    for n in 0..count {
        let session = SessionId::from_bytes(id(n + 1_000_000_000));
        denials.apply(&Fact {
            kind: FactKind::SessionRevoked { user: UserId::from_bytes([0; 16]), session },
            until: Timestamp::MAX,
        });
    }
    denials
}

#[divan::bench(args = [0, 1_000, 1_000_000])]
fn decide_with_denials(bencher: Bencher<'_, '_>, count: u32) {
    let denials = denials(count);
    let claims = claims(1);
    bencher.bench_local(|| decide(black_box(&claims), black_box(NOW), &denials).is_ok());
}

/// Bytes as long as a token of a node.
fn token(n: u32) -> Vec<u8> {
    format!("{}.{n:0>290}.{}", "h".repeat(110), "s".repeat(86)).into_bytes()
}

fn verified() -> ByteCache<AccessClaims> {
    ByteCache::new(1 << 18, 128 << 20)
}

#[divan::bench(args = [1, 100_000])]
fn verified_token_lookup(bencher: Bencher<'_, '_>, count: u32) {
    let cache = verified();
    let tokens: Vec<_> = (0..count).map(token).collect();
    for (n, token) in (0..).zip(&tokens) {
        cache.insert(token, claims(n), 0, |_| false);
    }
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 7_919) % tokens.len();
        cache.with(black_box(&tokens[next]), |claims| *claims)
    });
}

#[divan::bench]
fn check_of_a_token_seen_before(bencher: Bencher<'_, '_>) {
    let cache = verified();
    let denials = denials(1_000);
    let token = token(1);
    cache.insert(&token, claims(1), 0, |_| false);
    bencher.bench_local(|| {
        cache.with(black_box(&token), |claims| *claims).map(|claims| decide(&claims, NOW, &denials).is_ok())
    });
}

fn snapshot(names: &Names) -> Snapshot {
    let permission = |n: u32| Permission {
        id: PermissionId::from_bytes(id(n)),
        name: format!("service.{n:02}.read").parse().unwrap(),
        description: None,
    };
    Snapshot::new(
        true,
        &Effective { combined: (0..40).map(permission).collect(), ..Effective::default() },
        std::time::Duration::ZERO,
        names,
    )
}

const ONE: &str = r#""service.07.read""#;
const SIX: &str = r#"{"any":["nobody",{"all":["service.01.read","service.02.read","nobody"]},{"all":["service.03.read","service.04.read"]}]}"#;

#[divan::bench(args = [ONE, SIX])]
fn query_evaluation(bencher: Bencher<'_, '_>, text: &str) {
    let names = Names::default();
    let snapshot = snapshot(&names);
    let query = Compiled::new(&Query::parse(text).unwrap(), &names);
    bencher.bench_local(|| black_box(&query).holds(&snapshot));
}

#[divan::bench(args = [ONE, SIX])]
fn query_parsing(bencher: Bencher<'_, '_>, text: &str) {
    bencher.bench_local(|| Query::parse(black_box(text)).is_ok());
}
