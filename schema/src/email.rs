//! Email addresses: as the user wrote them, and folded for comparison.
//!
//! Two addresses that a person cannot tell apart are the same. The domain is processed by UTS 46, so that its
//! Unicode form and its punycode are equal. The local part is stored in NFC and compared by case folding of
//! its compatibility form (NFKC), so full-width letters equal letters. Invisible characters are rejected. Each
//! rule applies to the result of normalisation.
//!
//! An [`Email`] is the stored form: parsing applies the rules, [`Email::from_stored`] does not. Earlier
//! versions folded differently ([`FoldedEmail::keys`]); their users are still found.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::text::{is_control, is_invisible, is_meaningless};

/// Limit of the length of an address in bytes, with the domain in either form (RFC 5321, section 4.5.3.1.3).
pub const MAX_EMAIL_BYTES: usize = 254;
/// Limit of the length of the local part in bytes (RFC 5321, section 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;
/// Limit of the length of a text in bytes: a longer one is no address, even after normalisation.
const MAX_TEXT_BYTES: usize = 4 * MAX_EMAIL_BYTES;

/// A plausible address. Only a confirmation proves that mail arrives there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Email(String);

/// An address folded for comparison: two spellings of one address are equal.
#[derive(Clone)]
pub struct FoldedEmail {
    key: String,
    /// The other keys under which an earlier version may have claimed the address.
    before: Vec<String>,
}

/// The text is not an address. The message has the reason and does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no email address: {0}")]
pub struct NotAnEmail(&'static str);

impl Email {
    /// The address that a row holds, even if it violates today's rules.
    #[must_use]
    pub const fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The address as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folded form, for comparison.
    #[must_use]
    pub fn folded(&self) -> FoldedEmail {
        FoldedEmail::of(&self.0)
    }

    /// Whether a user with this address may hold the claim with this key, by today's folding or the earlier one.
    #[must_use]
    pub fn claims(&self, key: &str) -> bool {
        self.folded().key == key || earlier(&self.0) == key
    }
}

impl FoldedEmail {
    /// Folds any text, so that failures of unknown and malformed addresses can be counted like those of known
    /// ones, and a stored address that violates today's rules is found by the same text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.len() > MAX_TEXT_BYTES {
            return Self::of_none(text);
        }
        let mut before = vec![earlier(text)];
        let key = match Parts::of(text) {
            Ok(Parts { local, ascii, unicode, .. }) => {
                if ascii != unicode {
                    before.extend([&ascii, &unicode].map(|domain| earlier(&format!("{local}@{domain}"))));
                }
                format!("{}@{unicode}", fold(&local))
            }
            Err(_) => fold(text),
        };
        before.dedup();
        before.retain(|earlier| *earlier != key);
        Self { key, before }
    }

    /// A key for a text longer than any address. It is not folded, because the cost of folding grows with the
    /// text.
    fn of_none(text: &str) -> Self {
        let begin = &text[..text.floor_char_boundary(MAX_EMAIL_BYTES)];
        // With the line break, the key differs from that of every address.
        Self { key: format!("{begin}\n{} bytes", text.len()), before: Vec::new() }
    }

    /// The folded text: the key under which the address is claimed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.key
    }

    /// The keys under which the address may be claimed, in the order of lookup: those of earlier versions first.
    /// So a user of an earlier version is found as before, even if today's folding maps two users to one key.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.before.iter().map(String::as_str).chain([self.key.as_str()])
    }

    /// Whether an earlier version may have claimed the address under another key.
    #[must_use]
    pub fn has_earlier_keys(&self) -> bool {
        !self.before.is_empty()
    }

    /// Whether this address finds the user with the address `stored` that holds the claim with the key
    /// `claimed`: the addresses are the same, or an earlier version took them for the same and the claim is
    /// still the one of that version.
    #[must_use]
    pub fn finds(&self, claimed: &str, stored: &Email) -> bool {
        let today = stored.folded();
        today == *self || (today.key != claimed && earlier(&stored.0) == claimed)
    }
}

