//! The claims of an access token.

use schema::{SessionId, TokenId, UserId};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use schema::token::access::ACCESS_TYPE;

/// The payload of an access token. Unknown claims are ignored, so that an older node accepts the tokens of a
/// newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer: the cluster that issued the token.
    pub iss: String,
    /// The audience: the services that the token is meant for.
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The session.
    pub sid: SessionId,
    /// The id of the token.
    pub jti: TokenId,
    /// When it was issued, in seconds since the epoch.
    pub iat: u64,
    /// When it expires, in seconds since the epoch: it is refused from this second on.
    pub exp: u64,
    /// When it becomes valid, in seconds since the epoch. Our tokens carry none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// The user's version when it was issued.
    pub uv: u64,
    /// The type of the token: [`ACCESS_TYPE`].
    pub r#type: String,
}

/// The claims that a token of this cluster must have.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The expected `iss`.
    pub issuer: String,
    /// The expected `aud`.
    pub audience: String,
}
