//! `decide()`: whether a token with a valid signature is accepted now.

use crate::{denials::Denials, refusal::Refusal, time::Timestamp, token::AccessClaims};

/// Decides whether verified claims are accepted: checks expiry, then type, then revocation.
///
/// The result is never cached: every request decides again, even if its claims come from a cache. `exp` has
/// no leeway (RFC 7519, section 4.1.4, allows some). A token below the floor counts as expired, even if the
/// clock was set back since, because its denial may have been deleted.
///
/// # Errors
/// `Expired`, `NotAccess` or `Revoked`.
pub fn decide(claims: &AccessClaims, now: Timestamp, denials: &Denials) -> Result<(), Refusal> {
    if now.as_secs().max(denials.floor_secs()) >= claims.expires_at {
        return Err(Refusal::Expired);
    }
    if !claims.is_access {
        return Err(Refusal::NotAccess);
    }
    if denials.refuses(claims) {
        return Err(Refusal::Revoked);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fact::{Fact, FactKind},
        id::{KeyId, SessionId, TokenId, UserId},
    };

    fn claims() -> AccessClaims {
        AccessClaims {
            user: UserId::from_bytes([1; 16]),
            session: SessionId::from_bytes([1; 16]),
            token: TokenId::from_bytes([1; 16]),
            key: KeyId::from_bytes([1; 16]),
            version: 0,
            issued_at: 100,
            expires_at: 200,
            is_access: true,
        }
    }

    #[test]
    fn token_is_refused_from_the_second_it_expires() {
        let denials = Denials::default();
        let decide = |ms| decide(&claims(), Timestamp::from_millis(ms), &denials);
        assert_eq!(decide(199_999), Ok(()));
        assert_eq!(decide(200_000), Err(Refusal::Expired));
    }

    #[test]
    fn expiry_is_checked_before_type_and_type_before_revocation() {
        let denials = Denials::default();
        denials.apply(&Fact {
            kind: FactKind::SessionRevoked { user: UserId::from_bytes([0; 16]), session: claims().session },
            until: Timestamp::MAX,
        });
        let other = AccessClaims { is_access: false, ..claims() };
        assert_eq!(decide(&other, Timestamp::from_secs(200), &denials), Err(Refusal::Expired));
        assert_eq!(decide(&other, Timestamp::from_secs(150), &denials), Err(Refusal::NotAccess));
        assert_eq!(decide(&claims(), Timestamp::from_secs(150), &denials), Err(Refusal::Revoked));
    }
}
