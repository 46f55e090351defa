//! Email addresses: as the user wrote them, and folded for comparison.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Longest address (RFC 5321, section 4.5.3.1.3), in bytes.
pub const MAX_EMAIL_BYTES: usize = 254;
const MAX_LOCAL_BYTES: usize = 64;

/// A plausible address. Whether mail arrives there is for a confirmation to find out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

/// An address folded for comparison: two spellings of one address have the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FoldedEmail(String);

/// The text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an email address")]
pub struct NotAnEmail;

impl Email {
    /// As the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For comparison.
    #[must_use]
    pub fn folded(&self) -> FoldedEmail {
        FoldedEmail::of(&self.0)
    }
}

impl FoldedEmail {
    /// Folds any text, so that unknown and malformed addresses can be counted like known ones.
    ///
    /// Canonical composition, then upper and lower case letter by letter: `ß` meets `ss` and the
    /// final sigma its sisters, as with Unicode's full case folding.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let folded = text.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        Self(folded.nfc().collect())
    }

    /// The folded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = NotAnEmail;
    fn from_str(text: &str) -> Result<Self, NotAnEmail> {
        let (local, domain) = text.rsplit_once('@').ok_or(NotAnEmail)?;
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && !part.ends_with('.')
                && !part.contains("..")
                && !part.chars().any(|c| c.is_control() || c.is_whitespace() || r#"@"(),:;<>[\]"#.contains(c))
        };
        let good = text.len() <= MAX_EMAIL_BYTES
            && local.len() <= MAX_LOCAL_BYTES
            && plain(local)
            && plain(domain)
            && domain
                .split('.')
                .all(|label| label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-'));
        if good { Ok(Self(text.nfc().collect())) } else { Err(NotAnEmail) }
    }
}

impl TryFrom<String> for Email {
    type Error = NotAnEmail;
    fn try_from(text: String) -> Result<Self, NotAnEmail> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FoldedEmail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plausible_addresses() {
        for good in
            ["a@b", "ann@example.org", "ann+tag@ex-ample.org", "O'Neill@example.org", "пётр@пример.рф"]
        {
            assert!(good.parse::<Email>().is_ok(), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "",
            "@",
            "ann",
            "ann@",
            "@example.org",
            "ann@@example.org",
            "a b@example.org",
            "ann@exa mple.org",
            "ann@-example.org",
            "ann@example..org",
            ".ann@example.org",
            "ann@example.org.",
            "ann\0@example.org",
            "ann@example.org\n",
            "\"a\"@example.org",
            "<ann@example.org>",
            &long,
        ] {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spellings_of_one_address_fold_together() {
        let folded = |text: &str| text.parse::<Email>().unwrap().folded();
        assert_eq!(folded("Ann@Example.ORG"), folded("ann@example.org"));
        assert_eq!(folded("STRASSE@x"), folded("straße@x"));
        assert_eq!(folded("ΑΣ@x"), folded("ας@x"));
        assert_eq!(folded("e\u{301}@x"), folded("É@x"));
        assert_ne!(folded("ann@x"), folded("anna@x"));
        assert_eq!(folded("ann@x").as_str(), "ann@x");
    }
}
