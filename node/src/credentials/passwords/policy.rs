//! The password policy: RFC 8265 `OpaqueString`, 8 to 128 characters, not a common one.
//!
//! The profile's steps are few and written out here: spaces of other scripts become U+0020, then
//! NFC, and control characters, line and paragraph separators and noncharacters are refused
//! (section 4.2.2). One thing is wider than the RFC's tables, which end with Unicode 6.3: code
//! points that were assigned since, and those that join emoji, are allowed. A 🦀 is fine.

use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::common;

/// The fewest characters of a password after normalisation.
pub const MIN_CHARS: usize = 8;
/// The most characters of a password after normalisation.
pub const MAX_CHARS: usize = 128;

/// A password in its normal form: two ways of typing the same one are equal. Wiped when dropped.
#[derive(Clone)]
pub struct Normalized(Zeroizing<String>);

/// The reason why a text cannot be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// It contains control characters, separators of lines or paragraphs, or noncharacters.
    #[error("a password has no control characters")]
    Characters,
    /// It has fewer than 8 characters.
    #[error("a password has at least 8 characters")]
    TooShort,
    /// It has more than 128 characters.
    #[error("a password has at most 128 characters")]
    TooLong,
    /// It is among the 10,000 most common passwords.
    #[error("this is one of the most common passwords")]
    Common,
}

impl Normalized {
    /// The normal form of a password that a user typed to log in; `None` for a text that no user can have as
    /// a password.
    #[must_use]
    pub fn typed(text: &str) -> Option<Self> {
        // Normal forms are at most three times as long (NFC in UTF-8, UAX #15), mostly shorter.
        if text.len() > 4 * 4 * MAX_CHARS {
            return None;
        }
        if text.is_empty() || text.chars().any(is_refused) {
            return None;
        }
        let spaced = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
        // Reserve the longest form, so that growing leaves no copy behind unwiped.
        let mut normal = Zeroizing::new(String::with_capacity(3 * text.len()));
        normal.extend(spaced.nfc());
        Some(Self(normal))
    }

    /// The normal form of a new password.
    ///
    /// # Errors
    /// The reason why the text cannot be a password.
    pub fn new(text: &str) -> Result<Self, PasswordError> {
        if text.chars().count() > 4 * MAX_CHARS {
            return Err(PasswordError::TooLong);
        }
        if text.is_empty() {
            return Err(PasswordError::TooShort);
        }
        let normal = Self::typed(text).ok_or(PasswordError::Characters)?;
        match normal.0.chars().count() {
            ..MIN_CHARS => Err(PasswordError::TooShort),
            MIN_CHARS..=MAX_CHARS if common::is_common(&normal.0) => Err(PasswordError::Common),
            MIN_CHARS..=MAX_CHARS => Ok(normal),
            _ => Err(PasswordError::TooLong),
        }
    }

    /// The bytes to hash.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn is_refused(c: char) -> bool {
    let noncharacter = (0xfdd0..=0xfdef).contains(&u32::from(c)) || u32::from(c) & 0xfffe == 0xfffe;
    c.is_control() || noncharacter || matches!(c, '\u{2028}' | '\u{2029}')
}

impl std::fmt::Debug for Normalized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Normalized(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_in_characters() {
        for emoji in ["😀", "🦀", "🫠"] {
            assert_eq!(Normalized::new(&emoji.repeat(128)).unwrap().expose().len(), 512);
        }
        assert!(Normalized::new("👩‍👩‍👧‍👦👩‍👩‍👧‍👦").is_ok());
        assert_eq!(Normalized::new(&"😀".repeat(129)).unwrap_err(), PasswordError::TooLong);
        assert_eq!(Normalized::new("seven77").unwrap_err(), PasswordError::TooShort);
        assert_eq!(Normalized::new("").unwrap_err(), PasswordError::TooShort);
        assert_eq!(Normalized::new(&"a".repeat(1 << 20)).unwrap_err(), PasswordError::TooLong);
        // Seven characters, typed as fourteen.
        assert_eq!(Normalized::new(&"e\u{301}".repeat(7)).unwrap_err(), PasswordError::TooShort);
    }

    #[test]
    fn control_characters_are_refused() {
        for text in [
            "null\0null",
            "bell\u{7}bell",
            "line\nline1",
            "tab\ttabtab",
            "dele\u{7f}te1",
            "para\u{2029}para",
            "non\u{ffff}char",
        ] {
            assert_eq!(Normalized::new(text).unwrap_err(), PasswordError::Characters, "{text:?}");
            assert!(Normalized::typed(text).is_none());
        }
    }

    #[test]
    fn common_passwords_are_refused_in_any_case() {
        for text in ["password", "12345678", "PassWord", "qwertyuiop"] {
            assert_eq!(Normalized::new(text).unwrap_err(), PasswordError::Common, "{text}");
        }
        assert!(Normalized::new("correct horse battery staple").is_ok());
    }

    #[test]
    fn equivalent_input_is_one_password() {
        let composed = Normalized::new("pässwörter").unwrap();
        let decomposed = Normalized::typed("pa\u{308}sswo\u{308}rter").unwrap();
        assert_eq!(composed.expose(), decomposed.expose());
        let wide_space = Normalized::typed("two\u{3000}words").unwrap();
        assert_eq!(wide_space.expose(), b"two words");
        assert_ne!(Normalized::typed("Case matters").unwrap().expose(), b"case matters");
    }

    proptest::proptest! {
        #[test]
        fn no_text_causes_a_panic(text: String) {
            let _ = Normalized::new(&text);
        }
    }
}
