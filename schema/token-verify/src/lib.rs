//! Verifies access tokens with the public keys of a cluster.
//!
//! The node uses this crate, and so can a client library: it needs no node, no runtime and no store. Nothing
//! here does I/O or reads a clock: keys, revocations and the time are parameters.
//!
//! Order of checks (part of the contract): shape, plausible claims, signature, expiry, type, revocation. Before
//! the signature is verified, the only answers are the refusals of the shape and `SignatureFailed`, because an
//! unsigned token proves nothing.
//!
//! | step | done by |
//! |---|---|
//! | shape and plausible claims | [`Unverified::parse`] |
//! | signature | [`PublicKey::has_signed`] |
//! | expiry, type, revocation | [`decide()`] |
//! | all of them | [`check`] |

pub mod claims;
pub mod keys;
pub mod unverified;

pub use claims::{Claims, Expected};
pub use keys::{JwksError, PublicKey, PublicKeys};
use schema::{Denials, Refusal, Timestamp, decide, token::AccessClaims};
pub use unverified::Unverified;

/// Checks an access token completely and returns its claims.
///
/// A token whose key is not among `keys` is refused like a forged one. The caller finds out by
/// [`Unverified::key`] and [`PublicKeys::get`] whether it should read the keys of the cluster again.
///
/// # Errors
/// The reason for which the token is not accepted.
pub fn check(
    token: &[u8],
    expected: &Expected,
    keys: &PublicKeys,
    denials: &Denials,
    now: Timestamp,
) -> Result<AccessClaims, Refusal> {
    let unverified = Unverified::parse(token, expected, now)?;
    let has_signed = |key: &PublicKey| key.has_signed(unverified.algorithm(), unverified.text());
    if !keys.get(unverified.key()).is_some_and(has_signed) {
        return Err(Refusal::SignatureFailed);
    }
    let claims = unverified.into_verified();
    decide(&claims, now, denials).map(|()| claims)
}

#[cfg(test)]
mod tests;
