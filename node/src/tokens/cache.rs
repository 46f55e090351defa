//! Verified tokens: which tokens have a good signature, and what they say.
//!
//! Promises: [`VerifiedTokens::get`] takes no lock and compares the whole token; memory is bounded
//! by [`SLOTS`] tokens of at most [`MAX_TOKEN_BYTES`](schema::token::MAX_TOKEN_BYTES). It never
//! remembers a verdict: who gets claims asks [`decide`](schema::decide()) each time.
//!
//! A token can lie in one of [`WAYS`] slots that its hash says. A new one takes a slot that is
//! empty or expired, else one at random: no bookkeeping on reads. Only tokens with a good
//! signature come in, so a stranger cannot push others out.

use arc_swap::ArcSwapOption;
use foldhash::fast::RandomState;
use schema::{Timestamp, token::AccessClaims};
use std::{hash::BuildHasher as _, sync::Arc};

/// How many tokens are kept: some 500 bytes each, so at most about 128 MB.
pub const SLOTS: usize = 1 << 18;
/// In how many slots a token may lie.
pub const WAYS: usize = 4;

struct Verified {
    token: Box<[u8]>,
    claims: AccessClaims,
}

/// Tokens with a good signature.
pub struct VerifiedTokens {
    slots: Box<[ArcSwapOption<Verified>]>,
    hasher: RandomState,
}

impl Default for VerifiedTokens {
    fn default() -> Self {
        let slots = std::iter::repeat_with(ArcSwapOption::empty).take(SLOTS).collect();
        Self { slots, hasher: RandomState::default() }
    }
}

impl VerifiedTokens {
    /// What the token says, when it was verified before and is still kept.
    #[must_use]
    pub fn get(&self, token: &[u8]) -> Option<AccessClaims> {
        self.ways(token).iter().find_map(|slot| {
            let entry = slot.load();
            entry.as_ref().filter(|entry| *entry.token == *token).map(|entry| entry.claims)
        })
    }

    /// Remembers a token whose signature is good.
    pub fn insert(&self, token: &[u8], claims: AccessClaims, now: Timestamp) {
        let ways = self.ways(token);
        let free = ways.iter().find(|slot| {
            let entry = slot.load();
            entry
                .as_ref()
                .is_none_or(|entry| entry.claims.expires_at <= now.as_secs() || *entry.token == *token)
        });
        // The token's id ends in random bits: as good a choice as any, and free.
        let victim = &ways[usize::from(claims.token.as_bytes()[15]) % WAYS];
        free.unwrap_or(victim).store(Some(Arc::new(Verified { token: token.into(), claims })));
    }

    fn ways(&self, token: &[u8]) -> &[ArcSwapOption<Verified>] {
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash are as good")]
        let first = (self.hasher.hash_one(token) as usize % (SLOTS / WAYS)) * WAYS;
        &self.slots[first..first + WAYS]
    }
}

#[cfg(test)]
mod tests {
    use schema::{KeyId, SessionId, TokenId, UserId};

    use super::*;

    fn claims(n: u32, expires_at: u64) -> AccessClaims {
        let mut id = [0; 16];
        id[12..].copy_from_slice(&n.to_be_bytes());
        AccessClaims {
            user: UserId::from_bytes(id),
            session: SessionId::from_bytes(id),
            token: TokenId::from_bytes(id),
            key: KeyId::from_bytes(id),
            version: 0,
            issued_at: 0,
            expires_at,
            is_access: true,
        }
    }

    #[test]
    fn the_whole_token_is_compared() {
        let cache = VerifiedTokens::default();
        cache.insert(b"a.b.c", claims(1, 10), Timestamp::EPOCH);
        assert_eq!(cache.get(b"a.b.c"), Some(claims(1, 10)));
        for other in [&b"a.b.d"[..], b"a.b.", b"a.b.cc", b""] {
            assert_eq!(cache.get(other), None);
        }
    }

    #[test]
    fn it_is_bounded_and_keeps_most_of_what_it_saw() {
        let cache = VerifiedTokens::default();
        let count = 100_000_u32;
        for n in 0..count {
            cache.insert(format!("token {n}").as_bytes(), claims(n, 10), Timestamp::EPOCH);
        }
        let kept = (0..count).filter(|n| cache.get(format!("token {n}").as_bytes()).is_some()).count();
        assert!(kept > 95_000, "{kept} of {count}");
        assert!(cache.slots.iter().filter(|slot| slot.load().is_some()).count() <= SLOTS);
    }
}
