//! `GET users/me/combined_permissions/validation`: queries whose answers are known.
//!
//! Promises: what must be answered is computed here from what was given to the user, by the same rules:
//! `{"any":[]}` is false, `{"all":[]}` is true, an unknown name is false.

use super::Crowd;
use crate::{
    answer::Answer,
    clock::Nanos,
    random::Random,
    record::{Fault, Kind},
    scenario::{Note, Spot, Verdict},
};

/// At most so many names in a run: they are bits.
pub const NAMES: usize = 16;
/// So many different queries.
const QUERIES: usize = 256;

/// What is asked in checks.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// Their names, unique to the run.
    pub names: Vec<String>,
    /// As they are sent, and what they mean.
    pub queries: Vec<(String, Query)>,
    /// Whether every node knew what was given before the run: else a difference is an error, nothing more.
    pub sure: bool,
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Query {
    Name(u32),
    Any(Vec<Self>),
    All(Vec<Self>),
}

impl Query {
    fn random(random: &mut Random, names: usize, depth: usize) -> Self {
        let name = u32::try_from(random.below(names)).unwrap_or(0);
        if depth == 0 || random.below(3) == 0 {
            return Self::Name(name);
        }
        let parts = (0..=random.below(3)).map(|_| Self::random(random, names, depth - 1)).collect();
        if random.below(2) == 0 { Self::Any(parts) } else { Self::All(parts) }
    }

    fn json(&self, names: &[String]) -> String {
        let list = |parts: &[Self]| parts.iter().map(|part| part.json(names)).collect::<Vec<_>>().join(",");
        match self {
            Self::Name(bit) => format!("\"{}\"", names.get(*bit as usize).map_or("", String::as_str)),
            Self::Any(parts) => format!("{{\"any\":[{}]}}", list(parts)),
            Self::All(parts) => format!("{{\"all\":[{}]}}", list(parts)),
        }
    }

    /// Whether who has these permissions may.
    #[must_use]
    pub fn holds(&self, permissions: u32) -> bool {
        match self {
            Self::Name(bit) => permissions >> bit & 1 == 1,
            Self::Any(parts) => parts.iter().any(|part| part.holds(permissions)),
            Self::All(parts) => parts.iter().all(|part| part.holds(permissions)),
        }
    }
}

impl Permissions {
    /// Queries about these names.
    #[must_use]
    pub fn new(prefix: &str, random: &mut Random) -> Self {
        let names: Vec<String> = (0..NAMES).map(|n| format!("{prefix}.{n}")).collect();
        let query = |_| {
            let query = Query::random(random, NAMES, 2);
            (percent_encode(&query.json(&names)), query)
        };
        let queries = (0..QUERIES).map(query).collect();
        Self { names, queries, sure: true }
    }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl Crowd {
    pub(super) fn ask_check(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        let (subject, token) = self.good(now)?;
        let at = self.random.below(self.common.permissions.queries.len());
        let (query, _) = self.common.permissions.queries.get(at)?;
        let head = &self.common.heads[spot.target];
        for part in [
            &head.check,
            query.as_str(),
            &head.after_path,
            "Authorization: Bearer ",
            &self.sessions[subject as usize].tokens[token].text,
            "\r\n\r\n",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        Some(self.note(Kind::Check, spot, subject, u32::try_from(at).ok()?))
    }

    pub(super) fn answered_check(&self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        if answer.status != 200 {
            return self.not_right(note, answer, now);
        }
        let verdict = match answer.body {
            b"{\"valid\":true}" => true,
            b"{\"valid\":false}" => false,
            _ => match answer.json().and_then(|json| json.get("valid")?.as_bool()) {
                Some(verdict) => verdict,
                None => return Verdict::Failed(Fault::Body),
            },
        };
        let user = &self.users[self.sessions[note.subject as usize].user as usize];
        let (_, query) = &self.common.permissions.queries[note.extra as usize];
        match verdict == query.holds(user.permissions) {
            true => Verdict::Right,
            false if answer.is_stale() => Verdict::Failed(Fault::Stale),
            false if !self.common.permissions.sure => Verdict::Failed(Fault::Body),
            false => Verdict::Wrong(format!("check: `valid` is {verdict}, not {}", !verdict)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_means_what_the_contract_says() {
        let query = Query::Any(vec![Query::Name(0), Query::All(vec![Query::Name(1), Query::Name(2)])]);
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(query.json(&names), r#"{"any":["a",{"all":["b","c"]}]}"#);
        let held: Vec<u32> = (0..8).filter(|&mask| query.holds(mask)).collect();
        assert_eq!(held, [1, 3, 5, 6, 7]);
        assert!(!Query::Any(vec![]).holds(7) && Query::All(vec![]).holds(0));
    }

    #[test]
    fn queries_fit_a_url() {
        let permissions = Permissions::new("lt-1", &mut Random::new(1));
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
        assert!(permissions.queries.iter().all(|(text, _)| text.bytes().all(safe)));
        assert_eq!(percent_encode("\"é\""), "%22%C3%A9%22");
    }
}
