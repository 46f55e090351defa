//! Refresh tokens: `prt_` and 128 base64url characters.
//!
//! ```text
//! session 16 ‖ user 16 ‖ version 8 ‖ expires_at 8 ‖ secret 32 ‖ tag 16     (96 bytes)
//! ```
//!
//! By the fixed prefix, secret scanners find leaked tokens. Checking the tag, and hashing the secret to
//! compare it with the stored hash, is left to `node`, which has the keys.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    id::{SessionId, UserId},
    time::Timestamp,
};

/// The prefix of every refresh token.
pub const REFRESH_PREFIX: &str = "prt_";

/// The length of the tag in bytes.
pub const TAG_BYTES: usize = 16;
/// The length in bytes of what the tag authenticates.
const BODY_BYTES: usize = 16 + 16 + 8 + 8 + 32;

/// The parts of a refresh token. Its tag is not checked yet.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session of the token.
    pub session: SessionId,
    /// The session's user.
    pub user: UserId,
    /// The user's version when it was issued. After a password change, an earlier token is invalid but no
    /// sign of theft.
    pub version: u64,
    /// When it expires, in whole seconds: it is refused from then on.
    pub expires_at: Timestamp,
    /// 256 random bits.
    pub secret: [u8; 32],
    /// The MAC over [`Self::body`].
    pub tag: [u8; TAG_BYTES],
}

impl RefreshToken {
    /// Parses a text; `None` if it is not of this form.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_prefix(REFRESH_PREFIX.as_bytes())?;
        let mut bytes = [0; BODY_BYTES + TAG_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        if length != bytes.len() {
            return None;
        }
        let (session, rest) = bytes.split_first_chunk()?;
        let (user, rest) = rest.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (expires_at, rest) = rest.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        let (tag, _) = rest.split_first_chunk()?;
        Some(Self {
            session: SessionId::from_bytes(*session),
            user: UserId::from_bytes(*user),
            version: u64::from_be_bytes(*version),
            expires_at: Timestamp::from_secs(u64::from_be_bytes(*expires_at)),
            secret: *secret,
            tag: *tag,
        })
    }

    /// The bytes that the tag authenticates.
    #[must_use]
    pub fn body(&self) -> [u8; BODY_BYTES] {
        let mut body = [0; BODY_BYTES];
        body[..16].copy_from_slice(self.session.as_bytes());
        body[16..32].copy_from_slice(self.user.as_bytes());
        body[32..40].copy_from_slice(&self.version.to_be_bytes());
        body[40..48].copy_from_slice(&self.expires_at.as_secs().to_be_bytes());
        body[48..].copy_from_slice(&self.secret);
        body
    }

    /// The text for the client. (There is no `Display`, so that the token does not slip into a log.)
    #[must_use]
    pub fn expose(&self) -> String {
        let mut text = String::from(REFRESH_PREFIX);
        URL_SAFE_NO_PAD.encode_string([&self.body()[..], &self.tag].concat(), &mut text);
        text
    }
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshToken").field("session", &self.session).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RefreshToken {
        RefreshToken {
            session: SessionId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            version: 6,
            expires_at: Timestamp::from_secs(1_800_000_000),
            secret: [3; 32],
            tag: [4; 16],
        }
    }

    #[test]
    fn token_survives_a_round_trip() {
        let token = sample();
        let text = token.expose();
        assert!(text.starts_with("prt_"));
        assert_eq!(RefreshToken::parse(text.as_bytes()), Some(token));
    }

    #[test]
    fn malformed_text_does_not_parse() {
        let text = sample().expose();
        let cases =
            ["", "prt_", &text[4..], &text[..text.len() - 1], &format!("{text}A"), &format!("{text}=")];
        for case in cases {
            assert_eq!(RefreshToken::parse(case.as_bytes()), None, "{case}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", sample());
        assert!(!text.contains('3') && !text.contains("secret"), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text: Vec<u8>) {
            let _ = RefreshToken::parse(&text);
            let _ = RefreshToken::parse(&[REFRESH_PREFIX.as_bytes(), &text].concat());
        }
    }
}