impl PartialEq for FoldedEmail {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for FoldedEmail {}

impl Hash for FoldedEmail {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// The normalised parts of an address.
struct Parts {
    /// The local part, in NFC.
    local: String,
    /// The domain as the user wrote it if it is plain ASCII, else its Unicode form.
    written: String,
    /// The domain in lower case, with A-labels (RFC 5890).
    ascii: String,
    /// The domain in lower case, with U-labels.
    unicode: String,
}

impl Parts {
    fn of(text: &str) -> Result<Self, NotAnEmail> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(NotAnEmail("it is too long"));
        }
        let text: String = text.nfc().collect();
        if let Some(why) = text.chars().find_map(why_refused) {
            return Err(NotAnEmail(why));
        }
        let (local, domain) = text.rsplit_once('@').ok_or(NotAnEmail("it has no @"))?;
        check_local(local)?;
        let not_a_domain = NotAnEmail("its domain is none");
        let uts46 = Uts46::new();
        let ascii = uts46
            .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
            .map_err(|_| not_a_domain)?;
        let (unicode, valid) =
            uts46.to_unicode(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
        valid.map_err(|_| not_a_domain)?;
        // Checked after decoding, because punycode hides characters.
        if let Some(why) = unicode.chars().find_map(why_refused) {
            return Err(NotAnEmail(why));
        }
        let plain = domain.is_ascii() && ascii == unicode;
        let written = if plain { domain.to_owned() } else { unicode.to_string() };
        let longest = written.len().max(ascii.len());
        if local.len() > MAX_LOCAL_BYTES || local.len() + 1 + longest > MAX_EMAIL_BYTES {
            return Err(NotAnEmail("it is too long"));
        }
        Ok(Self {
            local: local.to_owned(),
            written,
            ascii: ascii.into_owned(),
            unicode: unicode.into_owned(),
        })
    }
}

/// Why a character is not allowed anywhere in an address; `None` if it may be.
fn why_refused(c: char) -> Option<&'static str> {
    if is_control(c) {
        Some("it has control characters")
    } else if is_invisible(c) {
        Some("it has invisible characters")
    } else if is_meaningless(c) {
        Some("it has characters without a meaning")
    } else if c.is_whitespace() {
        Some("it has spaces")
    } else {
        None
    }
}

/// Checks that a local part consists of words separated by dots, both as it is and in its compatibility form.
fn check_local(local: &str) -> Result<(), NotAnEmail> {
    for form in [local, &fold(local)] {
        let dotted = form.is_empty() || form.starts_with('.') || form.ends_with('.') || form.contains("..");
        if dotted || form.chars().any(|c| r#"@"(),:;<>[\]"#.contains(c) || why_refused(c).is_some()) {
            return Err(NotAnEmail("what is before the @ cannot be"));
        }
    }
    Ok(())
}

/// Case folding of the compatibility form: each letter to upper case and then to lower case, so that `ß` equals
/// `ss`, and a final sigma equals the others.
fn fold(text: &str) -> String {
    let mut folded: String = text.nfkc().collect();
    // Nearly all texts are stable after one round; a capital sharp s takes two.
    for _ in 0..4 {
        let upper = folded.chars().flat_map(char::to_uppercase);
        let next: String = upper.flat_map(char::to_lowercase).nfkc().collect();
        if next == folded {
            break;
        }
        folded = next;
    }
    folded
}

/// The key of versions up to 0.1: canonical composition, no UTS 46, no compatibility forms. It must never
/// change, because stored claims have it.
fn earlier(text: &str) -> String {
    text.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfc().collect()
}

