//! Names of permissions and roles: `[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}`, case-sensitive.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Limit of the length of a name in bytes (which are characters here).
pub const MAX_NAME_BYTES: usize = 64;

/// The name of a permission or role. Cheap to clone.
///
/// Parsing applies the grammar. [`Name::from_stored`] reads a row and does not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 of A-Z a-z 0-9 _ . : - and begins with a letter or digit")]
pub struct NotAName;

/// Limit of the length of a text that a name is looked up by, in bytes.
const LOOK_UP_BYTES_MAX: usize = 1_024;

impl Name {
    /// The name that a row holds, even if it violates today's grammar.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// A name to look up stored records by, even if it violates today's grammar; `None` if no record can have
    /// it.
    #[must_use]
    pub fn to_look_up(text: &str) -> Option<Self> {
        (1..=LOOK_UP_BYTES_MAX).contains(&text.len()).then(|| Self::from_stored(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text matches the grammar.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let bytes = text.as_bytes();
        bytes.len() <= MAX_NAME_BYTES
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(b))
    }
}

impl FromStr for Name {
    type Err = NotAName;
    fn from_str(text: &str) -> Result<Self, NotAName> {
        if Self::is_valid(text) { Ok(Self(text.into())) } else { Err(NotAName) }
    }
}

/// Reads the name of a row.
impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().into()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_of_names_is_applied() {
        let longest = "a".repeat(64);
        for good in ["a", "9", "films.read", "a:b-c_d.e", &longest] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", ".a", "_a", "-a", ":a", "a b", "a/b", "ä", "a\n", "a\0", "a'b", "a\"", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert_ne!("A".parse::<Name>(), "a".parse::<Name>());
    }

    proptest::proptest! {
        #[test]
        fn stored_names_are_read_unchanged(text: String) {
            let stored: Name = serde_json::from_value(text.clone().into()).unwrap();
            proptest::prop_assert_eq!(stored.as_str(), text.as_str());
            if let Ok(parsed) = text.parse::<Name>() {
                proptest::prop_assert_eq!(parsed.as_str().parse::<Name>(), Ok(parsed));
            }
        }
    }
}
