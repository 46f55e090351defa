//! Tokens as text.
//!
//! An **access token** is a JWS in compact form (RFC 7515, section 7.1) of three segments. The crate
//! `token-verify` parses it and verifies its signature; [`AccessClaims`] are what a verified one says.
//!
//! A **refresh token** is opaque to clients: `prt_` and the base64url of
//! `session ‖ user ‖ version ‖ expiry ‖ secret ‖ tag`. The tag is a MAC under a key that only the cluster
//! has, so a forged token costs no store read and cannot end a user's session. From the expiry, a node can
//! tell that a token has expired long after its session was deleted.
//!
//! Order of checks (part of the contract): shape, cheap claims, signature, expiry, type, revocation. Before
//! the signature is verified, the only answers are the refusals of the shape and `SignatureFailed`.

pub mod access;
pub mod refresh;

pub use access::{AccessClaims, Algorithm};
pub use refresh::{REFRESH_PREFIX, RefreshToken};

/// Limit of the length of a token in bytes. A longer token is refused unread; ours have some 400 bytes (700
/// with RS256).
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
