//! Texts that people type, parsed once, at input.
//!
//! Each type here is a rule of input: it normalises first and checks the result, so that a stored text
//! passes its own rule again. A store keeps plain strings and applies none of these rules to a row: a row
//! that an older version wrote is served, listed and deleted like any other.
//!
//! | text | rule |
//! |---|---|
//! | [`PersonName`], [`Device`] | one line, NFC, trimmed, nothing invisible; empty is none |
//! | [`Description`] | lines, NFC, nothing invisible |
//! | [`UserAgent`] | never refused: cleaned and cut |
//! | [`Email`](crate::email::Email), [`Name`](crate::name::Name) | their own modules |

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};
use unicode_normalization::UnicodeNormalization;

use crate::{
    permission::MAX_DESCRIPTION_CHARS,
    session::{MAX_DEVICE_CHARS, MAX_USER_AGENT_CHARS},
    user::MAX_PERSON_NAME_CHARS,
};

/// Why a text is rejected. The message continues a sentence that begins with the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// The normalised text has more than this number of characters.
    #[error("has at most {0} characters")]
    TooLong(usize),
    /// The text has control characters, separators of lines or paragraphs, or noncharacters.
    #[error("has no control characters")]
    Control,
    /// The text has characters that are not visible, such as U+200B, or that reorder the text around them.
    #[error("has no invisible characters")]
    Invisible,
}