impl FromStr for Email {
    type Err = NotAnEmail;
    /// Parses input by today's rules.
    fn from_str(text: &str) -> Result<Self, NotAnEmail> {
        let Parts { local, written, .. } = Parts::of(text)?;
        Ok(Self(format!("{local}@{written}")))
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
        self.key.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_longer_than_any_address_is_not_folded() {
        // Three bytes each, 18 letters in compatibility form.
        let long = "\u{fdfa}".repeat(20_000);
        let folded = FoldedEmail::of(&long);
        assert!(folded.as_str().len() < 400 && folded.keys().count() == 1);
        assert_ne!(folded, FoldedEmail::of(&long[3..]), "counted apart");
        let begins = format!("ann@example.org{}", " ".repeat(5_000));
        assert_ne!(FoldedEmail::of(&begins), email("ann@example.org").folded());
    }

    fn email(text: &str) -> Email {
        text.parse().unwrap_or_else(|error| panic!("{text:?} {error}"))
    }

    fn folded(text: &str) -> FoldedEmail {
        email(text).folded()
    }

    #[test]
    fn only_plausible_addresses_parse() {
        for good in
            ["a@b", "ann@example.org", "ann+tag@ex-ample.org", "O'Neill@Example.org", "пётр@пример.рф"]
        {
            assert_eq!(email(good).as_str(), good);
        }
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}org", "abc.".repeat(70));
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
            "a..n@example.org",
            "ann@example.org.",
            "ann\0@example.org",
            "ann@example.org\n",
            "\"a\"@example.org",
            "<ann@example.org>",
            "ann@xn--a.org",
            "ann@under_score.org",
            &long,
            &longer,
        ] {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rules_apply_after_normalisation() {
        // A Greek question mark is a semicolon in NFC; a full-width one in NFKC.
        for bad in
            ["a\u{37e}b@x.org", "a\u{ff1b}b@x.org", "a\u{ff20}b@x.org", "a\u{2025}b@x.org", "a\u{2024}@x.org"]
        {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn invisible_characters_are_refused() {
        for invisible in [
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{feff}',
            '\u{ad}',
            '\u{200e}',
            '\u{202e}',
            '\u{2066}',
            '\u{2060}',
            '\u{34f}',
            '\u{61c}',
            '\u{180e}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{fe0f}',
            '\u{e0061}',
            '\u{2800}',
            '\u{a0}',
            '\u{3000}',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{2028}',
            '\u{ffff}',
            '\u{e000}',
            '\u{378}',
        ] {
            for text in [
                format!("ann{invisible}@example.org"),
                format!("{invisible}ann@example.org"),
                format!("ann@exam{invisible}ple.org"),
                format!("ann@example.org{invisible}"),
            ] {
                assert!(text.parse::<Email>().is_err(), "{text:?}");
            }
        }
        // The same, hidden by punycode: a joiner that IDNA allows in its context.
        assert!("ann@xn--mgba3gch31f060k.com".parse::<Email>().is_err());
    }

    #[test]
    fn spellings_of_one_address_fold_alike() {
        for (one, other) in [
            ("Ann@Example.ORG", "ann@example.org"),
            ("STRASSE@x", "straße@x"),
            ("STRAẞE@x", "strasse@x"),
            ("ΑΣ@x", "ας@x"),
            ("e\u{301}@x", "É@x"),
            ("zed@bücher.example", "zed@xn--bcher-kva.example"),
            ("zed@BÜCHER.example", "zed@XN--BCHER-KVA.example"),
            ("ann@example。org", "ann@example.org"),
            ("ann@ｅｘａｍｐｌｅ.org", "ann@example.org"),
            ("Ａｎｎ@example.org", "ann@example.org"),
            ("ﬁn@x", "fin@x"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_ne!(folded("ann@x"), folded("anna@x"));
        assert_ne!(folded("x@straße.de"), folded("x@strasse.de"), "two domains (UTS 46, nontransitional)");
        assert_eq!(folded("ann@x").as_str(), "ann@x");
    }

    #[test]
    fn domain_is_stored_in_its_unicode_form() {
        assert_eq!(email("zed@xn--bcher-kva.example").as_str(), "zed@bücher.example");
        assert_eq!(email("ann@example。org").as_str(), "ann@example.org");
        assert_eq!(email("Ann@Example.ORG").as_str(), "Ann@Example.ORG");
    }

    #[test]
    fn stored_text_is_read_unchanged() {
        for text in ["a;b@x.org", "", "no address", "ann\u{200b}@example.org"] {
            let stored: Email = serde_json::from_value(text.into()).unwrap();
            assert_eq!(stored.as_str(), text);
            assert!(stored.folded().finds(&earlier(text), &stored), "{text:?}");
        }
    }

    #[test]
    fn users_of_earlier_versions_are_found_as_before() {
        let finds = |typed: &str, stored: &str| {
            let (typed, stored) = (FoldedEmail::of(typed), Email::from_stored(stored.to_owned()));
            // The claim of an earlier version.
            let claimed = earlier(stored.as_str());
            typed.keys().any(|key| key == claimed) && typed.finds(&claimed, &stored)
        };
        for (typed, stored) in [
            ("ann@example.org", "Ann@example.org"),
            ("zed@xn--bcher-kva.example", "zed@xn--bcher-kva.example"),
            ("zed@bücher.example", "zed@xn--bcher-kva.example"),
            ("zed@xn--bcher-kva.example", "Zed@bücher.example"),
            ("Ａｎｎ@example.org", "Ａｎｎ@example.org"),
            ("ann\u{200b}@example.org", "ann\u{200b}@example.org"),
            ("a\u{37e}b@x.org", "a;b@x.org"),
            ("ann@example。org", "ann@example。org"),
            ("x@straße.de", "x@straße.de"),
            ("x@strasse.de", "x@straße.de"),
        ] {
            assert!(finds(typed, stored), "{typed} {stored}");
        }
        assert!(!finds("ann@example.org", "ann\u{200b}@example.org"));
        // A user that registered with the other domain since is another user.
        let other = email("x@strasse.de");
        assert!(!folded("x@straße.de").finds(other.folded().as_str(), &other));
    }

    #[test]
    fn folding_is_idempotent_for_every_character() {
        let all = (0..=u32::from(char::MAX)).filter_map(char::from_u32);
        for c in all.filter(|c| !is_meaningless(*c)) {
            let once = fold(&c.to_string());
            assert_eq!(fold(&once), once, "{c:?}");
        }
    }

    /// Texts, mostly addresses, of characters that normalisation changes.
    fn any_address() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(
            "aZ.@-+ß\u{1e9e}İıſKÅé\u{301}\u{37e}ﬁＡ．。＠ςΣ\u{200b}\u{ad}ば\u{3099}ü١xn--"
                .chars()
                .collect::<Vec<_>>(),
        );
        let part = prop::collection::vec(prop_oneof![4 => odd, 1 => any::<char>()], 0..12);
        (part.clone(), part).prop_map(|(local, domain)| {
            let text = |part: Vec<char>| part.into_iter().collect::<String>();
            format!("{}@{}", text(local), text(domain))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn parsed_address_parses_to_itself(text in prop_oneof![any_address(), any::<String>()]) {
            if let Ok(parsed) = text.parse::<Email>() {
                prop_assert_eq!(parsed.as_str().parse::<Email>(), Ok(parsed.clone()));
                prop_assert_eq!(parsed.folded(), FoldedEmail::of(&text));
                // The key is itself an address of the same user.
                prop_assert_eq!(FoldedEmail::of(parsed.folded().as_str()), parsed.folded());
                prop_assert!(parsed.as_str().len() <= MAX_EMAIL_BYTES);
            }
        }

        #[test]
        fn stored_text_is_found_by_itself(text in prop_oneof![any_address(), any::<String>()]) {
            let stored = Email::from_stored(text.clone());
            let typed = FoldedEmail::of(&text);
            for claimed in [earlier(&text), stored.folded().as_str().to_owned()] {
                prop_assert!(typed.keys().any(|key| key == claimed));
                prop_assert!(typed.finds(&claimed, &stored) && stored.claims(&claimed));
            }
        }
    }
}
