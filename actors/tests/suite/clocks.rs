//! Clock jumps: they end no denial before its tokens, and no session within the grace.

use std::{sync::Arc, time::Duration};

use actors::{FactSink, Facts, Lifetimes, Receipt, StoredSessions};
use async_trait::async_trait;
use proptest::prelude::*;
use schema::{
    Clocks, Fact, FactKind, KeyId, SessionId, Timestamp, TokenId, UserId, decide,
    horizon::{Saved, manual::ManualClocks},
    time::CLOCK_SKEW,
    token::AccessClaims,
};
use store::Result as StoreResult;

use crate::{
    refresh::{assert_alarm, assert_no_alarm, refresh, setup},
    world::{ACCESS_TTL, REFRESH, START},
};

const HOUR_MS: i64 = 3_600_000;

#[tokio::test]
async fn jump_within_the_grace_gets_the_same_successor() {
    for by_ms in [HOUR_MS, -HOUR_MS, 960 * HOUR_MS] {
        let (world, session) = setup().await;
        let first = refresh(&world, &session, 0).await;
        world.clock.jump(by_ms);
        assert_eq!(refresh(&world, &session, 0).await, first, "{by_ms}");
        world.clock.jump(-by_ms);
        assert_eq!(refresh(&world, &session, 0).await, first, "{by_ms}");
        assert_no_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn spent_token_keeps_its_grace_over_a_jump_and_a_refresh() {
    let (world, session) = setup().await;
    let first = refresh(&world, &session, 0).await;
    world.clock.jump(HOUR_MS);
    refresh(&world, &session, 1).await.unwrap();
    world.clock.jump(-HOUR_MS);
    assert_eq!(refresh(&world, &session, 0).await, first);
    assert_no_alarm(&world, &session).await;
}

#[tokio::test]
async fn grace_ends_though_the_clock_was_set_back() {
    for by_ms in [HOUR_MS, -HOUR_MS] {
        let (world, session) = setup().await;
        world.clock.jump(by_ms.max(0));
        refresh(&world, &session, 0).await.unwrap();
        world.clock.jump(-HOUR_MS);
        world.clock.advance(REFRESH.grace);
        assert!(refresh(&world, &session, 0).await.is_err(), "{by_ms}");
        assert_alarm(&world, &session).await;
    }
}

#[tokio::test]
async fn refresh_by_a_clock_set_back_keeps_the_session_end() {
    let (world, session) = setup().await;
    let back = -2 * i64::try_from(REFRESH.ttl.as_millis()).unwrap();
    world.clock.jump(back);
    for n in 0..2 {
        refresh(&world, &session, n).await.unwrap();
        world.clock.advance(REFRESH.grace);
    }
    world.clock.jump(-back);
    refresh(&world, &session, 2).await.unwrap();
}

/// A sink that drops all facts.
struct Nowhere;

#[async_trait]
impl FactSink for Nowhere {
    async fn publish(&self, _: &[Fact], _: StoredSessions) -> StoreResult<Receipt> {
        Ok(Receipt { visible: 0, live: 0, durability: actors::Durability::Store })
    }
}

/// A node without its actors: it issues, revokes, expires and restarts as the real one does.
struct Small {
    manual: Arc<ManualClocks>,
    clocks: Arc<Clocks>,
    facts: Facts,
    /// The clocks as saved on the node's disk.
    saved: Option<Saved>,
    ledger: Vec<Fact>,
    issued: Vec<(AccessClaims, bool)>,
}

impl Small {
    fn new() -> Self {
        let manual = ManualClocks::at(START);
        let (clocks, facts) = Self::start(&manual, None);
        Self { manual, clocks, facts, saved: None, ledger: Vec::new(), issued: Vec::new() }
    }

    fn start(manual: &Arc<ManualClocks>, saved: Option<Saved>) -> (Arc<Clocks>, Facts) {
        let clocks = manual.clocks_after(saved);
        let lifetimes = Lifetimes { access_ttl: ACCESS_TTL, access_horizon: Timestamp::EPOCH };
        let facts = Facts::new(Arc::new(Nowhere), clocks.clone(), lifetimes);
        (clocks, facts)
    }

    fn restart(&mut self) {
        (self.clocks, self.facts) = Self::start(&self.manual, self.saved.clone());
        self.ledger.iter().for_each(|fact| self.facts.apply(fact));
    }

    fn issue(&mut self) {
        let expires_at = self.clocks.expiry(ACCESS_TTL);
        self.clocks.high_water().saw_expiry(expires_at.as_secs());
        if self.saved.as_ref().is_none_or(|saved| saved.latest_expiry_secs() < expires_at.as_secs()) {
            self.saved = Some(self.clocks.save(expires_at.plus(Duration::from_secs(120))));
        }
        let number = u128::try_from(self.issued.len()).unwrap();
        let claims = AccessClaims {
            user: UserId::from_bytes([1; 16]),
            session: SessionId::from_bytes(number.to_be_bytes()),
            token: TokenId::from_bytes([2; 16]),
            key: KeyId::from_bytes([3; 16]),
            version: 0,
            // Long ago: a token of the future would be refused whether or not its denial is kept.
            issued_at: 0,
            expires_at: expires_at.as_secs(),
            is_access: true,
        };
        assert!(self.accepts(&claims), "a token that was just issued");
        self.issued.push((claims, false));
    }

    fn revoke(&mut self, index: prop::sample::Index) {
        if self.issued.is_empty() {
            return;
        }
        let (claims, revoked) = index.get_mut(&mut self.issued);
        *revoked = true;
        let kind = FactKind::SessionRevoked { user: claims.user, session: claims.session };
        let expiry = Timestamp::from_secs(claims.expires_at);
        let denied = self.facts.deny_beyond(expiry, &[kind], StoredSessions::Delete);
        self.ledger.extend(denied.facts());
    }

    fn forgets(&mut self) {
        self.clocks.observe();
        self.facts.denials().forget(self.clocks.horizon(), CLOCK_SKEW);
        let horizon = self.clocks.horizon();
        self.saved = Some(self.clocks.save(self.clocks.expiry(ACCESS_TTL)));
        self.ledger.retain(|fact| !horizon.is_past(fact.until, CLOCK_SKEW));
    }

    fn accepts(&self, claims: &AccessClaims) -> bool {
        decide(claims, self.clocks.now(), self.facts.denials()).is_ok()
    }
}

#[derive(Debug, Clone)]
enum Act {
    Issue,
    Revoke(prop::sample::Index),
    Advance(u64),
    Jump(i64),
    Forget,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Issue),
        4 => any::<prop::sample::Index>().prop_map(Act::Revoke),
        3 => prop_oneof![1_u64..60, 60_u64..1_800, 1_800_u64..200_000].prop_map(Act::Advance),
        3 => prop_oneof![
            Just(HOUR_MS), Just(-HOUR_MS), Just(-120_000), Just(120_000),
            Just(960 * HOUR_MS), Just(-960 * HOUR_MS),
            -90_000_000_i64..90_000_000,
        ].prop_map(Act::Jump),
        3 => Just(Act::Forget),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// With any jumps of the wall clock and any restarts, no revoked token is accepted at any moment, and a
    /// token is accepted when it is issued. A denial does not cover clocks that were ahead by more than a
    /// day.
    #[test]
    fn no_jump_lets_a_revoked_token_pass(acts in prop::collection::vec(act(), 1..120)) {
        let mut node = Small::new();
        for act in acts {
            match act {
                Act::Issue => node.issue(),
                Act::Revoke(index) => node.revoke(index),
                Act::Advance(secs) => node.manual.advance(Duration::from_secs(secs)),
                Act::Jump(by_ms) => node.manual.jump(by_ms),
                Act::Forget => node.forgets(),
                Act::Restart => node.restart(),
            }
            let passed = node.issued.iter().find(|(claims, revoked)| *revoked && node.accepts(claims));
            prop_assert!(passed.is_none(), "{passed:?}");
        }
    }
}