/// Whether a character controls a terminal or a layout instead of being shown: controls (Cc), separators of
/// lines and paragraphs, noncharacters.
#[must_use]
pub(crate) fn is_control(c: char) -> bool {
    let noncharacter = (0xfdd0..=0xfdef).contains(&u32::from(c)) || u32::from(c) & 0xfffe == 0xfffe;
    c.is_control() || noncharacter || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether a character is invisible: default ignorable in Unicode (zero width, BOM, soft hyphen, bidi marks,
/// fillers, variation selectors), a format character, or the Braille blank.
#[must_use]
pub(crate) fn is_invisible(c: char) -> bool {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c);
    ignorable || category(c) == GeneralCategory::Format || c == '\u{2800}'
}

/// Whether Unicode gives a character no meaning that two programs agree on: unassigned, private use, or the
/// replacement character.
#[must_use]
pub(crate) fn is_meaningless(c: char) -> bool {
    let category = category(c);
    matches!(category, GeneralCategory::Unassigned | GeneralCategory::PrivateUse) || c == '\u{fffd}'
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

/// Whether an invisible character is allowed in a text for people: joiners of letters and emoji, and signs that
/// belong to numbers of some scripts.
fn belongs_to_words(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}')
}

/// Checks a normalised text.
fn check(text: &str, max_chars: usize, is_allowed: impl Fn(char) -> bool) -> Result<(), NotText> {
    if text.chars().any(|c| is_control(c) && !is_allowed(c)) {
        return Err(NotText::Control);
    }
    let shows = |c: char| !is_invisible(c) && !c.is_whitespace();
    if text.chars().any(|c| is_invisible(c) && !belongs_to_words(c)) {
        return Err(NotText::Invisible);
    }
    if !text.trim().is_empty() && !text.chars().any(shows) {
        return Err(NotText::Invisible);
    }
    if text.chars().count() > max_chars { Err(NotText::TooLong(max_chars)) } else { Ok(()) }
}

/// Whether a text is too long for any normalisation to shorten it enough: NFC composes at most three characters
/// into one (UAX #15).
fn is_hopeless(text: &str, max_chars: usize) -> bool {
    text.chars().nth(4 * max_chars).is_some()
}

macro_rules! lines {
    ($($(#[$doc:meta])* $name:ident, at most $max:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// Parses input: one line, in NFC, trimmed; `None` if it is empty.
            ///
            /// # Errors
            /// Why the text is rejected.
            pub fn parse(text: &str) -> Result<Option<Self>, NotText> {
                if is_hopeless(text, $max) {
                    return Err(NotText::TooLong($max));
                }
                let normal: String = text.nfc().collect();
                // Checked before trimming, because a line break at the end is rejected too.
                check(&normal, $max, |_| false)?;
                Ok(Some(Self(normal.trim().to_owned())).filter(|text| !text.0.is_empty()))
            }

            /// The text, to be stored.
            #[must_use]
            pub fn into_string(self) -> String {
                self.0
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )*};
}

lines! {
    /// A first or last name.
    PersonName, at most MAX_PERSON_NAME_CHARS;
    /// The name that a client gives itself when it logs in.
    Device, at most MAX_DEVICE_CHARS;
}

/// The description of a permission or role. It may have several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description(String);

impl Description {
    /// Parses input: in NFC, lines end with `\n` or `\r\n`.
    ///
    /// # Errors
    /// Why the text is rejected.
    pub fn parse(text: &str) -> Result<Self, NotText> {
        if is_hopeless(text, MAX_DESCRIPTION_CHARS) {
            return Err(NotText::TooLong(MAX_DESCRIPTION_CHARS));
        }
        let normal: String = text.nfc().collect();
        if normal.replace("\r\n", "").contains('\r') {
            return Err(NotText::Control);
        }
        check(&normal, MAX_DESCRIPTION_CHARS, |c| matches!(c, '\n' | '\r' | '\t'))?;
        Ok(Self(normal))
    }

    /// The text, to be stored.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The `User-Agent` of a request. A request is never rejected for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAgent(String);

impl UserAgent {
    /// The header without invisible and control characters, in NFC, cut to [`MAX_USER_AGENT_CHARS`].
    #[must_use]
    pub fn clean(text: &str) -> Self {
        // Cut before normalisation too, so that a client cannot make the node normalise 64 KiB.
        let shown = text.chars().filter(|c| !is_control(*c) && !is_invisible(*c));
        let normal: String = shown.take(4 * MAX_USER_AGENT_CHARS).nfc().collect();
        Self(normal.chars().take(MAX_USER_AGENT_CHARS).collect())
    }

    /// The text, to be stored.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Result<Option<String>, NotText> {
        Ok(PersonName::parse(text)?.map(PersonName::into_string))
    }

    #[test]
    fn names_are_normalised_and_trimmed() {
        assert_eq!(name(" Zoe\u{308} "), Ok(Some("Zoë".into())));
        assert_eq!(name("  "), Ok(None));
        assert_eq!(name(""), Ok(None));
        for kept in ["O'Neill", "محمد\u{200c}رضا", "👩\u{200d}🚀", "❤\u{fe0f}", "李小龍"] {
            assert_eq!(name(kept), Ok(Some(kept.into())), "{kept}");
        }
    }

    #[test]
    fn invisible_characters_in_names_are_refused() {
        for text in ["A\u{1b}[31mB", "B\nC", "\0", "a\u{2028}b", "a\u{ffff}", "\u{85}x"] {
            assert_eq!(name(text), Err(NotText::Control), "{text:?}");
        }
        for text in [
            "ann\u{200b}",
            "\u{feff}dan",
            "so\u{ad}ft",
            "\u{202e}nna",
            "a\u{2066}b",
            "\u{3164}",
            "\u{200d}",
            "a\u{e0041}",
        ] {
            assert_eq!(name(text), Err(NotText::Invisible), "{text:?}");
        }
        assert_eq!(name(&"a".repeat(101)), Err(NotText::TooLong(100)));
        assert_eq!(name(&"a".repeat(5_000)), Err(NotText::TooLong(100)));
        assert!(name(&"e\u{301}".repeat(100)).is_ok(), "counted after normalisation");
    }

    #[test]
    fn descriptions_allow_line_breaks_but_no_other_controls() {
        let description = |text| Description::parse(text).map(Description::into_string);
        assert_eq!(description("one\r\ntwo\n\tthree"), Ok("one\r\ntwo\n\tthree".into()));
        assert_eq!(description(""), Ok(String::new()));
        assert_eq!(description("a\u{1b}[31m"), Err(NotText::Control));
        assert_eq!(description("a\rb"), Err(NotText::Control));
        assert_eq!(description(&"a".repeat(501)), Err(NotText::TooLong(500)));
    }

    #[test]
    fn user_agents_are_cleaned_and_cut() {
        assert_eq!(UserAgent::clean("curl/8\u{1b}[31m\u{200b}").as_str(), "curl/8[31m");
        assert_eq!(UserAgent::clean(&"é".repeat(9_000)).as_str().chars().count(), MAX_USER_AGENT_CHARS);
    }

    proptest! {
        #[test]
        fn parsed_text_parses_to_itself(text in any::<Vec<char>>()) {
            let text: String = text.into_iter().collect();
            if let Ok(Some(name)) = PersonName::parse(&text) {
                prop_assert_eq!(PersonName::parse(name.as_str()), Ok(Some(name)));
            }
            if let Ok(Some(device)) = Device::parse(&text) {
                prop_assert_eq!(Device::parse(device.as_str()), Ok(Some(device)));
            }
            if let Ok(description) = Description::parse(&text) {
                prop_assert_eq!(Description::parse(description.as_str()), Ok(description));
            }
            let agent = UserAgent::clean(&text);
            prop_assert_eq!(UserAgent::clean(agent.as_str()), agent);
        }
    }
}
