//! `GET users/me/combined_permissions/validation`: queries whose answers are known.
//!
//! Promises: the expected answer follows from the permissions that the run granted to the user, by the node's
//! rules: `{"any":[]}` is false, `{"all":[]}` is true, an unknown name is false.

use super::{GoodToken, SessionPool};
use crate::{
    answer::Answer,
    clock::Nanos,
    random::Random,
    record::{ErrorKind, RequestKind},
    scenario::{InFlight, Judgement, Route},
};

/// Permissions of a run. Each is a bit of a [`super::User`]'s `permissions`.
pub const PERMISSIONS_COUNT: usize = 16;
/// Different queries of a run.
const QUERIES_COUNT: usize = 256;

/// The permissions of a run, and the queries about them.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// Names, unique to the run.
    pub names: Vec<String>,
    /// The queries: the URL parameter, and its meaning.
    pub queries: Vec<(String, Query)>,
    /// Whether every node had acknowledged all grants before the run. If not, an unexpected answer is an error
    /// but not a wrong answer.
    pub is_acknowledged: bool,
}

/// A permission query.
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

    /// Whether a user with these permissions (bits) satisfies the query.
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
    /// Random queries about names that begin with `prefix`.
    #[must_use]
    pub fn new(prefix: &str, random: &mut Random) -> Self {
        let names: Vec<String> = (0..PERMISSIONS_COUNT).map(|n| format!("{prefix}.{n}")).collect();
        let query = |_| {
            let query = Query::random(random, PERMISSIONS_COUNT, 2);
            (percent_encode(&query.json(&names)), query)
        };
        let queries = (0..QUERIES_COUNT).map(query).collect();
        Self { names, queries, is_acknowledged: true }
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

impl SessionPool {
    pub(super) fn request_check(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        let GoodToken { subject, token } = self.pick_good_token(now)?;
        let at = self.random.below(self.context.permissions.queries.len());
        let (query, _) = self.context.permissions.queries.get(at)?;
        let head = &self.context.heads[route.target];
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
        Some(self.in_flight(RequestKind::Check, route, subject, u32::try_from(at).ok()?))
    }

    pub(super) fn judge_check(&self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        if answer.status != 200 {
            return self.judge_refusal_of_good(request, answer, now);
        }
        let verdict = match answer.body {
            b"{\"valid\":true}" => true,
            b"{\"valid\":false}" => false,
            _ => match answer.json().and_then(|json| json.get("valid")?.as_bool()) {
                Some(verdict) => verdict,
                None => return Judgement::Failed(ErrorKind::Body),
            },
        };
        let user = &self.users[self.sessions[request.subject as usize].user as usize];
        let (_, query) = &self.context.permissions.queries[request.extra as usize];
        match verdict == query.holds(user.permissions) {
            true => Judgement::Correct,
            false if answer.is_stale() => Judgement::Failed(ErrorKind::Stale),
            false if !self.context.permissions.is_acknowledged => Judgement::Failed(ErrorKind::Body),
            false => Judgement::Wrong(format!("check: `valid` is {verdict}, not {}", !verdict)),
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
