//! The `Authorization` header: extracts its token (RFC 9110, section 11; RFC 6750, section 2.1).

use crate::refusal::Refusal;

/// The token in the value of an `Authorization` header.
///
/// The case of the scheme does not matter, and one or more spaces follow it. The returned bytes are not
/// known to be a token yet, not even to be text.
///
/// # Errors
/// `MissingHeader`, `OtherScheme` or `BadHeader`.
pub fn bearer(value: Option<&[u8]>) -> Result<&[u8], Refusal> {
    let value = value.unwrap_or_default().trim_ascii();
    if value.is_empty() {
        return Err(Refusal::MissingHeader);
    }
    let (scheme, rest) = match value.iter().position(|b| *b == b' ') {
        Some(end) => value.split_at(end),
        None => (value, &[][..]),
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Refusal::OtherScheme);
    }
    let token = rest.trim_ascii_start();
    // A token has no byte up to the space. The loop has no early exit, so that it is vectorised.
    let is_spaced = token.iter().fold(false, |spaced, byte| spaced | (*byte <= b' '));
    if token.is_empty() || is_spaced {
        return Err(Refusal::BadHeader);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_token_is_extracted() {
        for good in ["Bearer x.y.z", "bearer x.y.z", "BEARER  x.y.z", " Bearer x.y.z "] {
            assert_eq!(bearer(Some(good.as_bytes())), Ok(&b"x.y.z"[..]), "{good}");
        }
    }

    #[test]
    fn malformed_header_is_refused() {
        let cases: &[(Option<&str>, Refusal)] = &[
            (None, Refusal::MissingHeader),
            (Some(""), Refusal::MissingHeader),
            (Some("  "), Refusal::MissingHeader),
            (Some("Basic abc"), Refusal::OtherScheme),
            (Some("Bearerx.y.z"), Refusal::OtherScheme),
            (Some("x.y.z"), Refusal::OtherScheme),
            (Some("Bearer"), Refusal::BadHeader),
            (Some("Bearer "), Refusal::BadHeader),
            (Some("Bearer x y"), Refusal::BadHeader),
            (Some("Bearer x\ty"), Refusal::BadHeader),
            (Some("Bearer\tx.y.z"), Refusal::OtherScheme),
        ];
        for (header, refusal) in cases {
            assert_eq!(bearer(header.map(str::as_bytes)), Err(*refusal), "{header:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn extracting_never_panics(value: Vec<u8>) {
            if let Ok(token) = bearer(Some(&value)) {
                proptest::prop_assert!(!token.is_empty() && !token.iter().any(u8::is_ascii_whitespace));
            }
        }
    }
}
