//! What is asked, recognised by its bytes.

use crate::{
    app::App,
    http::{
        asker::Asker, auth_token::validate, authority::Token, gateway, hot::answer::Answered,
        problem::Problem, users::combined,
    },
};

const VALIDATE: &str = "/api/v1/auth_token/validation";
const ADMIT: &str = crate::http::gateway::PATH;
const USERS: &str = "/api/v1/users/";
const CHECK: &str = "/combined_permissions/validation";

/// A question of the hot lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question<'a> {
    /// Is this token good?
    Validate,
    /// Does this query hold for the user `id`?
    Check { id: &'a str, query: &'a str },
    /// May this request pass a gateway?
    Admit { query: &'a str },
}

impl<'a> Question<'a> {
    /// Their routes, as the router and the metrics name them.
    pub(super) const ROUTES: [&'static str; 3] =
        [VALIDATE, "/api/v1/users/{id}/combined_permissions/validation", ADMIT];

    /// The question of this path and query. What is encoded in an unusual way is for the router.
    pub(super) fn of(path: &'a str, query: Option<&'a str>) -> Option<Self> {
        let query = query.unwrap_or_default();
        if !query.bytes().all(is_usual) {
            return None;
        }
        if path == VALIDATE {
            return Some(Self::Validate);
        }
        if path == ADMIT {
            return Some(Self::Admit { query });
        }
        let id = path.strip_prefix(USERS)?.strip_suffix(CHECK)?;
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (plain && !id.is_empty()).then_some(Self::Check { id, query })
    }

    /// The question of a request's target (RFC 9112, section 3.2.1).
    pub(super) fn of_target(target: &'a str) -> Option<Self> {
        match target.split_once('?') {
            Some((path, query)) => Self::of(path, Some(query)),
            None => Self::of(target, None),
        }
    }

    /// Whether a gateway asks.
    pub(super) const fn is_admit(self) -> bool {
        matches!(self, Self::Admit { .. })
    }

    /// Its place in [`Self::ROUTES`].
    pub(super) const fn route(self) -> usize {
        match self {
            Self::Validate => 0,
            Self::Check { .. } => 1,
            Self::Admit { .. } => 2,
        }
    }

    /// The answer.
    pub(super) async fn ask(
        self,
        app: &App,
        token: Token<'_>,
        asker: Asker<'_>,
    ) -> Result<Answered, Problem> {
        match self {
            Self::Validate => {
                validate::verdict(app, token, asker).await.map(|_| Answered::Json(validate::VALID))
            }
            Self::Check { id, query } => {
                let holds = combined::holds(app, token, asker, id, query).await?;
                Ok(Answered::Json(if holds { combined::HOLDS } else { combined::HOLDS_NOT }))
            }
            Self::Admit { query } => gateway::admit(app, token, asker, query).await.map(Answered::Admitted),
        }
    }
}

/// Bytes of a query that need no second thought: what percent-encoding gives, and what RFC 3986, section 3.4
/// lets stand.
const fn is_usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'&'
                | b'='
                | b'+'
                | b':'
                | b','
                | b';'
                | b'!'
                | b'*'
                | b'\''
                | b'('
                | b')'
                | b'@'
                | b'/'
                | b'?'
                | b'$'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_questions() {
        let of = Question::of_target;
        assert_eq!(of("/api/v1/auth_token/validation"), Some(Question::Validate));
        assert_eq!(of("/api/v1/auth_token/validation?x=y"), Some(Question::Validate));
        assert_eq!(of("/auth_request"), Some(Question::Admit { query: "" }));
        assert_eq!(
            of("/auth_request?permissions=%22a%22"),
            Some(Question::Admit { query: "permissions=%22a%22" })
        );
        assert_eq!(
            of("/api/v1/users/me/combined_permissions/validation?permissions=%22a%22"),
            Some(Question::Check { id: "me", query: "permissions=%22a%22" })
        );
    }

    #[test]
    fn whatever_is_unusual_is_for_the_router() {
        for target in [
            "",
            "/",
            "*",
            "//auth_request",
            "/auth_request/",
            "/auth_request#x",
            "/Auth_request",
            "/auth%5Frequest",
            "http://host/auth_request",
            "/api/v1/auth_token/validation/",
            "/api/v1/auth_token/validation/batch",
            "/api/v1/users//combined_permissions/validation",
            "/api/v1/users/a/b/combined_permissions/validation",
            "/api/v1/users/m%65/combined_permissions/validation",
            "/api/v1/users/combined_permissions/validation",
            "/auth_request?permissions=\"a\"",
            "/auth_request?a#b",
            "/auth_request?\u{e4}",
            "/auth_request?a b",
        ] {
            assert_eq!(Question::of_target(target), None, "{target}");
        }
    }
}
