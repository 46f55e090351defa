//! Tokens, as text: how they are read before anything about them is believed.
//!
//! An **access token** is a JWS in compact form (RFC 7515, section 7.1) of three segments. What is
//! read here is not yet known to be true: [`Unverified`] hands out only what is needed to find the
//! key and check the signature, and gives the [`Claims`] to who says that it has done so.
//!
//! A **refresh token** is opaque to clients: `prt_` and the base64url of
//! `session ‖ user ‖ version ‖ expiry ‖ secret ‖ tag`. The tag is a MAC under a key that only the cluster
//! has, so a made-up token costs no store read and cannot end anybody's session; the expiry makes
//! "past its life" known after the session is long forgotten.
//!
//! Order of checks (the contract): shape, cheap claims, signature, expiry, type, revocation.
//! Before the signature is known, only the shape's refusals and `SignatureFailed` are answered.

pub mod access;
pub mod refresh;

pub use access::{AccessClaims, Algorithm, Claims, Expected, Unverified};
pub use refresh::{REFRESH_PREFIX, RefreshToken};

/// A longer token is refused unread: ours are some 400 bytes (700 with RS256).
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
