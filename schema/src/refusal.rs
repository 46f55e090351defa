//! What a client is told about a token that is not taken: one table of verdicts.
//!
//! The words and numbers are the contract; every place that answers about a token (the validation
//! endpoint, the extractor of every other endpoint, batch validation, gateways) takes them from
//! here, so they cannot differ.

/// Why a token, or the header that should carry it, is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No `Authorization` header, or an empty one.
    MissingHeader,
    /// More than one `Authorization` header.
    RepeatedHeader,
    /// A scheme other than `Bearer`.
    OtherScheme,
    /// `Bearer` and nothing, or more than one part after it.
    BadHeader,
    /// The token has not three segments, and is no refresh token.
    NotEnoughSegments,
    /// Signature, key, algorithm, encoding or claims are wrong. Which one is not disclosed.
    SignatureFailed,
    /// The token is past its `exp`.
    Expired,
    /// The token's session, user version, key, or the token itself is revoked.
    Revoked,
    /// The token is not an access token, where one is required.
    NotAccess,
    /// The token is not a refresh token, where one is required.
    NotRefresh,
    /// The data for a decision cannot be read now. The token may be valid.
    CannotKnow,
    /// The token would be accepted, but this node may lack recent revocations.
    TooStale,
    /// Too many tokens wait for the verification of their signatures. This token may be valid.
    Busy,
}

impl Refusal {
    /// Every refusal, for metrics that must exist before the first one happens.
    pub const ALL: [Self; 13] = [
        Self::MissingHeader,
        Self::RepeatedHeader,
        Self::OtherScheme,
        Self::BadHeader,
        Self::NotEnoughSegments,
        Self::SignatureFailed,
        Self::Expired,
        Self::Revoked,
        Self::NotAccess,
        Self::NotRefresh,
        Self::CannotKnow,
        Self::TooStale,
        Self::Busy,
    ];

    /// Whether nothing is known against the token: the client should retry, later or on another node.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        matches!(self, Self::CannotKnow | Self::TooStale | Self::Busy)
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::RepeatedHeader => 400,
            Self::CannotKnow | Self::TooStale | Self::Busy => 503,
            Self::MissingHeader | Self::OtherScheme | Self::Expired | Self::Revoked => 401,
            Self::BadHeader
            | Self::NotEnoughSegments
            | Self::SignatureFailed
            | Self::NotAccess
            | Self::NotRefresh => 422,
        }
    }

    /// The sentence for a person. Its wording is part of the contract.
    #[must_use]
    pub const fn msg(self) -> &'static str {
        match self {
            Self::MissingHeader => "Missing Authorization Header",
            Self::RepeatedHeader => "Only one Authorization header is allowed",
            Self::OtherScheme => {
                "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'"
            }
            Self::BadHeader => "Bad Authorization header. Expected 'Authorization: Bearer <JWT>'",
            Self::NotEnoughSegments => "Not enough segments",
            Self::SignatureFailed => "Signature verification failed",
            Self::Expired => "Token has expired",
            Self::Revoked => "Token has been revoked",
            Self::NotAccess => "Only non-refresh tokens are allowed",
            Self::NotRefresh => "Only refresh tokens are allowed",
            Self::CannotKnow => "The signing keys cannot be read now",
            Self::TooStale => "Revocation state is too old to decide",
            Self::Busy => "Too many tokens wait to be checked; try again",
        }
    }

    /// The value of `WWW-Authenticate` in a 401 (RFC 6750, section 3): without an error if the request had no
    /// Bearer token at all, else with the error and its description.
    #[must_use]
    pub const fn challenge(self) -> &'static str {
        match self {
            Self::MissingHeader | Self::OtherScheme => "Bearer",
            Self::RepeatedHeader => {
                r#"Bearer error="invalid_request", error_description="Only one Authorization header is allowed""#
            }
            Self::BadHeader => {
                r#"Bearer error="invalid_request", error_description="Bad Authorization header. Expected 'Authorization: Bearer <JWT>'""#
            }
            Self::NotEnoughSegments => {
                r#"Bearer error="invalid_token", error_description="Not enough segments""#
            }
            Self::SignatureFailed => {
                r#"Bearer error="invalid_token", error_description="Signature verification failed""#
            }
            Self::Expired => r#"Bearer error="invalid_token", error_description="Token has expired""#,
            Self::Revoked => r#"Bearer error="invalid_token", error_description="Token has been revoked""#,
            Self::NotAccess => {
                r#"Bearer error="invalid_token", error_description="Only non-refresh tokens are allowed""#
            }
            Self::NotRefresh => {
                r#"Bearer error="invalid_token", error_description="Only refresh tokens are allowed""#
            }
            // Nothing is known against the token; the status is 503.
            Self::CannotKnow | Self::TooStale | Self::Busy => "Bearer",
        }
    }

    /// The stable code for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingHeader => "authorization_missing",
            Self::RepeatedHeader => "authorization_repeated",
            Self::OtherScheme => "authorization_scheme",
            Self::BadHeader => "authorization_malformed",
            Self::NotEnoughSegments => "token_segments",
            Self::SignatureFailed => "token_signature",
            Self::Expired => "token_expired",
            Self::Revoked => "token_revoked",
            Self::NotAccess => "token_not_access",
            Self::NotRefresh => "token_not_refresh",
            Self::CannotKnow => "cannot_know",
            Self::TooStale => "too_stale",
            Self::Busy => "busy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn challenge_describes_the_refusal_in_legal_characters() {
        for refusal in Refusal::ALL {
            let challenge = refusal.challenge();
            if challenge == "Bearer" {
                continue;
            }
            let (_, description) = challenge.split_once("error_description=\"").expect("a description");
            let description = description.strip_suffix('"').expect("a closing quote");
            assert_eq!(description, refusal.msg());
            // RFC 6750, section 3.
            let legal = |b: u8| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert!(description.bytes().all(legal), "{challenge}");
        }
    }
}
